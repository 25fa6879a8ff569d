use chrono::DateTime;
use proptest::prelude::*;

use super::*;

fn at(second: i64) -> Timestamp {
    DateTime::from_timestamp(1_700_000_000 + second, 0).unwrap()
}

fn members(names: &str) -> BTreeSet<Member> {
    names.chars().map(|name| Member::new(&name.to_string()).unwrap()).collect()
}

fn counts(read: i64, unread: i64) -> Counts {
    Counts::new(read, unread).unwrap()
}

/// The names of members, one letter each.
fn names(members: &BTreeSet<Member>) -> String {
    members.iter().map(Member::as_str).collect()
}

/// Known readers, others and members who left, at second 100.
fn known(readers: &str, not_read: &str, gone: &str) -> Known {
    let (readers, not_read, gone) = (members(readers), members(not_read), members(gone));
    let counts = Counts::new(readers.len() as i64, not_read.len() as i64);
    Known { readers, not_read, gone, until: Some(at(100)), counts }
}

/// Answers a list at a second.
fn answer(asking: &mut Asking, side: Side, names: &str, second: i64) {
    assert_eq!(asking.next(), Some((side, "")));
    let page = Page { members: members(names).into_iter().collect(), next: None };
    assert!(asking.answered(page, at(second), at(second + 1)));
}

#[test]
fn one_list_is_enough_if_nobody_left() {
    let mut asking = Asking::new(known("a", "bcd", "x"), counts(2, 2));
    answer(&mut asking, Side::Read, "abc", 200);
    assert_eq!(asking.next(), None);
    let found = asking.found().unwrap();
    let reader = |name| Reader { member: Member::new(name).unwrap(), after: Some(at(100)), by: at(201) };
    assert_eq!(found.readers, [reader("b"), reader("c")]);
    assert_eq!((names(&found.not_read).as_str(), names(&found.gone).as_str()), ("d", "x"));
    assert_eq!((found.until, found.counts), (Some(at(200)), counts(3, 1)));
}

#[test]
fn a_message_that_nobody_has_read_takes_one_call() {
    let mut asking = Asking::new(Known::default(), counts(0, 3));
    answer(&mut asking, Side::Unread, "abc", 200);
    assert_eq!(asking.next(), None);
    let found = asking.found().unwrap();
    assert_eq!((found.readers.len(), names(&found.not_read).as_str(), found.until), (0, "abc", Some(at(200))));
}

#[test]
fn a_read_since_the_poll_is_asked_for_too() {
    let mut asking = Asking::new(Known::default(), counts(0, 3));
    answer(&mut asking, Side::Unread, "bc", 200);
    answer(&mut asking, Side::Read, "a", 202);
    let found = asking.found().unwrap();
    assert_eq!(found.readers, [Reader { member: Member::new("a").unwrap(), after: None, by: at(203) }]);
    assert_eq!(names(&found.not_read), "bc");
}

#[test]
fn a_message_that_all_have_read_takes_one_call() {
    let mut asking = Asking::new(known("a", "bcd", ""), counts(3, 0));
    answer(&mut asking, Side::Read, "abc", 200);
    assert_eq!(asking.next(), None);
    let found = asking.found().unwrap();
    assert_eq!((names(&found.not_read).as_str(), names(&found.gone).as_str()), ("", "d"), "d left");
}

#[test]
fn who_left_is_told_from_who_has_not_read() {
    let mut asking = Asking::new(known("a", "bcd", ""), counts(2, 1));
    answer(&mut asking, Side::Unread, "d", 200);
    answer(&mut asking, Side::Read, "ab", 202);
    let found = asking.found().unwrap();
    assert_eq!((names(&found.not_read).as_str(), names(&found.gone).as_str()), ("d", "c"));
    assert_eq!(found.readers.len(), 1);
}

#[test]
fn a_reader_who_left_after_the_poll_leads_to_both_lists() {
    let mut asking = Asking::new(known("a", "bcd", ""), counts(2, 2));
    answer(&mut asking, Side::Read, "b", 200);
    answer(&mut asking, Side::Unread, "cd", 202);
    answer(&mut asking, Side::Read, "b", 204);
    let found = asking.found().unwrap();
    assert_eq!((names(&found.not_read).as_str(), names(&found.gone).as_str()), ("cd", ""));
}

#[test]
fn who_reads_between_the_lists_is_a_reader_since_the_first() {
    let mut asking = Asking::new(known("", "abc", ""), counts(1, 1));
    answer(&mut asking, Side::Unread, "b", 200);
    answer(&mut asking, Side::Read, "ab", 202);
    let found = asking.found().unwrap();
    let after = |name: &str| found.readers.iter().find(|reader| reader.member.as_str() == name).unwrap().after;
    assert_eq!((after("a"), after("b")), (Some(at(100)), Some(at(200))));
    assert_eq!((names(&found.not_read).as_str(), names(&found.gone).as_str()), ("", "c"));
}

#[test]
fn a_member_who_returns_is_no_longer_gone() {
    for (unread, read, gone) in [("xb", "a", ""), ("b", "ax", "")] {
        let mut asking = Asking::new(known("a", "b", "x"), counts(1, 2));
        answer(&mut asking, Side::Unread, unread, 200);
        answer(&mut asking, Side::Read, read, 202);
        assert_eq!(names(&asking.found().unwrap().gone), gone);
    }
}

#[test]
fn a_list_in_pages_is_followed_to_its_end_but_not_forever() {
    let mut asking = Asking::new(known("", "ab", ""), counts(2, 0));
    let page = |name: &str, next: Option<&str>| Page {
        members: members(name).into_iter().collect(),
        next: next.map(str::to_owned),
    };
    assert!(asking.answered(page("a", Some("p2")), at(200), at(201)));
    assert_eq!(asking.next(), Some((Side::Read, "p2")));
    assert!(asking.answered(page("ab", None), at(300), at(301)));
    let found = asking.found().unwrap();
    let by: Vec<_> = found.readers.iter().map(|reader| (reader.member.as_str(), reader.by)).collect();
    assert_eq!(by, [("a", at(201)), ("b", at(301))], "each once");
    assert_eq!(found.until, Some(at(200)));
    let mut endless = Asking::new(Known::default(), counts(0, 1));
    let answered = (0..MOST_PAGES).all(|_| endless.answered(page("a", Some("more")), at(200), at(201)));
    assert!(!answered && endless.found().is_none());
}

/// What happens to a member: when it reads, and when it leaves.
fn life() -> impl Strategy<Value = (Option<i64>, Option<i64>)> {
    (prop::option::of(1..900_i64), prop::option::weighted(0.2, 1..900_i64))
}

proptest! {
    /// Members read and leave at any time, also between two pages. Every interval contains the read.
    #[test]
    fn readers_are_found_once_within_their_intervals(
        lives in prop::collection::vec(life(), 1..12), polls in prop::collection::btree_set(1..1_000_i64, 1..8),
    ) {
        let name = |index: usize| Member::new(&format!("m{index}")).unwrap();
        let present = |side: Side, second: i64| -> Vec<Member> {
            let is_there = |life: &(Option<i64>, Option<i64>)| life.1.is_none_or(|left| left > second);
            let has_read = |life: &(Option<i64>, Option<i64>)| life.0.is_some_and(|read| read <= second);
            let of = lives.iter().enumerate().filter(|(_, life)| is_there(life) && has_read(life) == (side == Side::Read));
            of.map(|(index, _)| name(index)).collect()
        };
        let mut known = Known::default();
        // The last one is long after everything.
        for poll in polls.into_iter().map(|poll| poll * 10).chain([20_000, 20_100]) {
            let now = poll / 10;
            let count = |side| i64::try_from(present(side, now).len()).unwrap();
            let mut asking = Asking::new(known.clone(), counts(count(Side::Read), count(Side::Unread)));
            let mut second = now;
            while let Some((side, _)) = asking.next() {
                second += 1;
                let page = Page { members: present(side, second), next: None };
                prop_assert!(asking.answered(page, at(second - 1), at(second)));
                prop_assert!(second < now + 5);
            }
            let found = asking.found().unwrap();
            for reader in &found.readers {
                let index = lives.iter().enumerate().position(|(index, _)| name(index) == reader.member).unwrap();
                let read = at(lives[index].0.unwrap());
                prop_assert!(reader.by >= read && reader.after.is_none_or(|after| after < read), "{reader:?} read at {read}");
                prop_assert!(known.readers.insert(reader.member.clone()), "found twice");
            }
            known = Known { not_read: found.not_read, gone: found.gone, until: found.until, counts: Some(found.counts), ..known };
        }
        prop_assert_eq!(&known.not_read, &present(Side::Unread, 2_000).into_iter().collect::<BTreeSet<_>>());
        prop_assert!(known.gone.is_disjoint(&known.readers) && known.gone.is_disjoint(&known.not_read));
        let stayed = present(Side::Read, 2_000).into_iter().collect::<BTreeSet<_>>();
        prop_assert!(stayed.is_subset(&known.readers));
    }
}
