//! `config/receiptd.toml` is the reference: complete, correct, and equal to the built-in defaults.

use super::*;
use crate::config::{fields::fields_of, sections::SECTIONS};

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
    let sections: [(&str, &[&str]); 12] = [
        ("chat", fields_of::<chat::Keys>()),
        ("database", fields_of::<database::Keys>()),
        ("polling", fields_of::<polling::Keys>()),
        ("discovery", fields_of::<discovery::Keys>()),
        ("snapshots", fields_of::<snapshots::Keys>()),
        ("readers", fields_of::<readers::Keys>()),
        ("jobs", fields_of::<jobs::Keys>()),
        ("retention", fields_of::<retention::Keys>()),
        ("limits", fields_of::<limits::Keys>()),
        ("http", fields_of::<http::Keys>()),
        ("webhooks", fields_of::<webhooks::Keys>()),
        ("log", fields_of::<log::Keys>()),
    ];
    assert_eq!(sections.len() + 1, SECTIONS.len(), "each section is here, and the cadences below");
    for (section, keys) in sections {
        assert!(SECTIONS.contains(&section) && !keys.is_empty());
        for key in keys {
            assert!(has(section, key), "{section}.{key} is not in config/receiptd.toml");
        }
    }
    for key in fields_of::<cadence::Keys>() {
        assert!(has("cadence.default", key) || has("cadence.mornings", key), "cadence key {key} is not there");
    }
}
