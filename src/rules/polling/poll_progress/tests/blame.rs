//! Which messages are blamed when calls fail, and how few calls that takes.

use super::*;

/// Simulates the polls of a slot while calls for `bad` messages fail with `code` after `latency`. Each poll asks and
/// records like the daemon. Returns the resulting slots, the answered messages, the number of failed calls, and the
/// duration.
pub(super) fn poll_until(
    first: Slot,
    bad: &BTreeSet<u32>,
    (code, latency): (i64, Duration),
    is_over: impl Fn(&[Slot], &BTreeSet<u32>) -> bool,
) -> (Vec<Slot>, BTreeSet<u32>, usize, chrono::TimeDelta) {
    let cadences = Cadences::default();
    let (mut slots, mut answered, mut calls, mut now) = (vec![first], BTreeSet::new(), 0, now());
    let mut polls = 0;
    while !is_over(&slots, &answered) {
        polls += 1;
        assert!(polls < 1_000, "some message is never asked for");
        let next = (0..slots.len()).min_by_key(|at| slots[*at].next_poll_at).unwrap();
        let slot = slots.swap_remove(next);
        now = now.max(slot.next_poll_at);
        let mut asking = PollProgress::new(&slot, ALL, Others::Answered);
        while let Some(batch) = asking.batch().map(<[MsgSeq]>::to_vec) {
            let fails = batch.iter().any(|seq| bad.contains(&seq.get()));
            let attempt = attempt(&batch, if fails { code } else { 0 });
            let latency = if fails { latency } else { Duration::from_millis(20) };
            now += latency;
            calls += usize::from(fails);
            let attempt = Attempt { latency, called_at: now, ended_at: now, ..attempt };
            if let Step::Wait(wait) = asking.record(attempt, || true) {
                now += wait;
            }
        }
        let poll = asking.into_poll();
        answered.extend(poll.receipts.iter().map(|told| told.seq.get()));
        let recording = Recording::of(&slot, &poll, cadences.of(None), KeepSnapshots::Changes, now);
        let leaves = |seq| recording.parts.iter().any(|part| part.seqs.contains(seq));
        for part in &recording.parts {
            let messages = slot.messages.iter().filter(|message| part.seqs.contains(&message.seq)).cloned().collect();
            let slot_id = slots.iter().map(|slot| slot.key.slot_id).max().unwrap_or_default().max(slot.key.slot_id) + 1;
            let key = SlotKey { slot_id, ..slot.key };
            let (failures, next_poll_at) = (part.failures, part.next_poll_at);
            slots.push(Slot { key, failures, next_poll_at, messages, ..slot.clone() });
        }
        let messages = slot.messages.iter().filter(|message| !leaves(&message.seq)).cloned().collect();
        let (failures, next_poll_at) = (recording.failures, recording.next_poll_at);
        slots.push(Slot { failures, next_poll_at, messages, ..slot });
    }
    (slots, answered, calls, now - self::now())
}

pub(super) fn all_but(messages: i64, bad: &BTreeSet<u32>) -> BTreeSet<u32> {
    (1..=u32::try_from(messages).unwrap()).filter(|seq| !bad.contains(seq)).collect()
}

#[test]
fn one_bad_message_is_deferred_alone_whatever_its_failure() {
    let quick = Duration::from_millis(20);
    for (messages, bad) in [(16, 1), (16, 9), (16, 16), (50, 37), (2, 1), (3, 3)] {
        for (code, latency) in [(10002, quick), (12345, quick), (10002, Duration::from_secs(5))] {
            let bad = BTreeSet::from([bad]);
            let is_over = |slots: &[Slot], answered: &BTreeSet<u32>| {
                *answered == all_but(messages, &bad)
                    && slots.iter().any(|slot| slot.messages.len() == 1 && slot.failures > 0)
            };
            let (slots, _, calls, took) = poll_until(slot(messages), &bad, (code, latency), is_over);
            let alone: Vec<&Slot> = slots.iter().filter(|slot| slot.failures > 0).collect();
            assert!(
                matches!(alone.as_slice(), [slot] if slot.messages[0].seq.get() == *bad.first().unwrap()),
                "{alone:?}"
            );
            assert!(calls <= 20, "{calls} calls failed for {messages} messages and {bad:?}");
            assert!(took <= chrono::TimeDelta::seconds(110), "{took} for {messages} messages and {bad:?}");
        }
    }
}

#[test]
fn a_failing_message_is_asked_for_less_and_less_often() {
    let bad = BTreeSet::from([3]);
    let failing = |slots: &[Slot]| slots.iter().map(|slot| slot.failures).max().unwrap();
    let run = |until| {
        // The retries of the first two polls take a random time: the same in each run.
        fastrand::seed(7);
        poll_until(slot(16), &bad, (10002, Duration::ZERO), |slots, _| failing(slots) >= until).3.num_seconds()
    };
    let at: Vec<i64> = [3, 4, 5, 6, 7].map(run).to_vec();
    let waits: Vec<i64> = at.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let is_as_expected = |(wait, expected): (&i64, i64)| (wait - expected).abs() <= 2;
    assert!(waits.iter().zip([10, 20, 40, 80]).all(is_as_expected), "{waits:?}");
}

#[test]
fn a_poll_tries_once_and_blames_no_message_in_an_outage() {
    for failures in [1, 5] {
        let mut asking = PollProgress::new(&Slot { failures, ..slot(16) }, ALL, Others::Failing);
        let batch = asking.batch().unwrap().to_vec();
        assert_eq!(batch.len(), 16);
        assert_eq!(asking.record(attempt(&batch, 10002), || true), Step::Continue);
        assert!(asking.batch().is_none());
        let poll = asking.into_poll();
        assert_eq!((poll.end, poll.failed.len()), (PollEnd::GivenUp, 0));
    }
}

#[test]
fn a_slot_whose_last_poll_failed_gets_only_one_attempt() {
    let mut asking = PollProgress::new(&Slot { failures: 1, ..slot(16) }, ALL, Others::Answered);
    let batch = asking.batch().unwrap().to_vec();
    assert_eq!((batch.len(), asking.record(attempt(&batch, 10002), || true)), (16, Step::Continue));
    assert_eq!(asking.batch(), None);
    assert_eq!(asking.into_poll().end, PollEnd::GivenUp);
}

#[test]
fn an_interrupted_search_blames_only_messages_it_asked_for() {
    let slot = Slot { failures: 3, ..slot(16) };
    for answered in [0, 1] {
        let mut asking = PollProgress::new(&slot, ALL, Others::Answered);
        for code in [0, 10002].into_iter().skip(1 - answered) {
            let batch = asking.batch().unwrap().to_vec();
            asking.record(attempt(&batch, code), || true);
        }
        asking.gives_way();
        assert_eq!(asking.batch(), None);
        let poll = asking.into_poll();
        let parts = poll.failed.iter().map(Vec::len).collect::<Vec<_>>();
        let expected = if answered == 1 { (PollEnd::Complete, vec![12]) } else { (PollEnd::GivenUp, vec![]) };
        assert_eq!((poll.end, parts), expected);
    }
}

#[test]
fn a_poll_outlasting_an_outage_asks_again_for_what_failed() {
    for code in [10002, 10004] {
        let mut asking = PollProgress::new(&Slot { failures: 3, ..slot(2) }, ALL, Others::Answered);
        let (mut codes, mut asked) = (vec![code, 0, 0].into_iter(), vec![]);
        while let Some(batch) = asking.batch().map(<[MsgSeq]>::to_vec) {
            asking.record(attempt(&batch, codes.next().unwrap()), || true);
            asking.others_are(if asked.is_empty() { Others::Failing } else { Others::Answered });
            asked.push(batch[0].get());
        }
        let poll = asking.into_poll();
        assert_eq!((asked[0], asked.len()), (asked[2], 3), "{code}");
        let told = (poll.end, poll.receipts.len(), poll.rejected.len(), poll.failed.len());
        assert_eq!(told, (PollEnd::Complete, 2, 0, 0), "{code}");
    }
}

#[test]
fn an_outage_leaves_slots_whole_and_later_deferrals_short() {
    for code in [10002, 10004] {
        let mut slot = slot(50);
        for poll in 0..60 {
            let mut asking = PollProgress::new(&slot, ALL, Others::Failing);
            while let Some(batch) = asking.batch().map(<[MsgSeq]>::to_vec) {
                asking.record(attempt(&batch, code), || true);
            }
            let (cadences, keep) = (Cadences::default(), KeepSnapshots::Changes);
            slot.failures = Recording::of(&slot, &asking.into_poll(), cadences.of(None), keep, now()).failures;
            assert_eq!(slot.failures, 1, "after poll {poll} of an outage with {code}");
        }
        let asking = PollProgress::new(&slot, ALL, Others::Answered);
        assert_eq!(asking.batch().map(<[MsgSeq]>::len), Some(50));
        let is_over = |slots: &[Slot], _: &BTreeSet<u32>| slots.iter().any(|slot| slot.messages.len() == 1);
        let bad = BTreeSet::from([7]);
        let (slots, .., took) = poll_until(slot, &bad, (code, Duration::ZERO), is_over);
        let alone = slots.iter().find(|slot| slot.messages.len() == 1).unwrap();
        let wait = (alone.next_poll_at - now()) - took;
        assert!(wait <= chrono::TimeDelta::seconds(10), "{wait} after an outage with {code}");
    }
}

#[test]
fn an_unanswered_poll_blames_no_message_and_makes_few_calls() {
    for failures in 2..20 {
        let mut asking = PollProgress::new(&Slot { failures, ..slot(50) }, ALL, Others::Answered);
        let mut calls = 0;
        while let Some(batch) = asking.batch().map(<[MsgSeq]>::to_vec) {
            calls += 1;
            assert_eq!(asking.record(attempt(&batch, 10002), || true), Step::Continue);
        }
        let poll = asking.into_poll();
        assert_eq!((poll.end, poll.failed.len()), (PollEnd::GivenUp, 0));
        assert!(calls <= MAX_FAILED_PARTS_IN_VAIN, "{calls}");
    }
}

#[test]
fn messages_without_receipt_are_rechecked_alone_before_closing() {
    let bad: BTreeSet<u32> = (1..=40).collect();
    for (messages, calls) in [(40, [79, 1, 41]), (50, [99, 3, 43])] {
        let (mut slot, cadences) = (slot(messages), Cadences::default());
        for (most, closes) in calls.into_iter().zip([0, 0, 40]) {
            let mut asking = PollProgress::new(&slot, ALL, Others::Answered);
            let mut calls = 0;
            while let Some(batch) = asking.batch().map(<[MsgSeq]>::to_vec) {
                calls += 1;
                let is_refused = batch.iter().any(|seq| bad.contains(&seq.get()));
                asking.record(attempt(&batch, if is_refused { 10062 } else { 0 }), || true);
            }
            assert!(calls <= most, "{calls} calls instead of {most} for {messages} messages");
            let poll = asking.into_poll();
            assert_eq!(poll.receipts.len(), usize::try_from(messages).unwrap());
            let recording = Recording::of(&slot, &poll, cadences.of(None), KeepSnapshots::Changes, now());
            for change in &recording.messages {
                let message = slot.messages.iter_mut().find(|message| message.seq == change.seq).unwrap();
                message.no_receipt_polls = change.no_receipt_polls;
            }
            let closed = recording.messages.iter().filter(|change| change.closed.is_some()).count();
            assert_eq!(closed, closes);
        }
    }
}

#[test]
fn a_service_that_refuses_every_message_is_not_asked_for_each() {
    let mut asking = PollProgress::new(&slot(200), ALL, Others::Answered);
    let mut calls = 0;
    while let Some(batch) = asking.batch().map(<[MsgSeq]>::to_vec) {
        calls += 1;
        asking.record(attempt(&batch, 10004), || true);
    }
    assert!(calls <= MAX_REFUSALS_IN_VAIN, "{calls}");
    assert_eq!(asking.into_poll().end, PollEnd::GivenUp);
}

#[test]
fn a_repeatedly_refused_slot_makes_few_calls() {
    for (messages, failures) in [(50, 1), (50, 2), (12, 1), (200, 9)] {
        let mut asking = PollProgress::new(&Slot { failures, ..slot(messages) }, ALL, Others::Answered);
        let mut calls = 0;
        while let Some(batch) = asking.batch().map(<[MsgSeq]>::to_vec) {
            calls += 1;
            asking.record(attempt(&batch, 10004), || true);
        }
        assert!(calls <= MAX_FAILED_PARTS_IN_VAIN, "{calls} calls after {failures} failures");
        assert_eq!(asking.into_poll().end, PollEnd::GivenUp);
    }
}

#[test]
fn after_an_outage_one_message_that_is_refused_is_found_at_once() {
    for (others, bad) in [Others::Failing, Others::Answered].into_iter().flat_map(|others| [(others, 1), (others, 200)])
    {
        let mut asking = PollProgress::new(&Slot { failures: 1, ..slot(200) }, ALL, others);
        while let Some(batch) = asking.batch().map(<[MsgSeq]>::to_vec) {
            let is_refused = batch.iter().any(|seq| seq.get() == bad);
            asking.record(attempt(&batch, if is_refused { 10004 } else { 0 }), || true);
        }
        let poll = asking.into_poll();
        assert_eq!((poll.end, poll.receipts.len(), poll.rejected.len()), (PollEnd::Complete, 199, 1), "{others:?}");
    }
}

#[test]
fn good_messages_among_many_that_are_refused_are_observed() {
    let bad: BTreeSet<u32> = (1..=30).collect();
    let good = all_but(46, &bad);
    poll_until(slot(46), &bad, (10004, Duration::from_millis(20)), |_, answered| *answered == good);
}

#[test]
fn messages_that_are_all_refused_alone_are_not_to_blame() {
    for (messages, end) in [(1, PollEnd::GivenUp), (3, PollEnd::GivenUp)] {
        let mut asking = PollProgress::new(&slot(messages), ALL, Others::Answered);
        while let Some(batch) = asking.batch().map(<[MsgSeq]>::to_vec) {
            asking.record(attempt(&batch, 10004), || true);
        }
        let poll = asking.into_poll();
        assert_eq!((poll.end, poll.rejected.len()), (end, usize::try_from(messages).unwrap()));
    }
}

#[test]
fn every_part_of_a_slot_comes_first_in_some_unanswered_poll() {
    for parts in 1..=200 {
        let first: BTreeSet<usize> = (0..parts).map(|poll| poll * stride(parts) % parts).collect();
        assert_eq!(first.len(), parts, "{parts} parts");
    }
}

#[test]
fn good_messages_among_many_that_hang_are_observed() {
    let bad: BTreeSet<u32> = [4, 7, 10, 14, 36, 37, 38, 41].into();
    let good = all_but(46, &bad);
    poll_until(slot(46), &bad, (10002, Duration::from_secs(5)), |_, answered| *answered == good);
}
