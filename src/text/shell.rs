//! Quoting of words in commands that people paste into a POSIX shell. Never for running anything.

/// `word` quoted as one word of a shell, whatever its characters.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./@:".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.into() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

/// The same for an argument that could be taken for an option.
pub fn argument(word: &str) -> String {
    let end_of_options = if word.starts_with('-') { "-- " } else { "" };
    format!("{end_of_options}{}", quoted(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_stays_one_word_and_no_option() {
        assert_eq!(quoted("/srv/postgres-1/socket"), "/srv/postgres-1/socket");
        assert_eq!(quoted("/srv/it's here"), r"'/srv/it'\''s here'");
        assert_eq!(quoted(""), "''");
        assert_eq!(argument("a'; rm -rf ~; '"), r"'a'\''; rm -rf ~; '\'''");
        assert_eq!(argument("$(id)"), "'$(id)'");
        assert_eq!(argument("-rf"), "-- -rf");
    }
}
