//! `receiptd explain`: why a group or message is or isn't polled, and when it is due.

mod cause;
mod discovery;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::Args;
use receiptd::{
    domain::{GroupId, MsgSeq, Timestamp},
    http::Unheard,
    rules::{
        cadence::Cadences,
        protocol::error_class,
        recording::KnownLimit,
        slot::{Slot, SlotKey},
    },
    store::{DiscoveredGroup, Explained, ExplainedCall, ExplainedMessage, ExplainedSlot, StoreError},
    text::{counted::counted, printable::printable, shell},
};
use serde::Serialize;

use super::{Global, as_json, database::Opened, diagnosis, status::since, stdout, tell as say, watch::not_watched};

/// So many messages of a slot are shown.
const MATES: usize = 12;

/// So many slots of a group are shown.
const SLOTS: usize = 10;

/// Explain when and why a group or a message is polled
#[derive(Args)]
pub struct Arguments {
    /// Group id
    group: GroupId,
    /// Seq of a message of the group
    seq: Option<MsgSeq>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The command's output.
#[derive(Serialize)]
struct Answer {
    /// In words, the most important first.
    why: Vec<String>,
    /// What keeps the whole app from being polled, if anything does.
    trouble: Option<String>,
    /// The lease holder of the app.
    holder: Option<String>,
    #[serde(flatten)]
    facts: Explained,
}

pub async fn execute(arguments: Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let Arguments { group, seq, json } = arguments;
    let opened = Opened::open(global).await?;
    let (cadences, batch_size) = (opened.config.cadences.clone(), opened.config.polling.batch_size);
    let discovery = opened.config.discovery.clone();
    let now = opened.store.clock().now();
    let known = look(&opened, &group, seq).await;
    let Known { facts, discovered, slot, stretch, holder, trouble, held, limit } = opened.close(known).await?;
    let found = discovery::why(&group, seq, &discovery, discovered.as_ref(), facts.as_ref(), now);
    let Some(facts) = facts else { return unwatched(&group, &found, discovered.as_ref(), json) };
    let stopped = trouble.as_ref().map(|trouble| format!("No message of this app is being polled: {trouble}."));
    let idle = holder.is_none().then(|| "No receiptd polls this app: start one, or run `receiptd check`.".into());
    let of_group = why(&group, &facts, seq, &cadences, now);
    let limit = batch_limit(limit, batch_size);
    let cadence = cadences.of(facts.group.cadence.as_deref());
    let cause = slot.filter(|_| is_active(&facts)).and_then(|slot| cause::cause(&slot, cadence, stretch, now));
    let why =
        stopped.into_iter().chain(idle).chain(held).chain(cause).chain(of_group).chain(limit).chain(found).collect();
    let answer = Answer { why, trouble, holder, facts };
    let mut out = stdout();
    if json {
        writeln!(out, "{}", as_json(&answer)?)?;
    } else {
        tell(&mut out, &answer, seq, now)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Tells of a group without a watched message, if discovery follows it.
fn unwatched(
    group: &GroupId,
    why: &[String],
    discovered: Option<&DiscoveredGroup>,
    json: bool,
) -> anyhow::Result<ExitCode> {
    if discovered.is_none() {
        why.iter().for_each(|sentence| say(printable(sentence)));
        return Err(not_watched(group).into());
    }
    let mut out = stdout();
    if json {
        writeln!(out, "{}", as_json(&serde_json::json!({"why": why, "discovered": discovered}))?)?;
    } else {
        why.iter().try_for_each(|sentence| writeln!(out, "{}", printable(sentence)))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What is known.
struct Known {
    /// The group.
    facts: Option<Explained>,
    /// What discovery knows of it.
    discovered: Option<DiscoveredGroup>,
    /// The call that is explained.
    slot: Option<Slot>,
    /// Factor by which intervals are longer.
    stretch: f64,
    /// The lease holder of the app.
    holder: Option<String>,
    /// Why no message of the app is being polled.
    trouble: Option<String>,
    /// Why the group is not being asked for although it is active.
    held: Vec<String>,
    /// The known batch limit.
    limit: Option<KnownLimit>,
}

async fn look(opened: &Opened, group: &GroupId, seq: Option<MsgSeq>) -> Result<Known, StoreError> {
    let Opened { store, config, .. } = opened;
    let (facts, holder, last_call) =
        (store.explain(group, seq).await?, store.holder().await?, store.last_call().await?);
    let heard = diagnosis::ask(&config.http).await;
    if let Err(unheard) = &heard
        && *unheard != Unheard::Silent
    {
        say(format_args!("Warning: the daemon {unheard}"));
    }
    let daemon = heard.ok();
    let trouble = diagnosis::of_app(daemon.as_ref(), last_call.as_ref());
    let active = facts.as_ref().filter(|facts| is_active(facts)).map(|facts| facts.group.group_key);
    let held = daemon.zip(active).map(|(daemon, key)| diagnosis::of_group(&daemon, key.into())).unwrap_or_default();
    let slot = facts.as_ref().and_then(|facts| Some((facts.group.group_key, slot_in_question(facts, seq)?.slot_id)));
    let slot = match slot {
        Some((group_key, slot_id)) => store.read_slots(&[SlotKey { group_key, slot_id }]).await?.pop(),
        None => None,
    };
    let (stretch, limit) = (store.stretch().await?, store.batch_limit().await?);
    let discovered = store.discovered_group(group).await?;
    Ok(Known { facts, discovered, slot, stretch, holder, trouble, held, limit })
}

/// The slot of the message, or else the one of the group that is due first.
fn slot_in_question(facts: &Explained, seq: Option<MsgSeq>) -> Option<&ExplainedSlot> {
    match seq {
        Some(_) => {
            let slot_id = facts.message.as_ref()?.slot_id?;
            facts.slots.iter().find(|slot| slot.slot_id == slot_id)
        }
        None => facts.slots.first(),
    }
}

/// The maximum number of messages per call, if the service accepts fewer than `configured`.
fn batch_limit(known: Option<KnownLimit>, configured: usize) -> Option<String> {
    let KnownLimit { takes, refuses } = known.filter(|known| known.takes < configured)?;
    let takes = counted(takes as u64, "message");
    Some(format!("Calls ask for at most {takes}, since Tencent Chat has refused {refuses} in one call."))
}

/// The reasons as sentences, most important first.
fn why(group: &GroupId, facts: &Explained, seq: Option<MsgSeq>, cadences: &Cadences, now: Timestamp) -> Vec<String> {
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

fn is_active(facts: &Explained) -> bool {
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

fn tell(out: &mut impl Write, answer: &Answer, seq: Option<MsgSeq>, now: Timestamp) -> io::Result<()> {
    answer.why.iter().try_for_each(|sentence| writeln!(out, "{}", printable(sentence)))?;
    if let Some(message) = &answer.facts.message {
        writeln!(out, "\nmessage  {}", printable(&message_line(message, now)))?;
    }
    let asked_for = answer.facts.message.as_ref().and_then(|message| message.slot_id);
    let slots = answer.facts.slots.iter().filter(|slot| seq.is_none() || Some(slot.slot_id) == asked_for);
    let slots: Vec<&ExplainedSlot> = slots.collect();
    for slot in slots.iter().take(SLOTS) {
        writeln!(out, "slot     {}", printable(&slot_line(slot, is_active(&answer.facts), now)))?;
    }
    if slots.len() > SLOTS {
        writeln!(out, "         and {} more", slots.len() - SLOTS)?;
    }
    if answer.facts.calls.is_empty() {
        return writeln!(out, "calls    none for the group in the last two days");
    }
    writeln!(out, "calls    for the group, latest first")?;
    answer.facts.calls.iter().try_for_each(|call| writeln!(out, "         {}", printable(&call_line(call, now))))
}

fn message_line(message: &ExplainedMessage, now: Timestamp) -> String {
    let ExplainedMessage { msg_seq, state, .. } = message;
    let counts = match (message.read_num, message.unread_num) {
        (Some(read), Some(unread)) => format!("{read} read, {unread} unread"),
        _ => "no counts yet".to_owned(),
    };
    let known = message.known_until.map_or_else(String::new, |until| format!(", known until {}", when(until, now)));
    let code = message.receipt_code.filter(|code| *code != 0).map_or_else(String::new, |code| format!(", code {code}"));
    format!("{msg_seq}: {state}, sent {}, {counts}{code}{known}", when(message.sent_at, now))
}

fn slot_line(slot: &ExplainedSlot, is_polled: bool, now: Timestamp) -> String {
    let shown: Vec<String> = slot.msg_seqs.iter().take(MATES).map(ToString::to_string).collect();
    let more = slot.msg_seqs.len().saturating_sub(MATES);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let polled =
        slot.last_polled_at.map_or_else(|| "never answered".to_owned(), |at| format!("answered {}", when(at, now)));
    let due = if is_polled { format!("due {}, ", when(slot.next_poll_at, now)) } else { String::new() };
    let (id, quiet) = (slot.slot_id, counted(slot.quiet_polls.unsigned_abs().into(), "quiet poll"));
    format!("{id}: {due}{polled}, {quiet}; messages {}{more}", shown.join(", "))
}

fn call_line(call: &ExplainedCall, now: Timestamp) -> String {
    let code = call.code.map_or_else(String::new, |code| format!(" {code}"));
    let error = call.error.as_deref().map_or_else(String::new, |error| format!(": {error}"));
    let at = when(call.called_at, now);
    let messages = counted(call.messages_asked.unsigned_abs().into(), "message");
    format!("{at}: {}{code} for {messages}, in {:.0} ms{error}", call.class, call.latency_ms)
}

/// The time relative to now.
fn when(at: Timestamp, now: Timestamp) -> String {
    if at > now { format!("in {}", since(now, at)) } else { format!("{} ago", since(at, now)) }
}

#[cfg(test)]
mod tests {
    use receiptd::store::ExplainedGroup;

    use super::*;

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
