//! The fields of a line: their columns and their types. Reads no bytes.

use super::line::{BadLine, WatchLine, bad};
use crate::domain::{BadLabel, Label, Labels, Timestamp, check_name};

/// Plausible years; other dates are mistakes, such as milliseconds parsed as seconds. The schema has the same bounds.
const YEARS: std::ops::Range<i32> = 2_000..2_200;

/// Positions of the fields in a line.
#[derive(Debug, Clone)]
pub(super) struct Columns {
    group: usize,
    seq: usize,
    sent_at: Option<usize>,
    /// The columns of labels, with the labels' names.
    labels: Vec<(usize, String)>,
    count: Option<usize>,
}

/// The columns of a file without a header.
pub(super) const USUAL: Columns = Columns { group: 0, seq: 1, sent_at: Some(2), labels: Vec::new(), count: None };

/// Prefix of the names of label columns.
const LABEL: &str = "label.";

impl Columns {
    /// The columns of a header line. `None` if it names no known column.
    pub(super) fn named(names: &[String]) -> Result<Option<Self>, String> {
        let plain = |name: &String| {
            let letters = name.chars().filter(|letter| !matches!(letter, '_' | '-' | '"') && !letter.is_whitespace());
            letters.collect::<String>().to_ascii_lowercase()
        };
        let labels = label_columns(names)?;
        let names: Vec<String> = names.iter().map(plain).collect();
        let at = |wanted: &str| names.iter().position(|name| name == wanted);
        let twice = |wanted: &&str| names.iter().filter(|name| *name == wanted).count() > 1;
        let known = ["groupid", "msgseq", "sentat"];
        if known.iter().any(twice) {
            return Err("the header names a column twice".to_owned());
        }
        Ok(match (at("groupid"), at("msgseq"), at("sentat")) {
            (Some(group), Some(seq), sent_at) => Some(Self { group, seq, sent_at, labels, count: Some(names.len()) }),
            (None, None, None) => None,
            (None, ..) => return Err("the header has no column group_id".to_owned()),
            (_, None, _) => return Err("the header has no column msg_seq".to_owned()),
        })
    }

    /// The message of a line with these `fields`; `trims`: blanks around the group are ignored.
    pub(super) fn message(&self, fields: &[String], trims: bool) -> Result<WatchLine, BadLine> {
        let count = fields.len();
        match self.count {
            Some(named) if named != count => {
                return bad(format!("has {count} fields, but the header has {named}"));
            }
            None if !(2..=3).contains(&count) => {
                return bad(format!("has {count} fields: use group_id,msg_seq or group_id,msg_seq,sent_at"));
            }
            _ => {}
        }
        let sent_at = self.sent_at.and_then(|at| fields.get(at)).map_or("", |text| text.trim());
        let group = if trims { fields[self.group].trim() } else { &fields[self.group] };
        Ok(WatchLine {
            group: group.parse().map_err(|error| BadLine(format!("{error}")))?,
            seq: fields[self.seq].trim().parse().map_err(|error| BadLine(format!("{error}")))?,
            sent_at: if sent_at.is_empty() { None } else { Some(time(sent_at)?) },
            labels: self.labels(fields).map_err(|error| BadLine(format!("{error}")))?,
        })
    }

    /// The labels of a line; an empty field is no label.
    fn labels(&self, fields: &[String]) -> Result<Labels, BadLabel> {
        let given = self.labels.iter().map(|(at, name)| (name, fields[*at].trim()));
        let labels = given.filter(|(_, value)| !value.is_empty()).map(|(name, value)| Label::new(name, value));
        Labels::of(labels.collect::<Result<Vec<_>, _>>()?)
    }
}

/// The label columns among `names`.
fn label_columns(names: &[String]) -> Result<Vec<(usize, String)>, String> {
    let mut labels: Vec<(usize, String)> = vec![];
    for (at, name) in names.iter().enumerate() {
        let name = name.trim();
        let Some((_, label)) =
            name.split_at_checked(LABEL.len()).filter(|(start, _)| start.eq_ignore_ascii_case(LABEL))
        else {
            continue;
        };
        check_name(label).map_err(|error| error.to_string())?;
        if labels.iter().any(|(_, other)| other == label) {
            return Err("the header names a column twice".to_owned());
        }
        labels.push((at, label.to_owned()));
    }
    Ok(labels)
}

/// Parses a time in RFC 3339, in the format of PostgreSQL (`2026-11-23 08:00:00.5+00`), or in whole seconds since
/// 1970, as in the service's own callbacks.
///
/// # Errors
/// If it is none of these, or outside the plausible years.
pub fn time(text: &str) -> Result<Timestamp, BadLine> {
    use chrono::{DateTime, Datelike};
    let postgres = || DateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f%#z").ok().map(|time| time.to_utc());
    let seconds = || text.parse::<i64>().ok().and_then(|seconds| Timestamp::from_timestamp(seconds, 0));
    let time = text.parse::<Timestamp>().ok().or_else(postgres).or_else(seconds);
    match time.filter(|time| YEARS.contains(&time.year())) {
        Some(time) => Ok(time),
        None => bad(format!(
            "time {text:?} is neither RFC 3339, such as 2026-11-23T08:00:00Z, nor seconds since 1970, between the \
             years {} and {}",
            YEARS.start, YEARS.end
        )),
    }
}
