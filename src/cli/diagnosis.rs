//! Why no message of the app is being polled: from the daemon on this machine, or else from the last call.

use std::time::Duration;

use receiptd::{
    config::Http,
    domain::SdkAppId,
    http::{self, Unheard},
    store::ExplainedCall,
    text::{counted::counted, duration},
};
use serde_json::Value;

/// The report of the app's daemon on this machine.
pub async fn ask(app: SdkAppId, http: &Http) -> Result<Value, Unheard> {
    http::ask(app, http.listen.ok_or(Unheard::Silent)?, http.token.as_ref()).await
}

/// Why the app is not being polled, with the remedy if there is one. From `daemon` if it is the lease holder, else
/// from the last call of the app.
pub fn of_app(daemon: Option<&Value>, last_call: Option<&ExplainedCall>) -> Option<String> {
    let stands_by = |daemon: &&Value| daemon["role"].get("standing_by").is_some();
    match daemon.filter(|daemon| !stands_by(daemon)) {
        Some(daemon) => daemon["trouble"].as_str().map(str::to_owned),
        None => refusal(last_call?),
    }
}

/// Why a group is not being asked for although it is active, according to `daemon`: it is held, or all calls are
/// paused.
pub fn of_group(daemon: &Value, group_key: i64) -> Vec<String> {
    let doubt = daemon["doubt"].as_str().map(|doubt| format!("Calls are paused: {doubt}."));
    let held = daemon["held"].as_array().map(Vec::as_slice).unwrap_or_default();
    let of_group = held.iter().find(|held| held["group_key"].as_i64() == Some(group_key)).map(|held| {
        let code = held["code"].as_i64().map_or_else(String::new, |code| format!(" with code {code}"));
        let info = held["info"].as_str().unwrap_or_default();
        let again = match held["again_in_seconds"].as_u64().unwrap_or_default() {
            0 => "immediately".to_owned(),
            seconds => format!("in {}", duration::roughly(Duration::from_secs(seconds))),
        };
        format!("Tencent Chat refused the group{code} ({info}); it is retried {again} at the earliest.")
    });
    let others = daemon["held_groups"].as_u64().unwrap_or_default().saturating_sub(held.len() as u64);
    let unknown = (of_group.is_none() && others > 0).then(|| {
        let others = counted(others, "refused group");
        format!("{others} not named by the daemon, waiting for a retry: this may be one of them.")
    });
    of_group.into_iter().chain(doubt).chain(unknown).collect()
}

fn refusal(call: &ExplainedCall) -> Option<String> {
    call.failure().filter(|failure| failure.class.stops_app()).as_ref().map(|failure| failure.of_app(None))
}

#[cfg(test)]
mod tests {
    use receiptd::rules::protocol::Class;
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
    fn a_held_group_is_named_with_its_code_and_next_attempt() {
        let held = json!([{ "group_key": 7, "code": 10010, "info": "no such group", "again_in_seconds": 80 }]);
        let daemon = json!({ "doubt": null, "held_groups": 1, "held": held });
        let said = "Tencent Chat refused the group with code 10010 (no such group); it is retried in 1m 20s at the \
            earliest.";
        assert_eq!(of_group(&daemon, 7), [said]);
        assert!(of_group(&daemon, 8).is_empty());
        let more = json!({ "doubt": "a call was refused", "held_groups": 1_200, "held": held });
        assert_eq!(of_group(&more, 7), [said, "Calls are paused: a call was refused."]);
        assert!(
            of_group(&more, 8)[1].starts_with("1,199 refused groups not named by the daemon"),
            "{:?}",
            of_group(&more, 8)
        );
        assert!(of_group(&json!({}), 7).is_empty(), "an earlier version says nothing of it");
    }

    #[test]
    fn one_that_stands_by_knows_nothing_of_it() {
        let standing = json!({ "role": { "standing_by": "another" }, "trouble": null });
        assert_eq!(of_app(Some(&standing), Some(&call(Class::AppFault, 60006))).as_deref(), Some(SAID));
    }
}
