//! `config/receiptd.toml` is the reference: complete, correct, and equal to the built-in defaults.

use super::*;
use crate::config::sections::SECTIONS;

const REFERENCE: &str = include_str!("../../../config/receiptd.toml");

/// Sets every setting of the reference, including commented-out ones.
fn everything_set() -> String {
    let uncomment = |line: &str| match line.strip_prefix('#') {
        Some(setting) if !setting.is_empty() && !setting.starts_with(' ') => format!("{setting}\n"),
        _ => format!("{line}\n"),
    };
    REFERENCE.lines().map(uncomment).collect()
}

#[test]
fn the_reference_file_equals_the_built_in_defaults() {
    let shipped = load_file(REFERENCE).unwrap();
    let built_in = Config::load(None, std::iter::empty(), &[], now()).unwrap();
    let example = shipped.chat().unwrap();
    assert_eq!(example.identifier, built_in.chat.identifier);
    assert!(example.credential.is_example());
    let without_chat =
        |config: Config| Config { chat: built_in.chat.clone(), settings: built_in.settings.clone(), ..config };
    assert_eq!(format!("{:?}", without_chat(shipped)), format!("{built_in:?}"));
}

#[test]
fn every_reference_key_is_known_and_every_example_is_valid() {
    let ConfigError::Invalid(problems) = load_file(&everything_set()).unwrap_err() else { panic!() };
    for problem in &problems {
        let text = problem.to_string();
        let is_expected = ["conflicts with", "can't be read: No such file", "is the example from the reference file"];
        assert!(is_expected.iter().any(|expected| text.contains(expected)), "{text}");
    }
    for key in ["chat.region", "http.token"] {
        assert!(problems.iter().any(|problem| problem.key == key), "all of it was set: {problems:?}");
    }
}

#[test]
fn every_key_that_exists_is_in_the_reference_file() {
    let text = everything_set();
    let has = |section: &str, key: &str| {
        let start = text.find(&format!("[{section}")).unwrap_or_else(|| panic!("no [{section}]"));
        let end = text[start..].find("\n\n[").map_or(text.len(), |length| start + length);
        text[start..end].lines().any(|line| line.starts_with(&format!("{key} = ")))
    };
    let config = Config::load(None, std::iter::empty(), &[], now()).unwrap();
    let keys: Vec<_> = config.settings.iter().filter_map(|setting| setting.key.rsplit_once('.')).collect();
    for section in SECTIONS {
        let name = if section == "cadence" { "cadence.default" } else { section };
        assert!(keys.iter().any(|(section, _)| *section == name), "no key of [{section}]");
    }
    for (section, key) in keys {
        let is_there = has(section, key) || section == "cadence.default" && has("cadence.mornings", key);
        assert!(is_there, "{section}.{key} is not in config/receiptd.toml");
    }
}
