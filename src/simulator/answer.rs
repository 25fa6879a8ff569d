//! Writes the body of an answer, good or spoilt as a fault wants it, and says which of its receipts a client
//! may rely on. Pure.

use serde::Serialize;
use serde_json::{Value, json};

use super::{
    fault::{BadNumber, Fault, FaultRule},
    refusal::Refusal,
};
use crate::domain::{MsgSeq, Receipt};

/// An answer above 1 MB is refused with 10018.
const MAX_ANSWER_BYTES: usize = 1_000_000;

#[derive(Serialize)]
struct Body {
    #[serde(rename = "ActionStatus")]
    action_status: &'static str,
    #[serde(rename = "ErrorCode")]
    error_code: i32,
    #[serde(rename = "ErrorInfo")]
    error_info: String,
    #[serde(rename = "GroupMsgReceiptList", skip_serializing_if = "Option::is_none")]
    entries: Option<Vec<Entry>>,
    #[serde(rename = "RequestId", skip_serializing_if = "Option::is_none")]
    unknown: Option<Value>,
}

#[derive(Clone, Serialize)]
struct Entry {
    #[serde(rename = "Code")]
    code: i32,
    #[serde(rename = "MsgSeq")]
    seq: u32,
    #[serde(rename = "ReadNum", skip_serializing_if = "Option::is_none")]
    read: Option<Number>,
    #[serde(rename = "UnreadNum", skip_serializing_if = "Option::is_none")]
    unread: Option<Number>,
    #[serde(rename = "ReceiptVersion", skip_serializing_if = "Option::is_none")]
    unknown: Option<Value>,
}

/// A count, or what a fault puts in its place.
#[derive(Clone, Serialize)]
#[serde(untagged)]
enum Number {
    Count(u32),
    Bad(Value),
}

/// What goes out, and what of it counts as answered: the receipts that are complete, well-formed, asked for
/// and not contradicted by the same answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub body: Vec<u8>,
    pub answered: Vec<(MsgSeq, Receipt)>,
}

/// The body of a refusal.
pub(super) fn refuse(refusal: &Refusal) -> Vec<u8> {
    to_json(&Body {
        action_status: "FAIL",
        error_code: refusal.code(),
        error_info: refusal.to_string(),
        entries: None,
        unknown: None,
    })
}

/// The answer with these receipts, spoilt by the fault of `rule` if that is one of the body.
pub(super) fn compose(receipts: &[(MsgSeq, Receipt)], rule: Option<&FaultRule>) -> Result<Answer, Refusal> {
    let mut draft = Draft::new(receipts);
    if let Some(rule) = rule {
        draft.spoil_entries(rule);
    }
    let fault = rule.map(|rule| &rule.fault);
    if let Some(fault) = fault {
        draft.spoil_body(fault);
    }
    let mut body = to_json(&draft.body);
    if body.len() > MAX_ANSWER_BYTES {
        return Err(Refusal::AnswerTooLarge);
    }
    match fault {
        Some(Fault::NotJson) => body = HTML.as_bytes().to_vec(),
        Some(Fault::TruncatedJson) => body.truncate(body.len() / 2),
        Some(Fault::OversizedBody { bytes }) => pad(&mut body, *bytes),
        _ => {}
    }
    Ok(Answer { body, answered: draft.answered })
}

/// What a proxy in the way would say.
pub(super) const HTML: &str = "<html><body><h1>Something went wrong</h1></body></html>";

fn to_json(body: &Body) -> Vec<u8> {
    serde_json::to_vec(body).unwrap_or_else(|error| unreachable!("plain data becomes JSON: {error}"))
}

/// Adds a field of so many blanks. Written by hand: a serializer looks at each of the millions of them, and every call that
/// arrives meanwhile waits.
fn pad(body: &mut Vec<u8>, bytes: usize) {
    let end = body.pop();
    body.extend_from_slice(br#","Padding":""#);
    body.resize(body.len() + bytes, b' ');
    body.push(b'"');
    body.extend(end);
}

struct Draft {
    body: Body,
    answered: Vec<(MsgSeq, Receipt)>,
}

impl Draft {
    fn new(receipts: &[(MsgSeq, Receipt)]) -> Self {
        let entries = receipts.iter().map(|(seq, receipt)| Entry::new(*seq, *receipt)).collect();
        let body = Body {
            action_status: "OK",
            error_code: 0,
            error_info: String::new(),
            entries: Some(entries),
            unknown: None,
        };
        Self { body, answered: receipts.to_vec() }
    }

    fn spoil_entries(&mut self, rule: &FaultRule) {
        let entries = self.body.entries.take().unwrap_or_default();
        let targeted: Vec<bool> = (0usize..)
            .zip(&entries)
            .map(|(index, entry)| rule.message().map_or(index % 2 == 0, |seq| seq.get() == entry.seq))
            .collect();
        let spoilt = entries.iter().zip(&targeted).flat_map(|(entry, hit)| match hit {
            true => spoil(entry, &rule.fault),
            false => vec![entry.clone()],
        });
        self.body.entries = Some(spoilt.collect());
        let loses_receipts = matches!(
            rule.fault,
            Fault::MissingEntries | Fault::OutOfRange { .. } | Fault::RepeatedEntries { conflicting: true }
        );
        if loses_receipts {
            let lost: Vec<u32> =
                entries.iter().zip(&targeted).filter(|(_, hit)| **hit).map(|(entry, _)| entry.seq).collect();
            self.answered.retain(|(seq, _)| !lost.contains(&seq.get()));
        }
    }

    fn spoil_body(&mut self, fault: &Fault) {
        let entries = self.body.entries.get_or_insert_default();
        match fault {
            Fault::UnaskedEntries => entries.extend(unasked(entries)),
            Fault::ReorderedEntries => entries.reverse(),
            Fault::ExtraFields => {
                entries.iter_mut().for_each(|entry| entry.unknown = Some(json!({"Major": 1})));
                self.body.unknown = Some(json!(["nobody", "knows", {"this": null}]));
            }
            Fault::FailWithoutCode => self.body.action_status = "FAIL",
            _ => {}
        }
        let unusable = matches!(
            fault,
            Fault::NotJson | Fault::TruncatedJson | Fault::FailWithoutCode | Fault::OversizedBody { .. }
        );
        if unusable {
            self.answered.clear();
        }
    }
}

fn spoil(entry: &Entry, fault: &Fault) -> Vec<Entry> {
    match fault {
        Fault::MissingEntries => vec![],
        Fault::RepeatedEntries { conflicting: false } => vec![entry.clone(), entry.clone()],
        Fault::RepeatedEntries { conflicting: true } => vec![entry.clone(), entry.contradicted()],
        Fault::OutOfRange { number } => {
            let bad = Some(Number::Bad(number.value()));
            vec![Entry { code: 0, read: bad.clone(), unread: bad, ..entry.clone() }]
        }
        _ => vec![entry.clone()],
    }
}

/// Entries for the first two seqs that were not asked for.
fn unasked(entries: &[Entry]) -> Vec<Entry> {
    let asked: std::collections::HashSet<u32> = entries.iter().map(|entry| entry.seq).collect();
    let strange = (1..=u32::MAX).filter(|seq| !asked.contains(seq)).take(2);
    let count = || Some(Number::Count(7777));
    strange.map(|seq| Entry { code: 0, seq, read: count(), unread: count(), unknown: None }).collect()
}

impl Entry {
    fn new(seq: MsgSeq, receipt: Receipt) -> Self {
        let read = receipt.counts.map(|counts| Number::Count(counts.read()));
        let unread = receipt.counts.map(|counts| Number::Count(counts.unread()));
        Self { code: receipt.code, seq: seq.get(), read, unread, unknown: None }
    }

    fn contradicted(&self) -> Self {
        let other = |number: &Option<Number>| match number {
            Some(Number::Count(count)) => Some(Number::Count(count ^ 1)),
            _ => Some(Number::Count(1)),
        };
        Self { code: 0, read: other(&self.read), unread: other(&self.unread), ..self.clone() }
    }
}

impl BadNumber {
    fn value(self) -> Value {
        match self {
            Self::Negative => json!(-1),
            Self::TooLarge => json!(1_u64 << 31),
            Self::Huge => json!(u64::MAX),
            Self::Fraction => json!(0.5),
            Self::Text => json!("12"),
            Self::Null => Value::Null,
        }
    }
}

#[cfg(test)]
mod tests {
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
        assert_eq!(body["GroupMsgReceiptList"][1]["ReadNum"], "12");
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
    fn numbers_out_of_range_are_not_answered_and_their_neighbours_are() {
        for (number, value) in [
            (BadNumber::Negative, json!(-1)),
            (BadNumber::TooLarge, json!(2_147_483_648_u64)),
            (BadNumber::Huge, json!(18_446_744_073_709_551_615_u64)),
            (BadNumber::Fraction, json!(0.5)),
            (BadNumber::Text, json!("12")),
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
}
