//! Reads watch lists in CSV: `group_id,msg_seq,sent_at`, a line each, and a column `label.NAME` for each label.
//!
//! Bytes go in, messages to watch or bad lines come out, one at a time: a bad line never stops the rest, and no input makes
//! it take more than a line's memory. A file that is of another kind is refused at its first line, before anything of it is
//! taken for what it is not. A quoted field can't hold a line break, since no group id can.

mod columns;
#[cfg(test)]
mod tests;

use std::io::{self, BufRead};

use chrono::TimeDelta;
use csv_core::ReadRecordResult;

pub use self::columns::time;
use self::columns::{Columns, USUAL};
use crate::domain::{GroupId, Labels, MsgSeq, Timestamp};

/// The longest line that is read, in bytes. A group id has at most 47.
const MAX_LINE: usize = 4_096;

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
    /// What its owner notes about it.
    pub labels: Labels,
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
        return bad("has a blank before a quote: a quote follows the comma at once".to_owned());
    }
    // Blanks beside a comma are no part of an id, but in quotes.
    let message = columns.message(&fields, !line.contains(&b'"'))?;
    match message.sent_at {
        Some(sent_at) if sent_at > latest => bad(format!("time {} is more than a day ahead", sent_at.to_rfc3339())),
        _ => Ok(message),
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
