//! Exports for analysts: the columns of each dataset, and files of them in CSV or Parquet.
//!
//! Pure except for the writer it is given: it knows neither SQL nor file names, and never holds more than one row
//! group, however many rows there are.

mod batch;
mod column;
mod csv;
mod parquet;
mod writer;

use std::io::{self, Write};

use chrono::{Days, NaiveTime};

pub use self::{
    batch::{BATCH, Batch, Values, push_text},
    column::{Column, Kind},
    writer::Writer,
};
use crate::domain::Timestamp;

/// A dataset that can be exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dataset {
    /// Every observed change of counts: the view `receipt_history`, by `polled_at`.
    Snapshots,
    /// One row per message, with times since its sending: the view `messages`, by `sent_at`.
    Messages,
    /// One row per message, with points in time: the view `message_milestones`, by `sent_at`.
    Milestones,
    /// One row per group and hour: the view `hourly_receipts`, by `hour`.
    Hourly,
}

/// The format of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// RFC 4180 with a header line, but with LF as line end. Null is empty.
    Csv,
    /// The same for programs that interpret text beginning with = + - @ as a formula: it is preceded by a '.
    Spreadsheet,
    /// Apache Parquet, compressed with Snappy.
    Parquet,
}

impl Format {
    /// Begins a file with these columns.
    ///
    /// # Errors
    /// If writing fails.
    pub fn begin(self, columns: &'static [Column], out: Box<dyn Write + Send>) -> io::Result<Box<dyn Writer>> {
        Ok(match self {
            Self::Csv => Box::new(csv::CsvWriter::begin(columns, out, false)?),
            Self::Spreadsheet => Box::new(csv::CsvWriter::begin(columns, out, true)?),
            Self::Parquet => Box::new(parquet::ParquetWriter::begin(columns, out)?),
        })
    }
}

impl Dataset {
    /// Its columns, in the order of reading and writing.
    pub fn columns(self) -> &'static [Column] {
        match self {
            Self::Snapshots => SNAPSHOTS,
            Self::Messages => MESSAGES,
            Self::Milestones => MILESTONES,
            Self::Hourly => HOURLY,
        }
    }
}

/// Splits a time span into UTC days, the first and the last cut at its ends: from the first time of each, inclusive,
/// to the second, exclusive.
pub fn days(from: Timestamp, until: Timestamp) -> impl Iterator<Item = (Timestamp, Timestamp)> {
    let mut next = from;
    std::iter::from_fn(move || {
        let start = next;
        if start >= until {
            return None;
        }
        let midnight =
            start.date_naive().checked_add_days(Days::new(1)).map(|day| day.and_time(NaiveTime::MIN).and_utc());
        next = midnight.map_or(until, |midnight| midnight.min(until));
        Some((start, next))
    })
}

const fn required(name: &'static str, kind: Kind) -> Column {
    Column { name, kind, is_nullable: false }
}

const fn nullable(name: &'static str, kind: Kind) -> Column {
    Column { name, kind, is_nullable: true }
}

const SNAPSHOTS: &[Column] = &[
    required("sdk_app_id", Kind::Bigint),
    required("group_id", Kind::Text),
    required("msg_seq", Kind::Bigint),
    required("polled_at", Kind::Time),
    nullable("read_num", Kind::Integer),
    nullable("unread_num", Kind::Integer),
    required("code", Kind::Integer),
    nullable("prior_polled_at", Kind::Time),
    nullable("prior_read_num", Kind::Integer),
    required("source", Kind::Text),
];

/// Times since sending in seconds only: tools read intervals differently, or not at all.
const MESSAGES: &[Column] = &[
    required("sdk_app_id", Kind::Bigint),
    required("group_id", Kind::Text),
    required("msg_seq", Kind::Bigint),
    nullable("labels", Kind::Text),
    nullable("group_labels", Kind::Text),
    required("sent_at", Kind::Time),
    required("state", Kind::Text),
    nullable("closed_at", Kind::Time),
    nullable("read_num", Kind::Integer),
    nullable("unread_num", Kind::Integer),
    nullable("members", Kind::Bigint),
    nullable("read_rate", Kind::Double),
    nullable("receipt_code", Kind::Integer),
    nullable("first_polled_at", Kind::Time),
    nullable("last_changed_at", Kind::Time),
    nullable("known_until", Kind::Time),
    nullable("known_for_s", Kind::Double),
    nullable("first_read_at_least_s", Kind::Double),
    nullable("first_read_at_most_s", Kind::Double),
    nullable("first_read_censored", Kind::Boolean),
    nullable("half_read_at_least_s", Kind::Double),
    nullable("half_read_at_most_s", Kind::Double),
    nullable("half_read_censored", Kind::Boolean),
    nullable("p80_read_at_least_s", Kind::Double),
    nullable("p80_read_at_most_s", Kind::Double),
    nullable("p80_read_censored", Kind::Boolean),
    nullable("p90_read_at_least_s", Kind::Double),
    nullable("p90_read_at_most_s", Kind::Double),
    nullable("p90_read_censored", Kind::Boolean),
    nullable("all_read_at_least_s", Kind::Double),
    nullable("all_read_at_most_s", Kind::Double),
    nullable("all_read_censored", Kind::Boolean),
    nullable("read_15m", Kind::Integer),
    nullable("members_15m", Kind::Bigint),
    nullable("read_rate_15m", Kind::Double),
    nullable("read_1h", Kind::Integer),
    nullable("members_1h", Kind::Bigint),
    nullable("read_rate_1h", Kind::Double),
    nullable("read_24h", Kind::Integer),
    nullable("members_24h", Kind::Bigint),
    nullable("read_rate_24h", Kind::Double),
    nullable("read_7d", Kind::Integer),
    nullable("members_7d", Kind::Bigint),
    nullable("read_rate_7d", Kind::Double),
    required("updated_at", Kind::Time),
];

const MILESTONES: &[Column] = &[
    required("sdk_app_id", Kind::Bigint),
    required("group_id", Kind::Text),
    required("msg_seq", Kind::Bigint),
    required("sent_at", Kind::Time),
    required("state", Kind::Text),
    nullable("closed_at", Kind::Time),
    nullable("read_num", Kind::Integer),
    nullable("unread_num", Kind::Integer),
    nullable("receipt_code", Kind::Integer),
    nullable("first_polled_at", Kind::Time),
    nullable("last_changed_at", Kind::Time),
    nullable("known_until", Kind::Time),
    nullable("first_read_after", Kind::Time),
    nullable("first_read_by", Kind::Time),
    nullable("half_read_after", Kind::Time),
    nullable("half_read_by", Kind::Time),
    nullable("p80_read_after", Kind::Time),
    nullable("p80_read_by", Kind::Time),
    nullable("p90_read_after", Kind::Time),
    nullable("p90_read_by", Kind::Time),
    nullable("all_read_after", Kind::Time),
    nullable("all_read_by", Kind::Time),
    nullable("read_rate_15m", Kind::Double),
    nullable("read_rate_1h", Kind::Double),
    nullable("read_rate_24h", Kind::Double),
    nullable("read_rate_7d", Kind::Double),
    nullable("labels", Kind::Text),
    nullable("group_labels", Kind::Text),
    required("updated_at", Kind::Time),
];

const HOURLY: &[Column] = &[
    required("sdk_app_id", Kind::Bigint),
    required("group_id", Kind::Text),
    required("hour", Kind::Time),
    required("messages_sent", Kind::Integer),
    required("messages_active", Kind::Integer),
    required("reads_gained", Kind::Bigint),
    required("reads_lost", Kind::Bigint),
    required("reads_found", Kind::Bigint),
    required("messages_aged_24h", Kind::Integer),
    nullable("median_read_rate_24h", Kind::Double),
    nullable("p90_read_rate_24h", Kind::Double),
    required("unread_backlog", Kind::Bigint),
    required("polls", Kind::Integer),
    required("calls", Kind::Integer),
    required("coverage", Kind::Double),
    required("reads_carried", Kind::Bigint),
    required("updated_at", Kind::Time),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_those_of_utc_cut_at_both_ends() {
        let cut = |from: &str, until: &str| {
            let days = days(from.parse().unwrap(), until.parse().unwrap());
            days.map(|(from, until)| format!("{} {}", from.format("%dT%H"), until.format("%dT%H"))).collect::<Vec<_>>()
        };
        assert_eq!(cut("2026-11-20T18:00:00Z", "2026-11-22T06:00:00Z"), ["20T18 21T00", "21T00 22T00", "22T00 22T06"]);
        assert_eq!(cut("2026-11-20T00:00:00Z", "2026-11-21T00:00:00Z"), ["20T00 21T00"]);
        assert_eq!(cut("2026-11-20T01:00:00Z", "2026-11-20T02:00:00Z"), ["20T01 20T02"]);
        assert!(cut("2026-11-20T00:00:00Z", "2026-11-20T00:00:00Z").is_empty());
        assert!(cut("2026-11-21T00:00:00Z", "2026-11-20T00:00:00Z").is_empty());
    }
}
