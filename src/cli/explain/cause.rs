//! Why a call is due when it is and not sooner, in one sentence.

use receiptd::{
    domain::Timestamp,
    rules::{
        cadence::{Cadence, Following, Phase, Reason},
        slot::{Slot, SlotMessage},
    },
    text::{counted::counted, duration},
};

/// The sentence; `None` before the first poll, after a failed one, and if there is nothing left to ask for.
pub fn cause(slot: &Slot, cadence: &Cadence, stretch: f64, now: Timestamp) -> Option<String> {
    let polled_at = slot.last_polled_at.filter(|_| slot.failures == 0)?.min(now);
    let following = Following { cadence, stretch };
    let known = || slot.messages.iter().map(SlotMessage::known);
    let reason = following.reason(Phase::of_slot(slot.key.slot_id), polled_at, known())?;
    let messages = slot.messages.len();
    let unread = known().filter(|known| !known.is_read).count();
    let percent = 100 * unread / messages.max(1);
    let why = match reason {
        Reason::Pace => "by its pace and unread messages".to_owned(),
        Reason::Fastest => "as often as the cadence allows".to_owned(),
        Reason::Age => "just before an age at which a read rate is kept".to_owned(),
        Reason::Patience => "since no message waits for longer than its patience".to_owned(),
        Reason::Tier => "by the interval of its tier".to_owned(),
        Reason::Cron => "at the next time of its cron expression".to_owned(),
    };
    let stretched = match stretch > 1.0 && reason != Reason::Cron {
        true => format!(", with intervals {stretch:.1} times as long, since more is due than the limit allows"),
        false => String::new(),
    };
    let wait = duration::roughly((slot.next_poll_at - polled_at).to_std().unwrap_or_default());
    let next = match (slot.next_poll_at - now).to_std() {
        Ok(wait) if !wait.is_zero() => format!("next in {}", duration::roughly(wait)),
        _ => "next as soon as the limit allows".to_owned(),
    };
    let messages = counted(messages as u64, "message");
    Some(format!(
        "The call asks for {messages}, of which {percent} % are unread; {next}, {wait} after the last poll: {why}{stretched}."
    ))
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use receiptd::{
        domain::{Counts, MsgSeq, Receipt},
        rules::slot::SlotKey,
    };

    use super::*;

    fn now() -> Timestamp {
        "2026-11-23T12:00:00Z".parse().unwrap()
    }

    /// A slot that was polled a minute ago, with messages of these ages in minutes that some members have not read, or
    /// all have.
    fn slot(messages: &[(i64, bool)]) -> Slot {
        let polled_at = now() - TimeDelta::minutes(1);
        let message = |(seq, (age, is_read)): (i64, &(i64, bool))| {
            let counts = Counts::new(9, if *is_read { 0 } else { 1 });
            SlotMessage {
                receipt: Some(Receipt { code: 0, counts }),
                known_until: Some(polled_at),
                ..SlotMessage::new(MsgSeq::try_from(seq).unwrap(), now() - TimeDelta::minutes(*age))
            }
        };
        let mut slot = Slot {
            last_polled_at: Some(polled_at),
            known_until: Some(polled_at),
            version: 1,
            messages: (1..).zip(messages).map(message).collect(),
            ..Slot::new(SlotKey { group_key: 1, slot_id: 1 }, "team".parse().unwrap(), now())
        };
        let cadence = Cadence::built_in(true);
        let known = slot.messages.iter().map(SlotMessage::known);
        slot.next_poll_at = Following::from(&cadence).due(Phase::of_slot(1), polled_at, known).unwrap();
        slot
    }

    fn said(slot: &Slot, stretch: f64) -> String {
        cause(slot, &Cadence::built_in(true), stretch, now()).unwrap()
    }

    #[test]
    fn it_says_what_is_unread_and_by_which_rule_the_call_waits() {
        let said_of = |messages: &[(i64, bool)]| said(&slot(messages), 1.0);
        let of_pace = said_of(&[(90, false), (91, false), (92, true), (93, true)]);
        assert!(of_pace.starts_with("The call asks for 4 messages, of which 50 % are unread; next in "), "{of_pace}");
        assert!(of_pace.ends_with(" after the last poll: by its pace and unread messages."), "{of_pace}");
        assert!(said_of(&[(13, false)]).ends_with(": just before an age at which a read rate is kept."));
        assert!(said_of(&[(2, false); 20]).ends_with(": as often as the cadence allows."));
        assert!(said_of(&[(90, true)]).ends_with(": since no message waits for longer than its patience."));
        assert!(
            said(&slot(&[(90, false)]), 2.44).ends_with(
                "unread messages, with intervals 2.4 times as long, since more is due than the limit allows."
            )
        );
    }

    #[test]
    fn a_call_that_is_overdue_waits_for_the_limit_only() {
        let late = Slot { next_poll_at: now() - TimeDelta::seconds(5), ..slot(&[(60, false)]) };
        assert!(said(&late, 1.0).contains("; next as soon as the limit allows, 55s after the last poll: "));
    }

    #[test]
    fn there_is_no_cause_before_the_first_poll_or_after_a_failure() {
        let cadence = Cadence::built_in(true);
        for slot in [Slot { last_polled_at: None, ..slot(&[(1, false)]) }, Slot { failures: 1, ..slot(&[(1, false)]) }]
        {
            assert_eq!(cause(&slot, &cadence, 1.0, now()), None);
        }
    }
}
