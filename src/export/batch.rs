//! Rows on the way from the database to a file, column by column. Never decides what is read or written.

use std::sync::Arc;

use super::column::{Column, Kind};
use crate::domain::Timestamp;

/// Maximum number of rows in a batch.
pub const BATCH: usize = 8_192;

/// Rows of a dataset, column by column.
#[derive(Debug)]
pub struct Batch {
    columns: &'static [Column],
    values: Vec<Values>,
}

/// The values of one column.
#[derive(Debug)]
pub enum Values {
    /// Values of [`Kind::Boolean`].
    Boolean(Vec<Option<bool>>),
    /// Values of [`Kind::Text`].
    Text(Vec<Option<Arc<str>>>),
    /// Values of [`Kind::Integer`].
    Integer(Vec<Option<i32>>),
    /// Values of [`Kind::Bigint`].
    Bigint(Vec<Option<i64>>),
    /// Values of [`Kind::Double`].
    Double(Vec<Option<f64>>),
    /// Values of [`Kind::Time`].
    Time(Vec<Option<Timestamp>>),
}

impl Batch {
    /// An empty batch with capacity for this many rows.
    pub fn new(columns: &'static [Column], rows: usize) -> Self {
        Self { columns, values: columns.iter().map(|column| Values::new(column.kind, rows)).collect() }
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.values.first().map_or(0, Values::len)
    }

    /// The columns with their values.
    pub fn columns(&self) -> impl Iterator<Item = (&'static Column, &Values)> {
        self.columns.iter().zip(&self.values)
    }

    /// The values by column, to be extended: add the same number of values to all of them.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut Values> {
        self.values.iter_mut()
    }

    /// Appends another batch with the same columns.
    pub(super) fn append(&mut self, other: Self) {
        for (values, more) in self.values.iter_mut().zip(other.values) {
            values.append(more);
        }
    }

    /// Removes the rows and keeps the capacity.
    pub(super) fn clear(&mut self) {
        for values in &mut self.values {
            values.clear();
        }
    }
}

impl Values {
    fn new(kind: Kind, rows: usize) -> Self {
        match kind {
            Kind::Boolean => Self::Boolean(Vec::with_capacity(rows)),
            Kind::Text => Self::Text(Vec::with_capacity(rows)),
            Kind::Integer => Self::Integer(Vec::with_capacity(rows)),
            Kind::Bigint => Self::Bigint(Vec::with_capacity(rows)),
            Kind::Double => Self::Double(Vec::with_capacity(rows)),
            Kind::Time => Self::Time(Vec::with_capacity(rows)),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Boolean(values) => values.len(),
            Self::Text(values) => values.len(),
            Self::Integer(values) => values.len(),
            Self::Bigint(values) => values.len(),
            Self::Double(values) => values.len(),
            Self::Time(values) => values.len(),
        }
    }

    fn append(&mut self, more: Self) {
        match (self, more) {
            (Self::Boolean(values), Self::Boolean(mut more)) => values.append(&mut more),
            (Self::Text(values), Self::Text(mut more)) => values.append(&mut more),
            (Self::Integer(values), Self::Integer(mut more)) => values.append(&mut more),
            (Self::Bigint(values), Self::Bigint(mut more)) => values.append(&mut more),
            (Self::Double(values), Self::Double(mut more)) => values.append(&mut more),
            (Self::Time(values), Self::Time(mut more)) => values.append(&mut more),
            (values, more) => unreachable!("the columns of a dataset have one type: {values:?}, {more:?}"),
        }
    }

    fn clear(&mut self) {
        match self {
            Self::Boolean(values) => values.clear(),
            Self::Text(values) => values.clear(),
            Self::Integer(values) => values.clear(),
            Self::Bigint(values) => values.clear(),
            Self::Double(values) => values.clear(),
            Self::Time(values) => values.clear(),
        }
    }
}

/// Appends a text. Rows are sorted, so a text often repeats, and is then shared instead of stored again.
pub fn push_text(texts: &mut Vec<Option<Arc<str>>>, text: Option<&str>) {
    let last = texts.last().and_then(Option::as_ref);
    let same = last.filter(|last| Some(last.as_ref()) == text).cloned();
    texts.push(same.or_else(|| text.map(Arc::from)));
}
