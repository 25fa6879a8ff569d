//! The columns of a dataset.

/// A column of a dataset.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    /// The name, as in SQL.
    pub name: &'static str,
    /// The type of its values.
    pub kind: Kind,
    /// Whether values may be missing.
    pub is_nullable: bool,
}

/// The type of a column's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// True or false.
    Boolean,
    /// UTF-8.
    Text,
    /// 32-bit integers.
    Integer,
    /// 64-bit integers.
    Bigint,
    /// 64-bit floating point numbers.
    Double,
    /// Times, in microseconds.
    Time,
}
