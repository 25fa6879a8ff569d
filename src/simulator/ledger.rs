//! What the service saw and answered: the truth that tests compare a client with.
//!
//! Arrivals take at most sixteen bytes each; the memory for answers depends on their changes, not on their number.
//! Only reliable receipts count as answered: complete, well-formed, asked for.

use std::collections::{BTreeMap, HashMap};

use super::{
    rate::{by_whole_second, highest_sliding_second},
    request::ReceiptRequest,
};
use crate::domain::{GroupId, MsgSeq, Receipt};

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Outcome {
    /// With an answer whose receipts are reliable, at least in part.
    Answered,
    /// With `ActionStatus` FAIL and a code, deserved or configured.
    Refused,
    /// With nothing usable, because of a fault.
    Faulted,
    /// The client went away before the answer.
    Abandoned,
}

/// Everything seen and answered since the service started.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    arrivals: Vec<u64>,
    connections: u64,
    misdirected_requests: u64,
    repeated_randoms: u64,
    outcomes: BTreeMap<Outcome, u64>,
    errors_by_code: BTreeMap<i32, u64>,
    faults_by_kind: BTreeMap<&'static str, u64>,
    calls_by_group: HashMap<GroupId, u64>,
    calls_by_batch_size: BTreeMap<usize, u64>,
    answered_arrivals: HashMap<GroupId, Vec<u64>>,
    answers: HashMap<GroupId, HashMap<MsgSeq, Answers>>,
    apis: BTreeMap<&'static str, ApiLedger>,
}

/// Everything seen of an API other than that for receipts.
#[derive(Debug, Clone, Default)]
pub struct ApiLedger {
    arrivals: Vec<u64>,
    ends_by_code: BTreeMap<i32, u64>,
    faulted: u64,
}

impl ApiLedger {
    /// Attempts, including refused and faulted ones.
    pub fn calls(&self) -> u64 {
        self.arrivals.len() as u64
    }

    /// Maximum number of attempts within any half-open second, wherever it begins.
    pub fn highest_sliding_second(&self) -> usize {
        highest_sliding_second(&self.arrivals)
    }

    /// Number of answers with success.
    pub fn answered(&self) -> u64 {
        self.ends_by_code.get(&0).copied().unwrap_or_default()
    }

    /// Number of answers by `ErrorCode`, without success.
    pub fn errors_by_code(&self) -> BTreeMap<i32, u64> {
        self.ends_by_code.iter().filter(|(code, _)| **code != 0).map(|(code, count)| (*code, *count)).collect()
    }

    /// Number of calls that ended with nothing usable, because of a fault.
    pub fn faulted(&self) -> u64 {
        self.faulted
    }
}

/// The receipts answered for a message, without repetitions, in the order of reading.
#[derive(Debug, Clone, Default)]
struct Answers {
    receipts: Vec<Receipt>,
    /// Times of reading, in microseconds since the service started.
    read_at: Vec<u64>,
}

impl Answers {
    /// Adds an answer. A delayed one may have been read before others.
    fn add(&mut self, receipt: Receipt, read_at: u64) {
        let at = self.read_at.partition_point(|earlier| *earlier <= read_at);
        let is_before = at.checked_sub(1).is_some_and(|before| self.receipts[before] == receipt);
        if self.receipts.get(at) == Some(&receipt) {
            self.read_at[at] = read_at;
        } else if !is_before {
            self.receipts.insert(at, receipt);
            self.read_at.insert(at, read_at);
        }
    }
}

impl Ledger {
    /// Attempts on the API's path, including refused and faulted ones.
    pub fn calls(&self) -> u64 {
        self.arrivals.len() as u64
    }

    /// Arrivals of the attempts, in microseconds since the service started, ascending.
    pub fn arrivals(&self) -> &[u64] {
        &self.arrivals
    }

    /// Maximum number of attempts within any half-open second, wherever it begins.
    pub fn highest_sliding_second(&self) -> usize {
        highest_sliding_second(&self.arrivals)
    }

    /// Attempts in each whole second since the service started.
    pub fn calls_per_second(&self) -> Vec<u32> {
        by_whole_second(&self.arrivals)
    }

    /// Accepted connections, for any path.
    pub fn connections(&self) -> u64 {
        self.connections
    }

    /// Requests with a wrong method or path. They are not calls.
    pub fn misdirected_requests(&self) -> u64 {
        self.misdirected_requests
    }

    /// Calls whose `random` was not new: the same twice in a row, or again with the same question.
    pub fn repeated_randoms(&self) -> u64 {
        self.repeated_randoms
    }

    /// Number of calls with this outcome.
    pub fn ended(&self, outcome: Outcome) -> u64 {
        self.outcomes.get(&outcome).copied().unwrap_or_default()
    }

    /// Calls that have ended. The rest are in flight.
    pub fn ended_calls(&self) -> u64 {
        self.outcomes.values().sum()
    }

    /// Number of answers by `ErrorCode`.
    pub fn errors_by_code(&self) -> &BTreeMap<i32, u64> {
        &self.errors_by_code
    }

    /// Number of hits by fault, by [`Fault::kind`](super::Fault::kind).
    pub fn faults_by_kind(&self) -> &BTreeMap<&'static str, u64> {
        &self.faults_by_kind
    }

    /// Well-formed calls by group, including those above the limit.
    pub fn calls_by_group(&self) -> &HashMap<GroupId, u64> {
        &self.calls_by_group
    }

    /// Well-formed calls by number of messages, including those above the limit.
    pub fn calls_by_batch_size(&self) -> &BTreeMap<usize, u64> {
        &self.calls_by_batch_size
    }

    /// Messages asked for, over all well-formed calls.
    pub fn messages_asked(&self) -> u64 {
        self.calls_by_batch_size.iter().map(|(size, calls)| *size as u64 * calls).sum()
    }

    /// Arrivals of the answered calls for a group, in microseconds since the service started, in the order of the
    /// answers.
    pub fn answered_arrivals(&self, group: &GroupId) -> &[u64] {
        self.answered_arrivals.get(group).map_or(&[], Vec::as_slice)
    }

    /// The receipts answered for a message, without repetitions, in the order of reading.
    pub fn answers(&self, group: &GroupId, seq: MsgSeq) -> &[Receipt] {
        self.answers.get(group).and_then(|messages| messages.get(&seq)).map_or(&[], |answers| &answers.receipts)
    }

    /// The same for every message that was ever answered, in arbitrary order.
    pub fn all_answers(&self) -> impl Iterator<Item = (&GroupId, MsgSeq, &[Receipt])> {
        self.answers.iter().flat_map(|(group, messages)| {
            messages.iter().map(move |(seq, answers)| (group, *seq, answers.receipts.as_slice()))
        })
    }

    /// The calls of an API other than that for receipts, by the last part of its path.
    pub fn api(&self, name: &str) -> ApiLedger {
        self.apis.get(name).cloned().unwrap_or_default()
    }

    /// The same for all APIs that were called.
    pub fn apis(&self) -> impl Iterator<Item = (&'static str, &ApiLedger)> {
        self.apis.iter().map(|(name, api)| (*name, api))
    }

    /// One line, for the error of a failed test.
    pub(super) fn summary(&self) -> String {
        format!(
            "{} calls, ended as {:?}, with the codes {:?} and the faults {:?}; other calls: {:?}",
            self.calls(),
            self.outcomes,
            self.errors_by_code,
            self.faults_by_kind,
            self.apis.iter().map(|(name, api)| (*name, &api.ends_by_code)).collect::<Vec<_>>()
        )
    }

    pub(super) fn record_arrival_at(&mut self, api: &'static str, micros: u64) {
        self.apis.entry(api).or_default().arrivals.push(micros);
    }

    /// Records the code of an answer, or that a fault spoilt it.
    pub(super) fn record_end_at(&mut self, api: &'static str, code: Option<i32>) {
        let api = self.apis.entry(api).or_default();
        match code {
            Some(code) => *api.ends_by_code.entry(code).or_default() += 1,
            None => api.faulted += 1,
        }
    }

    pub(super) fn record_arrival(&mut self, micros: u64) {
        self.arrivals.push(micros);
    }

    pub(super) fn record_connection(&mut self) {
        self.connections += 1;
    }

    pub(super) fn record_misdirected(&mut self) {
        self.misdirected_requests += 1;
    }

    pub(super) fn record_request(&mut self, request: &ReceiptRequest, random_repeats: bool) {
        self.repeated_randoms += u64::from(random_repeats);
        *self.calls_by_group.entry(request.group.clone()).or_default() += 1;
        *self.calls_by_batch_size.entry(request.seqs.len()).or_default() += 1;
    }

    pub(super) fn record_fault(&mut self, kind: &'static str) {
        *self.faults_by_kind.entry(kind).or_default() += 1;
    }

    pub(super) fn record_error(&mut self, code: i32) {
        *self.errors_by_code.entry(code).or_default() += 1;
    }

    pub(super) fn record_end(&mut self, outcome: Outcome) {
        *self.outcomes.entry(outcome).or_default() += 1;
    }

    /// Adds an answer to a call with the time of its arrival and that of its reading.
    pub(super) fn record_answers(
        &mut self,
        group: &GroupId,
        answered: &[(MsgSeq, Receipt)],
        (arrival, read_at): (u64, u64),
    ) {
        self.answered_arrivals.entry(group.clone()).or_default().push(arrival);
        let messages = self.answers.entry(group.clone()).or_default();
        for (seq, receipt) in answered {
            messages.entry(*seq).or_default().add(*receipt, read_at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Counts;

    fn group(id: &str) -> GroupId {
        id.parse().unwrap()
    }

    fn seq(number: i64) -> MsgSeq {
        MsgSeq::try_from(number).unwrap()
    }

    fn receipt(read: i64, unread: i64) -> Receipt {
        Receipt { code: 0, counts: Counts::new(read, unread) }
    }

    #[test]
    fn the_ledger_merges_equal_answers_only_if_consecutive() {
        let mut ledger = Ledger::default();
        let (few, more) = (receipt(1, 9), receipt(2, 8));
        for answer in [few, few, more, more, few] {
            ledger.record_answers(&group("a"), &[(seq(1), answer)], (7, 7));
        }
        assert_eq!(ledger.answers(&group("a"), seq(1)), [few, more, few]);
    }

    #[test]
    fn the_ledger_orders_answers_by_the_time_of_reading() {
        let mut ledger = Ledger::default();
        for (answer, read_at) in [(receipt(3, 7), 30), (receipt(1, 9), 10), (receipt(2, 8), 20), (receipt(1, 9), 5)] {
            ledger.record_answers(&group("a"), &[(seq(1), answer)], (1, read_at));
        }
        assert_eq!(ledger.answers(&group("a"), seq(1)), [receipt(1, 9), receipt(2, 8), receipt(3, 7)]);
    }

    #[test]
    fn messages_of_equal_seq_in_two_groups_are_kept_apart() {
        let mut ledger = Ledger::default();
        ledger.record_answers(&group("a"), &[(seq(1), receipt(1, 9)), (seq(2), receipt(2, 8))], (7, 7));
        ledger.record_answers(&group("b"), &[(seq(1), receipt(3, 7))], (7, 7));
        assert_eq!(ledger.answers(&group("b"), seq(1)), [receipt(3, 7)]);
        assert_eq!(ledger.answers(&group("b"), seq(2)), []);
        assert_eq!(ledger.all_answers().count(), 3);
        assert_eq!((ledger.answered_arrivals(&group("a")).len(), ledger.answered_arrivals(&group("c")).len()), (1, 0));
    }

    #[test]
    fn a_code_without_counts_is_an_answer_like_any_other() {
        let mut ledger = Ledger::default();
        let none = Receipt { code: 10062, counts: None };
        ledger.record_answers(&group("a"), &[(seq(1), none)], (7, 7));
        ledger.record_answers(&group("a"), &[(seq(1), receipt(0, 3))], (7, 7));
        assert_eq!(ledger.answers(&group("a"), seq(1)), [none, receipt(0, 3)]);
    }

    #[test]
    fn calls_are_counted_by_group_size_and_end() {
        let mut ledger = Ledger::default();
        for (id, seqs, repeats) in [("a", vec![1, 2, 3], false), ("a", vec![1], true), ("b", vec![1], false)] {
            let request = ReceiptRequest { group: group(id), seqs: seqs.into_iter().map(seq).collect() };
            ledger.record_request(&request, repeats);
        }
        assert_eq!(ledger.calls_by_group()[&group("a")], 2);
        assert_eq!(ledger.calls_by_batch_size(), &BTreeMap::from([(1, 2), (3, 1)]));
        assert_eq!(ledger.messages_asked(), 5);
        assert_eq!(ledger.repeated_randoms(), 1);
        for outcome in [Outcome::Answered, Outcome::Answered, Outcome::Abandoned] {
            ledger.record_end(outcome);
        }
        assert_eq!((ledger.ended(Outcome::Answered), ledger.ended(Outcome::Refused), ledger.ended_calls()), (2, 0, 3));
    }

    #[test]
    fn arrivals_give_the_rates() {
        let mut ledger = Ledger::default();
        [0, 999_999, 1_000_000, 2_500_000].into_iter().for_each(|micros| ledger.record_arrival(micros));
        assert_eq!((ledger.calls(), ledger.highest_sliding_second()), (4, 2));
        assert_eq!(ledger.calls_per_second(), [2, 1, 1]);
        assert_eq!(ledger.arrivals(), [0, 999_999, 1_000_000, 2_500_000]);
    }
}
