//! Any watch list: no line is lost without a word, and none is made up.
#![no_main]

use libfuzzer_sys::fuzz_target;
use receiptd::import::Lines;

fuzz_target!(|input: &[u8]| {
    let mut lines = Lines::new(input);
    let mut last = 0;
    let mut told = 0;
    while let Some((number, line)) = lines.next_line().expect("memory can be read") {
        assert!(number > last, "lines come in order, each once");
        last = number;
        told += 1;
        match line {
            Ok(line) => assert!((1..=47).contains(&line.group.as_str().len())),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
    assert_eq!(lines.bytes(), input.len() as u64, "all of it is read");
    let with_text = input.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty()).count();
    // The first line may name the columns.
    assert!(with_text.saturating_sub(told) <= 1, "{with_text} lines have text, {told} were told of");
});
