//! Why no message of the whole app is polled: as the daemon on this machine says, or else as its last call tells.

use receiptd::{
    chat::Class,
    config::Http,
    ops::{self, Unheard},
    store::ExplainedCall,
};
use serde_json::Value;

/// After these outcomes of a call no other is made but to probe.
const STOPPED_BY: [Class; 3] = [Class::AppFault, Class::Wait, Class::SignAgain];

/// What the daemon on this machine says of itself.
pub async fn ask(http: &Http) -> Result<Value, Unheard> {
    ops::ask(http.listen.ok_or(Unheard::Silent)?, http.token.as_ref()).await
}

/// What keeps the app from being polled, and what helps, if anything does: `daemon` knows, if it is the one that polls;
/// else the last call of the app tells.
pub fn of_app(daemon: Option<&Value>, last_call: Option<&ExplainedCall>) -> Option<String> {
    let stands_by = |daemon: &&Value| daemon["role"].get("standing_by").is_some();
    match daemon.filter(|daemon| !stands_by(daemon)) {
        Some(daemon) => daemon["trouble"].as_str().map(str::to_owned),
        None => refusal(last_call?),
    }
}

fn refusal(call: &ExplainedCall) -> Option<String> {
    call.failure().filter(|failure| STOPPED_BY.contains(&failure.class)).as_ref().map(|failure| failure.of_app(None))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn call(class: Class, code: i64) -> ExplainedCall {
        ExplainedCall {
            called_at: "2026-11-23T12:00:00Z".parse().unwrap(),
            class: class.name().to_owned(),
            code: Some(code),
            messages_asked: 3,
            latency_ms: 20.0,
            error: Some("sdkappid is unknown".to_owned()),
        }
    }

    const SAID: &str = "Tencent Chat refuses the app's calls with code 60006: sdkappid is unknown: chat.sdk_app_id is \
                        unknown, forbidden or out of service: see the app's console";

    #[test]
    fn without_a_daemon_the_last_call_tells() {
        assert_eq!(of_app(None, Some(&call(Class::AppFault, 60006))).as_deref(), Some(SAID));
        for others in [call(Class::Success, 0), call(Class::GroupFault, 10007), call(Class::SlowDown, 60011)] {
            assert_eq!(of_app(None, Some(&others)), None, "{}", others.class);
        }
        assert_eq!(of_app(None, None), None);
    }

    #[test]
    fn the_daemon_that_polls_knows_better_than_the_last_call() {
        let refused = call(Class::AppFault, 60006);
        let well = json!({ "role": "polling", "trouble": null });
        assert_eq!(of_app(Some(&well), Some(&refused)), None, "it polls again, and that call is not stored yet");
        let stuck = json!({ "role": "polling", "trouble": "it can't be stored" });
        assert_eq!(of_app(Some(&stuck), Some(&refused)).as_deref(), Some("it can't be stored"));
    }

    #[test]
    fn one_that_stands_by_knows_nothing_of_it() {
        let standing = json!({ "role": { "standing_by": "another" }, "trouble": null });
        assert_eq!(of_app(Some(&standing), Some(&call(Class::AppFault, 60006))).as_deref(), Some(SAID));
    }
}
