//! An owner's notes about a group or a message, to filter and group by: names with values.
//!
//! Parsed once at the edge. The database adds them to existing ones; they are never sent to the service.

use std::{collections::BTreeMap, str::FromStr};

use serde_json::Value;

/// Maximum length of a name, in characters. `receiptd.merged_labels` has the same bounds.
const MAX_NAME: usize = 63;

/// Maximum size of all labels, in bytes of JSON.
const MAX_SIZE: usize = 2_000;

/// Labels by name. A label without a value removes an existing one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels(BTreeMap<String, Option<String>>);

/// Why a label is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadLabel {
    /// It has no value.
    #[error("label {0:?} has no value: use NAME=VALUE")]
    NoValue(String),
    /// The name is empty or too long.
    #[error("the name of the label {0:?} has {len} characters: use 1 to {MAX_NAME}", len = .0.chars().count())]
    Name(String),
    /// A name or value with control characters.
    #[error("label {0:?} has control characters")]
    Control(String),
    /// They are too large.
    #[error("the labels have {0} bytes of JSON, but at most {MAX_SIZE} are allowed")]
    Size(usize),
}

/// Parses a label on the command line: `NAME=VALUE`, or `NAME=` to remove it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    name: String,
    value: Option<String>,
}

impl Label {
    /// A label with this name.
    ///
    /// # Errors
    /// If the name is invalid.
    pub fn new(name: &str, value: &str) -> Result<Self, BadLabel> {
        check_name(name)?;
        if value.chars().any(char::is_control) {
            return Err(BadLabel::Control(name.to_owned()));
        }
        Ok(Self { name: name.to_owned(), value: (!value.is_empty()).then(|| value.to_owned()) })
    }
}

impl FromStr for Label {
    type Err = BadLabel;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, value) = text.split_once('=').ok_or_else(|| BadLabel::NoValue(text.to_owned()))?;
        Self::new(name, value)
    }
}

/// Checks the name of a label.
///
/// # Errors
/// If it is invalid.
pub fn check_name(name: &str) -> Result<(), BadLabel> {
    if !(1..=MAX_NAME).contains(&name.chars().count()) {
        return Err(BadLabel::Name(name.to_owned()));
    }
    if name.chars().any(char::is_control) { Err(BadLabel::Control(name.to_owned())) } else { Ok(()) }
}

impl Labels {
    /// These labels; of several with the same name the last one counts.
    ///
    /// # Errors
    /// If they are too large.
    pub fn of(labels: impl IntoIterator<Item = Label>) -> Result<Self, BadLabel> {
        let labels = Self(labels.into_iter().map(|label| (label.name, label.value)).collect());
        // The database writes a space after each colon and comma.
        let size = labels.json().map_or(0, |json| json.len() + 2 * labels.0.len() - 1);
        if size > MAX_SIZE { Err(BadLabel::Size(size)) } else { Ok(labels) }
    }

    /// The JSON object for the database; `None` if there are no labels.
    pub fn json(&self) -> Option<String> {
        let object = || self.0.iter().map(|(name, value)| (name.clone(), Value::from(value.clone()))).collect();
        (!self.0.is_empty()).then(|| Value::Object(object()).to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(text: &str) -> Result<Label, BadLabel> {
        text.parse()
    }

    #[test]
    fn labels_are_an_object_of_texts_and_an_empty_value_removes_one() {
        let labels = ["campaign=spring", "arm=a=b", "old=", "arm=B"].map(|text| label(text).unwrap());
        let labels = Labels::of(labels).unwrap();
        assert_eq!(labels.json().as_deref(), Some(r#"{"arm":"B","campaign":"spring","old":null}"#));
        assert_eq!(Labels::default().json(), None);
    }

    #[test]
    fn what_the_database_would_refuse_is_refused_here() {
        assert_eq!(label("campaign"), Err(BadLabel::NoValue("campaign".to_owned())));
        assert_eq!(label("=spring"), Err(BadLabel::Name(String::new())));
        assert_eq!(label("a\0=b"), Err(BadLabel::Control("a\0".to_owned())));
        assert_eq!(label("a=b\0"), Err(BadLabel::Control("a".to_owned())));
        assert!(label(&format!("{}=b", "ä".repeat(63))).is_ok());
        let long = "a".repeat(64);
        assert_eq!(label(&format!("{long}=b")), Err(BadLabel::Name(long)));
        // {"a": "…"}
        let of_size = |size: usize| Labels::of([Label::new("a", &"b".repeat(size - 9)).unwrap()]);
        assert!(of_size(MAX_SIZE).is_ok());
        assert_eq!(of_size(MAX_SIZE + 1), Err(BadLabel::Size(MAX_SIZE + 1)));
    }
}
