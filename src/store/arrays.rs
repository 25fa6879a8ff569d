//! Array columns, parsed from the server's binary format. An element takes a few nanoseconds this way, while sqlx
//! checks the type of each one. A slot has hundreds of elements, and every poll reads a slot.

use chrono::DateTime;
use sqlx::{
    Error, Row, ValueRef,
    postgres::{PgRow, PgValueFormat},
};

use crate::domain::Timestamp;

/// The epoch of PostgreSQL, 2000-01-01, in microseconds since the Unix epoch.
const EPOCH_MICROS: i64 = 946_684_800_000_000;

/// The elements of a one-dimensional array, each made by `of` from its `N` bytes. Empty for any other array, which only
/// a person may have made.
///
/// # Errors
/// If the column does not exist.
pub(super) fn elements<const N: usize, T>(
    row: &PgRow,
    column: &str,
    of: fn([u8; N]) -> Option<T>,
) -> Result<Vec<Option<T>>, Error> {
    let value = row.try_get_raw(column)?;
    let is_binary = value.format() == PgValueFormat::Binary && !value.is_null();
    let bytes = value.as_bytes().map_err(Error::Decode)?;
    Ok(is_binary.then(|| read(bytes, of)).flatten().unwrap_or_default())
}

/// A time from the bytes of an element.
pub(super) fn time(bytes: [u8; 8]) -> Option<Timestamp> {
    DateTime::from_timestamp_micros(i64::from_be_bytes(bytes).checked_add(EPOCH_MICROS)?)
}

/// An array in PostgreSQL's binary format: number of dimensions, whether there are nulls, the type, and for each
/// dimension its length and lower bound; then each element after its length.
fn read<const N: usize, T>(bytes: &[u8], of: fn([u8; N]) -> Option<T>) -> Option<Vec<Option<T>>> {
    let (dimensions, bytes) = bytes.split_first_chunk()?;
    match i32::from_be_bytes(*dimensions) {
        0 => return Some(vec![]),
        1 => {}
        _ => return None,
    }
    let (length, mut bytes) = bytes.get(8..)?.split_first_chunk()?;
    let length = usize::try_from(i32::from_be_bytes(*length)).ok()?;
    bytes = bytes.get(4..)?;
    let mut elements = Vec::with_capacity(length.min(bytes.len()));
    for _ in 0..length {
        let (size, rest) = bytes.split_first_chunk()?;
        let size = i32::from_be_bytes(*size);
        if size == -1 {
            elements.push(None);
            bytes = rest;
            continue;
        }
        let (element, rest) = rest.split_first_chunk()?;
        if usize::try_from(size) != Ok(N) {
            return None;
        }
        elements.push(of(*element));
        bytes = rest;
    }
    bytes.is_empty().then_some(elements)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A one-dimensional array with these elements.
    fn array(elements: &[Option<&[u8]>]) -> Vec<u8> {
        let length = i32::try_from(elements.len()).unwrap();
        let mut bytes: Vec<u8> = [1, 1, 23, length, 1].iter().flat_map(|number: &i32| number.to_be_bytes()).collect();
        for element in elements {
            let size = element.map_or(-1, |element| i32::try_from(element.len()).unwrap());
            bytes.extend(size.to_be_bytes());
            bytes.extend(element.unwrap_or_default());
        }
        bytes
    }

    fn int(bytes: [u8; 4]) -> Option<i32> {
        Some(i32::from_be_bytes(bytes))
    }

    #[test]
    fn elements_and_nulls_come_in_order() {
        let of = |numbers: &[Option<i32>]| {
            let bytes: Vec<Option<[u8; 4]>> = numbers.iter().map(|number| number.map(i32::to_be_bytes)).collect();
            array(&bytes.iter().map(|bytes| bytes.as_ref().map(<[u8; 4]>::as_slice)).collect::<Vec<_>>())
        };
        for numbers in [vec![], vec![Some(-7)], vec![None, Some(1), None, Some(i32::MAX)]] {
            assert_eq!(read(&of(&numbers), int), Some(numbers));
        }
        let empty = [0_i32, 0, 23].iter().flat_map(|number| number.to_be_bytes()).collect::<Vec<u8>>();
        assert_eq!(read(&empty, int), Some(vec![]));
    }

    #[test]
    fn what_is_no_such_array_is_not_read() {
        let good = array(&[Some(&[0, 0, 0, 1])]);
        let mut two_dimensions = good.clone();
        two_dimensions[3] = 2;
        let mut too_long = good.clone();
        too_long.push(0);
        for bytes in [array(&[Some(&[0; 8])]), good[..good.len() - 1].to_vec(), two_dimensions, too_long, vec![]] {
            assert_eq!(read(&bytes, int), None, "{bytes:?}");
        }
    }

    #[test]
    fn a_time_is_told_to_the_microsecond_and_infinity_is_none() {
        let noon: Timestamp = "2026-11-23T12:00:00.000001Z".parse().unwrap();
        assert_eq!(time((noon.timestamp_micros() - EPOCH_MICROS).to_be_bytes()), Some(noon));
        assert_eq!(time(i64::MAX.to_be_bytes()), None);
        assert_eq!(time(i64::MIN.to_be_bytes()), None);
    }
}
