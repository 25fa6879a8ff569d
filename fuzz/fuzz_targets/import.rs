//! Any watch list: no line is lost silently, and none is invented.
#![no_main]

use chrono::{DateTime, TimeDelta};
use libfuzzer_sys::fuzz_target;
use receiptd::import::{Lines, ReadError};

fuzz_target!(|input: &[u8]| {
    let mut lines = Lines::new(input, DateTime::UNIX_EPOCH + TimeDelta::days(20_000));
    let mut last = 0;
    let mut told = 0;
    let mut good = 0;
    loop {
        let (number, line) = match lines.next_line() {
            Ok(Some(read)) => read,
            Ok(None) => break,
            // Anything else is refused before any message of it is used. A first line that is too long is bad.
            Err(ReadError::NoWatchList { .. }) if good == 0 => return,
            Err(error) => panic!("memory can be read: {error}"),
        };
        assert!(number > last, "lines come in order, each once");
        last = number;
        told += 1;
        match line {
            Ok(line) => {
                good += 1;
                assert!((1..=47).contains(&line.group.as_str().len()));
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
    assert_eq!(lines.bytes(), input.len() as u64, "all of it is read");
    let with_text =
        input.split(|byte| matches!(byte, b'\n' | b'\r')).filter(|line| !line.trim_ascii().is_empty()).count();
    // The first line may be a header.
    assert!(with_text.saturating_sub(told) <= 1, "{with_text} lines have text, {told} were told of");
});
