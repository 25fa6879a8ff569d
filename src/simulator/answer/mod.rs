//! Writes the body of an answer, correct or damaged by a fault, and determines which of its receipts a client may rely
//! on. Pure.

use serde::Serialize;
use serde_json::{Value, json};

use super::{
    fault::{BadNumber, Fault, FaultRule, NoList, NumberForm, Numbers},
    refusal::Refusal,
};
use crate::domain::{MsgSeq, Receipt};

/// Maximum size of an answer; larger ones are refused with 10018.
const MAX_ANSWER_BYTES: usize = 1_000_000;

#[derive(Serialize)]
struct Body {
    #[serde(rename = "ActionStatus")]
    action_status: &'static str,
    #[serde(rename = "ErrorCode")]
    error_code: i32,
    #[serde(rename = "ErrorInfo")]
    error_info: String,
    #[serde(flatten)]
    list: List,
    #[serde(rename = "RequestId", skip_serializing_if = "Option::is_none")]
    unknown: Option<Value>,
}

/// The receipts, or a fault's replacement for them.
#[derive(Serialize)]
#[serde(untagged)]
enum List {
    Entries {
        #[serde(rename = "GroupMsgReceiptList")]
        entries: Vec<Entry>,
    },
    Null {
        #[serde(rename = "GroupMsgReceiptList")]
        null: (),
    },
    Absent {},
}

#[derive(Clone, Serialize)]
struct Entry {
    #[serde(rename = "Code")]
    code: Number,
    #[serde(rename = "MsgSeq")]
    seq: Number,
    #[serde(rename = "ReadNum", skip_serializing_if = "Option::is_none")]
    read: Option<Number>,
    #[serde(rename = "UnreadNum", skip_serializing_if = "Option::is_none")]
    unread: Option<Number>,
    #[serde(rename = "ReceiptVersion", skip_serializing_if = "Option::is_none")]
    unknown: Option<Value>,
}

/// A number, or what a fault replaces it with.
#[derive(Clone, Serialize)]
#[serde(untagged)]
enum Number {
    Whole(i64),
    Other(Value),
}

/// The body, and the receipts that count as answered: complete, well-formed, asked for and not contradicted by the
/// same answer.
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
        list: List::Absent {},
        unknown: None,
    })
}

/// The answer with these receipts, damaged by the fault of `rule` if it concerns the body.
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

/// The answer of an intermediate proxy.
pub(super) const HTML: &str = "<html><body><h1>Something went wrong</h1></body></html>";

fn to_json(body: &Body) -> Vec<u8> {
    serde_json::to_vec(body).unwrap_or_else(|error| unreachable!("plain data becomes JSON: {error}"))
}

/// Adds a field of blanks. Written by hand: a serializer inspects each of the millions of blanks, which delays all
/// calls arriving meanwhile.
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
            list: List::Entries { entries },
            unknown: None,
        };
        Self { body, answered: receipts.to_vec() }
    }

    /// Damages the entries selected by the rule, one for each receipt, and updates the answered receipts.
    fn spoil_entries(&mut self, rule: &FaultRule) {
        let is_hit = |index: usize, seq| rule.message().map_or(index.is_multiple_of(2), |hit| hit == seq);
        let receipts = std::mem::take(&mut self.answered);
        let mut spoilt = Vec::new();
        for (index, (seq, receipt)) in receipts.into_iter().enumerate() {
            let entry = Entry::new(seq, receipt);
            if is_hit(index, seq) {
                spoilt.extend(spoil(&entry, &rule.fault));
                self.answered.extend(still_answered(receipt, &rule.fault).map(|receipt| (seq, receipt)));
            } else {
                spoilt.push(entry);
                self.answered.push((seq, receipt));
            }
        }
        self.body.list = List::Entries { entries: spoilt };
    }

    fn spoil_body(&mut self, fault: &Fault) {
        match fault {
            Fault::NoList { list: NoList::Absent } => self.body.list = List::Absent {},
            Fault::NoList { list: NoList::Null } => self.body.list = List::Null { null: () },
            Fault::FailWithoutCode => self.body.action_status = "FAIL",
            Fault::ExtraFields => self.body.unknown = Some(json!(["nobody", "knows", {"this": null}])),
            _ => {}
        }
        if let List::Entries { entries } = &mut self.body.list {
            match fault {
                Fault::NoList { list: NoList::Empty } => entries.clear(),
                Fault::UnaskedEntries => entries.extend(unasked(&self.answered)),
                Fault::ReorderedEntries => entries.reverse(),
                Fault::ExtraFields => entries.iter_mut().for_each(|entry| entry.unknown = Some(json!({"Major": 1}))),
                _ => {}
            }
        }
        let unusable = matches!(
            fault,
            Fault::NotJson
                | Fault::TruncatedJson
                | Fault::FailWithoutCode
                | Fault::OversizedBody { .. }
                | Fault::NoList { .. }
        );
        if unusable {
            self.answered.clear();
        }
    }
}

fn spoil(entry: &Entry, fault: &Fault) -> Vec<Entry> {
    let mut entry = entry.clone();
    match fault {
        Fault::MissingEntries => return vec![],
        Fault::RepeatedEntries { conflicting: false } => return vec![entry.clone(), entry],
        Fault::RepeatedEntries { conflicting: true } => return vec![entry.clone(), entry.contradicted()],
        Fault::MissingCounts => (entry.code, entry.read, entry.unread) = (Number::Whole(0), None, None),
        Fault::EntryCode { code } => {
            (entry.code, entry.read, entry.unread) = (Number::Whole((*code).into()), None, None);
        }
        Fault::OutOfRange { number } => {
            let bad = Some(Number::Other(number.value()));
            (entry.code, entry.read, entry.unread) = (Number::Whole(0), bad.clone(), bad);
        }
        Fault::Written { form, numbers } => entry.write(*form, *numbers),
        _ => {}
    }
    vec![entry]
}

/// The receipt that a client may rely on, if its entry is damaged.
fn still_answered(receipt: Receipt, fault: &Fault) -> Option<Receipt> {
    match fault {
        Fault::MissingEntries
        | Fault::MissingCounts
        | Fault::OutOfRange { .. }
        | Fault::RepeatedEntries { conflicting: true } => None,
        Fault::EntryCode { code } => Some(Receipt { code: *code, counts: None }),
        _ => Some(receipt),
    }
}

/// Entries for the first two seqs that were not asked for.
fn unasked(asked: &[(MsgSeq, Receipt)]) -> Vec<Entry> {
    let asked: std::collections::HashSet<u32> = asked.iter().map(|(seq, _)| seq.get()).collect();
    let strange = (1..=u32::MAX).filter(|seq| !asked.contains(seq)).take(2);
    let count = || Some(Number::Whole(7777));
    let entry = |seq: u32| Entry {
        code: Number::Whole(0),
        seq: Number::Whole(seq.into()),
        read: count(),
        unread: count(),
        unknown: None,
    };
    strange.map(entry).collect()
}

impl Entry {
    fn new(seq: MsgSeq, receipt: Receipt) -> Self {
        Self {
            code: Number::Whole(receipt.code.into()),
            seq: Number::Whole(seq.get().into()),
            read: receipt.counts.map(|counts| Number::Whole(counts.read().into())),
            unread: receipt.counts.map(|counts| Number::Whole(counts.unread().into())),
            unknown: None,
        }
    }

    fn contradicted(&self) -> Self {
        let other = |number: &Option<Number>| match number {
            Some(Number::Whole(count)) => Some(Number::Whole(count ^ 1)),
            _ => Some(Number::Whole(1)),
        };
        Self { code: Number::Whole(0), read: other(&self.read), unread: other(&self.unread), ..self.clone() }
    }

    fn write(&mut self, form: NumberForm, numbers: Numbers) {
        let counts = self.read.iter_mut().chain(&mut self.unread);
        counts.for_each(|number| number.write(form));
        if numbers == Numbers::All {
            self.code.write(form);
            self.seq.write(form);
        }
    }
}

impl Number {
    fn write(&mut self, form: NumberForm) {
        if let Self::Whole(number) = *self {
            *self = Self::Other(match form {
                NumberForm::Text => json!(number.to_string()),
                NumberForm::Float => json!(number as f64),
            });
        }
    }
}

impl BadNumber {
    fn value(self) -> Value {
        match self {
            Self::Negative => json!(-1),
            Self::TooLarge => json!(1_u64 << 31),
            Self::Huge => json!(u64::MAX),
            Self::Implausible => json!(i32::MAX),
            Self::Fraction => json!(0.5),
            Self::Text => json!("twelve"),
            Self::Null => Value::Null,
        }
    }
}

#[cfg(test)]
mod tests;
