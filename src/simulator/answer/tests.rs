//! The body for each fault, and the receipts that count as answered.

use super::*;
use crate::{domain::Counts, simulator::fault::When};

fn seq(number: i64) -> MsgSeq {
    MsgSeq::try_from(number).unwrap()
}

/// Messages 1 to 4, the last without a receipt.
fn receipts() -> Vec<(MsgSeq, Receipt)> {
    let good = |number| (seq(number), Receipt { code: 0, counts: Counts::new(number, 10 - number) });
    vec![good(1), good(2), good(3), (seq(4), Receipt { code: 10062, counts: None })]
}

fn rule(fault: Fault, when: When) -> FaultRule {
    FaultRule { fault, when, times: None }
}

fn spoilt(fault: Fault) -> (Value, Vec<u32>) {
    spoilt_for(fault, When::All)
}

fn spoilt_for(fault: Fault, when: When) -> (Value, Vec<u32>) {
    let answer = compose(&receipts(), Some(&rule(fault, when))).unwrap();
    let answered = answer.answered.iter().map(|(seq, receipt)| {
        assert!(receipts().contains(&(*seq, *receipt)), "what is answered is the truth");
        seq.get()
    });
    (serde_json::from_slice(&answer.body).unwrap_or_default(), answered.collect())
}

fn seqs(body: &Value) -> Vec<u64> {
    body["GroupMsgReceiptList"].as_array().unwrap().iter().map(|entry| entry["MsgSeq"].as_u64().unwrap()).collect()
}

#[test]
fn a_good_answer_is_the_documented_one() {
    let answer = compose(&receipts()[2..], None).unwrap();
    let body: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(
        body,
        json!({"ActionStatus": "OK", "ErrorCode": 0, "ErrorInfo": "", "GroupMsgReceiptList": [
            {"Code": 0, "MsgSeq": 3, "ReadNum": 3, "UnreadNum": 7}, {"Code": 10062, "MsgSeq": 4},
        ]})
    );
    assert_eq!(answer.answered, receipts()[2..]);
}

#[test]
fn a_refusal_has_code_and_reason_and_no_list() {
    let body: Value = serde_json::from_slice(&refuse(&Refusal::GroupUnknown)).unwrap();
    assert_eq!(body, json!({"ActionStatus": "FAIL", "ErrorCode": 10010, "ErrorInfo": "the group does not exist"}));
}

#[test]
fn missing_entries_are_left_out_and_the_others_are_answered() {
    let (body, answered) = spoilt(Fault::MissingEntries);
    assert_eq!(seqs(&body), [2, 4]);
    assert_eq!(answered, [2, 4]);
}

#[test]
fn a_rule_about_one_message_spoils_that_entry_alone() {
    let when = When::Message { group_id: "g".parse().unwrap(), msg_seq: seq(2) };
    let (body, answered) = spoilt_for(Fault::MissingEntries, when.clone());
    assert_eq!(seqs(&body), [1, 3, 4]);
    assert_eq!(answered, [1, 3, 4]);
    let (body, answered) = spoilt_for(Fault::OutOfRange { number: BadNumber::Text }, when);
    assert_eq!(body["GroupMsgReceiptList"][1]["ReadNum"], "twelve");
    assert_eq!(answered, [1, 3, 4]);
}

#[test]
fn equal_repetitions_are_answered_and_contradictions_are_not() {
    let (body, answered) = spoilt(Fault::RepeatedEntries { conflicting: false });
    assert_eq!(seqs(&body), [1, 1, 2, 3, 3, 4]);
    assert_eq!(body["GroupMsgReceiptList"][0], body["GroupMsgReceiptList"][1]);
    assert_eq!(answered, [1, 2, 3, 4]);
    let (body, answered) = spoilt(Fault::RepeatedEntries { conflicting: true });
    assert_eq!(seqs(&body), [1, 1, 2, 3, 3, 4]);
    assert_ne!(body["GroupMsgReceiptList"][0], body["GroupMsgReceiptList"][1]);
    assert_eq!(answered, [2, 4]);
}

#[test]
fn unasked_entries_come_on_top_and_are_not_answered() {
    let (body, answered) = spoilt(Fault::UnaskedEntries);
    assert_eq!(seqs(&body), [1, 2, 3, 4, 5, 6]);
    assert_eq!(answered, [1, 2, 3, 4]);
}

#[test]
fn an_out_of_range_number_spoils_only_its_own_entry() {
    for (number, value) in [
        (BadNumber::Negative, json!(-1)),
        (BadNumber::TooLarge, json!(2_147_483_648_u64)),
        (BadNumber::Huge, json!(18_446_744_073_709_551_615_u64)),
        (BadNumber::Implausible, json!(2_147_483_647)),
        (BadNumber::Fraction, json!(0.5)),
        (BadNumber::Text, json!("twelve")),
        (BadNumber::Null, json!(null)),
    ] {
        let (body, answered) = spoilt(Fault::OutOfRange { number });
        assert_eq!(
            body["GroupMsgReceiptList"][0],
            json!({"Code": 0, "MsgSeq": 1, "ReadNum": value, "UnreadNum": value})
        );
        assert_eq!(answered, [2, 4]);
    }
}

#[test]
fn a_success_that_tells_nothing_answers_nothing() {
    let list = |list| spoilt(Fault::NoList { list });
    let (absent, answered) = list(NoList::Absent);
    assert_eq!((&absent["ErrorCode"], absent.get("GroupMsgReceiptList"), answered), (&json!(0), None, vec![]));
    let (null, answered) = list(NoList::Null);
    assert_eq!((null.get("GroupMsgReceiptList"), answered), (Some(&Value::Null), vec![]));
    let (empty, answered) = list(NoList::Empty);
    assert_eq!((seqs(&empty).len(), answered.len()), (0, 0));
    let (body, answered) = spoilt(Fault::MissingCounts);
    assert_eq!(body["GroupMsgReceiptList"][0], json!({"Code": 0, "MsgSeq": 1}));
    assert_eq!((seqs(&body), answered), (vec![1, 2, 3, 4], vec![2, 4]));
}

#[test]
fn numbers_that_are_written_differently_are_answered() {
    let written = |form, numbers| spoilt(Fault::Written { form, numbers });
    let first = |form, numbers| written(form, numbers).0["GroupMsgReceiptList"][0].to_string();
    for (form, numbers, entry) in [
        (NumberForm::Text, Numbers::Counts, r#"{"Code":0,"MsgSeq":1,"ReadNum":"1","UnreadNum":"9"}"#),
        (NumberForm::Float, Numbers::Counts, r#"{"Code":0,"MsgSeq":1,"ReadNum":1.0,"UnreadNum":9.0}"#),
        (NumberForm::Text, Numbers::All, r#"{"Code":"0","MsgSeq":"1","ReadNum":"1","UnreadNum":"9"}"#),
        (NumberForm::Float, Numbers::All, r#"{"Code":0.0,"MsgSeq":1.0,"ReadNum":1.0,"UnreadNum":9.0}"#),
    ] {
        assert_eq!(first(form, numbers), entry);
        assert_eq!(written(form, numbers).1, [1, 2, 3, 4], "{entry}");
    }
}

#[test]
fn an_entry_with_a_code_is_answered_with_it() {
    let when = When::Message { group_id: "g".parse().unwrap(), msg_seq: seq(2) };
    let answer = compose(&receipts(), Some(&rule(Fault::EntryCode { code: 10004 }, when))).unwrap();
    let body: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(body["GroupMsgReceiptList"][1], json!({"Code": 10004, "MsgSeq": 2}));
    assert_eq!(answer.answered[1], (seq(2), Receipt { code: 10004, counts: None }));
    assert_eq!((answer.answered[0], answer.answered[2]), (receipts()[0], receipts()[2]));
}

#[test]
fn another_order_and_unknown_fields_are_still_answers() {
    let (body, answered) = spoilt(Fault::ReorderedEntries);
    assert_eq!(seqs(&body), [4, 3, 2, 1]);
    assert_eq!(answered.len(), 4);
    let (body, answered) = spoilt(Fault::ExtraFields);
    assert!(body["RequestId"].is_array() && body["GroupMsgReceiptList"][3]["ReceiptVersion"].is_object());
    assert_eq!(answered.len(), 4);
}

#[test]
fn a_body_that_cannot_be_used_answers_nothing() {
    let (body, answered) = spoilt(Fault::FailWithoutCode);
    assert_eq!((&body["ActionStatus"], &body["ErrorCode"], seqs(&body).len()), (&json!("FAIL"), &json!(0), 4));
    assert!(answered.is_empty());
    for fault in [Fault::NotJson, Fault::TruncatedJson] {
        let (body, answered) = spoilt(fault.clone());
        assert!(body.is_null() && answered.is_empty(), "{fault:?} is no JSON");
    }
    let (body, answered) = spoilt(Fault::OversizedBody { bytes: 3_000_000 });
    assert_eq!(body["Padding"].as_str().unwrap().len(), 3_000_000);
    assert!(answered.is_empty());
}

#[test]
fn a_truncated_answer_is_the_beginning_of_the_good_one() {
    let good = compose(&receipts(), None).unwrap().body;
    let truncated = compose(&receipts(), Some(&rule(Fault::TruncatedJson, When::All))).unwrap().body;
    assert!(good.starts_with(&truncated) && truncated.len() == good.len() / 2);
}

#[test]
fn an_answer_above_a_megabyte_is_refused() {
    let many: Vec<_> =
        (1..=25_000).map(|number| (seq(number), Receipt { code: 0, counts: Counts::new(1, 1) })).collect();
    assert_eq!(compose(&many, None), Err(Refusal::AnswerTooLarge));
    assert!(compose(&many[..15_000], None).is_ok());
}
