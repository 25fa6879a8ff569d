//! Why an attempt returned no receipts.

use secrecy::{ExposeSecret, SecretString};

use super::error_class::{Class, Code, remedy};
use crate::{rules::database_clock::Doubt, text::printable::is_invisible};

/// Maximum length of an error text from outside, in characters.
const MAX_INFO_CHARS: usize = 200;

/// Number of consecutive characters of a secret that can't occur by chance.
const TELLING_RUN: usize = 8;

/// A failed attempt: its class, and the error of the service or the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The reaction to it.
    pub class: Class,
    /// The `ErrorCode`, if there was one.
    pub code: Option<i64>,
    /// The error text, without secrets, at most 200 characters.
    pub info: String,
}

impl Failure {
    /// A failure with an error text, made fit for a log line and a column: truncated, and without invisible
    /// characters, one of which PostgreSQL refuses (NUL).
    pub(crate) fn new(class: Class, code: Option<i64>, said: &str) -> Self {
        let plain = |character: char| if is_invisible(character) { ' ' } else { character };
        Self { class, code, info: said.chars().map(plain).take(MAX_INFO_CHARS).collect() }
    }

    /// An answer that is not the expected JSON: it may come from something in between.
    pub(crate) fn unreadable(body: &[u8], error: &serde_json::Error) -> Self {
        let said = format!("the answer ({} bytes) is not the expected JSON: {error}", body.len());
        Self::new(Class::Retry, None, &said)
    }

    /// Removes the error text if it repeats any part of the secret.
    pub(crate) fn without(self, secret: &SecretString) -> Self {
        let (info, secret) = (&self.info, secret.expose_secret());
        let is_telling = |from: usize| info.get(from..from + TELLING_RUN).is_some_and(|run| secret.contains(run));
        if !(0..info.len()).any(is_telling) {
            return self;
        }
        Self { info: "(the text contained a secret and was removed)".to_owned(), ..self }
    }

    /// Whether it is transient: neither the app nor the group is refused, and the call should be repeated later.
    pub fn is_passing(&self) -> bool {
        match self.class {
            Class::Retry | Class::Unknown => true,
            // A new signature is tried nevertheless.
            Class::SignAgain => self.code.and_then(Code::of).is_some_and(|known| known.passes),
            _ => false,
        }
    }

    /// Text for an outage of the service.
    pub fn of_service(&self) -> String {
        let code = self.code.map_or_else(String::new, |code| format!("code {code}: "));
        format!("Tencent Chat is not answering calls ({code}{})", self.info)
    }

    /// Text for a refusal of the whole app, with the remedy. If a wrong clock may be the cause, `doubt` describes it.
    pub fn of_app(&self, doubt: Option<Doubt>) -> String {
        let Some(code) = self.code else { return self.info.clone() };
        let remedy = remedy(code).map_or_else(String::new, |remedy| format!(": {remedy}"));
        let what = match self.class {
            Class::GroupFault | Class::Split => "all groups",
            _ => "the app's calls",
        };
        let doubt = doubt.filter(|_| Code::of(code).is_some_and(|known| known.may_be_the_clock));
        let clock = doubt.map_or_else(String::new, |doubt| format!("; {}", doubt.difference()));
        format!("Tencent Chat refuses {what} with code {code}: {}{remedy}{clock}", self.info)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_of_the_app_is_told_with_its_remedy() {
        let told = |code| Failure::new(Class::AppFault, code, "sdkappid is unknown").of_app(None);
        assert_eq!(
            told(Some(60006)),
            "Tencent Chat refuses the app's calls with code 60006: sdkappid is unknown: chat.sdk_app_id is unknown, \
             forbidden or out of service: see the app's console"
        );
        assert_eq!(told(None), "sdkappid is unknown");
    }

    #[test]
    fn a_refused_signature_reports_the_state_of_the_local_clock() {
        let behind = Some(Doubt::Apart(chrono::TimeDelta::days(-100)));
        let told = |code, doubt| Failure::new(Class::SignAgain, Some(code), "no").of_app(doubt);
        for code in [70001, 70003] {
            assert!(told(code, behind).ends_with("; this machine's clock is 100d behind the database's"));
            assert!(told(code, None).contains("is this machine's clock right"), "{code}");
        }
        assert!(!told(70009, behind).contains("100d"), "that is the key's fault");
    }

    #[test]
    fn a_text_that_repeats_any_run_of_a_secret_is_dropped() {
        let secret: SecretString = "eJwtzEELgjAYxvHvsnPIu7lNE7oUQYJ0".into();
        let is_dropped =
            |said: &str| Failure::new(Class::Retry, None, said).without(&secret).info.starts_with("(the text");
        for said in [
            "eJwtzEELgjAYxvHvsnPIu7lNE7oUQYJ0",
            "bad sig: xvHvsnPIu7",
            "\u{7fa4}QYJ0 E7oUQYJ0",
            "eJwtzEEL",
            "…lNE7oUQY…",
        ] {
            assert!(is_dropped(said), "{said}");
        }
        for said in ["", "eJwtzEE", "the signature is wrong", &"\u{7fa4}".repeat(200)] {
            assert!(!is_dropped(said), "{said}");
        }
    }

    #[test]
    fn a_text_from_outside_is_bounded_and_has_no_control_characters() {
        let clean = |said: &str| Failure::new(Class::Retry, None, said).info;
        assert_eq!(clean("no\0 such\ngroup \u{1b}[31m"), "no  such group  [31m");
        assert_eq!(clean(&"\u{7fa4}".repeat(10_000)).chars().count(), MAX_INFO_CHARS);
    }
}
