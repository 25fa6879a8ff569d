//! Reads watch lists in CSV: `group_id,msg_seq,sent_at`, a line each.
//!
//! Bytes go in, messages to watch or bad lines come out, one at a time: a bad line never stops the rest, and no input makes
//! it take more than a line's memory. A quoted field can't hold a line break, since no group id can.

use std::io::{self, BufRead, Read};

use csv_core::ReadRecordResult;

use crate::domain::{GroupId, MsgSeq, Timestamp};

/// The longest line that is read, in bytes. A group id has at most 47.
const MAX_LINE: usize = 4_096;

/// Dates outside are mistakes, such as milliseconds taken for seconds. The schema has the same bounds.
const YEARS: std::ops::Range<i32> = 2_000..2_200;

/// A message to watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchLine {
    /// Its group.
    pub group: GroupId,
    /// Its number in the group.
    pub seq: MsgSeq,
    /// When it was sent; `None` if the line does not say.
    pub sent_at: Option<Timestamp>,
}

/// Why a line is not a message to watch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadLine(String);

/// The lines of a CSV file with their numbers, from 1. A first line that names the columns sets their order; columns of
/// other names are passed over. Empty lines are left out.
pub struct Lines<R> {
    input: R,
    number: u64,
    bytes: u64,
    columns: Columns,
    line: Vec<u8>,
    /// Kept, since making one costs more than reading a line.
    parser: csv_core::Reader,
}

/// Where in a line the fields are.
#[derive(Debug, Clone, Copy)]
struct Columns {
    group: usize,
    seq: usize,
    sent_at: Option<usize>,
    count: Option<usize>,
}

impl<R: BufRead> Lines<R> {
    /// Reads from `input`.
    pub fn new(input: R) -> Self {
        let columns = Columns { group: 0, seq: 1, sent_at: Some(2), count: None };
        Self { input, number: 0, bytes: 0, columns, line: Vec::new(), parser: csv_core::Reader::new() }
    }

    /// How many bytes have been read.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The next line with its number.
    ///
    /// # Errors
    /// If the input can't be read.
    pub fn next_line(&mut self) -> io::Result<Option<(u64, Result<WatchLine, BadLine>)>> {
        loop {
            let Some(whole) = self.read_line()? else { return Ok(None) };
            self.number += 1;
            let parsed = if whole { self.parse() } else { bad(format!("is longer than {MAX_LINE} bytes")).map(Some) };
            match parsed {
                Ok(None) => {}
                Ok(Some(line)) => return Ok(Some((self.number, Ok(line)))),
                Err(error) => return Ok(Some((self.number, Err(error)))),
            }
        }
    }

    /// Reads a line without its end. `None` at the end of the input, `Some(false)` if the line is too long.
    fn read_line(&mut self) -> io::Result<Option<bool>> {
        self.line.clear();
        let read = self.input.by_ref().take(MAX_LINE as u64 + 1).read_until(b'\n', &mut self.line)?;
        self.bytes += read as u64;
        if read == 0 {
            return Ok(None);
        }
        let ends = self.line.ends_with(b"\n");
        let whole = ends || self.line.len() <= MAX_LINE;
        if !whole {
            self.skip_line()?;
        }
        while self.line.ends_with(b"\n") || self.line.ends_with(b"\r") {
            self.line.pop();
        }
        if self.number == 0 && self.line.starts_with(b"\xef\xbb\xbf") {
            self.line.drain(..3);
        }
        Ok(Some(whole))
    }

    fn skip_line(&mut self) -> io::Result<()> {
        loop {
            let buffer = self.input.fill_buf()?;
            let (length, is_end) = match buffer.iter().position(|byte| *byte == b'\n') {
                Some(at) => (at + 1, true),
                None => (buffer.len(), buffer.is_empty()),
            };
            self.input.consume(length);
            self.bytes += length as u64;
            if is_end {
                return Ok(());
            }
        }
    }

    /// The message of the line; `None` for a line that has none.
    fn parse(&mut self) -> Result<Option<WatchLine>, BadLine> {
        if self.line.iter().all(u8::is_ascii_whitespace) {
            return Ok(None);
        }
        let fields = fields(&mut self.parser, &self.line)?;
        if self.number == 1 && fields.iter().any(|field| field.eq_ignore_ascii_case("group_id")) {
            self.columns = Columns::named(&fields)?;
            return Ok(None);
        }
        self.columns.message(&fields).map(Some)
    }
}

impl Columns {
    fn named(names: &[String]) -> Result<Self, BadLine> {
        let at = |wanted: &str| names.iter().position(|name| name.trim().eq_ignore_ascii_case(wanted));
        let missing = || BadLine("names the columns, but not msg_seq: group_id and msg_seq are needed".to_owned());
        Ok(Self {
            group: at("group_id").unwrap_or_default(),
            seq: at("msg_seq").ok_or_else(missing)?,
            sent_at: at("sent_at"),
            count: Some(names.len()),
        })
    }

    fn message(&self, fields: &[String]) -> Result<WatchLine, BadLine> {
        let count = fields.len();
        match self.count {
            Some(named) if named != count => {
                return bad(format!("has {count} fields, and the first line names {named}"));
            }
            None if !(2..=3).contains(&count) => {
                return bad(format!("has {count} fields: give group_id,msg_seq or group_id,msg_seq,sent_at"));
            }
            _ => {}
        }
        let sent_at = self.sent_at.and_then(|at| fields.get(at)).map_or("", |text| text.trim());
        Ok(WatchLine {
            group: fields[self.group].parse().map_err(|error| BadLine(format!("{error}")))?,
            seq: fields[self.seq].trim().parse().map_err(|error| BadLine(format!("{error}")))?,
            sent_at: if sent_at.is_empty() { None } else { Some(time(sent_at)?) },
        })
    }
}

fn bad<T>(reason: String) -> Result<T, BadLine> {
    Err(BadLine(reason))
}

/// A time in RFC 3339, as PostgreSQL writes it (`2026-11-23 08:00:00.5+00`), or in whole seconds since 1970 as the service's own
/// callbacks give it.
///
/// # Errors
/// If it is neither, or not in this age.
pub fn time(text: &str) -> Result<Timestamp, BadLine> {
    use chrono::{DateTime, Datelike};
    let postgres = || DateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f%#z").ok().map(|time| time.to_utc());
    let seconds = || text.parse::<i64>().ok().and_then(|seconds| Timestamp::from_timestamp(seconds, 0));
    let time = text.parse::<Timestamp>().ok().or_else(postgres).or_else(seconds);
    match time.filter(|time| YEARS.contains(&time.year())) {
        Some(time) => Ok(time),
        None => bad(format!(
            "time {text:?} is neither RFC 3339, as 2026-11-23T08:00:00Z, nor seconds since 1970, between the years {} and {}",
            YEARS.start, YEARS.end
        )),
    }
}

/// The fields of one line, as RFC 4180 quotes them.
fn fields(parser: &mut csv_core::Reader, line: &[u8]) -> Result<Vec<String>, BadLine> {
    // Whatever the line before was, this one is read by itself.
    parser.reset();
    // A line break ends the record; a field can't be longer than its line.
    let input = [line, b"\n"].concat();
    let (mut output, mut ends) = (vec![0; input.len()], vec![0; input.len() + 1]);
    let (result, _, written, count) = parser.read_record(&input, &mut output, &mut ends);
    if result != ReadRecordResult::Record {
        return bad("has a quoted field that does not end".to_owned());
    }
    let mut start = 0;
    let mut fields = Vec::with_capacity(count);
    for end in &ends[..count] {
        match std::str::from_utf8(&output[start..*end.min(&written)]) {
            Ok(field) => fields.push(field.to_owned()),
            Err(_) => return bad("is not UTF-8".to_owned()),
        }
        start = *end;
    }
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &[u8]) -> Vec<(u64, Result<WatchLine, String>)> {
        let mut lines = Lines::new(text);
        let mut read = Vec::new();
        while let Some((number, line)) = lines.next_line().unwrap() {
            read.push((number, line.map_err(|error| error.to_string())));
        }
        assert_eq!(lines.bytes(), text.len() as u64);
        read
    }

    fn line(group: &str, seq: i64, sent_at: Option<&str>) -> WatchLine {
        let sent_at = sent_at.map(|text| text.parse().unwrap());
        WatchLine { group: group.parse().unwrap(), seq: MsgSeq::try_from(seq).unwrap(), sent_at }
    }

    fn good(text: &str) -> Vec<WatchLine> {
        read(text.as_bytes())
            .into_iter()
            .map(|(number, line)| line.unwrap_or_else(|error| panic!("{number}: {error}")))
            .collect()
    }

    #[test]
    fn lines_with_and_without_a_time_are_read() {
        let expected = [line("@TGS#1", 7, Some("2026-11-23T08:00:00Z")), line("a, b", 8, None), line("c", 9, None)];
        assert_eq!(good("@TGS#1,7,2026-11-23T08:00:00Z\r\n\"a, b\",8\n\n  \nc, 9 ,\n"), expected);
        assert_eq!(good("g,1,1763884800"), [line("g", 1, Some("2025-11-23T08:00:00Z"))], "seconds since 1970");
        assert_eq!(good("g,1,2026-11-23T16:00:00+08:00"), [line("g", 1, Some("2026-11-23T08:00:00Z"))]);
        for (written, meant) in [
            ("2026-11-25 10:00:00+00", "2026-11-25T10:00:00Z"),
            ("2026-11-25 10:00:00.123456+00", "2026-11-25T10:00:00.123456Z"),
            ("2026-11-25 10:00:00-03", "2026-11-25T13:00:00Z"),
            ("2026-11-25 10:00:00+05:30", "2026-11-25T04:30:00Z"),
        ] {
            assert_eq!(good(&format!("g,1,{written}")), [line("g", 1, Some(meant))], "as PostgreSQL writes {written}");
        }
    }

    #[test]
    fn a_first_line_that_names_the_columns_sets_their_order() {
        let expected = [line("g", 3, Some("2026-11-23T08:00:00Z"))];
        assert_eq!(good("\u{feff}Sent_At,note,MSG_SEQ,group_id\n2026-11-23T08:00:00Z,hi,3,g\n"), expected);
        assert_eq!(good("group_id,msg_seq\ng,1\n"), [line("g", 1, None)]);
    }

    #[test]
    fn a_bad_line_is_told_with_its_number_and_its_reason_and_the_rest_is_read() {
        let long = format!("{},1", "g".repeat(10_000));
        let cases: [(&[u8], &str); 11] = [
            (b"g", "has 1 fields"),
            (b"g,1,2,3", "has 4 fields"),
            (b"g,x", "message seq \"x\""),
            (b"g,0", "message seq \"0\""),
            (b"g,4294967296", "message seq"),
            (b"@TGS#_c,1", "a Community"),
            (b"x@TOPIC#_1,1", "a topic of a Community"),
            (b"g,1,yesterday", "neither RFC 3339"),
            (b"g,1,1763884800000", "between the years 2000 and 2200"),
            (b"\xff\xfe,1", "not UTF-8"),
            (b"\"g,1", "quoted field that does not end"),
        ];
        for (bad, reason) in cases.into_iter().chain([(long.as_bytes(), "longer than 4096 bytes")]) {
            let text = [b"a,1\n", bad, b"\nb,2\n"].concat();
            let read = read(&text);
            assert_eq!(read.len(), 3, "{}", String::from_utf8_lossy(bad));
            assert_eq!((&read[0], &read[2]), (&(1, Ok(line("a", 1, None))), &(3, Ok(line("b", 2, None)))));
            let (number, error) = (read[1].0, read[1].1.clone().unwrap_err());
            assert!(number == 2 && error.contains(reason), "{number}: {error}");
        }
    }

    #[test]
    fn a_first_line_without_the_columns_that_are_needed_is_bad() {
        let read = read(b"group_id,time\ng,1\n");
        assert!(read[0].1.as_ref().unwrap_err().contains("not msg_seq"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_to_the_end(bytes in proptest::collection::vec(prop_oneof![any::<u8>(), Just(b'\n'), Just(b','), Just(b'"')], 0..300)) {
            for (number, _) in read(&bytes) {
                prop_assert!(number <= 1 + bytes.iter().filter(|byte| **byte == b'\n').count() as u64);
            }
        }

        #[test]
        fn what_is_written_as_csv_is_read_again(groups in proptest::collection::vec("[ -~]{1,47}", 1..20)) {
            let groups: Vec<GroupId> = groups.iter().filter_map(|group| group.parse().ok()).collect();
            let text: String = groups.iter().map(|group| format!("\"{}\",5\n", group.as_str().replace('"', "\"\""))).collect();
            prop_assert_eq!(good(&text).into_iter().map(|line| line.group).collect::<Vec<_>>(), groups);
        }
    }
}
