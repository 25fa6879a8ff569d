//! Parses one call strictly: the five URL parameters and the body, nothing more and nothing less.
//!
//! Anything undocumented is refused, so that a client that relies on leniency fails.

use std::collections::{BTreeMap, VecDeque};

use serde::Deserialize;

use super::{
    refusal::Refusal,
    signature::{Credentials, verify},
};
use crate::domain::{GroupId, InvalidValue, MsgSeq, Timestamp};

/// One well-formed question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ReceiptRequest {
    pub group: GroupId,
    pub seqs: Vec<MsgSeq>,
}

/// Checks the URL parameters and returns `random`. Every parameter must occur exactly once, and no others.
pub(super) fn check_parameters(
    parameters: &[(String, String)],
    credentials: &Credentials,
    now: Timestamp,
) -> Result<u32, Refusal> {
    let parameters = by_name(parameters)?;
    let value = |name| parameters.get(name).copied().filter(|value| !value.is_empty());
    let sdk_app_id = value("sdkappid").ok_or(Refusal::SdkAppIdMissing)?;
    if sdk_app_id != credentials.sdk_app_id.to_string() {
        return Err(Refusal::SdkAppIdUnknown);
    }
    if value("identifier").ok_or(Refusal::IdentifierMissing)? != credentials.identifier {
        return Err(Refusal::NotAdmin);
    }
    verify(value("usersig").unwrap_or_default(), credentials, now)?;
    if value("contenttype") != Some("json") {
        return Err(Refusal::UrlParameters("contenttype must be json"));
    }
    let random = value("random").and_then(|digits| digits.parse().ok().filter(|_| !digits.starts_with('+')));
    random.ok_or(Refusal::UrlParameters("random must be a whole number from 0 to 4294967295"))
}

fn by_name(parameters: &[(String, String)]) -> Result<BTreeMap<&str, &str>, Refusal> {
    const KNOWN: [&str; 5] = ["sdkappid", "identifier", "usersig", "random", "contenttype"];
    let mut by_name = BTreeMap::new();
    for (name, value) in parameters {
        if !KNOWN.contains(&name.as_str()) {
            return Err(Refusal::UrlParameters("an unknown parameter"));
        }
        if by_name.insert(name.as_str(), value.as_str()).is_some() {
            return Err(Refusal::UrlParameters("a repeated parameter"));
        }
    }
    Ok(by_name)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    #[serde(rename = "GroupId")]
    group_id: String,
    #[serde(rename = "MsgSeqList")]
    messages: Vec<AskedMessage>,
}

/// Parsed through a map, because serde would accept `[1]` for `{"MsgSeq":1}`.
#[derive(Deserialize)]
#[serde(try_from = "BTreeMap<String, i64>")]
struct AskedMessage(MsgSeq);

impl TryFrom<BTreeMap<String, i64>> for AskedMessage {
    type Error = String;

    fn try_from(fields: BTreeMap<String, i64>) -> Result<Self, String> {
        match fields.into_iter().collect::<Vec<_>>().as_slice() {
            [(name, seq)] if name == "MsgSeq" => Ok(Self(MsgSeq::try_from(*seq).map_err(|error| error.to_string())?)),
            _ => Err("an entry of MsgSeqList is not {\"MsgSeq\": number}".to_owned()),
        }
    }
}

/// Parses the body; `max_batch` is the maximum length of `MsgSeqList`.
pub(super) fn parse_body(body: &[u8], max_batch: Option<usize>) -> Result<ReceiptRequest, Refusal> {
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(Refusal::Body("not a JSON object".to_owned()));
    }
    let body: Body = serde_json::from_slice(body).map_err(|error| Refusal::Body(error.to_string()))?;
    if body.messages.is_empty() {
        return Err(Refusal::Body("MsgSeqList is empty".to_owned()));
    }
    if max_batch.is_some_and(|longest| body.messages.len() > longest) {
        return Err(Refusal::Body(format!("MsgSeqList has {} entries, too many", body.messages.len())));
    }
    let group = body.group_id.parse().map_err(|error| match error {
        InvalidValue::NoReceiptsInGroup { .. } => Refusal::GroupTypeWithoutReceipts,
        _ => Refusal::GroupIdMalformed,
    })?;
    Ok(ReceiptRequest { group, seqs: body.messages.into_iter().map(|message| message.0).collect() })
}

/// Detects a client that does not draw a new `random`. A u32 repeats by chance now and then, so a value only counts
/// as repeated if chance is out of the question: in two consecutive calls, or with the same question (group and seqs)
/// among the last 1,024 calls, as in a careless retry.
#[derive(Debug, Default)]
pub(super) struct RecentRandoms {
    calls: VecDeque<(u32, ReceiptRequest)>,
}

impl RecentRandoms {
    const REMEMBERED: usize = 1024;

    /// True if `random` repeats; remembers the call.
    pub fn repeats(&mut self, random: u32, request: &ReceiptRequest) -> bool {
        let in_a_row = self.calls.back().is_some_and(|(last, _)| *last == random);
        let repeated = in_a_row || self.calls.iter().any(|(earlier, asked)| *earlier == random && asked == request);
        if self.calls.len() == Self::REMEMBERED {
            self.calls.pop_front();
        }
        self.calls.push_back((random, request.clone()));
        repeated
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::domain::SdkAppId;

    const SIGNED_AT: i64 = 1_735_689_600;

    fn credentials() -> Credentials {
        Credentials {
            sdk_app_id: SdkAppId::try_from(88_888_888).unwrap(),
            identifier: "admin".to_owned(),
            secret_key: "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef".into(),
        }
    }

    fn good_parameters() -> Vec<(String, String)> {
        let file: Value = serde_json::from_str(include_str!("../../tests/data/usersig_vectors.json")).unwrap();
        let user_sig = file["vectors"][1]["usersig_node"].as_str().unwrap();
        [
            ("sdkappid", "88888888"),
            ("identifier", "admin"),
            ("usersig", user_sig),
            ("random", "7"),
            ("contenttype", "json"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
    }

    fn check(parameters: &[(String, String)]) -> Result<u32, i32> {
        let now = DateTime::from_timestamp(SIGNED_AT, 0).unwrap();
        check_parameters(parameters, &credentials(), now).map_err(|refusal| refusal.code())
    }

    #[test]
    fn the_five_parameters_pass_in_any_order_and_give_random() {
        let mut parameters = good_parameters();
        assert_eq!(check(&parameters), Ok(7));
        parameters.reverse();
        assert_eq!(check(&parameters), Ok(7));
    }

    #[test]
    fn each_parameter_is_missed_with_its_own_code() {
        for (index, code) in [60012, 60004, 70002, 60002, 60002].into_iter().enumerate() {
            let mut parameters = good_parameters();
            parameters[index].1.clear();
            assert_eq!(check(&parameters), Err(code), "{} empty", parameters[index].0);
            parameters.remove(index);
            assert_eq!(check(&parameters), Err(code), "without parameter {index}");
        }
    }

    #[test]
    fn each_wrong_value_has_its_code() {
        for (name, value, code) in [
            ("sdkappid", "88888889", 60006),
            ("sdkappid", "088888888", 60006),
            ("sdkappid", "x", 60006),
            ("identifier", "Admin", 60010),
            ("usersig", "AAAA", 70003),
            ("random", "4294967296", 60002),
            ("random", "-1", 60002),
            ("random", "+1", 60002),
            ("random", "1.5", 60002),
            ("contenttype", "JSON", 60002),
        ] {
            let mut parameters = good_parameters();
            parameters.iter_mut().find(|parameter| parameter.0 == name).unwrap().1 = value.to_owned();
            assert_eq!(check(&parameters), Err(code), "{name}={value}");
        }
    }

    #[test]
    fn random_goes_to_the_largest_u32() {
        let mut parameters = good_parameters();
        parameters[3].1 = u32::MAX.to_string();
        assert_eq!(check(&parameters), Ok(u32::MAX));
    }

    #[test]
    fn a_sixth_parameter_or_one_given_twice_is_refused() {
        for extra in ["random", "apn"] {
            let mut parameters = good_parameters();
            parameters.push((extra.to_owned(), "1".to_owned()));
            assert_eq!(check(&parameters), Err(60002));
        }
    }

    fn parse(body: &Value, max_batch: Option<usize>) -> Result<ReceiptRequest, i32> {
        parse_body(body.to_string().as_bytes(), max_batch).map_err(|refusal| refusal.code())
    }

    fn request(group: &str, seqs: &[i64]) -> ReceiptRequest {
        let seqs = seqs.iter().map(|seq| MsgSeq::try_from(*seq).unwrap()).collect();
        ReceiptRequest { group: group.parse().unwrap(), seqs }
    }

    #[test]
    fn the_documented_body_is_read_in_its_order() {
        let body = json!({"GroupId": "@TGS#2TTV7VSII", "MsgSeqList": [{"MsgSeq": 2}, {"MsgSeq": 1}, {"MsgSeq": 4294967295u32}]});
        assert_eq!(parse(&body, None), Ok(request("@TGS#2TTV7VSII", &[2, 1, 4_294_967_295])));
    }

    #[test]
    fn every_other_body_is_a_bad_parameter() {
        for body in [
            json!(null),
            json!(["g", [{"MsgSeq": 1}]]),
            json!({}),
            json!({"GroupId": "g"}),
            json!({"MsgSeqList": [{"MsgSeq": 1}]}),
            json!({"GroupId": 7, "MsgSeqList": [{"MsgSeq": 1}]}),
            json!({"GroupId": "g", "MsgSeqList": []}),
            json!({"GroupId": "g", "MsgSeqList": {"MsgSeq": 1}}),
            json!({"GroupId": "g", "MsgSeqList": [1]}),
            json!({"GroupId": "g", "MsgSeqList": [[1]]}),
            json!({"GroupId": "g", "MsgSeqList": [{}]}),
            json!({"GroupId": "g", "MsgSeqList": [{"MsgSeq": 1, "Extra": 1}]}),
            json!({"GroupId": "g", "MsgSeqList": [{"MsgSeq": 1}], "Extra": 1}),
        ] {
            assert_eq!(parse(&body, None), Err(10004), "{body}");
        }
        for seq in [json!(0), json!(-1), json!(4_294_967_296_i64), json!(1.0), json!("1"), json!(null)] {
            let body = json!({"GroupId": "g", "MsgSeqList": [{"MsgSeq": 1}, {"MsgSeq": seq}]});
            assert_eq!(parse(&body, None), Err(10004), "{body}");
        }
        for text in ["", "{", "{\"GroupId\":\"g\",\"MsgSeqList\":[{\"MsgSeq\":1}]} trailing", "<html>"] {
            assert_eq!(parse_body(text.as_bytes(), None).unwrap_err().code(), 10004, "{text}");
        }
    }

    #[test]
    fn group_ids_are_judged_by_their_form() {
        for (id, code) in [("", 10015), ("gr\u{fc}ppe", 10015), ("@TGS#_3ABC", 10007), ("@TGS#_3ABC@TOPIC#_1", 10007)] {
            assert_eq!(parse(&json!({"GroupId": id, "MsgSeqList": [{"MsgSeq": 1}]}), None), Err(code), "{id}");
        }
    }

    #[test]
    fn a_batch_is_taken_up_to_the_longest_allowed() {
        let body = json!({"GroupId": "g", "MsgSeqList": [{"MsgSeq": 1}, {"MsgSeq": 2}, {"MsgSeq": 3}]});
        assert!(parse(&body, None).is_ok() && parse(&body, Some(3)).is_ok());
        assert_eq!(parse(&body, Some(2)), Err(10004));
    }

    #[test]
    fn a_random_repeats_in_a_row_or_with_the_same_question() {
        let (one, two) = (request("g", &[1]), request("g", &[2]));
        let mut recent = RecentRandoms::default();
        assert!(!recent.repeats(5, &one));
        assert!(recent.repeats(5, &two), "in a row, though the question differs");
        assert!(!recent.repeats(6, &one));
        assert!(!recent.repeats(7, &one));
        assert!(recent.repeats(6, &one), "the same question, some calls later");
        assert!(!recent.repeats(7, &two), "another question, not in a row: chance");
    }

    #[test]
    fn old_randoms_are_forgotten() {
        let one = request("g", &[1]);
        let mut recent = RecentRandoms::default();
        recent.repeats(0, &one);
        for random in 1..=RecentRandoms::REMEMBERED as u32 {
            assert!(!recent.repeats(random, &one));
        }
        assert!(!recent.repeats(0, &one));
        assert_eq!(recent.calls.len(), RecentRandoms::REMEMBERED);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(seqs in prop::collection::vec(1u32.., 1..60), group in "[!-?A-~]{1,47}") {
            let list: Vec<Value> = seqs.iter().map(|seq| json!({"MsgSeq": seq})).collect();
            let read = parse(&json!({"GroupId": group, "MsgSeqList": list}), None).unwrap();
            prop_assert_eq!(read.group.as_str(), group);
            prop_assert_eq!(read.seqs.iter().map(|seq| seq.get()).collect::<Vec<_>>(), seqs);
        }

        #[test]
        fn no_bytes_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(parse_body(&body, Some(50)).is_err());
        }
    }
}
