//! `[log]`: level and format of the log.

use serde::Deserialize;
use tracing_subscriber::EnvFilter;

use super::problem::Problems;
use crate::logging::{Log, LogFormat};

/// The keys of the section.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Keys {
    /// A level, or a filter by module.
    level: Option<String>,
    /// `auto`, `human`, `journal` or `json`.
    format: Option<String>,
}

impl Keys {
    pub fn validate(self, problems: &mut Problems) -> Log {
        let default = Log::default();
        let level = problems.parsed(
            "log.level",
            self.level,
            default.level,
            "use off, error, warn, info, debug or trace, alone or by module, such as \"info,receiptd=debug\"",
            |text| is_filter(text).then(|| text.to_owned()),
        );
        let remedy = "use \"auto\", \"human\", \"journal\" or \"json\"";
        let format = problems.parsed("log.format", self.format, default.format, remedy, |text| match text {
            "auto" => Some(LogFormat::Auto),
            "human" => Some(LogFormat::Human),
            "journal" => Some(LogFormat::Journal),
            "json" => Some(LogFormat::Json),
            _ => None,
        });
        Log { level, format }
    }
}

/// A single word must be a level: `EnvFilter` would interpret a misspelt one as a module and log nothing.
fn is_filter(text: &str) -> bool {
    let level = |word: &str| word.parse::<tracing_subscriber::filter::LevelFilter>().is_ok();
    let mut directives = text.split(',').map(str::trim);
    EnvFilter::try_new(text).is_ok() && directives.all(|directive| directive.contains('=') || level(directive))
}
