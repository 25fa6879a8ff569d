//! Interprets a complete answer. Matches its entries to the messages that were asked for: the list may be shorter,
//! longer or in another order, and an invalid entry says nothing about its message.

use super::{
    error_class::Class,
    failure::Failure,
    wire::{self, Entry, Number, Response},
};
use crate::domain::{Counts, MsgSeq, Receipt};

/// Maximum plausible count. No group of Tencent Chat has nearly as many members.
const MAX_COUNT: i64 = 10_000_000;

/// Maximum number of entries read, beyond two per message; further ones are only counted.
const SPARE_ENTRIES: usize = 100;

/// The receipts in an answer to a call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// One receipt for each message with a usable entry, in the order of the seqs asked.
    pub receipts: Vec<(MsgSeq, Receipt)>,
    /// Number of entries that were repeated, not asked for, or had numbers out of range.
    pub bad_entries: u32,
}

impl Answer {
    /// Interprets the answer to a call for the messages `asked`, in rising order. The body decides, whatever the
    /// status.
    ///
    /// # Errors
    /// If it contains no receipt; with the class of the failure.
    pub fn read(asked: &[MsgSeq], http_status: u16, body: &[u8]) -> Result<Self, Failure> {
        if http_status != 200 {
            return Err(Failure::new(Class::of_http_status(http_status), None, &format!("HTTP status {http_status}")));
        }
        let most = asked.len() * 2 + SPARE_ENTRIES;
        if let Some(entries) = wire::documented(body, most) {
            return Ok(Self::of(asked, &entries));
        }
        Self::read_leniently(asked, body, most)
    }

    fn read_leniently(asked: &[MsgSeq], body: &[u8], most: usize) -> Result<Self, Failure> {
        let response = Response::read(body)?;
        let (entries, more) = response.entries(most).map_err(|error| Failure::unreadable(body, &error))?;
        let answer = Self::of(asked, &entries);
        Ok(Self { bad_entries: answer.bad_entries + more, ..answer })
    }

    /// Matches `entries` to the messages `asked`, in rising order.
    ///
    /// One of several identical entries is used; contradicting ones are not trusted.
    pub fn of(asked: &[MsgSeq], entries: &[Entry]) -> Self {
        let mut told = vec![Told::Nothing; asked.len()];
        let mut bad_entries = 0;
        for entry in entries {
            let place = seq(entry).and_then(|seq| asked.binary_search(&seq).ok());
            let Some(told) = place.map(|place| &mut told[place]) else {
                bad_entries += 1;
                continue;
            };
            let receipt = receipt(entry).map_or(Told::Unusable, Told::Receipt);
            match *told {
                Told::Nothing => {
                    bad_entries += u32::from(receipt == Told::Unusable);
                    *told = receipt;
                }
                known => {
                    bad_entries += 1;
                    *told = if known == receipt { known } else { Told::Unusable };
                }
            }
        }
        let receipts = asked.iter().zip(told).filter_map(|(seq, told)| match told {
            Told::Receipt(receipt) => Some((*seq, receipt)),
            Told::Nothing | Told::Unusable => None,
        });
        Self { receipts: receipts.collect(), bad_entries }
    }
}

/// The result for a message so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Nothing,
    Unusable,
    Receipt(Receipt),
}

fn seq(entry: &Entry) -> Option<MsgSeq> {
    let Number::Whole(seq) = entry.msg_seq else { return None };
    MsgSeq::try_from(seq).ok()
}

/// The receipt of an entry, if its numbers are in range. Success requires both counts; with another code they may be
/// missing. A missing code counts as success, since the counts are there.
fn receipt(entry: &Entry) -> Option<Receipt> {
    let code = match entry.code {
        Number::Absent => 0,
        Number::Whole(code) => i32::try_from(code).ok()?,
        Number::Bad => return None,
    };
    let counts = match (entry.read_num, entry.unread_num) {
        (Number::Whole(read @ 0..=MAX_COUNT), Number::Whole(unread @ 0..=MAX_COUNT)) => {
            Some(Counts::new(read, unread)?)
        }
        (Number::Absent, Number::Absent) if code != 0 => None,
        _ => return None,
    };
    Some(Receipt { code, counts })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seqs(seqs: impl IntoIterator<Item = i64>) -> Vec<MsgSeq> {
        seqs.into_iter().map(|seq| MsgSeq::try_from(seq).unwrap()).collect()
    }

    fn entry(seq: i64, read: i64, unread: i64) -> Entry {
        let whole = Number::Whole;
        Entry { msg_seq: whole(seq), code: whole(0), read_num: whole(read), unread_num: whole(unread) }
    }

    fn counted(seq: i64, read: i64, unread: i64) -> (MsgSeq, Receipt) {
        (MsgSeq::try_from(seq).unwrap(), Receipt { code: 0, counts: Counts::new(read, unread) })
    }

    fn answer(receipts: Vec<(MsgSeq, Receipt)>, bad_entries: u32) -> Answer {
        Answer { receipts, bad_entries }
    }

    #[test]
    fn entries_are_matched_by_seq_in_whatever_order_they_come() {
        let found = Answer::of(&seqs([1, 2, 3]), &[entry(3, 3, 0), entry(1, 1, 2), entry(2, 2, 1)]);
        assert_eq!(found, answer(vec![counted(1, 1, 2), counted(2, 2, 1), counted(3, 3, 0)], 0));
    }

    #[test]
    fn a_missing_entry_tells_nothing_of_its_message() {
        assert_eq!(Answer::of(&seqs([1, 2]), &[entry(2, 2, 1)]), answer(vec![counted(2, 2, 1)], 0));
        assert_eq!(Answer::of(&seqs([1, 2]), &[]), answer(vec![], 0));
    }

    #[test]
    fn a_repeated_entry_counts_once_and_a_contradiction_never() {
        assert_eq!(Answer::of(&seqs([1]), &[entry(1, 2, 1), entry(1, 2, 1)]), answer(vec![counted(1, 2, 1)], 1));
        assert_eq!(Answer::of(&seqs([1]), &[entry(1, 2, 1), entry(1, 3, 0)]), answer(vec![], 1));
        let thrice = [entry(1, 2, 1), entry(1, 3, 0), entry(1, 2, 1)];
        assert_eq!(Answer::of(&seqs([1]), &thrice), answer(vec![], 2));
    }

    #[test]
    fn an_unasked_entry_is_left_out() {
        let unnamed = Entry { read_num: Number::Whole(1), unread_num: Number::Whole(1), ..Entry::default() };
        let found = Answer::of(&seqs([1]), &[entry(9, 1, 1), unnamed, entry(-4, 1, 1), entry(1, 2, 1)]);
        assert_eq!(found, answer(vec![counted(1, 2, 1)], 3));
    }

    #[test]
    fn numbers_out_of_range_never_become_counts() {
        for (read, unread) in
            [(-1, 0), (0, 1 << 31), (i64::MAX, i64::MIN), (i32::MAX.into(), 1), (1, MAX_COUNT + 1), (MAX_COUNT + 1, 0)]
        {
            assert_eq!(Answer::of(&seqs([1]), &[entry(1, read, unread)]), answer(vec![], 1), "{read} {unread}");
        }
        let most = Answer::of(&seqs([1]), &[entry(1, MAX_COUNT, MAX_COUNT)]);
        assert_eq!(most, answer(vec![counted(1, MAX_COUNT, MAX_COUNT)], 0));
        let half = Entry { unread_num: Number::Absent, ..entry(1, 1, 1) };
        let bad = Entry { read_num: Number::Bad, ..entry(1, 1, 1) };
        let code = Entry { code: Number::Whole(1 << 40), ..entry(1, 1, 1) };
        for entry in [half, bad, code] {
            assert_eq!(Answer::of(&seqs([1]), &[entry]), answer(vec![], 1), "{entry:?}");
        }
    }

    #[test]
    fn a_message_without_receipt_has_its_code_and_no_counts() {
        let none = Entry { msg_seq: Number::Whole(2), code: Number::Whole(10062), ..Entry::default() };
        let receipt = Receipt { code: 10062, counts: None };
        assert_eq!(Answer::of(&seqs([2]), &[none]), answer(vec![(seqs([2])[0], receipt)], 0));
    }

    #[test]
    fn a_malformed_entry_is_bad_and_a_null_text_keeps_the_code() {
        let read = |body: &str| Answer::read(&seqs([1, 2]), 200, body.as_bytes());
        let found = read(
            r#"{"ActionStatus":"OK","ErrorCode":0,"GroupMsgReceiptList":[null,"no",
                {"MsgSeq":1,"ReadNum":1e400,"UnreadNum":1},{"MsgSeq":2,"ReadNum":2,"UnreadNum":1}]}"#,
        );
        assert_eq!(found, Ok(answer(vec![counted(2, 2, 1)], 3)));
        let gone = read(r#"{"ActionStatus":null,"ErrorCode":10010,"ErrorInfo":null,"GroupMsgReceiptList":null}"#);
        assert_eq!(gone, Err(Failure::new(Class::GroupFault, Some(10010), "")));
    }

    #[test]
    fn an_answer_that_tells_of_nothing_is_read_as_such() {
        for list in ["", r#","GroupMsgReceiptList":null"#, r#","GroupMsgReceiptList":[]"#] {
            let body = format!(r#"{{"ActionStatus":"OK","ErrorCode":0{list}}}"#);
            assert_eq!(Answer::read(&seqs([1, 2]), 200, body.as_bytes()), Ok(answer(vec![], 0)), "{list}");
        }
    }

    #[test]
    fn counts_written_as_texts_and_fractions_are_read() {
        let body = r#"{"ErrorCode":"0","GroupMsgReceiptList":[{"Code":"0","MsgSeq":"1","ReadNum":"1","UnreadNum":"6"},
            {"Code":0.0,"MsgSeq":2.0,"ReadNum":3.0,"UnreadNum":1e2}]}"#;
        let found = Answer::read(&seqs([1, 2]), 200, body.as_bytes());
        assert_eq!(found, Ok(answer(vec![counted(1, 1, 6), counted(2, 3, 100)], 0)));
    }

    proptest! {
        #[test]
        fn any_answer_tells_at_most_once_of_each_message_asked(
            asked in proptest::collection::btree_set(1_i64..20, 0..20),
            entries in proptest::collection::vec((-2_i64..25, -2_i64..5, -2_i64..5), 0..40),
        ) {
            let asked = seqs(asked);
            let entries: Vec<Entry> = entries.into_iter().map(|(seq, read, unread)| entry(seq, read, unread)).collect();
            let found = Answer::of(&asked, &entries);
            let told: Vec<MsgSeq> = found.receipts.iter().map(|(seq, _)| *seq).collect();
            let mut expected = asked.clone();
            expected.retain(|seq| told.contains(seq));
            prop_assert_eq!(&told, &expected);
            prop_assert!(found.bad_entries as usize <= entries.len());
            for (seq, receipt) in &found.receipts {
                let matching = entries.iter().filter(|entry| entry.msg_seq == Number::Whole(i64::from(seq.get())));
                prop_assert!(matching.clone().count() > 0);
                for entry in matching {
                    prop_assert_eq!(super::receipt(entry), Some(*receipt));
                }
            }
        }
    }

    proptest! {
        #[test]
        fn one_pass_and_lenient_reading_agree_on_documented_answers(
            asked in proptest::collection::btree_set(1_i64..20, 0..20),
            entries in proptest::collection::vec(
                (-2_i64..25, 0_i32..3, proptest::option::of((any::<u32>(), 0_u32..300))), 0..40,
            ),
        ) {
            let asked = seqs(asked);
            let entry = |(seq, code, counts): &(i64, i32, Option<(u32, u32)>)| match counts {
                Some((read, unread)) => {
                    format!(r#"{{"Code":{code},"MsgSeq":{seq},"ReadNum":{read},"UnreadNum":{unread}}}"#)
                }
                None => format!(r#"{{"MsgSeq":{seq},"Code":{code}}}"#),
            };
            let list: Vec<String> = entries.iter().map(entry).collect();
            let list = list.join(", ");
            let body = format!(
                r#"{{"ActionStatus":"OK","ErrorInfo":"","ErrorCode":0,"GroupMsgReceiptList":[{list}],"RequestId":"x"}}"#
            );
            prop_assert!(wire::documented(body.as_bytes(), 40).is_some());
            let leniently = Answer::read_leniently(&asked, body.as_bytes(), 40);
            prop_assert_eq!(Answer::read(&asked, 200, body.as_bytes()), leniently);
        }
    }

    #[test]
    fn any_response_has_a_class_and_tells_only_of_asked_messages() {
        let asked = seqs(1..4);
        let number = prop_oneof![
            Just("1".to_owned()),
            Just("-9".into()),
            Just("1e400".into()),
            Just("[{}]".into()),
            any::<i64>().prop_map(|number| number.to_string())
        ];
        let like_an_answer = (any::<i64>(), 0_usize..200, number).prop_map(|(code, cut, number)| {
            let code = if code % 3 == 0 { 0 } else { code };
            let text = format!(
                r#"{{"ActionStatus":"OK","ErrorCode":{code},"GroupMsgReceiptList":[{{"MsgSeq":{number},"ReadNum":1,"UnreadNum":{number}}}]}}"#
            );
            text.as_bytes()[..text.len().saturating_sub(cut / 2 * (cut % 2))].to_vec()
        });
        let body = prop_oneof![proptest::collection::vec(any::<u8>(), 0..200), like_an_answer];
        proptest!(|(status in prop_oneof![Just(200_u16), 100_u16..1_000], body in body)| {
            match Answer::read(&asked, status, &body) {
                Ok(answer) => {
                    prop_assert_eq!(status, 200);
                    prop_assert!(answer.receipts.iter().all(|(seq, _)| asked.contains(seq)));
                }
                Err(failure) => prop_assert_ne!(failure.class, Class::Success),
            }
        });
    }
}
