//! Makes text from outside safe for a terminal, a log and a page: without characters that move the cursor, start a
//! line, change the text direction or are invisible.
//!
//! It may have been chosen by anybody who writes to the database, answers instead of the service or took the daemon's
//! port.

use std::{borrow::Cow, fmt::Write};

/// Whether a character is invisible: controls, formats (Unicode's category Cf) and line and paragraph separators.
pub fn is_invisible(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{890}' | '\u{891}' | '\u{8e2}'
            | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}' | '\u{110bd}' | '\u{110cd}' | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e007f}')
}

/// The text on one line, with every invisible character escaped, as in `\u{1b}`.
pub fn printable(text: &str) -> Cow<'_, str> {
    written_out(text, is_invisible)
}

/// The same for text with several lines; line breaks and tabs are kept.
pub fn printable_lines(text: &str) -> Cow<'_, str> {
    written_out(text, |character| is_invisible(character) && !matches!(character, '\n' | '\t'))
}

/// The same for JSON on one line, whose strings keep their meaning.
pub fn printable_json(json: &str) -> Cow<'_, str> {
    let escape = |character: char, out: &mut String| {
        for unit in character.encode_utf16(&mut [0; 2]) {
            // Writing to a string can't fail.
            _ = write!(out, "\\u{unit:04x}");
        }
    };
    replaced(json, is_invisible, escape)
}

fn written_out(text: &str, is_hidden: impl Fn(char) -> bool) -> Cow<'_, str> {
    replaced(text, is_hidden, |character, out| out.extend(character.escape_unicode()))
}

fn replaced(text: &str, is_hidden: impl Fn(char) -> bool, replace: impl Fn(char, &mut String)) -> Cow<'_, str> {
    if !text.contains(&is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        match is_hidden(character) {
            true => replace(character, &mut out),
            false => out.push(character),
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_not_be_seen_is_written_out() {
        for (text, shown) in [
            ("plain text, 群组 and \u{1f600}", "plain text, 群组 and \u{1f600}"),
            ("\u{1b}[2J", "\\u{1b}[2J"),
            ("c1 \u{9b}31m", "c1 \\u{9b}31m"),
            ("a\nOk: all is well", "a\\u{a}Ok: all is well"),
            ("\u{202e}txt.exe\u{2066}", "\\u{202e}txt.exe\\u{2066}"),
            ("a\u{2028}b\u{2029}c", "a\\u{2028}b\\u{2029}c"),
            ("zero\u{200b}width\u{feff}\u{e0041}", "zero\\u{200b}width\\u{feff}\\u{e0041}"),
        ] {
            assert_eq!(printable(text), shown);
        }
    }

    #[test]
    fn json_means_the_same_and_shows_nothing_invisible() {
        let value = serde_json::json!({ "a": "\u{1b}[2J\u{9b}\u{202e}\n", "\u{e0041}": ["\u{7f}", "群组"] });
        let json = printable_json(&value.to_string()).into_owned();
        assert!(!json.contains(is_invisible), "{json}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap(), value);
    }

    #[test]
    fn lines_and_tabs_stay_in_text_of_several_lines() {
        assert_eq!(printable_lines("a\n\tb\r\u{1b}"), "a\n\tb\\u{d}\\u{1b}");
    }
}
