//! Secrets as the configuration gives them: in place, or in a file of their own (the `_file` twin of the key).

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, de::Error};

use super::problem::Problems;

/// The largest file with a secret that is read.
const MAX_BYTES: u64 = 64 << 10;

/// The text of a secret in the configuration. A number without quotes is refused, as TOML would lose how it was
/// written.
pub(super) struct SecretText(SecretString);

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match config::Value::deserialize(deserializer)?.kind {
            config::ValueKind::String(text) => Ok(Self(text.into())),
            _ => Err(D::Error::custom("a secret is text in quotes")),
        }
    }
}

/// The secret of `key`, from its value or from the file that its twin `{key}_file` names.
pub(super) fn take(
    key: &str,
    text: Option<SecretText>,
    file: Option<&Path>,
    problems: &mut Problems,
) -> Option<SecretString> {
    let secret = match (text, file) {
        (Some(SecretText(text)), _) => text,
        (None, Some(path)) => read(key, path, problems)?,
        (None, None) => return None,
    };
    // Editors, shells and consoles add these without showing them, and no secret of ours has any at its ends.
    let secret = secret.expose_secret().trim_start_matches('\u{feff}').trim();
    let is_quoted = |quote| secret.len() > 1 && secret.starts_with(quote) && secret.ends_with(quote);
    if secret.is_empty() {
        problems.refuse_silently(key, "is empty: give the secret, or remove the key");
        return None;
    }
    if is_quoted('"') || is_quoted('\'') {
        problems.refuse_silently(key, "has quotes around it that would be taken for a part of it: leave them out");
        return None;
    }
    if secret.chars().any(char::is_control) {
        problems
            .refuse_silently(key, "has a line break or another control character in it: give the secret in one line");
        return None;
    }
    Some(secret.into())
}

fn read(key: &str, path: &Path, problems: &mut Problems) -> Option<SecretString> {
    match read_bounded(path) {
        Ok(text) => Some(text.into()),
        Err(error) => {
            let remedy = format!("can't be read: {error}: write the secret there and let this user read it");
            problems.refuse(&format!("{key}_file"), &path.display().to_string(), remedy);
            None
        }
    }
}

/// Reads a file that may be anything, even a device without an end.
fn read_bounded(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let read = File::open(path)?.take(MAX_BYTES + 1).read_to_string(&mut text)?;
    if read as u64 > MAX_BYTES {
        return Err(io::Error::other(format!("it is larger than {MAX_BYTES} bytes, which no secret is")));
    }
    Ok(text)
}
