//! A member of a group, as it is stored: its account or its pseudonym. Personal data, so `Debug` never shows it.

use std::fmt;

/// The account of a member, or its pseudonym: 1 to 256 bytes without control characters.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Member(Box<str>);

impl Member {
    /// Maximum length in bytes. Tencent Chat allows 32.
    pub const MAX_BYTES: usize = 256;

    /// The member, unless it is too long, empty or contains control characters.
    pub fn new(account: &str) -> Option<Self> {
        let is_plain = !account.is_empty() && account.len() <= Self::MAX_BYTES && !account.contains(char::is_control);
        is_plain.then(|| Self(account.into()))
    }

    /// As text, for the database only.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Member(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_short_and_has_no_control_characters() {
        for (account, is_one) in
            [("alice", true), ("a b@c", true), ("\u{7fa4}", true), ("", false), ("a\0", false), ("a\n", false)]
        {
            assert_eq!(Member::new(account).is_some(), is_one, "{account:?}");
        }
        assert!(Member::new(&"a".repeat(256)).is_some() && Member::new(&"a".repeat(257)).is_none());
    }

    #[test]
    fn debug_output_does_not_name_a_member() {
        assert_eq!(format!("{:?}", Member::new("alice")), "Some(Member(…))");
    }
}
