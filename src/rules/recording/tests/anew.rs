//! Polls whose slots were changed before they were stored.

use std::sync::Arc;

use super::*;

/// A poll of the slot that ended at noon.
fn kept(slot: Slot, poll: Poll) -> Kept {
    Kept::of(slot, poll, Arc::new(Cadences::of_tiers()), 1.0, KeepSnapshots::Changes, noon())
}

fn decided(kept: Kept, now: Slot, absorbed: Option<Slot>) -> Kept {
    match kept.anew(Some(now), absorbed) {
        Anew::Decided(kept) => *kept,
        Anew::Stored(_) | Anew::Nothing => panic!("it is not stored"),
    }
}

fn seqs(messages: &[SlotMessage]) -> Vec<u32> {
    messages.iter().map(|message| message.seq.get()).collect()
}

#[test]
fn a_poll_is_stored_if_it_made_the_last_call_of_its_slot() {
    let kept = kept(slot(vec![message(1)]), answered(vec![(seq(1), counted(2, 1))]));
    let stands = Slot { version: 12, last_called_at: kept.last_called_at(), ..slot(vec![message(1), never_polled(2)]) };
    let stored = [(stands.key, stands.next_poll_at)];
    assert!(matches!(kept.clone().anew(Some(stands), None), Anew::Stored(due) if due == stored));
    let other_call = Some(noon() - minutes(1));
    let changed = Slot { version: 12, last_called_at: other_call, ..slot(vec![message(1)]) };
    assert_eq!(decided(kept, changed, None).version(), 12);
}

#[test]
fn a_message_that_joined_during_a_poll_is_untouched_by_it() {
    let kept = kept(slot(vec![message(1)]), answered(vec![(seq(1), counted(2, 1))]));
    // Too old to be polled more than once.
    let joined = SlotMessage { sent_at: noon() - TimeDelta::days(40), ..never_polled(2) };
    let kept = decided(kept, Slot { version: 8, ..slot(vec![message(1), joined.clone()]) }, None);
    assert_eq!(kept.recording.messages.iter().map(|change| change.seq).collect::<Vec<_>>(), [seq(1)]);
    assert_eq!(kept.recording.snapshots.len(), 1);
    assert!(!kept.recording.is_empty && kept.recording.next_poll_at <= noon() + minutes(1));
    let Contents::Counted(held) = kept.outcome(&[]).contents else { panic!("only counts have changed") };
    assert_eq!((seqs(&held), held[1].receipt, held[1].known_until), (vec![1, 2], None, None));
    // Nor does the same poll ask for it when the slot changes again.
    let again = decided(kept, Slot { version: 9, ..slot(vec![message(1), joined]) }, None);
    assert_eq!(again.outcome(&[]).closed, []);
}

#[test]
fn the_answer_for_an_unwatched_message_is_kept_for_its_row() {
    let both = vec![(seq(1), counted(2, 1)), (seq(2), counted(1, 2))];
    let asked = kept(slot(vec![message(1), message(2)]), answered(both));
    let snapshots = |recording: &Recording| recording.snapshots.iter().map(|kept| kept.seq).collect::<Vec<_>>();
    let known = |kept: &Kept| {
        let told =
            kept.unwatched().map(|(was, message)| (was, message.seq.get(), message.receipt, message.known_until));
        told.collect::<Vec<_>>()
    };
    let now = Some(noon() - answer_time());
    let changed = (Some(noon() - minutes(1)), 1, Some(counted(2, 1)), now);
    let quiet = (Some(noon() - minutes(1)), 2, Some(counted(1, 2)), now);
    let one = decided(asked, Slot { version: 8, ..slot(vec![message(2)]) }, None);
    let told: Vec<_> = one.recordings().flat_map(snapshots).collect();
    assert_eq!((told, known(&one)), (vec![seq(1)], vec![changed]));
    assert_eq!(one.recordings().map(|recording| recording.attempts.len()).sum::<usize>(), 1, "the call was made once");
    // A poll with the same counts also tells until when the message is known; and messages that left earlier are not
    // forgotten.
    let none = decided(one, Slot { version: 9, ..slot(vec![]) }, None);
    assert_eq!(known(&none), [changed, quiet]);
    assert!(
        none.recording.is_empty && !none.drops_slot(),
        "it is told that the call is stored, and goes with the next poll"
    );
    let Anew::Decided(gone) = none.anew(None, None) else { panic!("nothing is stored") };
    assert!(gone.is_slot_gone && gone.recording.attempts.len() == 1 && gone.recording.messages.is_empty());
    assert_eq!(known(&gone), [changed, quiet]);
}

#[test]
fn nothing_is_kept_of_a_message_that_left_and_was_not_told_of() {
    let left_out = kept(slot(vec![message(1), message(2)]), answered(vec![(seq(2), counted(2, 1))]));
    let left_out = decided(left_out, Slot { version: 8, ..slot(vec![message(2)]) }, None);
    assert_eq!(left_out.unwatched().count(), 0);
}

#[test]
fn a_poll_that_saw_the_same_leaves_what_its_slot_holds_alone() {
    let contents = |receipts| kept(slot(vec![message(1), message(2)]), answered(receipts)).outcome(&[]).contents;
    let same = vec![(seq(1), counted(1, 2)), (seq(2), counted(1, 2))];
    assert_eq!(contents(same), Contents::Same);
    let changed = vec![(seq(1), counted(1, 2)), (seq(2), counted(2, 1))];
    assert!(matches!(contents(changed), Contents::Counted(held) if held[1].changed_at == Some(noon())));
    let left_out = vec![(seq(1), counted(1, 2))];
    assert!(matches!(contents(left_out), Contents::Other(held) if held[1].says_until().is_some()));
}

#[test]
fn counts_alone_are_not_written_into_a_row_with_another_order() {
    let unsorted = || Slot { is_unsorted: true, ..slot(vec![message(1), message(2)]) };
    let contents = |receipts| kept(unsorted(), answered(receipts)).outcome(&[]).contents;
    assert_eq!(contents(vec![(seq(1), counted(1, 2)), (seq(2), counted(1, 2))]), Contents::Same);
    let changed = vec![(seq(1), counted(1, 2)), (seq(2), counted(2, 1))];
    assert!(matches!(contents(changed), Contents::Other(held) if seqs(&held) == [1, 2]));
}

#[test]
fn edits_of_a_slot_go_with_its_next_poll_even_a_failed_one() {
    let wrong = |messages| Slot { is_wrong: true, ..slot(messages) };
    let failed = kept(wrong(vec![message(1)]), Poll::ended(PollEnd::GivenUp));
    assert!(matches!(failed.outcome(&[]).contents, Contents::Other(held) if seqs(&held) == [1]));
    let (wrong, empty) =
        (kept(wrong(vec![]), Poll::ended(PollEnd::Complete)), kept(slot(vec![]), Poll::ended(PollEnd::Complete)));
    assert!(!wrong.drops_slot() && empty.drops_slot(), "one that names no message is written first");
}

#[test]
fn a_finished_message_leaves_its_slot_with_its_known_state() {
    let done = SlotMessage { receipt: Some(counted(3, 0)), ..message(1) };
    let both = vec![(seq(1), counted(3, 0)), (seq(2), counted(1, 2))];
    let kept = kept(slot(vec![done, message(2)]), answered(both));
    let Outcome { contents, closed, parts } = kept.outcome(&[]);
    assert!(matches!(contents, Contents::Other(held) if seqs(&held) == [2]) && parts.is_empty());
    let [(known, Closed::AllRead)] = closed.as_slice() else { panic!("{closed:?}") };
    assert_eq!((known.receipt, known.known_until), (Some(counted(3, 0)), Some(noon() - answer_time())));
    // The tables refuse its row: it stays, known until the earlier time.
    let Outcome { contents, closed, .. } = kept.outcome(&[seq(1)]);
    let Contents::Other(held) = contents else { panic!("its time is its own") };
    assert_eq!((seqs(&held), held[0].says_until(), closed), (vec![1, 2], Some(noon() - minutes(1)), vec![]));
}

#[test]
fn a_failed_common_poll_leaves_the_absorbed_slot_alone() {
    let mut common = slot(vec![message(1)]);
    let old = SlotMessage { sent_at: noon() - TimeDelta::days(40), ..message(9) };
    common.absorb(Slot { key: SlotKey { group_key: 3, slot_id: 6 }, ..slot(vec![old]) });
    let failed = kept(common.clone(), Poll::ended(PollEnd::GivenUp));
    assert_eq!(failed.recording.absorbs, None);
    assert_eq!(failed.outcome(&[]), Outcome { contents: Contents::Same, closed: vec![], parts: vec![] });
    let told = kept(common, answered(vec![(seq(1), counted(1, 2)), (seq(9), counted(1, 2))]));
    let Outcome { contents, closed, .. } = told.outcome(&[]);
    assert!(matches!(contents, Contents::Other(held) if seqs(&held) == [1]));
    assert_eq!(closed.len(), 1, "the other is past its end");
}

#[test]
fn a_failed_common_poll_leaves_each_slot_its_last_poll() {
    let own = slot(vec![message(1)]);
    let later = own.last_polled_at.unwrap() + TimeDelta::seconds(30);
    let mut common = own.clone();
    common.absorb(Slot {
        key: SlotKey { group_key: 3, slot_id: 6 },
        last_polled_at: Some(later),
        ..slot(vec![message(9)])
    });
    let failed = kept(common, Poll::ended(PollEnd::GivenUp));
    assert_eq!(failed.recording.last_polled_at, own.last_polled_at);
}
