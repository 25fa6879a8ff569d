//! The result of a check.

use serde::Serialize;

use super::super::exit::Exit;

/// The verdict of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Ok,
    /// It works, but should be looked at.
    Warning,
    Failed,
}

/// A check, its result, and the remedy if it is not `Ok`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub check: &'static str,
    pub verdict: Verdict,
    pub found: String,
    pub remedy: Option<String>,
    /// The exit code if the check failed.
    #[serde(skip)]
    pub exit: Exit,
}

impl Finding {
    pub fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Ok, found: found.into(), remedy: None, exit: Exit::Unavailable }
    }

    pub fn warning(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { verdict: Verdict::Warning, remedy: Some(remedy.into()), ..Self::ok(check, found) }
    }

    pub fn failed(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { verdict: Verdict::Failed, remedy: Some(remedy.into()), ..Self::ok(check, found) }
    }

    /// A failure that lasts until somebody corrects it: a restart would not help.
    pub fn wrong(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { exit: Exit::Config, ..Self::failed(check, found, remedy) }
    }

    /// One line: verdict, check, result, remedy.
    pub fn line(&self) -> String {
        let verdict = match self.verdict {
            Verdict::Ok => "Ok",
            Verdict::Warning => "Warning",
            Verdict::Failed => "Failed",
        };
        let remedy = self.remedy.as_ref().map_or_else(String::new, |remedy| format!(": {remedy}"));
        format!("{verdict}: {}: {}{remedy}", self.check, self.found)
    }
}
