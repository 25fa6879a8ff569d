//! All settings with their values and origins, secrets redacted, for `receiptd config`.

use super::{
    layers::{self, Layers},
    settings::Setting,
};
use config::{Value, ValueKind};

/// The reference has all defaults, which a test checks.
const REFERENCE: &str = include_str!("../../config/receiptd.toml");

/// Settings that are examples in the reference; they have no default.
const EXAMPLES: [&str; 3] = ["chat.sdk_app_id", "chat.secret_key", "chat.region"];

/// The settings with these keys.
pub(super) fn settings(keys: &[String], layers: &Layers) -> Vec<Setting> {
    let defaults = layers::parse(REFERENCE).unwrap_or_else(|| Value::new(None, ValueKind::Nil));
    keys.iter().map(|key| setting(key, layers, &defaults)).collect()
}

fn setting(key: &str, layers: &Layers, defaults: &Value) -> Setting {
    let has_value = |value: &&Value| !matches!(value.kind, ValueKind::Nil);
    if let Some(value) = layers.value(key).filter(has_value) {
        return Setting { key: key.to_owned(), value: Some(shown(key, value)), origin: layers.origin(key) };
    }
    let is_replaced = layers.value(key).is_some() || is_passed_over(key, layers);
    // Custom cadences only have this default of the built-in one.
    let default_key = if key.ends_with(".stop_when_all_read") { "cadence.default.stop_when_all_read" } else { key };
    let default = layers::lookup(defaults, default_key).filter(|_| !is_replaced && !EXAMPLES.contains(&key));
    Setting {
        key: key.to_owned(),
        value: default.map(|value| shown(key, value)),
        origin: default.map(|_| "default".to_owned()),
    }
}

/// Whether a key of the default cadence loses its default, because other keys set how often to poll.
fn is_passed_over(key: &str, layers: &Layers) -> bool {
    let others: &[&str] = match key.strip_prefix("cadence.default.") {
        Some("pace" | "patience" | "fastest") => &["tiers", "cron"],
        Some("tiers") => &["cron"],
        _ => &[],
    };
    let gives = |field: &&str| layers.value(&format!("cadence.default.{field}")).is_some();
    let has_pace = layers.value("cadence.default.pace").is_some();
    others.iter().any(|field| gives(field) && !(has_pace && *field == "tiers"))
}

fn shown(key: &str, value: &Value) -> String {
    if layers::is_secret(key) { "\"***\"".to_owned() } else { written(value) }
}

/// A value in the format of the file.
fn written(value: &Value) -> String {
    match &value.kind {
        ValueKind::String(text) => format!("{text:?}"),
        ValueKind::Array(values) => format!("[{}]", values.iter().map(written).collect::<Vec<_>>().join(", ")),
        ValueKind::Table(table) => {
            let mut entries: Vec<_> = table.iter().map(|(key, value)| format!("{key} = {}", written(value))).collect();
            // In the usual order for a tier: `until`, then `every`.
            entries.sort_unstable_by(|one, other| other.cmp(one));
            format!("{{ {} }}", entries.join(", "))
        }
        _ => value.to_string(),
    }
}
