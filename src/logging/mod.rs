//! Logs to standard error, in a format for people, journald or a log collector.
//!
//! Standard output is reserved for results of commands. Nothing here decides what is worth logging.

mod json;
pub mod log_throttle;

use std::{
    env, fs,
    io::{self, IsTerminal, Write},
    os::unix::fs::MetadataExt,
    sync::OnceLock,
};

use tracing::{Event, Level, Subscriber, subscriber::SetGlobalDefaultError};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::ParseError,
    fmt::{
        FmtContext, FormatEvent, FormatFields, MakeWriter,
        format::{Format, Full, Writer},
        layer,
    },
    layer::{Layered, SubscriberExt},
    registry::LookupSpan,
    reload,
};

use self::json::Json;

/// Level and format of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// A valid filter in the syntax of tracing's `EnvFilter`, such as `info,receiptd=debug`.
    pub level: String,
    /// The format of a line.
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::default() }
    }
}

/// The format of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// Selected by the type of standard error: journal under systemd, human otherwise.
    #[default]
    Auto,
    /// For people: with time, and with colours on a terminal.
    Human,
    /// For journald, which adds the time itself: a priority prefix, no time, no colours.
    Journal,
    /// One JSON object per line.
    Json,
}

/// Why logging can't be initialized.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The filter is invalid, although the configuration accepted it.
    #[error("invalid log.level: {0}")]
    Filter(#[from] ParseError),
    /// Logging is initialized already.
    #[error("logging is initialized already")]
    Twice(#[from] SetGlobalDefaultError),
}

/// Initializes logging to standard error for the rest of the process.
///
/// # Errors
/// If it was initialized before.
pub fn init(log: &Log) -> Result<LogLevel, LoggingError> {
    let colours_wanted = env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) && !console::is_dumb();
    let form = Form::of(log.format, io::stderr().is_terminal(), is_journal(), colours_wanted);
    FORM.get_or_init(|| form);
    let (filter, handle) = reload::Layer::new(filter(&log.level)?);
    tracing::subscriber::set_global_default(subscriber(filter, form, io::stderr))?;
    Ok(LogLevel(handle))
}

/// Prints the reason for the end of the process to standard error. Under journald with the priority of an error,
/// initialized or not, since a filter by priority would hide it otherwise.
pub fn print_fatal(why: &str) {
    let is_for_journal = is_journal() || FORM.get() == Some(&Form::Journal);
    let text = if is_for_journal { with_priority(Level::ERROR, why) } else { format!("{why}\n") };
    // If standard error is closed, nobody can be told.
    _ = io::stderr().write_all(text.as_bytes());
}

/// The format of the initialized log.
static FORM: OnceLock<Form> = OnceLock::new();

/// A handle to change the log level.
#[derive(Debug)]
pub struct LogLevel(reload::Handle<EnvFilter, Registry>);

impl LogLevel {
    /// Applies another filter from now on.
    ///
    /// # Errors
    /// If the filter is invalid.
    pub fn change(&self, level: &str) -> Result<(), LoggingError> {
        // The subscriber lives until the process ends.
        _ = self.0.reload(filter(level)?);
        Ok(())
    }
}

fn filter(level: &str) -> Result<EnvFilter, ParseError> {
    // The driver logs unknown parameters of the database URL with their values; one may be a password under a
    // misspelt name.
    EnvFilter::try_new(format!("{level},sqlx_postgres::options=off"))
}

/// The format of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Human { colours: bool },
    Journal,
    Json,
}

impl Form {
    fn of(format: LogFormat, is_terminal: bool, is_journal: bool, colours_wanted: bool) -> Self {
        match format {
            LogFormat::Json => Self::Json,
            LogFormat::Journal => Self::Journal,
            LogFormat::Auto if is_journal => Self::Journal,
            LogFormat::Auto | LogFormat::Human => Self::Human { colours: is_terminal && colours_wanted },
        }
    }
}

/// Whether standard error is the stream that systemd made for journald. `JOURNAL_STREAM` alone doesn't prove it,
/// since processes with redirected output inherit it.
pub fn is_journal() -> bool {
    let Ok(stream) = env::var("JOURNAL_STREAM") else { return false };
    fs::metadata("/proc/self/fd/2").is_ok_and(|stderr| stream == format!("{}:{}", stderr.dev(), stderr.ino()))
}

fn subscriber<W>(filter: reload::Layer<EnvFilter, Registry>, form: Form, writer: W) -> impl Subscriber + Send + Sync
where
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    type Filtered = Layered<reload::Layer<EnvFilter, Registry>, Registry>;
    let lines = layer::<Filtered>().with_writer(writer);
    let lines = match form {
        Form::Human { colours } => lines.with_ansi(colours).boxed(),
        Form::Journal => {
            let line = Format::default().without_time().with_ansi(false).with_level(false);
            lines.with_ansi(false).event_format(Journal(line)).boxed()
        }
        Form::Json => lines.event_format(Json).boxed(),
    };
    tracing_subscriber::registry().with(filter).with(lines)
}

/// Lines for journald, with their priorities.
struct Journal(Format<Full, ()>);

impl<S, N> FormatEvent<S, N> for Journal
where
    S: Subscriber + for<'lookup> LookupSpan<'lookup>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> std::fmt::Result {
        let mut text = String::new();
        self.0.format_event(context, Writer::new(&mut text), event)?;
        writer.write_str(&with_priority(*event.metadata().level(), &text))
    }
}

/// The text with its syslog priority, which `journalctl -p` uses, before each of its lines: each is a separate entry.
fn with_priority(level: Level, text: &str) -> String {
    let priority = priority(level);
    text.lines().map(|line| format!("<{priority}>{line}\n")).collect()
}

/// The syslog priority of a level, as in sd-daemon(3).
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(filter: &str, form: Form) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = subscriber(reload::Layer::new(EnvFilter::new(filter)).0, form, move || writer.clone());
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(group = "team", "slowing down");
            tracing::debug!("detail");
        });
        String::from_utf8(lines.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn journald_gets_the_priority_and_neither_time_nor_colours() {
        let line = logged("info", Form::Journal);
        assert_eq!(line, "<4>receiptd::logging::tests: slowing down group=\"team\"\n");
        assert!(logged("debug", Form::Journal).contains("\n<7>"), "each line has a priority of its own");
    }

    #[test]
    fn journald_gets_the_priority_before_each_line_of_a_text() {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber =
            subscriber(reload::Layer::new(EnvFilter::new("info")).0, Form::Journal, move || writer.clone());
        tracing::subscriber::with_default(subscriber, || tracing::error!("first\nsecond"));
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text, "<3>receiptd::logging::tests: first\n<3>second\n");
    }

    #[test]
    fn people_get_the_time_the_level_and_colours_where_they_show() {
        let plain = logged("info", Form::Human { colours: false });
        assert!(plain.contains("WARN") && plain.starts_with("20") && !plain.contains('\u{1b}'), "{plain:?}");
        assert!(logged("info", Form::Human { colours: true }).contains('\u{1b}'));
    }

    #[test]
    fn collectors_get_one_json_object_a_line() {
        let lines = logged("debug", Form::Json);
        let objects: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(objects.len(), 2);
        assert_eq!((&objects[0]["message"], &objects[0]["group"]), (&"slowing down".into(), &"team".into()));
        assert_eq!((&objects[0]["level"], &objects[0]["target"]), (&"WARN".into(), &module_path!().into()));
        assert!(objects[0]["timestamp"].as_str().unwrap().starts_with("20"), "{lines}");
    }

    #[test]
    fn collectors_get_the_causes_of_an_error_too() {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = subscriber(reload::Layer::new(EnvFilter::new("info")).0, Form::Json, move || writer.clone());
        let refused = io::Error::new(io::ErrorKind::ConnectionRefused, "refused by the host");
        let error = LoggingError::Filter(EnvFilter::try_new("a=b=c").unwrap_err());
        let nested = anyhow::Error::new(refused).context("connection failed");
        tracing::subscriber::with_default(subscriber, || {
            tracing::error!(error = AsRef::<dyn std::error::Error>::as_ref(&nested), count = 3_u64, "no database");
            tracing::error!(error = &error as &dyn std::error::Error, "no filter");
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let object: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!((&object["error"], &object["count"]), (&"connection failed".into(), &3.into()));
        assert_eq!(object["error.sources"], serde_json::json!(["refused by the host"]));
    }

    #[test]
    fn auto_is_the_journal_under_systemd_and_for_people_elsewhere() {
        use LogFormat::{Auto, Human, Journal, Json};
        for (format, terminal, journal, colours, form) in [
            (Auto, false, true, true, Form::Journal),
            (Auto, true, false, true, Form::Human { colours: true }),
            (Auto, true, false, false, Form::Human { colours: false }),
            (Auto, false, false, true, Form::Human { colours: false }),
            (Human, false, true, true, Form::Human { colours: false }),
            (Journal, true, false, true, Form::Journal),
            (Json, true, true, true, Form::Json),
        ] {
            assert_eq!(Form::of(format, terminal, journal, colours), form, "{format:?}");
        }
    }
}
