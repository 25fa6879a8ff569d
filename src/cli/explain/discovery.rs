//! The part of discovery in the state of a group or message: whether it was found that way, and why something was not
//! watched.

use receiptd::{
    config::Discovery,
    domain::{GroupId, MsgSeq, Timestamp},
    rules::{discovery::Passed, protocol::error_class},
    store::{DiscoveredGroup, Explained},
    text::counted::counted,
};

use crate::cli::relative::when;

/// The facts as sentences.
pub(super) fn why(
    group: &GroupId,
    seq: Option<MsgSeq>,
    settings: &Discovery,
    found: Option<&DiscoveredGroup>,
    facts: Option<&Explained>,
    now: Timestamp,
) -> Vec<String> {
    let mut said = vec![];
    if let Some(at) = facts.and_then(|facts| facts.message.as_ref()?.discovered_at) {
        said.push(format!("Discovery found the message {}.", when(at, now)));
    }
    if seq.is_none()
        && let Some(at) = facts.and_then(|facts| facts.group.discovered_at)
    {
        said.push(format!("Discovery added the group {}.", when(at, now)));
    }
    if !settings.enabled {
        return said;
    }
    if let Some(unwanted) = settings.rules.selection.refuses(group, None) {
        said.push(format!("Discovery does not follow the group: {}.", unwanted.in_words()));
        return said;
    }
    let Some(found) = found else {
        said.push("Discovery does not follow the group: it is not in the app's list, or not yet.".to_owned());
        return said;
    };
    let is_watched = facts.is_some_and(|facts| facts.message.is_some());
    match seq {
        Some(seq) if !is_watched => said.push(of_message(seq.get().into(), found)),
        Some(_) => {}
        None => said.extend(of_group(found, now)),
    }
    said
}

fn of_group(found: &DiscoveredGroup, now: Timestamp) -> Vec<String> {
    let (watched, passed) = (found.watched.unsigned_abs(), found.passed.unsigned_abs());
    let mut said = vec![format!(
        "Discovery found the group {}, and has watched {} and passed over {passed} since.",
        when(found.found_at, now),
        counted(watched, "message")
    )];
    let (with, without) = (found.with_receipt, found.without_receipt);
    if with + without > 0 {
        let latest = counted((with + without).unsigned_abs(), "message");
        said.push(format!("Of its latest {latest} from discovery, {with} have a receipt."));
    }
    said.extend(refusal(found));
    said
}

/// The reason for which Tencent Chat refuses the group.
fn refusal(found: &DiscoveredGroup) -> Option<String> {
    let code = found.refused_code?;
    let remedy = error_class::remedy(code.into()).map_or_else(String::new, |remedy| format!(": {remedy}"));
    Some(format!("Discovery finds no messages in the group: code {code}{remedy}."))
}

fn of_message(seq: i64, found: &DiscoveredGroup) -> String {
    let reasons = found.passed_seqs.iter().zip(&found.passed_reasons);
    let reason = reasons.filter(|(passed, _)| **passed == seq).find_map(|(_, name)| Passed::in_words(name));
    if let (None, Some(refusal)) = (reason, refusal(found)) {
        return refusal;
    }
    match reason {
        Some(reason) => format!("Discovery has passed the message over: {reason}."),
        None if found.next_seq.is_none_or(|next_seq| seq >= next_seq) => {
            "Discovery has not reached the message yet, or it does not exist.".to_owned()
        }
        None => {
            "Discovery did not watch the message: it was sent before discovery begins, or the reason is not kept any \
                 more."
                .to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use receiptd::config::Config;

    use super::*;

    fn now() -> Timestamp {
        "2026-11-26T12:00:00Z".parse().unwrap()
    }

    fn said(id: &str, seq: Option<i64>, found: Option<&DiscoveredGroup>) -> String {
        let set = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let overrides = [set("discovery.enabled", "true"), set("discovery.exclude", "[\"test-*\"]")];
        let settings = Config::load(None, std::iter::empty(), &overrides, now()).unwrap().discovery;
        let seq = seq.map(|seq| MsgSeq::try_from(seq).unwrap());
        why(&id.parse().unwrap(), seq, &settings, found, None, now()).join("\n")
    }

    #[test]
    fn why_something_was_not_discovered_is_told() {
        let found = DiscoveredGroup {
            found_at: now() - chrono::TimeDelta::minutes(5),
            next_seq: Some(10),
            watched: 4,
            passed: 2,
            passed_seqs: vec![9, 3],
            passed_reasons: vec!["recalled".to_owned(), "system".to_owned()],
            with_receipt: 1,
            without_receipt: 3,
            refused_code: Some(10060),
        };
        let taken = DiscoveredGroup { refused_code: None, ..found.clone() };
        for (id, seq, found, part) in [
            ("test-1", None, None, "it matches a pattern of discovery.exclude"),
            ("a", None, None, "it is not in the app's list, or not yet"),
            ("a", None, Some(&found), "has watched 4 messages and passed over 2 since"),
            ("a", None, Some(&found), "Of its latest 4 messages from discovery, 1 have a receipt"),
            ("a", None, Some(&found), "code 10060: the group has more members than read receipts allow (200)"),
            ("a", Some(9), Some(&found), "passed the message over: it was recalled"),
            ("a", Some(4), Some(&found), "code 10060: the group has more members than read receipts allow (200)"),
            ("a", Some(10), Some(&taken), "not reached the message yet"),
            ("a", Some(4), Some(&taken), "sent before discovery begins"),
        ] {
            let said = said(id, seq, found);
            assert!(said.contains(part), "{part} is not in {said}");
        }
    }
}
