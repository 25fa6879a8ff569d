//! Reads watch lists in CSV: `group_id,msg_seq,sent_at`, a line each.
//!
//! Bytes go in, messages to watch or bad lines come out, one at a time: a bad line never stops the rest, and no input makes
//! it take more than a line's memory. A file that is of another kind is refused at its first line, before anything of it is
//! taken for what it is not. A quoted field can't hold a line break, since no group id can.

use std::io::{self, BufRead};

use chrono::TimeDelta;
use csv_core::ReadRecordResult;

use crate::domain::{GroupId, MsgSeq, Timestamp};

/// The longest line that is read, in bytes. A group id has at most 47.
const MAX_LINE: usize = 4_096;

/// Dates outside are mistakes, such as milliseconds taken for seconds. The schema has the same bounds.
const YEARS: std::ops::Range<i32> = 2_000..2_200;

/// A message can't be sent later than this after now: clocks differ, and so do notions of time zones. The function
/// `receiptd.watch_keys` has the same bound.
pub const AHEAD: TimeDelta = TimeDelta::days(1);

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

/// A line with its number, from 1.
pub type Numbered = (u64, Result<WatchLine, BadLine>);

/// Why no further line can be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The input could not be read.
    #[error("reading the input failed")]
    Io(#[from] io::Error),
    /// It is not a watch list. Nothing of it was taken.
    #[error("line {line}: {why}")]
    NoWatchList {
        /// The first line with text, from 1.
        line: u64,
        /// Why, and what helps.
        why: String,
    },
}

/// The lines of a CSV file with their numbers, from 1. They end with LF, CR or both. A first line that names the columns sets
/// their order; columns of other names are passed over. Empty lines are left out.
pub struct Lines<R> {
    input: R,
    /// No message was sent later.
    latest: Timestamp,
    number: u64,
    bytes: u64,
    /// Not known before the first line with text.
    columns: Option<Columns>,
    line: Vec<u8>,
    /// An LF that comes next belongs to the CR before.
    after_cr: bool,
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

/// The columns of a file that does not name them.
const USUAL: Columns = Columns { group: 0, seq: 1, sent_at: Some(2), count: None };

/// What reading a line came to.
enum Read {
    End,
    Line,
    TooLong,
}

impl<R: BufRead> Lines<R> {
    /// Reads from `input`. Times after `now` and a day are mistakes.
    pub fn new(input: R, now: Timestamp) -> Self {
        let parser = csv_core::Reader::new();
        let latest = now.checked_add_signed(AHEAD).unwrap_or(now);
        Self { input, latest, number: 0, bytes: 0, columns: None, line: Vec::new(), after_cr: false, parser }
    }

    /// How many bytes have been read.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The next line with its number.
    ///
    /// # Errors
    /// If the input can't be read, or is no watch list.
    pub fn next_line(&mut self) -> Result<Option<Numbered>, ReadError> {
        loop {
            let read = self.read_line()?;
            self.number += 1;
            let parsed = match read {
                Read::End => return Ok(None),
                Read::TooLong => bad(format!("is longer than {MAX_LINE} bytes")).map(Some),
                Read::Line if self.line.iter().all(u8::is_ascii_whitespace) => continue,
                Read::Line => match self.columns {
                    Some(columns) => self.parse(columns).map(Some),
                    None => self.first().map_err(|why| ReadError::NoWatchList { line: self.number, why })?,
                },
            };
            match parsed {
                Ok(None) => {}
                Ok(Some(line)) => return Ok(Some((self.number, Ok(line)))),
                Err(error) => return Ok(Some((self.number, Err(error)))),
            }
        }
    }

    /// Reads a line without its end. Of one that is too long its beginning is kept.
    fn read_line(&mut self) -> io::Result<Read> {
        self.line.clear();
        let (mut is_too_long, mut has_any) = (false, false);
        loop {
            let buffer = match self.input.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                buffer => buffer?,
            };
            if buffer.is_empty() {
                break;
            }
            let skipped = usize::from(std::mem::take(&mut self.after_cr) && buffer[0] == b'\n');
            let rest = &buffer[skipped..];
            let end = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let text = &rest[..end.unwrap_or(rest.len())];
            let room = MAX_LINE - self.line.len();
            is_too_long |= text.len() > room;
            self.line.extend_from_slice(&text[..text.len().min(room)]);
            self.after_cr = end.is_some_and(|end| rest[end] == b'\r');
            has_any |= !rest.is_empty();
            let consumed = skipped + text.len() + usize::from(end.is_some());
            self.input.consume(consumed);
            self.bytes += consumed as u64;
            if end.is_some() {
                break;
            }
        }
        if self.number == 0 && self.line.starts_with(b"\xef\xbb\xbf") {
            self.line.drain(..3);
        }
        Ok(if !has_any {
            Read::End
        } else if is_too_long {
            Read::TooLong
        } else {
            Read::Line
        })
    }

    /// The first line with text: names of columns, for which there is nothing, or a message. Anything else is no watch list.
    fn first(&mut self) -> Result<Result<Option<WatchLine>, BadLine>, String> {
        if self.line.contains(&0) || self.line.starts_with(b"\xff\xfe") || self.line.starts_with(b"\xfe\xff") {
            return Err("the text is UTF-16, or no text at all: save it as UTF-8".to_owned());
        }
        let fields = fields(&mut self.parser, &self.line).map_err(|error| format!("the line {error}"))?;
        if fields.len() == 1
            && let Some((_, name)) = SEPARATORS.iter().find(|(separator, _)| fields[0].contains(*separator))
        {
            return Err(format!("the fields are separated by {name}: separate them by commas"));
        }
        if let Some(columns) = Columns::named(&fields)? {
            self.columns = Some(columns);
            return Ok(Ok(None));
        }
        let is_data = (2..=3).contains(&fields.len()) && fields[1].trim().parse::<i64>().is_ok();
        if !is_data {
            return Err(
                "the first line is neither a message to watch, as group_id,msg_seq or group_id,msg_seq,sent_at, nor \
                        does it name the columns group_id and msg_seq"
                    .to_owned(),
            );
        }
        if !self.line.contains(&b'"')
            && let Some(name) = other_separator(&fields[0])
        {
            return Err(format!(
                "by its commas this is message {} of the group {:?}, but the fields may be separated by {name}: separate \
                 them by commas, or put the group id in quotes",
                fields[1].trim(),
                fields[0].trim()
            ));
        }
        self.columns = Some(USUAL);
        Ok(self.parse(USUAL).map(Some))
    }

    /// The message of the line.
    fn parse(&mut self, columns: Columns) -> Result<WatchLine, BadLine> {
        let fields = fields(&mut self.parser, &self.line)?;
        if has_blank_before_quote(&self.line) {
            return bad("has a blank before a quote: a quote follows the comma at once".to_owned());
        }
        // Blanks beside a comma are no part of an id, but in quotes.
        let message = columns.message(&fields, !self.line.contains(&b'"'))?;
        match message.sent_at {
            Some(sent_at) if sent_at > self.latest => {
                bad(format!("time {} is more than a day ahead", sent_at.to_rfc3339()))
            }
            _ => Ok(message),
        }
    }
}

/// What stands between fields in files that programs call CSV, too.
const SEPARATORS: [(char, &str); 3] = [(';', "semicolons (;)"), ('\t', "tabs"), ('|', "bars (|)")];

/// What separates a group from a message number within `field`: then a comma that follows is no separator, but a part of a
/// number or a time.
fn other_separator(field: &str) -> Option<&'static str> {
    let separates = |(separator, _): &&(char, _)| {
        field.split(*separator).nth(1).is_some_and(|seq| seq.trim().parse::<i64>().is_ok())
    };
    SEPARATORS.iter().find(separates).map(|(_, name)| *name)
}

impl Columns {
    /// Where the columns are that a line names. `None` if it names none that is known.
    fn named(names: &[String]) -> Result<Option<Self>, String> {
        let plain = |name: &String| {
            let letters = name.chars().filter(|letter| !matches!(letter, '_' | '-' | '"') && !letter.is_whitespace());
            letters.collect::<String>().to_ascii_lowercase()
        };
        let names: Vec<String> = names.iter().map(plain).collect();
        let at = |wanted: &str| names.iter().position(|name| name == wanted);
        let twice = |wanted: &&str| names.iter().filter(|name| *name == wanted).count() > 1;
        let known = ["groupid", "msgseq", "sentat"];
        if known.iter().any(twice) {
            return Err("the first line names a column twice".to_owned());
        }
        Ok(match (at("groupid"), at("msgseq"), at("sentat")) {
            (Some(group), Some(seq), sent_at) => Some(Self { group, seq, sent_at, count: Some(names.len()) }),
            (None, None, None) => None,
            (None, ..) => return Err("the first line names columns, but not group_id".to_owned()),
            (_, None, _) => return Err("the first line names columns, but not msg_seq".to_owned()),
        })
    }

    fn message(&self, fields: &[String], trims: bool) -> Result<WatchLine, BadLine> {
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
        let group = if trims { fields[self.group].trim() } else { &fields[self.group] };
        Ok(WatchLine {
            group: group.parse().map_err(|error| BadLine(format!("{error}")))?,
            seq: fields[self.seq].trim().parse().map_err(|error| BadLine(format!("{error}")))?,
            sent_at: if sent_at.is_empty() { None } else { Some(time(sent_at)?) },
        })
    }
}

/// Whether a field of the line begins with blanks and then a quote, which would be taken for a part of its text.
fn has_blank_before_quote(line: &[u8]) -> bool {
    let mut rest = line;
    loop {
        let blanks = rest.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        let is_quoted = rest.get(blanks) == Some(&b'"');
        if is_quoted && blanks > 0 {
            return true;
        }
        // A doubled quote ends the quoted text and begins it again.
        let mut in_quotes = false;
        let comma = rest.iter().position(|byte| {
            in_quotes ^= is_quoted && *byte == b'"';
            *byte == b',' && !in_quotes
        });
        match comma {
            Some(comma) => rest = &rest[comma + 1..],
            None => return false,
        }
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

    fn now() -> Timestamp {
        "2026-11-25T12:00:00Z".parse().unwrap()
    }

    /// Lines with their numbers, and what is wrong in words.
    type Told = Vec<(u64, Result<WatchLine, String>)>;

    /// What is read, and why no more is.
    fn try_read(text: &[u8]) -> Result<Told, String> {
        let mut lines = Lines::new(text, now());
        let mut read = Vec::new();
        while let Some((number, line)) = lines.next_line().map_err(|error| error.to_string())? {
            read.push((number, line.map_err(|error| error.to_string())));
        }
        assert_eq!(lines.bytes(), text.len() as u64);
        Ok(read)
    }

    fn read(text: &[u8]) -> Told {
        try_read(text).unwrap()
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
        let cases: [(&[u8], &str); 12] = [
            (b" \"g\",1", "blank before a quote"),
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
    fn every_kind_of_line_end_ends_a_line() {
        let expected = [line("a", 1, None), line("a", 2, None), line("b", 3, None)];
        for text in ["a,1\na,2\nb,3\n", "a,1\ra,2\rb,3", "a,1\r\na,2\r\nb,3\r\n", "a,1\r\r\na,2\n\rb,3\r"] {
            assert_eq!(good(text), expected, "{text:?}");
        }
        let numbers: Vec<u64> = read(b"a,1\r\n\r\na,2\r\ra,3\n").into_iter().map(|(number, _)| number).collect();
        assert_eq!(numbers, [1, 3, 5]);
    }

    #[test]
    fn a_blank_before_a_quote_is_bad_only_outside_of_quotes() {
        for (line, is_bad) in [
            (r#" "g",1"#, true),
            (r#"g, "1""#, true),
            (r#""a,b", "1""#, true),
            (r#"" """,1"#, false),
            (r#""a ""b"", ""c",1"#, false),
            (r#"5" b "c,1"#, false),
            ("", false),
        ] {
            assert_eq!(has_blank_before_quote(line.as_bytes()), is_bad, "{line}");
        }
    }

    #[test]
    fn names_of_columns_are_known_with_blanks_in_any_case_and_after_empty_lines() {
        let expected = [line("10086", 101, None)];
        for names in [
            "msg_seq, group_id",
            "\n  \nMSG_SEQ,Group_ID",
            "MsgSeq,GroupId",
            "msg-seq , \"group id\"",
            "\u{feff}\nmsg_seq,group_id",
        ] {
            assert_eq!(good(&format!("{names}\n101, 10086\n")), expected, "{names:?}");
        }
    }

    #[test]
    fn what_is_no_watch_list_is_refused_at_its_first_line() {
        let cases: [(&[u8], &str); 17] = [
            (b"group_id,time\ng,1\n", "line 1: the first line names columns, but not msg_seq"),
            (b"\nmsg_seq,note\n1,g\n", "line 2: the first line names columns, but not group_id"),
            (b"sent_at\n", "not group_id"),
            (b"group_id,msg_seq,group_id\n", "names a column twice"),
            (b"group,seq\ng,1\n", "neither a message to watch"),
            (b"g,x\ng,1\n", "neither a message to watch"),
            (b"g\ng,1\n", "neither a message to watch"),
            (b"g,1,2026-11-23T08:00:00Z,note\n", "neither a message to watch"),
            (b"group_id;msg_seq\ng;1\n", "separated by semicolons (;)"),
            (b"g;1\n", "separated by semicolons (;)"),
            (b"a;1,2\n", "message 2 of the group \"a;1\", but the fields may be separated by semicolons (;)"),
            (b"a; 1;1700000000,5\n", "but the fields may be separated by semicolons (;)"),
            (b"a|1,2\n", "but the fields may be separated by bars (|)"),
            (b"group_id\tmsg_seq\n", "separated by tabs"),
            (b"\xff\xfeg\0,\x001\0\n\0", "UTF-16"),
            (b"\0g\0,\x001\0\n", "UTF-16"),
            (b"PK\x03\x04\0\0", "UTF-16, or no text at all"),
        ];
        for (text, expected) in cases {
            let error = try_read(text).expect_err(&String::from_utf8_lossy(text));
            assert!(error.contains(expected), "{}: {error}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn a_group_id_may_hold_another_separator_if_columns_are_named_or_it_is_in_quotes() {
        let expected = [line("a;1", 2, None)];
        assert_eq!(good("group_id,msg_seq\na;1,2\n"), expected);
        assert_eq!(good("\"a;1\",2\n"), expected);
        assert_eq!(good("a;b,2\n"), [line("a;b", 2, None)]);
    }

    #[test]
    fn a_first_line_that_is_a_bad_message_is_told_and_the_rest_is_read() {
        let read = read(b"@TGS#_c,1\ng,2\n");
        assert!(read[0].1.as_ref().unwrap_err().contains("a Community"));
        assert_eq!(read[1], (2, Ok(line("g", 2, None))));
    }

    #[test]
    fn a_time_more_than_a_day_ahead_is_bad() {
        let read = read(b"g,1,2026-11-26T11:00:00Z\ng,2,2026-11-26T13:00:00Z\ng,3,2199-01-01T00:00:00Z\n");
        assert!(read[0].1.is_ok());
        assert!(read[1..].iter().all(|(_, line)| line.as_ref().is_err_and(|error| error.contains("a day ahead"))));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_to_the_end(bytes in proptest::collection::vec(prop_oneof![any::<u8>(), Just(b'\n'), Just(b'\r'), Just(b','), Just(b'"')], 0..300)) {
            let text = [b"a,1\n".as_slice(), &bytes].concat();
            let ends = text.iter().filter(|byte| matches!(byte, b'\n' | b'\r')).count() as u64;
            let mut last = 0;
            for (number, _) in read(&text) {
                prop_assert!(number > last && number <= 1 + ends);
                last = number;
            }
            _ = try_read(&bytes);
        }

        #[test]
        fn no_line_is_lost_however_lines_end(
            seqs in proptest::collection::vec((1..1_000_000_i64, prop_oneof![Just("\n"), Just("\r"), Just("\r\n"), Just("\n\n")]), 1..40),
            capacity in 1..20_usize,
        ) {
            let text: String = seqs.iter().map(|(seq, end)| format!("g,{seq}{end}")).collect();
            let mut lines = Lines::new(std::io::BufReader::with_capacity(capacity, text.as_bytes()), now());
            for (seq, _) in &seqs {
                let (_, read) = lines.next_line().unwrap().unwrap();
                prop_assert_eq!(i64::from(read.unwrap().seq.get()), *seq);
            }
            prop_assert!(lines.next_line().unwrap().is_none());
        }

        #[test]
        fn what_is_written_as_csv_is_read_again(groups in proptest::collection::vec("[ -~]{1,47}", 1..20)) {
            let groups: Vec<GroupId> = groups.iter().filter_map(|group| group.parse().ok()).collect();
            let text: String = groups.iter().map(|group| format!("\"{}\",5\n", group.as_str().replace('"', "\"\""))).collect();
            prop_assert_eq!(good(&text).into_iter().map(|line| line.group).collect::<Vec<_>>(), groups);
        }
    }
}
