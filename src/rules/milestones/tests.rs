use proptest::prelude::*;

use super::*;

fn sent() -> Timestamp {
    "2026-11-23T12:00:00Z".parse().unwrap()
}

fn at(minute: i64) -> Timestamp {
    sent() + TimeDelta::minutes(minute)
}

fn counts(read: i64, unread: i64) -> Counts {
    Counts::new(read, unread).unwrap()
}

/// 2 of 10 had read it from minute 5 until minute 19.
fn known() -> Change {
    Change {
        sent_at: sent(),
        before: Some(counts(2, 8)),
        since: Some(at(5)),
        known_until: Some(at(19)),
        is_counted: true,
        carried_until: Some(at(21)),
        seen: Some(counts(2, 8)),
        polled_at: at(20),
        is_redated: false,
    }
}

#[test]
fn each_milestone_has_its_share_of_the_members() {
    let reached = |read, unread| Milestone::ALL.map(|milestone| milestone.is_reached(counts(read, unread)));
    for (read, unread, expected) in [
        (0, 0, [false, false, false, false, false]),
        (0, 10, [false, false, false, false, false]),
        (1, 9, [true, false, false, false, false]),
        (4, 5, [true, false, false, false, false]),
        (5, 5, [true, true, false, false, false]),
        (79, 21, [true, true, false, false, false]),
        (8, 2, [true, true, true, false, false]),
        (9, 1, [true, true, true, true, false]),
        (10, 0, [true, true, true, true, true]),
        (1, 0, [true, true, true, true, true]),
        (1 << 30, (1 << 30) - 1, [true, true, false, false, false]),
        (i64::from(i32::MAX) - 1, 1, [true, true, true, true, false]),
    ] {
        assert_eq!(reached(read, unread), expected, "{read} read, {unread} unread");
    }
}

#[test]
fn a_change_reaches_what_the_counts_before_had_not() {
    let interval = |after| Some(Reached { after, by: at(20) });
    let told = interval(Some(at(19)));
    let none = Change { before: None, since: None, known_until: None, ..known() };
    let ended = Change { before: None, ..known() };
    for (change, expected, why) in [
        (known(), [None; 5], "nothing has changed"),
        (Change { seen: Some(counts(5, 5)), ..known() }, [None, told, None, None, None], "half"),
        (Change { seen: Some(counts(10, 0)), ..known() }, [None, told, told, told, told], "four at once"),
        (Change { seen: Some(counts(1, 0)), ..known() }, [None, told, told, told, told], "the others have left"),
        (Change { seen: None, ..known() }, [None; 5], "the receipt has ended"),
        (none, [interval(None), None, None, None, None], "the first poll of all"),
        (ended, [interval(None), None, None, None, None], "no counts were known, though it was polled"),
        (
            Change { seen: Some(counts(5, 5)), is_counted: false, ..known() },
            [None, interval(None), None, None, None],
            "the poll before said that there is no receipt",
        ),
    ] {
        assert_eq!(Milestones::of(&change).map_or([None; 5], |made| made.reached), expected, "{why}");
    }
}

#[test]
fn an_age_between_two_changes_takes_the_counts_before_it() {
    let before = Some(counts(2, 8));
    let late = Change { seen: Some(counts(3, 7)), ..known() };
    for (change, expected, why) in [
        (late, [before, None, None, None], "15 minutes lie between 5 and 20"),
        (Change { seen: None, ..known() }, [before, None, None, None], "a receipt that ends changes too"),
        (Change { polled_at: at(15), ..late }, [None; 4], "what is seen at the age itself counts"),
        (Change { since: Some(at(15)), ..late }, [before, None, None, None], "what was seen at the age itself counts"),
        (Change { since: Some(at(16)), ..late }, [None; 4], "an earlier change has settled it"),
        (Change { since: None, before: None, ..late }, [None; 4], "nothing was known then"),
        (Change { before: None, ..late }, [None; 4], "no counts were known then"),
        (
            Change { known_until: Some(at(8 * 24 * 60)), polled_at: at(8 * 24 * 60 + 1), ..late },
            [before; 4],
            "all at once",
        ),
        (Change { known_until: Some(at(10)), ..late }, [before, None, None, None], "no poll was due before 21"),
        (Change { known_until: Some(at(10)), carried_until: Some(at(14)), ..late }, [None; 4], "a gap from 14 to 20"),
        (
            Change { known_until: Some(at(15)), carried_until: None, ..late },
            [before, None, None, None],
            "known at the age itself",
        ),
        (Change { since: Some(at(90)), polled_at: at(80), ..late }, [None; 4], "dated into the future"),
    ] {
        assert_eq!(Milestones::of(&change).map_or([None; 4], |made| made.counts), expected, "{why}");
    }
}

#[test]
fn what_was_dated_into_the_future_is_found_again() {
    let change = Change { is_redated: true, known_until: Some(sent()), since: Some(at(9_999)), ..known() };
    let made = Milestones::of(&change).unwrap();
    assert_eq!(made.reached, [Some(Reached { after: Some(sent()), by: at(20) }), None, None, None, None]);
    assert_eq!((made.counts, made.none_after), ([None; 4], Some(at(20))));
    let nobody = Change { before: Some(counts(0, 9)), seen: Some(counts(0, 9)), ..change };
    assert_eq!(Milestones::of(&nobody).unwrap().none_after, Some(at(20)), "milestones that do not hold any more too");
    assert_eq!(Milestones::of(&Change { polled_at: at(10), ..known() }), None, "there is nothing to write");
}

/// Polls of a message by minute: counts, or no receipt.
type Polls = Vec<(i64, Option<Counts>)>;

fn polls() -> impl Strategy<Value = Polls> {
    let seen = prop::option::weighted(0.9, (0_i64..6, 0_i64..6).prop_map(|(read, unread)| counts(read, unread)));
    prop::collection::btree_map(-20_i64..11_000, seen, 1..40).prop_map(|polls| polls.into_iter().collect())
}

/// Minutes from a poll until the next one is due.
const EVERY: i64 = 60;

/// The result of each change, in the order of the polls.
fn made(polls: &Polls) -> Vec<Milestones> {
    let (mut receipt, mut before, mut since, mut known_until) = (None, None, None, None);
    let mut is_counted = false;
    let mut made = vec![];
    for (minute, seen) in polls {
        let polled_at = at(*minute);
        let carried_until = known_until.map(|known: Timestamp| known + TimeDelta::minutes(EVERY));
        let change = Change {
            sent_at: sent(),
            before,
            since,
            known_until,
            is_counted,
            carried_until,
            seen: *seen,
            polled_at,
            is_redated: false,
        };
        if receipt != Some(*seen) {
            made.extend(Milestones::of(&change));
            (receipt, since) = (Some(*seen), Some(polled_at));
        }
        (before, known_until) = (seen.or(before), Some(polled_at));
        is_counted = seen.is_some();
    }
    made
}

/// What the store keeps of them: the earliest of each.
fn kept(made: &[Milestones]) -> ([Option<Reached>; 5], [Option<Counts>; 4]) {
    let reached =
        std::array::from_fn(|index| made.iter().filter_map(|made| made.reached[index]).min_by_key(|it| it.by));
    (reached, std::array::from_fn(|index| made.iter().find_map(|made| made.counts[index])))
}

proptest! {
    #[test]
    fn folded_in_any_order_the_changes_come_to_what_all_polls_say(
        (polls, shuffled) in polls().prop_flat_map(|polls| {
            let made = made(&polls);
            (Just(polls), Just(made).prop_shuffle())
        })
    ) {
        let (reached, settled) = kept(&shuffled);
        for (milestone, reached) in Milestone::ALL.into_iter().zip(reached) {
            let first = polls.iter().find(|(_, seen)| seen.is_some_and(|seen| milestone.is_reached(seen)));
            // The poll before, if it had counts: otherwise they may have changed before it.
            let before = first.and_then(|(by, _)| {
                polls.iter().rev().find(|(minute, _)| minute < by).filter(|(_, seen)| seen.is_some())
            });
            let expected = first.map(|(by, _)| Reached { after: before.map(|(minute, _)| at(*minute)), by: at(*by) });
            prop_assert_eq!(reached, expected, "{:?}", milestone);
        }
        for (age, settled) in AGES.into_iter().zip(settled) {
            let is_until = |minute: &i64| at(*minute) <= sent() + age;
            let then = polls.iter().rev().find(|(minute, seen)| is_until(minute) && seen.is_some());
            // Counts that have not changed since are the last ones, which need no settling.
            let upto = polls.iter().rev().find(|(minute, _)| is_until(minute));
            let next = upto.and_then(|(_, upto)| polls.iter().find(|(minute, seen)| !is_until(minute) && seen != upto));
            // The poll before the change, or when the next one was due.
            let is_known = next.is_some_and(|(change, _)| {
                let last = polls.iter().rev().find(|(minute, _)| minute < change);
                last.is_some_and(|(minute, _)| sent() + age <= at(minute + EVERY))
            });
            prop_assert_eq!(settled, then.and_then(|(_, seen)| *seen).filter(|_| is_known), "{:?}", age);
        }
    }
}
