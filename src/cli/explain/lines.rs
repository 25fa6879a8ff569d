//! The answer as lines.

use std::io::{self, Write};

use receiptd::{
    domain::{MsgSeq, Timestamp},
    store::{Explained, ExplainedCall, ExplainedMessage, ExplainedSlot},
    text::{counted::counted, printable::printable},
};
use serde::Serialize;

use super::reasons::is_active;
use crate::cli::relative::when;

/// Maximum number of messages of a slot that are shown.
const MATES: usize = 12;

/// Maximum number of slots of a group that are shown.
const SLOTS: usize = 10;

/// The command's output.
#[derive(Serialize)]
pub struct Answer {
    /// In words, the most important first.
    pub why: Vec<String>,
    /// What keeps the whole app from being polled, if anything does.
    pub trouble: Option<String>,
    /// The lease holder of the app.
    pub holder: Option<String>,
    #[serde(flatten)]
    pub facts: Explained,
}

/// Writes the answer.
pub fn write(out: &mut impl Write, answer: &Answer, seq: Option<MsgSeq>, now: Timestamp) -> io::Result<()> {
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

pub(super) fn message_line(message: &ExplainedMessage, now: Timestamp) -> String {
    let ExplainedMessage { msg_seq, state, .. } = message;
    let counts = match (message.read_num, message.unread_num) {
        (Some(read), Some(unread)) => format!("{read} read, {unread} unread"),
        _ => "no counts yet".to_owned(),
    };
    let known = message.known_until.map_or_else(String::new, |until| format!(", known until {}", when(until, now)));
    let code = message.receipt_code.filter(|code| *code != 0).map_or_else(String::new, |code| format!(", code {code}"));
    format!("{msg_seq}: {state}, sent {}, {counts}{code}{known}", when(message.sent_at, now))
}

pub(super) fn slot_line(slot: &ExplainedSlot, is_polled: bool, now: Timestamp) -> String {
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
