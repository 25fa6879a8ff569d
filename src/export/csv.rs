//! Rows as lines of CSV. It never holds rows back beyond the batch that it is given.

use std::{
    fmt::Write as _,
    io::{self, Write},
};

use chrono::SecondsFormat;

use super::{Batch, Column, Values, Writer};

pub(super) struct CsvWriter {
    out: Box<dyn Write + Send>,
    /// Whether spreadsheets are kept from taking text for formulas.
    guards: bool,
    lines: Lines,
}

impl CsvWriter {
    /// Writes the line of names.
    ///
    /// # Errors
    /// If that can't be written.
    pub fn begin(columns: &[Column], out: Box<dyn Write + Send>, guards: bool) -> io::Result<Self> {
        let mut writer = Self { out, guards, lines: Lines::new() };
        for (index, column) in columns.iter().enumerate() {
            writer.lines.field(index == 0, column.name);
        }
        writer.lines.end();
        writer.pass_on()?;
        Ok(writer)
    }

    fn pass_on(&mut self) -> io::Result<()> {
        self.out.write_all(&self.lines.text)?;
        self.lines.text.clear();
        Ok(())
    }
}

impl Writer for CsvWriter {
    fn write(&mut self, batch: Batch) -> io::Result<()> {
        let mut field = String::new();
        for row in 0..batch.rows() {
            for (index, (_, values)) in batch.columns().enumerate() {
                field.clear();
                show(values, row, &mut field);
                if self.guards && matches!(values, Values::Text(_)) && field.starts_with(FORMULAS) {
                    field.insert(0, '\'');
                }
                self.lines.field(index == 0, &field);
            }
            self.lines.end();
        }
        self.pass_on()
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        self.out.flush()
    }
}

/// What a spreadsheet takes for the beginning of a formula. Group ids are named by strangers.
const FORMULAS: [char; 6] = ['=', '+', '-', '@', '\t', '\r'];

/// The value of a row, or nothing if it has none.
fn show(values: &Values, row: usize, field: &mut String) {
    let shown = match values {
        Values::Text(values) => values[row].as_ref().map(|text| field.write_str(text)),
        Values::Integer(values) => values[row].map(|number| write!(field, "{number}")),
        Values::Bigint(values) => values[row].map(|number| write!(field, "{number}")),
        // Whole ones as 1.0: of a column of 0 and 1 a reader would make whole numbers, and fail at the first 0.5.
        Values::Double(values) => values[row].map(|number| write!(field, "{number:?}")),
        Values::Time(values) => {
            values[row].map(|time| field.write_str(&time.to_rfc3339_opts(SecondsFormat::Micros, true)))
        }
    };
    debug_assert!(shown.is_none_or(|shown| shown.is_ok()), "a String takes everything");
}

/// Lines that are yet to be passed on.
struct Lines {
    writer: csv_core::Writer,
    text: Vec<u8>,
}

impl Lines {
    fn new() -> Self {
        Self { writer: csv_core::Writer::new(), text: Vec::new() }
    }

    fn field(&mut self, is_first: bool, field: &str) {
        if !is_first {
            self.add(2, |writer, room| writer.delimiter(room).1);
        }
        // Every byte may be a quote that is doubled, and all of them are between two.
        self.add(field.len() * 2 + 2, |writer, room| writer.field(field.as_bytes(), room).2);
    }

    fn end(&mut self) {
        self.add(3, |writer, room| writer.terminator(room).1);
    }

    /// Adds what `write` writes into the room that it is given, and says how long it is.
    fn add(&mut self, room: usize, write: impl FnOnce(&mut csv_core::Writer, &mut [u8]) -> usize) {
        let start = self.text.len();
        self.text.resize(start + room, 0);
        let written = write(&mut self.writer, &mut self.text[start..]);
        self.text.truncate(start + written);
    }
}
