//! The members in an event. Their accounts are only kept for groups with readers on, and never shown.

use std::{collections::BTreeSet, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::domain::Member;

/// Maximum number of accounts that are read for a message: no group with read receipts has more members.
const MOST_ACCOUNTS: usize = 200;

/// The members in `ReadReceiptMembers`; none if it is not a list.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Members {
    count: u32,
    accounts: BTreeSet<Member>,
}

impl Members {
    /// Their number, including those without a usable account.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Their accounts, each once; none for a group with readers off.
    pub fn accounts(&self) -> &BTreeSet<Member> {
        &self.accounts
    }

    /// The same without accounts.
    pub(super) fn without_accounts(self) -> Self {
        Self { accounts: BTreeSet::new(), ..self }
    }
}

impl fmt::Debug for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Members({})", self.count)
    }
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let list = <&RawValue>::deserialize(deserializer)?;
        let members = serde_json::Deserializer::from_str(list.get()).deserialize_seq(List);
        Ok(members.unwrap_or_default())
    }
}

struct List;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Account {
    #[serde(rename = "Member_Account")]
    account: String,
}

impl<'de> Visitor<'de> for List {
    type Value = Members;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of members")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Members, A::Error> {
        let mut members = Members::default();
        while let Some(member) = list.next_element::<&RawValue>()? {
            members.count += 1;
            if members.accounts.len() < MOST_ACCOUNTS {
                let account = serde_json::from_str::<Account>(member.get()).ok();
                members.accounts.extend(account.and_then(|member| Member::new(&member.account)));
            }
        }
        Ok(members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(list: &str) -> (u32, Vec<String>) {
        let members: Members = serde_json::from_str(list).unwrap();
        (members.count(), members.accounts().iter().map(|member| member.as_str().to_owned()).collect())
    }

    #[test]
    fn invalid_members_are_counted_and_not_named() {
        let list = r#"[{"Member_Account":"b"},{"Member_Account":"a"},{"Member_Account":"b"},{"Member_Account":7},null,
            {"Member_Account":""},{}]"#;
        assert_eq!(members(list), (7, vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(members("{}"), (0, vec![]));
    }

    #[test]
    fn no_more_accounts_are_read_than_a_group_can_have() {
        let many: Vec<String> = (0..300).map(|number| format!(r#"{{"Member_Account":"m{number}"}}"#)).collect();
        let (count, accounts) = members(&format!("[{}]", many.join(",")));
        assert_eq!((count, accounts.len()), (300, 200));
    }

    #[test]
    fn debug_output_shows_only_their_number() {
        let members: Members = serde_json::from_str(r#"[{"Member_Account":"canary"}]"#).unwrap();
        assert_eq!(format!("{members:?}"), "Members(1)");
    }
}
