//! Why a group or a message is polled or not, as sentences.

use receiptd::{
    domain::{GroupId, MsgSeq, Timestamp},
    rules::{cadence::Cadences, protocol::error_class, recording::KnownLimit},
    store::{Explained, ExplainedMessage, ExplainedSlot},
    text::{counted::counted, shell},
};

use crate::cli::relative::when;

/// The slot of the message; without a message, the slot of the group that is due first.
pub fn slot_in_question(facts: &Explained, seq: Option<MsgSeq>) -> Option<&ExplainedSlot> {
    match seq {
        Some(_) => {
            let slot_id = facts.message.as_ref()?.slot_id?;
            facts.slots.iter().find(|slot| slot.slot_id == slot_id)
        }
        None => facts.slots.first(),
    }
}

/// The maximum number of messages per call, if the service accepts fewer than `configured`.
pub fn batch_limit(known: Option<KnownLimit>, configured: usize) -> Option<String> {
    let KnownLimit { takes, refuses } = known.filter(|known| known.takes < configured)?;
    let takes = counted(takes as u64, "message");
    Some(format!("Calls ask for at most {takes}, since Tencent Chat has refused {refuses} in one call."))
}

/// The reasons as sentences, most important first.
pub fn why(
    group: &GroupId,
    facts: &Explained,
    seq: Option<MsgSeq>,
    cadences: &Cadences,
    now: Timestamp,
) -> Vec<String> {
    let mut why: Vec<String> = group_fault(group, facts, now).into_iter().collect();
    match (seq, &facts.message) {
        (Some(seq), None) => {
            why.push(format!(
                "Message {seq} is not watched: `receiptd watch add {} {seq}`.",
                shell::argument(group.as_str())
            ));
            return why;
        }
        (Some(_), Some(message)) => {
            why.extend(message_fault(message, now));
        }
        (None, _) => {
            if facts.group.unslotted > 0 {
                let new = counted(facts.group.unslotted.unsigned_abs(), "new message");
                why.push(format!("{new} to be scheduled within a second while receiptd polls."));
            }
        }
    }
    match slot_in_question(facts, seq) {
        // No slot of a stopped group is polled, whatever its due time.
        _ if !is_active(facts) => {}
        Some(slot) => why.extend(schedule(slot, facts, cadences, now)),
        None if seq.is_none() && facts.group.unslotted == 0 => {
            why.push("None of its messages are being polled.".to_owned())
        }
        None => {}
    }
    why
}

/// Whether the group is polled.
pub fn is_active(facts: &Explained) -> bool {
    facts.group.state == "active"
}

fn group_fault(group: &GroupId, facts: &Explained, now: Timestamp) -> Option<String> {
    let argument = shell::argument(group.as_str());
    let reason = facts.group.state_reason.as_deref().map_or_else(String::new, |reason| format!(" ({reason})"));
    match facts.group.state.as_str() {
        "paused" => Some(format!("The group is paused{reason}: `receiptd watch resume {argument}`.")),
        "removed" => {
            Some("The group is not watched any more. To watch it again, watch one of its messages.".to_owned())
        }
        "quarantined" => {
            let code = facts.group.state_code.unwrap_or_default();
            let remedy = error_class::remedy(code.into()).map_or_else(String::new, |remedy| format!(": {remedy}"));
            let again = match facts.group.probe_at {
                Some(at) => format!("next retry {}", when(at, now)),
                None => format!("no retry until `receiptd watch resume {argument}`"),
            };
            Some(format!("Tencent Chat refuses the group with code {code}{reason}{remedy}; {again}."))
        }
        _ => None,
    }
}

fn message_fault(message: &ExplainedMessage, now: Timestamp) -> Option<String> {
    let closed = || message.closed_at.map_or_else(String::new, |at| format!(", {}", when(at, now)));
    Some(match message.state.as_str() {
        "active" if message.slot_id.is_some() => return None,
        "active" => "It is new and will be scheduled within a second while receiptd polls.".to_owned(),
        "all_read" => format!("Polling has stopped, since all members have read it{}.", closed()),
        "no_receipt" => format!("Polling has stopped, since Tencent Chat has no receipt for it{}.", closed()),
        "expired" => format!("Polling has stopped, since it is older than the end of its cadence{}.", closed()),
        "rejected" => {
            let code = message.receipt_code.unwrap_or_default();
            format!("Polling has stopped, since Tencent Chat refused it alone with code {code}{}.", closed())
        }
        state => format!("It is {state}{}.", closed()),
    })
}

/// When a slot is due, and by which rule.
fn schedule(slot: &ExplainedSlot, facts: &Explained, cadences: &Cadences, now: Timestamp) -> Vec<String> {
    let (name, cadence) = cadences.named(facts.group.cadence.as_deref());
    let is = if slot.next_poll_at > now { "is" } else { "was" };
    let due = when(slot.next_poll_at, now);
    let mut said = vec![format!("It {is} due {due}, by the cadence {name}: {cadence}.")];
    if let Some(youngest) = slot.youngest_sent_at {
        let tier = cadence.tier_name(youngest, now);
        said.push(format!("The youngest message of the call was sent {}: its tier is {tier}.", when(youngest, now)));
    }
    if facts.group.cadence.as_deref().is_some_and(|named| !cadences.has(named)) {
        let named = facts.group.cadence.as_deref().unwrap_or_default();
        said.push(format!("The group names the cadence {named:?}, which is not configured."));
    }
    if slot.failures > 0 {
        let polls = match slot.failures {
            1 => "poll".to_owned(),
            failures => format!("{failures} polls"),
        };
        said.push(format!(
            "Its last {polls} failed, so this time is a retry, independent of the cadence: see the calls below."
        ));
    }
    said
}

#[cfg(test)]
mod tests {
    use receiptd::store::ExplainedGroup;

    use super::*;
    use crate::cli::explain::lines::{message_line, slot_line};

    fn now() -> Timestamp {
        "2026-11-23T12:00:00Z".parse().unwrap()
    }

    fn at(seconds: i64) -> Timestamp {
        now() + chrono::TimeDelta::seconds(seconds)
    }

    fn facts(state: &str) -> Explained {
        let group = ExplainedGroup {
            group_key: 1,
            state: state.to_owned(),
            state_code: (state == "quarantined").then_some(10007),
            state_reason: None,
            probe_at: Some(at(3_600)),
            cadence: Some("gone".to_owned()),
            unslotted: 0,
            discovered_at: None,
        };
        let slot = ExplainedSlot {
            slot_id: 4,
            next_poll_at: at(30),
            last_polled_at: Some(at(-30)),
            quiet_polls: 2,
            failures: 1,
            msg_seqs: (1..=20).collect(),
            youngest_sent_at: Some(at(-600)),
        };
        Explained { group, slots: vec![slot], message: None, discovered: None, calls: vec![] }
    }

    fn reasons(facts: &Explained, seq: Option<i64>) -> String {
        let seq = seq.map(|seq| MsgSeq::try_from(seq).unwrap());
        why(&"team".parse().unwrap(), facts, seq, &Cadences::default(), now()).join("\n")
    }

    #[test]
    fn a_waiting_slot_explains_its_due_time_cadence_and_trouble() {
        let said = reasons(&facts("active"), None);
        for part in [
            "It is due in 30s, by the cadence default",
            "tier is 1h",
            "\"gone\", which is not configured",
            "last poll failed",
        ] {
            assert!(said.contains(part), "{part} is not in {said}");
        }
        assert!(
            slot_line(&facts("active").slots[0], true, now())
                .ends_with("messages 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 and 8 more")
        );
    }

    #[test]
    fn a_batch_size_that_the_service_does_not_take_is_told() {
        let known = Some(KnownLimit { takes: 20, refuses: 21 });
        let said = batch_limit(known, 50).unwrap();
        assert_eq!(said, "Calls ask for at most 20 messages, since Tencent Chat has refused 21 in one call.");
        assert_eq!((batch_limit(known, 20), batch_limit(None, 50)), (None, None));
    }

    #[test]
    fn a_group_that_is_not_polled_says_so_first() {
        for (state, first) in [
            ("paused", "The group is paused: `receiptd watch resume team`"),
            (
                "quarantined",
                "Tencent Chat refuses the group with code 10007: groups of this type have no read receipts",
            ),
            ("removed", "The group is not watched any more"),
        ] {
            let said = reasons(&facts(state), None);
            assert!(said.starts_with(first) && !said.contains(" due "), "{said}");
            assert!(!slot_line(&facts(state).slots[0], is_active(&facts(state)), now()).contains("due"));
        }
    }

    #[test]
    fn new_messages_that_wait_for_the_schedule_are_polled_soon() {
        let mut facts = Explained { slots: vec![], ..facts("active") };
        assert_eq!(reasons(&facts, None), "None of its messages are being polled.");
        facts.group.unslotted = 3;
        assert!(reasons(&facts, None).starts_with("3 new messages to be scheduled"));
        assert!(!reasons(&facts, None).contains("being polled"), "{}", reasons(&facts, None));
    }

    #[test]
    fn a_message_says_why_it_is_polled_no_more() {
        assert!(reasons(&facts("active"), Some(7)).contains("Message 7 is not watched"));
        let message = |state: &str| ExplainedMessage {
            msg_seq: 7,
            state: state.to_owned(),
            slot_id: None,
            sent_at: at(-600),
            read_num: Some(3),
            unread_num: Some(0),
            receipt_code: Some(10004),
            last_changed_at: None,
            known_until: Some(at(-5)),
            closed_at: Some(at(-60)),
            discovered_at: None,
        };
        for (state, part) in [
            ("all_read", "Polling has stopped, since all members have read it, 1m ago."),
            ("expired", "older than the end of its cadence"),
            ("rejected", "with code 10004"),
            ("active", "will be scheduled"),
        ] {
            let facts = Explained { message: Some(message(state)), ..facts("active") };
            assert!(reasons(&facts, Some(7)).contains(part), "{}", reasons(&facts, Some(7)));
        }
        assert_eq!(
            message_line(&message("expired"), now()),
            "7: expired, sent 10m ago, 3 read, 0 unread, code 10004, known until 5s ago"
        );
        let (well, old) = (Some(0), at(-(40 * 86_400 + 12 * 3_600 + 5)));
        assert_eq!(
            message_line(&ExplainedMessage { receipt_code: well, sent_at: old, ..message("active") }, now()),
            "7: active, sent 40d 12h ago, 3 read, 0 unread, known until 5s ago"
        );
    }
}
