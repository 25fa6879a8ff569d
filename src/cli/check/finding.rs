//! What a check found.

use serde::Serialize;

use super::super::exit::Exit;

/// Whether all is well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Ok,
    /// It works, and yet somebody should look at it.
    Mind,
    Failed,
}

/// What was looked at, what was found, and what helps where that is not well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub check: &'static str,
    pub verdict: Verdict,
    pub found: String,
    pub remedy: Option<String>,
    /// How the command ends where this failed.
    #[serde(skip)]
    pub exit: Exit,
}

impl Finding {
    pub fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Ok, found: found.into(), remedy: None, exit: Exit::Unavailable }
    }

    pub fn mind(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { verdict: Verdict::Mind, remedy: Some(remedy.into()), ..Self::ok(check, found) }
    }

    pub fn failed(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { verdict: Verdict::Failed, remedy: Some(remedy.into()), ..Self::ok(check, found) }
    }

    /// What fails until somebody puts something right: to start again would not help.
    pub fn wrong(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { exit: Exit::Config, ..Self::failed(check, found, remedy) }
    }

    /// One line: the verdict, what was looked at, what was found, what helps.
    pub fn line(&self) -> String {
        let verdict = match self.verdict {
            Verdict::Ok => "Ok",
            Verdict::Mind => "Mind",
            Verdict::Failed => "Failed",
        };
        let remedy = self.remedy.as_ref().map_or_else(String::new, |remedy| format!(": {remedy}"));
        format!("{verdict}: {}: {}{remedy}", self.check, self.found)
    }
}
