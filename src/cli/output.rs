//! The output of commands: results on standard output, messages on standard error.

use std::{
    borrow::Cow,
    fmt::Display,
    io::{self, StdoutLock, Write},
};

use receiptd::text::printable::{printable_json, printable_lines};
use serde::Serialize;

/// Standard output, for results. Its errors say that writing to it failed.
pub struct Stdout(StdoutLock<'static>);

pub fn stdout() -> Stdout {
    Stdout(io::stdout().lock())
}

/// Only text goes through it, and no terminal control characters, whatever the source. Exports are data and bypass
/// it.
impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match str::from_utf8(bytes).map(printable_lines) {
            Ok(Cow::Owned(text)) => self.0.write_all(text.as_bytes()).map(|()| bytes.len()),
            _ => self.0.write(bytes),
        }
        .map_err(of_stdout)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().map_err(of_stdout)
    }
}

fn of_stdout(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("writing to standard output failed: {error}"))
}

/// Writes a message to standard error. If that is closed or full, the message is dropped.
pub fn tell(text: impl Display) {
    _ = writeln!(io::stderr(), "{}", printable_lines(&text.to_string()));
}

/// A value as JSON on one line, with invisible characters escaped.
pub fn as_json(value: &impl Serialize) -> serde_json::Result<String> {
    serde_json::to_string(value).map(|text| printable_json(&text).into_owned())
}
