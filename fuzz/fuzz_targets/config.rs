//! Any configuration: the text of the file, then NUL and variables, then NUL and `--set` options, one per line.
#![no_main]

use std::{cell::RefCell, fs, path::PathBuf};

use libfuzzer_sys::fuzz_target;
use receiptd::config::Config;

/// Values that must never be shown, in a variable together with any other settings.
const SECRETS: [(&str, &str); 2] = [
    ("RECEIPTD_CHAT__SECRET_KEY", "canary-of-the-key"),
    ("DATABASE_URL", "postgres://receiptd:canary-of-the-password@127.0.0.1/receiptd"),
];

thread_local! {
    /// In memory, if there is such a file system: it is written for every input.
    static FILE: RefCell<PathBuf> = RefCell::new({
        let memory = PathBuf::from("/dev/shm");
        let directory = if memory.is_dir() { memory } else { std::env::temp_dir() };
        directory.join(format!("receiptd-fuzz-{}.toml", std::process::id()))
    });
}

fn pairs(lines: &str) -> Vec<(String, String)> {
    lines.lines().filter_map(|line| line.split_once('=')).map(|(key, value)| (key.into(), value.into())).collect()
}

fuzz_target!(|input: &str| {
    // A file named by a fuzzed key could be anything, even a device without an end.
    if input.contains("canary") || input.to_lowercase().contains("file") {
        return;
    }
    let mut parts = input.splitn(3, '\0');
    let (file, variables, flags) =
        (parts.next().unwrap_or_default(), parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let environment =
        SECRETS.map(|(key, value)| (key.to_owned(), value.to_owned())).into_iter().chain(pairs(variables));
    let now = chrono::DateTime::from_timestamp(1_790_000_000, 0).unwrap();
    let told = FILE.with_borrow(|path| {
        fs::write(path, file).unwrap();
        let loaded = Config::load(Some(path), environment, &pairs(flags), now);
        fs::remove_file(path).unwrap();
        match loaded {
            Ok(config) => {
                let chat = config.chat();
                format!("{config:?} {chat:?} {:?}", config.signing().err().map(|error| error.to_string()))
            }
            Err(error) => format!("{error} {error:?}"),
        }
    });
    assert!(!told.contains("canary"), "a secret is told: {told}");
});
