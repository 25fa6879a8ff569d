//! `[log]`: what is logged, and in which form.

use serde::Deserialize;
use tracing_subscriber::EnvFilter;

use super::problem::Problems;

/// What is logged, and in which form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// A filter in the syntax of tracing's `EnvFilter`, known to be readable, as in `info,receiptd=debug`.
    pub level: String,
    /// The form of a line.
    pub format: Format,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: Format::default() }
    }
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// Chosen by where standard error goes: journal under systemd, human elsewhere.
    #[default]
    Auto,
    /// For people: with time, and with colours on a terminal.
    Human,
    /// For journald, which adds the time itself: a priority prefix, no time, no colours.
    Journal,
    /// One JSON object a line.
    Json,
}

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
            "give off, error, warn, info, debug or trace, alone or by module, as in \"info,receiptd=debug\"",
            |text| is_filter(text).then(|| text.to_owned()),
        );
        let remedy = "give \"auto\", \"human\", \"journal\" or \"json\"";
        let format = problems.parsed("log.format", self.format, default.format, remedy, |text| match text {
            "auto" => Some(Format::Auto),
            "human" => Some(Format::Human),
            "journal" => Some(Format::Journal),
            "json" => Some(Format::Json),
            _ => None,
        });
        Log { level, format }
    }
}

/// A bare word must be a level: `EnvFilter` would take a misspelt one for the name of a module and log nothing.
fn is_filter(text: &str) -> bool {
    let level = |word: &str| word.parse::<tracing_subscriber::filter::LevelFilter>().is_ok();
    let mut directives = text.split(',').map(str::trim);
    EnvFilter::try_new(text).is_ok() && directives.all(|directive| directive.contains('=') || level(directive))
}
