//! Whether a request comes from Tencent Chat: decided from its method, path and query, before its body is read.
//!
//! A signature doesn't cover the body. So it only proves that the sender has seen a URL of the last minute. Such a URL
//! must never be logged.

use chrono::TimeDelta;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::domain::{SdkAppId, Timestamp};

/// Maximum difference between the time of a signature and this machine's clock. [Tencent's documentation].
const VALID_FOR: TimeDelta = TimeDelta::seconds(60);

/// The secrets that a request must prove to know.
#[derive(Debug, Clone)]
pub struct Secrets {
    /// The app.
    pub sdk_app_id: SdkAppId,
    /// The path of the URL.
    pub path: SecretString,
    /// The tokens that may sign: one, or two while they are changed.
    pub tokens: Vec<SecretString>,
}

/// The parts of a request that come before its body.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Whether its method is POST.
    pub is_post: bool,
    /// The path.
    pub path: &'a str,
    /// The query.
    pub query: &'a str,
}

/// Why a request is refused. The sender isn't told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// It is no POST.
    Method,
    /// It has another path.
    Path,
    /// It names another app, or none, or several.
    App,
    /// It has no signature or time, or several.
    Unsigned,
    /// Its signature is by none of the tokens.
    Signature,
    /// Its signature is more than a minute off.
    Time,
}

impl Refusal {
    /// All reasons.
    pub const ALL: [Self; 6] = [Self::Method, Self::Path, Self::App, Self::Unsigned, Self::Signature, Self::Time];

    /// The value of the label `reason` of `receiptd_webhooks_refused_total`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Method => "method",
            Self::Path => "path",
            Self::App => "app",
            Self::Unsigned => "unsigned",
            Self::Signature => "signature",
            Self::Time => "time",
        }
    }

    /// What an operator can do.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Method => "something other than Tencent Chat reaches webhooks.listen",
            Self::Path => "is the path of the URL in the Chat console that of webhooks.path?",
            Self::App => "is the webhook configured for another app? receiptd serves chat.sdk_app_id",
            Self::Unsigned => "switch on authentication for webhooks in the Chat console",
            Self::Signature => "is webhooks.token the token in the Chat console?",
            Self::Time => "is this machine's clock right (NTP)? A signature is valid for a minute",
        }
    }
}

impl Request<'_> {
    /// Accepts a request of Tencent Chat at `now`, by this machine's clock.
    ///
    /// # Errors
    /// With the first reason to refuse it.
    pub fn verify(&self, secrets: &Secrets, now: Timestamp) -> Result<(), Refusal> {
        let holds = |holds: bool, refusal| if holds { Ok(()) } else { Err(refusal) };
        holds(self.is_post, Refusal::Method)?;
        holds(is_same(secrets.path.expose_secret(), self.path), Refusal::Path)?;
        let app = self.parameter("SdkAppid").and_then(|app| app.parse().ok());
        holds(app == Some(secrets.sdk_app_id.get()), Refusal::App)?;
        let signed = self.parameter("Sign").zip(self.parameter("RequestTime"));
        let (sign, time) = signed.ok_or(Refusal::Unsigned)?;
        // Every token is tried, so that the time taken doesn't tell which one it is.
        let is_by = |token: &SecretString| is_same(&signature(token, time), sign);
        let is_signed = secrets.tokens.iter().fold(false, |is_signed, token| is_by(token) | is_signed);
        holds(is_signed, Refusal::Signature)?;
        let time = time.parse().ok().and_then(|seconds| Timestamp::from_timestamp(seconds, 0));
        holds(time.is_some_and(|time| (now - time).abs() <= VALID_FOR), Refusal::Time)
    }

    /// The value of a parameter that occurs exactly once.
    fn parameter(&self, name: &str) -> Option<&str> {
        let pairs = self.query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let mut values = pairs.filter(|pair| pair.0 == name);
        values.next().filter(|_| values.next().is_none()).map(|pair| pair.1)
    }
}

/// The signature of a token at a time: lower-case hexadecimal SHA-256 of both together.
pub fn signature(token: &SecretString, request_time: &str) -> String {
    let digest = Sha256::new().chain_update(token.expose_secret()).chain_update(request_time).finalize();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Takes the same time for any two texts of the same length.
fn is_same(secret: &str, given: &str) -> bool {
    Sha256::digest(secret).ct_eq(&Sha256::digest(given)).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: i64 = 1_669_872_112;
    const SIGN: &str = "17773bc39a671d7b9aa835458704d2a6db81360a5940292b587d6d760d484061";

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_timestamp(seconds, 0).unwrap()
    }

    fn secrets() -> Secrets {
        let tokens = vec!["another token".into(), "xxxxyyyy".into()];
        Secrets { sdk_app_id: SdkAppId::try_from(1_400_000_000).unwrap(), path: "/secret/path".into(), tokens }
    }

    fn verified(path: &str, query: &str) -> Result<(), Refusal> {
        Request { is_post: true, path, query }.verify(&secrets(), at(TIME))
    }

    #[test]
    fn the_documented_signature_is_accepted() {
        assert_eq!(signature(&"xxxxyyyy".into(), &TIME.to_string()), SIGN);
        let query = format!(
            "SdkAppid=1400000000&CallbackCommand=Group.CallbackAfterReadReceipt&contenttype=json&ClientIP=1.2.3.4\
             &OptPlatform=RESTAPI&RequestID=x&Sign={SIGN}&RequestTime={TIME}"
        );
        assert_eq!(verified("/secret/path", &query), Ok(()));
        assert_eq!(
            Request { is_post: false, path: "/secret/path", query: &query }.verify(&secrets(), at(TIME)),
            Err(Refusal::Method)
        );
    }

    #[test]
    fn anything_else_is_refused_with_the_first_reason() {
        let app = "SdkAppid=1400000000";
        let signed = format!("Sign={SIGN}&RequestTime={TIME}");
        for (path, query, refusal) in [
            ("/secret/path/", format!("{app}&{signed}"), Refusal::Path),
            ("/secret", format!("{app}&{signed}"), Refusal::Path),
            ("/Secret/path", String::new(), Refusal::Path),
            ("/secret/path", signed.clone(), Refusal::App),
            ("/secret/path", format!("SdkAppid=1400000001&{signed}"), Refusal::App),
            ("/secret/path", format!("{app}&{app}&{signed}"), Refusal::App),
            ("/secret/path", format!("sdkappid=1400000000&{signed}"), Refusal::App),
            ("/secret/path", app.to_owned(), Refusal::Unsigned),
            ("/secret/path", format!("{app}&Sign={SIGN}"), Refusal::Unsigned),
            ("/secret/path", format!("{app}&RequestTime={TIME}"), Refusal::Unsigned),
            ("/secret/path", format!("{app}&{signed}&Sign={SIGN}"), Refusal::Unsigned),
            ("/secret/path", format!("{app}&{signed}&RequestTime={TIME}"), Refusal::Unsigned),
            ("/secret/path", format!("{app}&{signed}&Sign"), Refusal::Unsigned),
            ("/secret/path", format!("SdkAppid&{app}&{signed}"), Refusal::App),
            ("/secret/path", format!("{app}&%53ign={SIGN}&RequestTime={TIME}"), Refusal::Unsigned),
            ("/secret/path", format!("{app}&Sign=%31{}&RequestTime={TIME}", &SIGN[1..]), Refusal::Signature),
            ("/secret/path", format!("{app}&Sign={SIGN}&RequestTime=+{TIME}"), Refusal::Signature),
            ("/secret/path", format!("{app}&Sign=&RequestTime={TIME}"), Refusal::Signature),
            ("/secret/path", format!("{app}&Sign={}&RequestTime={TIME}", SIGN.to_uppercase()), Refusal::Signature),
            ("/secret/path", format!("{app}&Sign={SIGN}&RequestTime={}", TIME + 1), Refusal::Signature),
        ] {
            assert_eq!(verified(path, &query), Err(refusal), "{path} {query}");
        }
    }

    #[test]
    fn a_signature_is_valid_for_a_minute_before_and_after() {
        let query = format!("SdkAppid=1400000000&Sign={SIGN}&RequestTime={TIME}");
        let request = Request { is_post: true, path: "/secret/path", query: &query };
        for (off, verdict) in
            [(-61, Err(Refusal::Time)), (-60, Ok(())), (0, Ok(())), (60, Ok(())), (61, Err(Refusal::Time))]
        {
            assert_eq!(request.verify(&secrets(), at(TIME + off)), verdict, "{off}");
        }
        for time in ["soon", "", "-1", "1669872112.0", "9223372036854775807", "-9223372036854775808", "1e9"] {
            let signed = signature(&"xxxxyyyy".into(), time);
            let query = format!("SdkAppid=1400000000&Sign={signed}&RequestTime={time}");
            assert_eq!(verified("/secret/path", &query), Err(Refusal::Time), "{time}");
        }
    }
}
