//! The domain's values as types: parsed once at the edge, trusted inside.
//!
//! Values from a config file, a CSV line, a database row or an HTTP body become one of these or are refused with a
//! reason. Nothing here reads a clock, a socket or a database.

mod bounds;
mod labels;
mod member;

use std::{fmt, str::FromStr, sync::Arc};

use chrono::{DateTime, Utc};

pub use self::{
    bounds::Bounds,
    labels::{BadLabel, Label, Labels, check_name},
    member::Member,
};

/// A point in time, in UTC.
pub type Timestamp = DateTime<Utc>;

/// Why a value from outside is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidValue {
    /// The SDKAppID is not a positive u32.
    #[error("SDKAppID {0:?} is not a whole number from 1 to 4294967295")]
    SdkAppId(String),
    /// The group id is empty, too long or not printable ASCII.
    #[error("group id {0:?} is not 1 to 47 bytes of printable ASCII")]
    GroupId(String),
    /// The group's type has no read receipts.
    #[error(
        "group {group:?} is {kind}, which has no read receipts: watch Private (Work), Public or ChatRoom (Meeting) \
         groups"
    )]
    NoReceiptsInGroup {
        /// The group id or type.
        group: String,
        /// The type of the group, with its article.
        kind: &'static str,
    },
    /// Tencent Chat has no such group type.
    #[error("group type {0:?} is unknown: use Private (Work), Public or ChatRoom (Meeting)")]
    GroupType(String),
    /// The message seq is not a positive u32.
    #[error("message seq {0:?} is not a whole number from 1 to 4294967295")]
    MsgSeq(String),
}

/// Id of an app in Tencent Chat, from 1 to 4294967295.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SdkAppId(u32);

impl SdkAppId {
    /// The id as a number, as in URLs and signatures.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<i64> for SdkAppId {
    type Error = InvalidValue;

    fn try_from(value: i64) -> Result<Self, InvalidValue> {
        positive_u32(value).map(Self).ok_or_else(|| InvalidValue::SdkAppId(value.to_string()))
    }
}

impl fmt::Display for SdkAppId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Id of a group that can have read receipts: 1 to 47 bytes of printable ASCII, including spaces, and neither a
/// Community (`@TGS#_…`) nor a topic (`…@TOPIC#_…`). Cheap to clone.
///
/// ```
/// use receiptd::domain::GroupId;
///
/// assert!("@TGS#2TTV7VSII".parse::<GroupId>().is_ok());
/// let community = "@TGS#_3ABC".parse::<GroupId>().unwrap_err();
/// assert!(community.to_string().contains("no read receipts"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupId(Arc<str>);

impl GroupId {
    /// Maximum length of a group id in bytes: Tencent Chat requires "under 48 bytes".
    pub const MAX_BYTES: usize = 47;

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for GroupId {
    type Err = InvalidValue;

    fn from_str(id: &str) -> Result<Self, InvalidValue> {
        let printable = id.bytes().all(|byte| (0x20..=0x7e).contains(&byte));
        if id.is_empty() || id.len() > Self::MAX_BYTES || !printable {
            return Err(InvalidValue::GroupId(id.to_owned()));
        }
        let refuse = |kind| Err(InvalidValue::NoReceiptsInGroup { group: id.to_owned(), kind });
        if id.contains("@TOPIC#") {
            return refuse("a topic of a Community");
        }
        if id.starts_with("@TGS#_") {
            return refuse("a Community");
        }
        Ok(Self(id.into()))
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The types of groups with read receipts, by their API names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GroupType {
    /// `Private`, also called `Work`.
    Private,
    /// `Public`.
    Public,
    /// `ChatRoom`, also called `Meeting`.
    ChatRoom,
}

impl GroupType {
    /// The name in `watched_groups.group_type`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Private => "Private",
            Self::Public => "Public",
            Self::ChatRoom => "ChatRoom",
        }
    }
}

impl FromStr for GroupType {
    type Err = InvalidValue;

    fn from_str(name: &str) -> Result<Self, InvalidValue> {
        let refuse = |kind| Err(InvalidValue::NoReceiptsInGroup { group: name.to_owned(), kind });
        match name.to_ascii_lowercase().as_str() {
            "private" | "work" => Ok(Self::Private),
            "public" => Ok(Self::Public),
            "chatroom" | "meeting" => Ok(Self::ChatRoom),
            "avchatroom" => refuse("an AVChatRoom"),
            "community" => refuse("a Community"),
            _ => Err(InvalidValue::GroupType(name.to_owned())),
        }
    }
}

/// Number of a message within its group, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MsgSeq(u32);

impl MsgSeq {
    /// The seq as a number, as in the API.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<i64> for MsgSeq {
    type Error = InvalidValue;

    fn try_from(value: i64) -> Result<Self, InvalidValue> {
        positive_u32(value).map(Self).ok_or_else(|| InvalidValue::MsgSeq(value.to_string()))
    }
}

impl FromStr for MsgSeq {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let value = text.parse::<i64>().map_err(|_| InvalidValue::MsgSeq(text.to_owned()))?;
        Self::try_from(value)
    }
}

impl fmt::Display for MsgSeq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

fn positive_u32(value: i64) -> Option<u32> {
    u32::try_from(value).ok().filter(|value| *value > 0)
}

/// Number of members who have and have not read a message: together at most 2^31-1. Other values are bad data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Counts {
    read: u32,
    unread: u32,
}

impl Counts {
    /// The counts, if they and their sum are in 0..=2^31-1.
    pub fn new(read: i64, unread: i64) -> Option<Self> {
        let counts = Self { read: u32::try_from(read).ok()?, unread: u32::try_from(unread).ok()? };
        counts.read.checked_add(counts.unread).filter(|members| *members <= i32::MAX as u32).map(|_| counts)
    }

    /// Number of members, without the sender.
    pub fn members(self) -> u32 {
        self.read + self.unread
    }

    /// Number of members who have read the message.
    pub fn read(self) -> u32 {
        self.read
    }

    /// Number of members who have not read the message.
    pub fn unread(self) -> u32 {
        self.unread
    }
}

/// The result for one message in an answer: its code, and its counts if any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Receipt {
    /// Code of the message: 0 is success, 10062 no receipt.
    pub code: i32,
    /// The counts; `None` if the code is not 0 and the answer had none.
    pub counts: Option<Counts>,
}

impl Receipt {
    /// This receipt after `earlier`: without counts, the last known ones are kept.
    pub fn after(self, earlier: Option<Self>) -> Self {
        Self { counts: self.counts.or(earlier.and_then(|earlier| earlier.counts)), ..self }
    }

    /// True if the message has a receipt, at least one member has read it, and all have. A message to nobody else is
    /// not read by all: there may be other members later.
    pub fn all_read(self) -> bool {
        self.code == 0 && self.counts.is_some_and(|counts| counts.read > 0 && counts.unread == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_ids_are_printable_ascii_under_48_bytes() {
        let longest = "g".repeat(47);
        for good in ["@TGS#2TTV7VSII", "a", "team room 7", "~!@", longest.as_str()] {
            assert_eq!(good.parse::<GroupId>().unwrap().as_str(), good);
        }
        let too_long = "g".repeat(48);
        for bad in ["", "gr\u{fc}ppe", "tab\there", "nul\0", too_long.as_str()] {
            assert_eq!(bad.parse::<GroupId>(), Err(InvalidValue::GroupId(bad.to_owned())));
        }
    }

    #[test]
    fn communities_and_topics_are_refused_by_the_form_of_their_id() {
        for (id, kind) in [("@TGS#_3ABC", "a Community"), ("@TGS#_3ABC@TOPIC#_1", "a topic"), ("x@TOPIC#_1", "a topic")]
        {
            let refusal = id.parse::<GroupId>().unwrap_err().to_string();
            assert!(refusal.contains(kind) && refusal.contains("no read receipts"), "{refusal}");
        }
        assert!("@TGS#3_ABC".parse::<GroupId>().is_ok(), "only the two forms tell the type");
    }

    #[test]
    fn group_type_names_parse_and_types_without_receipts_fail() {
        for (name, group_type) in
            [("Work", GroupType::Private), ("private", GroupType::Private), ("Public", GroupType::Public)]
        {
            assert_eq!(name.parse(), Ok(group_type));
        }
        assert_eq!("Meeting".parse(), Ok(GroupType::ChatRoom));
        for name in ["AVChatRoom", "Community"] {
            assert!(matches!(name.parse::<GroupType>(), Err(InvalidValue::NoReceiptsInGroup { .. })));
        }
        assert!(matches!("Club".parse::<GroupType>(), Err(InvalidValue::GroupType(_))));
    }

    #[test]
    fn ids_and_seqs_are_positive_u32() {
        for bad in [0, -1, i64::from(u32::MAX) + 1, i64::MIN, i64::MAX] {
            assert!(MsgSeq::try_from(bad).is_err());
            assert!(SdkAppId::try_from(bad).is_err());
        }
        assert_eq!(MsgSeq::try_from(i64::from(u32::MAX)).unwrap().get(), u32::MAX);
        assert!("1.5".parse::<MsgSeq>().is_err());
    }

    #[test]
    fn counts_outside_0_to_2_31_minus_1_are_no_counts() {
        assert!(Counts::new(0, i64::from(i32::MAX)).is_some());
        for (read, unread) in [(-1, 0), (0, -1), (1 << 31, 0), (0, 1 << 31), (i64::MIN, i64::MAX)] {
            assert_eq!(Counts::new(read, unread), None);
        }
    }

    #[test]
    fn all_read_needs_a_receipt_and_a_reader() {
        assert!(Receipt { code: 0, counts: Counts::new(3, 0) }.all_read());
        assert!(!Receipt { code: 0, counts: Counts::new(3, 1) }.all_read());
        assert!(!Receipt { code: 0, counts: Counts::new(0, 0) }.all_read());
        assert!(!Receipt { code: 0, counts: None }.all_read());
        assert!(!Receipt { code: 10062, counts: Counts::new(0, 0) }.all_read());
    }
}
