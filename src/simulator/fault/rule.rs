//! Which calls a fault applies to, and how many of them. Pure matching.

use fastrand::Rng;
use serde::{Deserialize, Serialize};

use super::{
    Fault,
    json::{as_number, as_text},
};
use crate::{
    domain::{GroupId, MsgSeq},
    simulator::{request::ReceiptRequest, world::seed_of},
};

/// A well-formed call, as rules see it.
#[derive(Debug)]
pub(in crate::simulator) enum Asked<'a> {
    /// Of receipts.
    Receipts(&'a ReceiptRequest),
    /// Of another API, by name.
    Api(&'a str),
}

/// The well-formed calls that a rule applies to: calls for receipts, unless it names another API.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum When {
    /// Every call.
    #[default]
    All,
    /// Calls of another API; network faults and those of the whole body only.
    Api {
        /// Its name, such as `get_group_info`.
        api: String,
    },
    /// Calls for this group.
    Group {
        /// The group.
        #[serde(with = "as_text")]
        group_id: GroupId,
    },
    /// Calls that ask for this message, alone or with others.
    Message {
        /// Its group.
        #[serde(with = "as_text")]
        group_id: GroupId,
        /// Its seq.
        #[serde(with = "as_number")]
        msg_seq: MsgSeq,
    },
    /// Calls that ask for more than this number of messages.
    MoreThan {
        /// Maximum number of messages in an unaffected call.
        messages: usize,
    },
    /// Calls for a fraction of the groups, the same groups for the same seed.
    GroupShare {
        /// 0 to 1.
        share: f64,
        /// Selects the groups.
        seed: u64,
    },
    /// Every n-th call that reaches this rule; never with 0.
    EveryNth {
        /// n.
        n: u64,
    },
    /// Each call that reaches this rule, with this probability; the same calls for the same seed.
    Probability {
        /// 0 to 1.
        probability: f64,
        /// Selects the calls.
        seed: u64,
    },
}

/// A fault, the calls it applies to, and their maximum number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultRule {
    /// The fault.
    pub fault: Fault,
    /// The calls it applies to; default: all.
    #[serde(default)]
    pub when: When,
    /// Maximum number of calls it applies to; `None`: unlimited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u64>,
}

impl FaultRule {
    /// The message of the rule, if it is for one.
    pub(in crate::simulator) fn message(&self) -> Option<MsgSeq> {
        match &self.when {
            When::Message { msg_seq, .. } => Some(*msg_seq),
            _ => None,
        }
    }
}

#[derive(Debug)]
struct ActiveRule {
    rule: FaultRule,
    considered: u64,
}

/// The rules in the order in which they were added.
#[derive(Debug, Default)]
pub(in crate::simulator) struct FaultRules(Vec<ActiveRule>);

impl FaultRules {
    pub fn add(&mut self, rule: FaultRule) {
        self.0.push(ActiveRule { rule, considered: 0 });
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// The first rule that matches the call, which is counted as a hit. Later rules don't see the call.
    pub fn strike(&mut self, asked: &Asked<'_>) -> Option<FaultRule> {
        let index = self.0.iter_mut().position(|active| active.applies_to(asked))?;
        let rule = &mut self.0[index].rule;
        let struck = rule.clone();
        rule.times = rule.times.map(|left| left - 1);
        if rule.times == Some(0) {
            self.0.remove(index);
        }
        Some(struck)
    }
}

impl ActiveRule {
    fn applies_to(&mut self, asked: &Asked<'_>) -> bool {
        match (asked, &self.rule.when) {
            (Asked::Api(called), When::Api { api }) => api == called && self.rule.times != Some(0),
            (Asked::Api(_), _) => false,
            (Asked::Receipts(request), _) => self.is_for(request),
        }
    }

    fn is_for(&mut self, request: &ReceiptRequest) -> bool {
        self.considered += 1;
        self.rule.times != Some(0)
            && match &self.rule.when {
                When::All => true,
                When::Api { .. } => false,
                When::Group { group_id } => *group_id == request.group,
                When::Message { group_id, msg_seq } => *group_id == request.group && request.seqs.contains(msg_seq),
                When::MoreThan { messages } => request.seqs.len() > *messages,
                When::GroupShare { share, seed } => Rng::with_seed(seed_of(*seed, &request.group)).f64() < *share,
                When::EveryNth { n } => self.considered.checked_rem(*n) == Some(0),
                When::Probability { probability, seed } => {
                    Rng::with_seed(seed ^ self.considered.wrapping_mul(0x9e37_79b9_7f4a_7c15)).f64() < *probability
                }
            }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    fn group(id: &str) -> GroupId {
        id.parse().unwrap()
    }

    fn seq(number: i64) -> MsgSeq {
        MsgSeq::try_from(number).unwrap()
    }

    fn request(id: &str, seqs: &[i64]) -> ReceiptRequest {
        ReceiptRequest { group: group(id), seqs: seqs.iter().map(|number| seq(*number)).collect() }
    }

    fn rules(list: impl IntoIterator<Item = FaultRule>) -> FaultRules {
        let mut rules = FaultRules::default();
        list.into_iter().for_each(|rule| rules.add(rule));
        rules
    }

    fn rule(when: When) -> FaultRule {
        FaultRule { fault: Fault::NotJson, when, times: None }
    }

    #[test]
    fn a_rule_hits_the_calls_that_it_is_for() {
        let message = When::Message { group_id: group("a"), msg_seq: seq(2) };
        for (when, id, seqs, hit) in [
            (When::All, "a", vec![1], true),
            (When::Group { group_id: group("a") }, "a", vec![1], true),
            (When::Group { group_id: group("a") }, "b", vec![1], false),
            (message.clone(), "a", vec![1, 2, 3], true),
            (message.clone(), "a", vec![1, 3], false),
            (message, "b", vec![2], false),
            (When::MoreThan { messages: 2 }, "a", vec![1, 2], false),
            (When::MoreThan { messages: 2 }, "a", vec![1, 2, 3], true),
        ] {
            assert_eq!(
                rules([rule(when.clone())]).strike(&Asked::Receipts(&request(id, &seqs))).is_some(),
                hit,
                "{when:?} {id} {seqs:?}"
            );
        }
    }

    #[test]
    fn the_first_rule_that_is_for_the_call_wins() {
        let second = FaultRule { fault: Fault::CutMidBody, when: When::All, times: None };
        let mut rules = rules([rule(When::Group { group_id: group("a") }), second]);
        assert_eq!(rules.strike(&Asked::Receipts(&request("a", &[1]))).unwrap().fault, Fault::NotJson);
        assert_eq!(rules.strike(&Asked::Receipts(&request("b", &[1]))).unwrap().fault, Fault::CutMidBody);
        rules.clear();
        assert_eq!(rules.strike(&Asked::Receipts(&request("a", &[1]))), None);
    }

    #[test]
    fn a_rule_is_used_up_after_its_times_and_misses_do_not_count() {
        let mut rules = rules([FaultRule { times: Some(2), ..rule(When::Group { group_id: group("a") }) }]);
        let hits = ["a", "b", "b", "a", "a"].map(|id| rules.strike(&Asked::Receipts(&request(id, &[1]))).is_some());
        assert_eq!(hits, [true, false, false, true, false]);
        assert!(rules.0.is_empty());
    }

    #[test]
    fn a_rule_of_no_times_never_hits() {
        assert_eq!(
            rules([FaultRule { times: Some(0), ..rule(When::All) }]).strike(&Asked::Receipts(&request("a", &[1]))),
            None
        );
    }

    #[test]
    fn every_nth_call_is_counted_from_the_rule_on() {
        let mut every_third = rules([rule(When::EveryNth { n: 3 })]);
        let hits: Vec<bool> =
            (0..7).map(|_| every_third.strike(&Asked::Receipts(&request("a", &[1]))).is_some()).collect();
        assert_eq!(hits, [false, false, true, false, false, true, false]);
        assert_eq!(rules([rule(When::EveryNth { n: 0 })]).strike(&Asked::Receipts(&request("a", &[1]))), None);
    }

    #[test]
    fn probability_hits_its_share_and_repeats_with_its_seed() {
        let hits = |probability, seed| {
            let mut rules = rules([rule(When::Probability { probability, seed })]);
            (0..2000).map(|_| rules.strike(&Asked::Receipts(&request("a", &[1]))).is_some()).collect::<Vec<_>>()
        };
        let share = hits(0.25, 7).iter().filter(|hit| **hit).count();
        assert!((430..570).contains(&share), "{share}");
        assert_eq!(hits(0.25, 7), hits(0.25, 7));
        assert_ne!(hits(0.25, 7), hits(0.25, 8));
        assert!(hits(0.0, 7).iter().all(|hit| !hit) && hits(1.0, 7).iter().all(|hit| *hit));
    }

    #[test]
    fn a_group_share_hits_the_same_groups_in_every_call() {
        let mut rules = rules([rule(When::GroupShare { share: 0.6, seed: 7 })]);
        let mut hits =
            |number: u32| rules.strike(&Asked::Receipts(&request(&format!("group {number}"), &[1]))).is_some();
        let first: Vec<bool> = (0..1000).map(&mut hits).collect();
        let share = first.iter().filter(|hit| **hit).count();
        assert!((540..660).contains(&share), "{share}");
        assert_eq!((0..1000).map(hits).collect::<Vec<_>>(), first);
    }

    #[test]
    fn rules_go_through_json() {
        let written = json!({
            "fault": {"kind": "hang", "duration": "30s"},
            "when": {"kind": "message", "group_id": "@TGS#1", "msg_seq": 5},
            "times": 2,
        });
        let read: FaultRule = serde_json::from_value(written.clone()).unwrap();
        assert_eq!(read.message(), Some(seq(5)));
        assert_eq!(read.fault, Fault::Hang { duration: Duration::from_secs(30) });
        assert_eq!(serde_json::to_value(&read).unwrap(), written);
        let short: FaultRule = serde_json::from_value(json!({"fault": {"kind": "not_json"}})).unwrap();
        assert_eq!(short, rule(When::All));
    }

    #[test]
    fn rules_with_a_mistake_are_refused() {
        for mistaken in [
            json!({"fault": {"kind": "no_such"}}),
            json!({"fault": {"kind": "error_code"}}),
            json!({"fault": {"kind": "not_json"}, "time": 1}),
            json!({"fault": {"kind": "not_json"}, "when": {"kind": "group", "group_id": "@TGS#_community"}}),
            json!({"fault": {"kind": "not_json"}, "when": {"kind": "message", "group_id": "g", "msg_seq": 0}}),
        ] {
            assert!(serde_json::from_value::<FaultRule>(mistaken.clone()).is_err(), "{mistaken}");
        }
    }
}
