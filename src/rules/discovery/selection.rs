//! Which groups are followed: by type, and by patterns of their ids. Groups whose ids are listed are followed whatever
//! their type.

use std::{collections::BTreeSet, fmt, str::FromStr};

use wildmatch::WildMatch;

use crate::domain::{GroupId, GroupType};

/// A pattern of group ids: `*` stands for any number of characters, `?` for one.
#[derive(Debug, Clone, PartialEq)]
pub struct Pattern(WildMatch);

/// Maximum length of a pattern, in bytes. A group id has at most 47.
const MOST_BYTES: usize = 100;

/// A pattern that can't match a group id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a pattern of group ids: use 1 to {MOST_BYTES} bytes of printable ASCII, * and ?")]
pub struct BadPattern(String);

impl FromStr for Pattern {
    type Err = BadPattern;

    fn from_str(text: &str) -> Result<Self, BadPattern> {
        let is_printable = text.bytes().all(|byte| (0x20..=0x7e).contains(&byte));
        if text.is_empty() || text.len() > MOST_BYTES || !is_printable {
            return Err(BadPattern(text.to_owned()));
        }
        Ok(Self(WildMatch::new(text)))
    }
}

impl Pattern {
    /// Whether one of the patterns matches a group id.
    pub fn any_matches(patterns: &[Self], group: &GroupId) -> bool {
        patterns.iter().any(|pattern| pattern.0.matches(group.as_str()))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which groups are followed.
#[derive(Debug, Clone, PartialEq)]
pub struct Selection {
    /// Types of groups.
    pub types: Vec<GroupType>,
    /// Groups must match one of these, if there are any.
    pub include: Vec<Pattern>,
    /// Groups that match one of these are not followed.
    pub exclude: Vec<Pattern>,
    /// Groups that are followed in any case.
    pub ids: BTreeSet<GroupId>,
}

/// Why a group is not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unwanted {
    /// Its type is not one of `types`.
    Type,
    /// It matches none of `include`.
    NotIncluded,
    /// It matches one of `exclude`.
    Excluded,
}

impl Unwanted {
    /// The reason, in words.
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Type => "its type is not in discovery.types",
            Self::NotIncluded => "it matches no pattern of discovery.include",
            Self::Excluded => "it matches a pattern of discovery.exclude",
        }
    }
}

impl Selection {
    /// Why a group is not followed; `None` if it is. An unknown type counts as wanted.
    pub fn refuses(&self, group: &GroupId, group_type: Option<GroupType>) -> Option<Unwanted> {
        let matches = |patterns: &[Pattern]| Pattern::any_matches(patterns, group);
        if self.ids.contains(group) {
            None
        } else if matches(&self.exclude) {
            Some(Unwanted::Excluded)
        } else if !self.include.is_empty() && !matches(&self.include) {
            Some(Unwanted::NotIncluded)
        } else if group_type.is_some_and(|group_type| !self.types.contains(&group_type)) {
            Some(Unwanted::Type)
        } else {
            None
        }
    }

    /// Whether groups have to be listed by the service. If not, the configuration names all of them.
    pub fn needs_lists(&self) -> bool {
        !self.types.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selection(include: &[&str], exclude: &[&str]) -> Selection {
        let patterns = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        Selection {
            types: vec![GroupType::Public],
            include: patterns(include),
            exclude: patterns(exclude),
            ids: BTreeSet::from(["vip test".parse().unwrap()]),
        }
    }

    #[test]
    fn types_patterns_and_named_ids_decide_in_this_order() {
        let (public, private) = (Some(GroupType::Public), Some(GroupType::Private));
        let all = selection(&[], &["*test*"]);
        let some = selection(&["@TGS#?", "room-*"], &["*test*"]);
        for (selection, id, group_type, expected) in [
            (&all, "@TGS#1", public, None),
            (&all, "@TGS#1", None, None),
            (&all, "@TGS#1", private, Some(Unwanted::Type)),
            (&all, "a test", public, Some(Unwanted::Excluded)),
            (&all, "vip test", private, None),
            (&some, "@TGS#1", public, None),
            (&some, "@TGS#12", public, Some(Unwanted::NotIncluded)),
            (&some, "room-", public, None),
            (&some, "room-test", public, Some(Unwanted::Excluded)),
            (&some, "Room-1", public, Some(Unwanted::NotIncluded)),
        ] {
            assert_eq!(selection.refuses(&id.parse().unwrap(), group_type), expected, "{id}");
        }
    }

    #[test]
    fn patterns_are_short_printable_texts() {
        for bad in ["", "gr\u{fc}ppe", "a\n", &"a".repeat(101)] {
            assert_eq!(bad.parse::<Pattern>(), Err(BadPattern(bad.to_owned())));
        }
        assert_eq!("@TGS#*[1]".parse::<Pattern>().unwrap().to_string(), "@TGS#*[1]");
    }

    #[test]
    fn hostile_patterns_and_ids_are_matched_quickly() {
        let pattern: Pattern = "*a".repeat(50).parse().unwrap();
        let group = format!("{}b", "a".repeat(46)).parse().unwrap();
        let selection = Selection { include: vec![pattern], ..selection(&[], &[]) };
        for _ in 0..1_000 {
            assert_eq!(selection.refuses(&group, None), Some(Unwanted::NotIncluded));
        }
    }
}
