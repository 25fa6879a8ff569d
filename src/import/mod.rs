//! Parses watch lists in CSV: `group_id,msg_seq,sent_at` on each line, and a column `label.NAME` for each label.
//!
//! In: bytes. Out: messages to watch or bad lines, one at a time. A bad line never stops the rest, and no input takes
//! more memory than a line. A file of another kind is refused at its first line, before any of it is misread. A
//! quoted field can't contain a line break, since no group id can.

mod columns;
mod line;
#[cfg(test)]
mod tests;

use std::io::{self, BufRead};

use chrono::TimeDelta;
use csv_core::ReadRecordResult;

pub use self::{
    columns::time,
    line::{BadLine, WatchLine},
};
use self::{
    columns::{Columns, USUAL},
    line::bad,
};
use crate::domain::Timestamp;

/// Maximum length of a line, in bytes. A group id has at most 47.
const MAX_LINE: usize = 4_096;

/// Maximum time of sending after now, since clocks differ, and so do interpretations of time zones. The function
/// `receiptd.watch_keys` has the same bound.
pub const AHEAD: TimeDelta = TimeDelta::days(1);

/// A line with its number, from 1.
pub type Numbered = (u64, Result<WatchLine, BadLine>);

/// Why no further line can be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The input could not be read.
    #[error("reading the input failed")]
    Io(#[from] io::Error),
    /// The input is not a watch list. None of it was used.
    #[error("line {line}: {why}")]
    NoWatchList {
        /// The first line with text, from 1.
        line: u64,
        /// The reason and the remedy.
        why: String,
    },
}

/// The lines of a CSV file with their numbers, from 1. Lines end with LF, CR or both. A header line sets the order of
/// the columns; other columns are ignored. Empty lines are skipped.
pub struct Lines<R> {
    input: R,
    /// Maximum time of sending.
    latest: Timestamp,
    number: u64,
    bytes: u64,
    /// `None` before the first line with text.
    columns: Option<Columns>,
    line: Vec<u8>,
    /// A following LF belongs to the CR before it.
    after_cr: bool,
    /// Reused, since creating one costs more than parsing a line.
    parser: csv_core::Reader,
}

/// The result of reading a line.
enum Read {
    End,
    Line,
    TooLong,
}

impl<R: BufRead> Lines<R> {
    /// Reads from `input`. Times more than a day after `now` are errors.
    pub fn new(input: R, now: Timestamp) -> Self {
        let parser = csv_core::Reader::new();
        let latest = now.checked_add_signed(AHEAD).unwrap_or(now);
        Self { input, latest, number: 0, bytes: 0, columns: None, line: Vec::new(), after_cr: false, parser }
    }

    /// The number of bytes read.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The next line with its number.
    ///
    /// # Errors
    /// If the input can't be read, or is not a watch list.
    pub fn next_line(&mut self) -> Result<Option<Numbered>, ReadError> {
        loop {
            let read = self.read_line()?;
            self.number += 1;
            let parsed = match read {
                Read::End => return Ok(None),
                Read::TooLong => bad(format!("is longer than {MAX_LINE} bytes")).map(Some),
                Read::Line if self.line.iter().all(u8::is_ascii_whitespace) => continue,
                Read::Line => match &self.columns {
                    Some(columns) => parse(&mut self.parser, &self.line, columns, self.latest).map(Some),
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

    /// Reads a line without its end. A line that is too long is truncated.
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

    /// The first line with text: a header, which returns nothing, or a message. Anything else is not a watch list.
    fn first(&mut self) -> Result<Result<Option<WatchLine>, BadLine>, String> {
        if self.line.contains(&0) || self.line.starts_with(b"\xff\xfe") || self.line.starts_with(b"\xfe\xff") {
            return Err("the text is UTF-16 or not text at all: save it as UTF-8".to_owned());
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
                "the first line is neither a message (group_id,msg_seq or group_id,msg_seq,sent_at) nor a header \
                 with the columns group_id and msg_seq"
                    .to_owned(),
            );
        }
        if !self.line.contains(&b'"')
            && let Some(name) = other_separator(&fields[0])
        {
            return Err(format!(
                "split by commas, this is message {} of the group {:?}, but the fields may be separated by {name}: \
                 separate them by commas, or put the group id in quotes",
                fields[1].trim(),
                fields[0].trim()
            ));
        }
        let columns = self.columns.insert(USUAL);
        Ok(parse(&mut self.parser, &self.line, columns, self.latest).map(Some))
    }
}

/// The message of a line.
fn parse(
    parser: &mut csv_core::Reader,
    line: &[u8],
    columns: &Columns,
    latest: Timestamp,
) -> Result<WatchLine, BadLine> {
    let fields = fields(parser, line)?;
    if has_blank_before_quote(line) {
        return bad("has a blank before a quote: put the quote directly after the comma".to_owned());
    }
    // Blanks next to a comma are not part of an id, unless in quotes.
    let message = columns.message(&fields, !line.contains(&b'"'))?;
    match message.sent_at {
        Some(sent_at) if sent_at > latest => {
            bad(format!("time {} is more than a day in the future", sent_at.to_rfc3339()))
        }
        _ => Ok(message),
    }
}

/// Other separators in files that programs also call CSV.
const SEPARATORS: [(char, &str); 3] = [(';', "semicolons (;)"), ('\t', "tabs"), ('|', "bars (|)")];

/// The separator between a group and a message number within `field`, if any: then a following comma is not a
/// separator, but part of a number or a time.
fn other_separator(field: &str) -> Option<&'static str> {
    let separates = |(separator, _): &&(char, _)| {
        field.split(*separator).nth(1).is_some_and(|seq| seq.trim().parse::<i64>().is_ok())
    };
    SEPARATORS.iter().find(separates).map(|(_, name)| *name)
}

/// Whether a field of the line begins with blanks and then a quote, which would be parsed as part of its text.
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

/// The fields of a line, quoted as in RFC 4180.
fn fields(parser: &mut csv_core::Reader, line: &[u8]) -> Result<Vec<String>, BadLine> {
    // Each line is parsed independently of the line before.
    parser.reset();
    // A line break ends the record; a field can't be longer than its line.
    let input = [line, b"\n"].concat();
    let (mut output, mut ends) = (vec![0; input.len()], vec![0; input.len() + 1]);
    let (result, _, written, count) = parser.read_record(&input, &mut output, &mut ends);
    if result != ReadRecordResult::Record {
        return bad("has a quoted field without a closing quote".to_owned());
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
