//! `[log]`: level and format of the log.

use tracing_subscriber::EnvFilter;

use super::section::Section;
use crate::logging::{Log, LogFormat};

pub(super) fn read(section: &mut Section<'_>) -> Log {
    let default = Log::default();
    let remedy = "use off, error, warn, info, debug or trace, alone or by module, such as \"info,receiptd=debug\"";
    let level = section.parsed("level", default.level, remedy, |text| is_filter(text).then(|| text.to_owned()));
    let remedy = "use \"auto\", \"human\", \"journal\" or \"json\"";
    let format = section.parsed("format", default.format, remedy, |text| match text {
        "auto" => Some(LogFormat::Auto),
        "human" => Some(LogFormat::Human),
        "journal" => Some(LogFormat::Journal),
        "json" => Some(LogFormat::Json),
        _ => None,
    });
    Log { level, format }
}

/// A single word must be a level: `EnvFilter` would interpret a misspelt one as a module and log nothing.
fn is_filter(text: &str) -> bool {
    let level = |word: &str| word.parse::<tracing_subscriber::filter::LevelFilter>().is_ok();
    let mut directives = text.split(',').map(str::trim);
    EnvFilter::try_new(text).is_ok() && directives.all(|directive| directive.contains('=') || level(directive))
}
