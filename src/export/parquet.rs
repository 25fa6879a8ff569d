//! Rows as a Parquet file, by the low-level writer, since Parquet is the fastest format for analysts' tools. Holds
//! the rows of one row group and, until the end, a few hundred bytes per column and written row group; never more.

use std::{
    io::{self, Write},
    sync::Arc,
};

use parquet::{
    basic::{Compression, LogicalType, Repetition, TimeUnit, Type as Physical},
    data_type::{BoolType, ByteArray, ByteArrayType, DataType, DoubleType, Int32Type, Int64Type},
    errors::ParquetError,
    file::{
        properties::{EnabledStatistics, WriterProperties},
        writer::{SerializedColumnWriter, SerializedFileWriter},
    },
    schema::types::{Type, TypePtr},
};

use super::{BATCH, Batch, Column, Kind, Values, Writer};

/// Number of rows in a row group. The columns of a group are written one after the other, so its rows are buffered
/// until it is full: about 20 MB.
const ROW_GROUP: usize = 8 * BATCH;

pub(super) struct ParquetWriter {
    file: SerializedFileWriter<Box<dyn Write + Send>>,
    held: Batch,
}

impl ParquetWriter {
    /// Begins the file.
    ///
    /// # Errors
    /// If writing fails.
    pub fn begin(columns: &'static [Column], out: Box<dyn Write + Send>) -> io::Result<Self> {
        let properties = WriterProperties::builder()
            .set_created_by(concat!("receiptd ", env!("CARGO_PKG_VERSION")).to_owned())
            .set_compression(Compression::SNAPPY)
            // Page indexes would have to be kept until the end.
            .set_statistics_enabled(EnabledStatistics::Chunk)
            .set_offset_index_disabled(true)
            .build();
        let schema = schema(columns).map_err(io_error)?;
        let file = SerializedFileWriter::new(out, schema, Arc::new(properties)).map_err(io_error)?;
        Ok(Self { file, held: Batch::new(columns, 0) })
    }

    fn write_group(&mut self) -> Result<(), ParquetError> {
        if self.held.rows() == 0 {
            return Ok(());
        }
        let mut group = self.file.next_row_group()?;
        for (column, values) in self.held.columns() {
            let mut writer = group.next_column()?.ok_or_else(|| ParquetError::General("too few columns".to_owned()))?;
            write_column(&mut writer, column, values)?;
            writer.close()?;
        }
        group.close()?;
        self.held.clear();
        Ok(())
    }
}

impl Writer for ParquetWriter {
    fn write(&mut self, batch: Batch) -> io::Result<()> {
        self.held.append(batch);
        if self.held.rows() >= ROW_GROUP { self.write_group().map_err(io_error) } else { Ok(()) }
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        self.write_group().map_err(io_error)?;
        self.file.finish().map(drop).map_err(io_error)
    }
}

fn schema(columns: &[Column]) -> Result<TypePtr, ParquetError> {
    let field = |column: &Column| {
        let (physical, logical) = match column.kind {
            Kind::Boolean => (Physical::BOOLEAN, None),
            Kind::Text => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
            Kind::Integer => (Physical::INT32, None),
            Kind::Bigint => (Physical::INT64, None),
            Kind::Double => (Physical::DOUBLE, None),
            Kind::Time => (Physical::INT64, Some(LogicalType::timestamp(true, TimeUnit::MICROS))),
        };
        let repetition = if column.is_nullable { Repetition::OPTIONAL } else { Repetition::REQUIRED };
        let field = Type::primitive_type_builder(column.name, physical).with_logical_type(logical);
        field.with_repetition(repetition).build().map(Arc::new)
    };
    let fields = columns.iter().map(field).collect::<Result<_, _>>()?;
    Type::group_type_builder("receipts").with_fields(fields).build().map(Arc::new)
}

fn write_column(writer: &mut SerializedColumnWriter<'_>, column: &Column, values: &Values) -> Result<(), ParquetError> {
    match values {
        Values::Boolean(values) => put::<BoolType, _>(writer, column, values, |is_true| *is_true),
        Values::Text(texts) => {
            put::<ByteArrayType, _>(writer, column, texts, |text| ByteArray::from(text.as_bytes().to_vec()))
        }
        Values::Integer(numbers) => put::<Int32Type, _>(writer, column, numbers, |number| *number),
        Values::Bigint(numbers) => put::<Int64Type, _>(writer, column, numbers, |number| *number),
        Values::Double(numbers) => put::<DoubleType, _>(writer, column, numbers, |number| *number),
        Values::Time(times) => put::<Int64Type, _>(writer, column, times, |time| time.timestamp_micros()),
    }
}

/// Parquet needs the non-null values, and separately the rows that have one.
fn put<P: DataType, T>(
    writer: &mut SerializedColumnWriter<'_>,
    column: &Column,
    values: &[Option<T>],
    convert: impl Fn(&T) -> P::T,
) -> Result<(), ParquetError> {
    let there: Vec<P::T> = values.iter().flatten().map(convert).collect();
    if !column.is_nullable && there.len() < values.len() {
        return Err(ParquetError::General(format!("a row has no {}", column.name)));
    }
    let levels: Option<Vec<i16>> =
        column.is_nullable.then(|| values.iter().map(|value| i16::from(value.is_some())).collect());
    writer.typed::<P>().write_batch(&there, levels.as_deref(), None).map(drop)
}

/// The error of the underlying writer, if it was one: a closed pipe must be distinguished from a failure.
fn io_error(error: ParquetError) -> io::Error {
    match error {
        ParquetError::External(cause) => match cause.downcast::<io::Error>() {
            Ok(error) => *error,
            Err(cause) => io::Error::other(cause),
        },
        error => io::Error::other(error),
    }
}
