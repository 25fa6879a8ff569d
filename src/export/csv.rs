//! Rows as CSV lines. Never buffers rows beyond the current batch.

use std::{
    fmt::Write as _,
    io::{self, Write},
};

use chrono::SecondsFormat;

use super::{Batch, Column, Values, Writer};

pub(super) struct CsvWriter {
    out: Box<dyn Write + Send>,
    /// Whether text is protected from being interpreted as a formula.
    guards: bool,
    lines: Lines,
}

impl CsvWriter {
    /// Writes the header line.
    ///
    /// # Errors
    /// If writing fails.
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

/// Whether a spreadsheet would interpret the text as a formula. Group ids are chosen by strangers.
const FORMULAS: [char; 6] = ['=', '+', '-', '@', '\t', '\r'];

/// The value in a row, or nothing if it is null.
fn show(values: &Values, row: usize, field: &mut String) {
    let shown = match values {
        Values::Boolean(values) => values[row].map(|is_true| write!(field, "{is_true}")),
        Values::Text(values) => values[row].as_ref().map(|text| field.write_str(text)),
        Values::Integer(values) => values[row].map(|number| write!(field, "{number}")),
        Values::Bigint(values) => values[row].map(|number| write!(field, "{number}")),
        // Whole numbers as 1.0: otherwise, a reader would guess integers for a column of 0 and 1, and fail at the
        // first 0.5.
        Values::Double(values) => values[row].map(|number| write!(field, "{number:?}")),
        Values::Time(values) => {
            values[row].map(|time| field.write_str(&time.to_rfc3339_opts(SecondsFormat::Micros, true)))
        }
    };
    debug_assert!(shown.is_none_or(|shown| shown.is_ok()), "a String takes everything");
}

/// Lines not yet written.
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
        // In the worst case every byte is a quote, which is doubled, plus the two enclosing ones.
        self.add(field.len() * 2 + 2, |writer, room| writer.field(field.as_bytes(), room).2);
    }

    fn end(&mut self) {
        self.add(3, |writer, room| writer.terminator(room).1);
    }

    /// Appends what `write` writes into the space it is given, whose length it returns.
    fn add(&mut self, room: usize, write: impl FnOnce(&mut csv_core::Writer, &mut [u8]) -> usize) {
        let start = self.text.len();
        self.text.resize(start + room, 0);
        let written = write(&mut self.writer, &mut self.text[start..]);
        self.text.truncate(start + written);
    }
}
