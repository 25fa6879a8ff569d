//! The calls that discover groups and messages, or return who has read one. They are parsed as leniently as receipts:
//! unknown fields are ignored, and an invalid entry only affects itself. Texts and names are never kept.

mod group_info;
mod group_list;
mod history;
mod readers;

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{SeqAccess, Visitor},
};
use serde_json::value::RawValue;

pub use self::{
    group_info::{GetGroupInfo, GroupInfo},
    group_list::{Cursor, GroupPage, ListGroups},
    history::{GetHistory, HistoryMessage, HistoryPage, MessageKind},
    readers::GetReaders,
};
use super::wire::Number;
use crate::domain::Timestamp;

/// A list from outside, with at most `MOST` entries; further ones are skipped. An entry that can't be parsed is left
/// out, and null is an empty list.
#[derive(Debug)]
struct List<T, const MOST: usize>(Vec<T>);

impl<T, const MOST: usize> Default for List<T, MOST> {
    fn default() -> Self {
        Self(vec![])
    }
}

impl<'de, T: Deserialize<'de>, const MOST: usize> Deserialize<'de> for List<T, MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Entries::<T, MOST>(std::marker::PhantomData)).map(Self)
    }
}

struct Entries<T, const MOST: usize>(std::marker::PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for Entries<T, MOST> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_unit<E>(self) -> Result<Vec<T>, E> {
        Ok(vec![])
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
        let mut entries = vec![];
        while let Some(entry) = list.next_element::<&RawValue>()? {
            if entries.len() < MOST {
                entries.extend(serde_json::from_str::<T>(entry.get()).ok());
            }
        }
        Ok(entries)
    }
}

/// A text from outside; `None` if it is anything else.
#[derive(Debug, Default)]
struct Text(Option<String>);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Unparsed, since an invalid value would invalidate everything around it.
        <&RawValue>::deserialize(deserializer).map(|value| Self(serde_json::from_str(value.get()).ok()))
    }
}

/// A time from outside, in whole seconds; `None` for 0 and for times at which no message can have been sent.
fn seconds(number: Number) -> Option<Timestamp> {
    let Number::Whole(seconds @ 946_684_800..7_258_118_400) = number else { return None };
    Timestamp::from_timestamp(seconds, 0)
}

/// A number that has to be a u32.
fn whole(number: Number) -> Option<u32> {
    if let Number::Whole(number) = number { u32::try_from(number).ok() } else { None }
}
