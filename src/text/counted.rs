//! Counts of things as text.

use indicatif::HumanCount;

/// A count of things: `1 message`, `12,431 messages`.
pub fn counted(number: u64, thing: &str) -> String {
    format!("{} {thing}{}", HumanCount(number), if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thing_is_no_plural() {
        assert_eq!(counted(0, "message"), "0 messages");
        assert_eq!(counted(1, "message"), "1 message");
        assert_eq!(counted(12_431, "message"), "12,431 messages");
    }
}
