//! Secrets in the configuration: in place, or in a separate file (named by `KEY_file`).

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, de::Error};

use super::problem::Problems;

/// Maximum size of a file with a secret, in bytes.
const MAX_BYTES: u64 = 64 << 10;

/// The text of a secret. A number without quotes is refused, since TOML would lose its form.
pub(super) struct SecretText(SecretString);

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match config::Value::deserialize(deserializer)?.kind {
            config::ValueKind::String(text) => Ok(Self(text.into())),
            _ => Err(D::Error::custom("use text in quotes")),
        }
    }
}

/// The secret of `key`, from its value or from the file named by `{key}_file`.
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
    // Editors, shells and consoles add these invisibly, and no valid secret begins or ends with one.
    let secret = secret.expose_secret().trim_start_matches('\u{feff}').trim();
    let is_quoted = |quote| secret.len() > 1 && secret.starts_with(quote) && secret.ends_with(quote);
    if secret.is_empty() {
        problems.refuse_silently(key, "is empty: set the secret, or remove the key");
        return None;
    }
    if is_quoted('"') || is_quoted('\'') {
        problems.refuse_silently(key, "has quotes around it, which would become part of it: remove them");
        return None;
    }
    if secret.chars().any(char::is_control) {
        problems.refuse_silently(key, "contains a line break or another control character: put the secret on one line");
        return None;
    }
    Some(secret.into())
}

fn read(key: &str, path: &Path, problems: &mut Problems) -> Option<SecretString> {
    match read_bounded(path) {
        Ok(text) => Some(text.into()),
        Err(error) => {
            let remedy = format!("can't be read: {error}: write the secret there and make it readable for this user");
            problems.refuse(&format!("{key}_file"), &path.display().to_string(), remedy);
            None
        }
    }
}

/// Reads at most `MAX_BYTES`, since the file may be anything, even a device without an end.
fn read_bounded(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let read = File::open(path)?.take(MAX_BYTES + 1).read_to_string(&mut text)?;
    if read as u64 > MAX_BYTES {
        return Err(io::Error::other(format!("it is larger than {MAX_BYTES} bytes")));
    }
    Ok(text)
}
