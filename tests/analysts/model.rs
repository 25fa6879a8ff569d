//! Analytics compared with a plain calculation from all polls: random histories, recorded like the daemon does,
//! checked after every step, and rolled up in random steps, with random hours repeated.

use std::collections::HashMap;

use chrono::{DurationRound, TimeDelta};
use fastrand::Rng;
use receiptd::{
    clock,
    domain::{Counts, Receipt, Timestamp},
    rules::{
        cadence::{Following, Known, Phase},
        milestones::AGES,
        recording::{Closed, NO_RECEIPT_POLLS},
        rollup::Stretch,
        slot::SlotKey,
    },
};

use crate::{
    harness::seq,
    history::{History, at, recording, tiers},
};

/// Read and unread; `None` if a poll found no receipt.
type Told = Option<(i32, i32)>;

/// A change seen by a poll.
#[derive(Clone, Copy)]
struct Seen {
    at: Timestamp,
    counts: Told,
    prior_at: Option<Timestamp>,
    prior_read: Option<i32>,
}

impl Seen {
    fn code(&self) -> i32 {
        if self.counts.is_some() { 0 } else { 10062 }
    }
}

struct Message {
    seq: usize,
    sent_at: Timestamp,
    /// Every poll of it.
    polls: Vec<(Timestamp, Told)>,
    phase: Phase,
}

/// A message as polled until some time.
struct Polled {
    seq: usize,
    sent_at: Timestamp,
    known_until: Timestamp,
    /// Why it is closed, if so.
    closed: Option<Closed>,
    seen: Vec<Seen>,
    /// The polls, each with the time when the next one was due.
    polls: Vec<(Timestamp, Told, Timestamp)>,
}

const HOURS: i64 = 50;

fn end() -> Timestamp {
    at("00:00") + TimeDelta::hours(HOURS)
}

/// A message that members read, join and leave, and whose receipt comes and goes. It is polled every few minutes
/// until it is closed; `sent_at` may be hours off, as applications may give it.
fn message(random: &mut Rng, seq: usize) -> Message {
    let mut now = at("00:00") + TimeDelta::seconds(random.i64(0..HOURS * 1_800));
    let sent_at = now + TimeDelta::seconds(random.i64(-10_000..600));
    let (mut read, mut unread) = (random.i32(0..3), random.i32(0..12));
    let mut polls: Vec<(Timestamp, Told)> = vec![];
    for _ in 0..random.usize(1..60) {
        let counts = (random.u8(0..20) > 0).then_some((read, unread));
        polls.push((now, counts));
        // Sometimes on the hour.
        now += TimeDelta::seconds(random.i64(30..4_000));
        if random.u8(0..10) == 0 {
            now = now.duration_trunc(TimeDelta::hours(1)).unwrap() + TimeDelta::hours(1);
        }
        let reads = random.i32(0..3).min(unread);
        (read, unread) = (read + reads, unread - reads);
        match random.u8(0..12) {
            0 => read = (read - 1).max(0),
            1 => unread = (unread - 1).max(0),
            2 => unread += 1,
            _ => {}
        }
        if now >= end() || closed(&polls).is_some() {
            break;
        }
    }
    Message { seq, sent_at, polls, phase: Phase::default() }
}

impl Message {
    /// The polls until `time`; `None` if there was none.
    fn until(&self, time: Timestamp) -> Option<Polled> {
        let (mut seen, mut prior_at, mut known): (Vec<Seen>, _, _) = (vec![], None, None);
        let cadences = tiers();
        let due = |at, told: Told| {
            let is_read = told.is_some_and(|(read, unread)| read > 0 && unread == 0);
            let known = Known { sent_at: self.sent_at, until: Some(at), is_read };
            Following::from(cadences.of(None)).due(self.phase, at, [known]).unwrap()
        };
        let until = self.polls.iter().take_while(|poll| poll.0 <= time);
        let polls: Vec<_> = until.map(|(at, counts)| (*at, *counts, due(*at, *counts))).collect();
        for (at, counts, _) in polls.iter().copied() {
            if seen.last().is_none_or(|last| last.counts != counts) {
                seen.push(Seen { at, counts, prior_at, prior_read: known });
                known = counts.map(|(read, _)| read).or(known);
            }
            prior_at = Some(at);
        }
        let closed = (polls.len() == self.polls.len()).then(|| closed(&self.polls)).flatten();
        Some(Polled { seq: self.seq, sent_at: self.sent_at, known_until: prior_at?, closed, seen, polls })
    }
}

/// Why a message is closed after these polls.
fn closed(polls: &[(Timestamp, Told)]) -> Option<Closed> {
    let (_, last) = polls.last()?;
    let is_confirmed = polls.len() > 1 && polls[polls.len() - 2].1 == *last;
    let without = polls.iter().rev().take_while(|poll| poll.1.is_none()).count();
    match last {
        Some((1.., 0)) if is_confirmed => Some(Closed::AllRead),
        None if without >= usize::try_from(NO_RECEIPT_POLLS).unwrap() => Some(Closed::NoReceipt),
        _ => None,
    }
}

impl Polled {
    /// The counts known just before `time`, or at it if that is included.
    fn known(&self, is_until: impl Fn(Timestamp) -> bool) -> Told {
        self.seen.iter().rev().find(|seen| is_until(seen.at) && seen.counts.is_some()).and_then(|seen| seen.counts)
    }

    fn is_polled_before(&self, time: Timestamp) -> bool {
        self.seen[0].at < time
    }

    fn milestone(&self, is_reached: impl Fn(i32, i32) -> bool) -> String {
        let index =
            self.seen.iter().position(|seen| seen.counts.is_some_and(|(read, unread)| is_reached(read, unread)));
        // Known up to the previous poll, unless that had no counts.
        let before = index.and_then(|index| self.seen.get(index.checked_sub(1)?)).filter(|seen| seen.counts.is_some());
        let reached = index.map(|index| &self.seen[index]);
        let after = before.and(reached).and_then(|seen| seen.prior_at);
        format!("{}|{}", shown(after), shown(reached.map(|seen| seen.at)))
    }

    fn rate(&self, age: TimeDelta) -> String {
        let then = self.sent_at + age;
        let counts = self.known(|at| at <= then).filter(|(read, unread)| read + unread > 0 && self.is_known(then));
        counts.map_or_else(String::new, |(read, unread)| format!("{:.4}", f64::from(read) / f64::from(read + unread)))
    }

    /// Whether the counts at a time are known: a poll until then was the last that was due, or the next one saw the
    /// same.
    fn is_known(&self, time: Timestamp) -> bool {
        let Some((at, told, due)) = self.polls.iter().rev().find(|poll| poll.0 <= time) else { return false };
        match (self.polls.iter().find(|poll| poll.0 > time), self.closed) {
            (Some(next), _) => next.1 == *told || time <= *due + TimeDelta::minutes(1),
            (None, Some(Closed::AllRead)) => time <= clock::now(),
            (None, Some(_)) => time == *at,
            (None, None) => time <= (*due).min(clock::now()),
        }
    }

    /// The row of the message in `receipts_at`, if it was known then.
    fn at(&self, moment: Timestamp) -> Option<String> {
        let seen = self.seen.iter().rev().find(|seen| seen.at <= moment)?;
        Some(format!("{}|{}|{}|{}", self.seq, both(self.known(|at| at <= moment)), seen.code(), shown(Some(seen.at))))
    }

    /// The same if the snapshots of that day are gone: the counts at the end of the day before, if the day's changes
    /// are not over.
    fn at_without_snapshots(&self, moment: Timestamp) -> Option<String> {
        self.seen.first().filter(|seen| seen.at <= moment)?;
        let midnight = moment.duration_trunc(TimeDelta::days(1)).unwrap();
        let of_day = || self.seen.iter().filter(|seen| midnight <= seen.at && seen.at < midnight + TimeDelta::days(1));
        if of_day().next().is_none_or(|first| moment < first.at) || of_day().all(|seen| seen.at <= moment) {
            return self.at(moment).map(|row| format!("{row}|t"));
        }
        let before = self.at(midnight - TimeDelta::microseconds(1));
        Some(before.map_or_else(|| format!("{}|||||f", self.seq), |row| format!("{row}|f")))
    }

    /// The row of the message in `message_days`, if it changed on that day.
    fn day(&self, midnight: Timestamp) -> Option<String> {
        let end = midnight + TimeDelta::days(1);
        let of_day: Vec<&Seen> = self.seen.iter().filter(|seen| midnight <= seen.at && seen.at < end).collect();
        let (first, last) = (of_day.first()?, of_day.last()?);
        let steps = of_day.iter().filter_map(|seen| Some((seen.counts?.0, seen.prior_read?)));
        let (gained, lost) = steps.fold((0, 0), |(gained, lost), (read, prior)| {
            (gained + (read - prior).max(0), lost + (prior - read).max(0))
        });
        let firsts = of_day.iter().filter(|seen| seen.prior_read.is_none()).filter_map(|seen| seen.counts);
        let (found, counts) = (firsts.map(|counts| counts.0).sum::<i32>(), both(self.known(|at| at < end)));
        let (from, until) = (shown(Some(first.at)), shown(Some(last.at)));
        Some(format!(
            "{}|{}|{gained}|{lost}|{found}|{counts}|{}|{from}|{until}",
            self.seq,
            midnight.format("%d"),
            last.code()
        ))
    }

    /// Whether its counts have changed since, or those at an age were settled.
    fn has_changed_since(&self, moment: Timestamp) -> bool {
        let last = self.seen.last().map_or(self.sent_at, |seen| seen.at);
        let ages = AGES.map(|age| self.sent_at + age).into_iter().filter(|then| *then > last && self.is_known(*then));
        ages.chain([last, self.sent_at]).any(|time| time >= moment)
    }

    /// The rows of the message in `receipt_curve`.
    fn curve(&self, step: TimeDelta) -> String {
        let steps = (0..).map(|number| self.sent_at + step * number).take_while(|at| *at <= self.known_until);
        let row = |at| format!("{}|{}", shown(Some(at)), both(self.known(|seen| seen <= at)));
        steps.map(row).collect::<Vec<_>>().join("\n")
    }

    /// The row of the message in `message_milestones`.
    fn row(&self) -> String {
        let counts = both(self.known(|_| true));
        let milestones = [
            self.milestone(|read, _| read > 0),
            self.milestone(|read, unread| read + unread > 0 && read * 2 >= read + unread),
            self.milestone(|read, unread| read + unread > 0 && read * 10 >= (read + unread) * 8),
            self.milestone(|read, unread| read + unread > 0 && read * 10 >= (read + unread) * 9),
            self.milestone(|read, unread| read + unread > 0 && unread == 0),
        ];
        let rates = AGES.map(|age| self.rate(age));
        let known_until = shown(Some(self.known_until));
        format!("{}|{counts}|{known_until}|{}|{}", self.seq, milestones.join("|"), rates.join("|"))
    }
}

fn both(counts: Told) -> String {
    counts.map_or_else(|| "|".to_owned(), |(read, unread)| format!("{read}|{unread}"))
}

fn shown(time: Option<Timestamp>) -> String {
    time.map(|time| time.format("%d %H:%M:%S").to_string()).unwrap_or_default()
}

/// The row of an hour in `hourly_receipts`.
fn hour(messages: &[Polled], from: Timestamp, aged: usize) -> String {
    let until = from + TimeDelta::hours(1);
    let within = |time: Timestamp| from <= time && time < until;
    let (mut gained, mut lost, mut found) = (0, 0, 0);
    for seen in messages.iter().flat_map(|message| &message.seen).filter(|seen| within(seen.at)) {
        let Some((read, _)) = seen.counts else { continue };
        match seen.prior_read {
            Some(prior) => (gained, lost) = (gained + (read - prior).max(0), lost + (prior - read).max(0)),
            None => found += read,
        }
    }
    let sent = messages.iter().filter(|message| within(message.sent_at)).count();
    let polled = messages.iter().filter(|message| message.is_polled_before(until));
    let unread: i32 = polled.clone().filter_map(|message| message.known(|at| at < until)).map(|counts| counts.1).sum();
    format!("{}|{sent}|{}|{gained}|{lost}|{found}|{unread}|{aged}", shown(Some(from)), polled.count())
}

/// The number of messages that became a day old in an hour and have a rate then, as far as known when the hour is
/// rolled up.
fn aged(messages: &[Polled], hour: Timestamp) -> usize {
    let day = TimeDelta::hours(24);
    let is_of_hour = |message: &&Polled| (message.sent_at + day).duration_trunc(TimeDelta::hours(1)).unwrap() == hour;
    messages.iter().filter(is_of_hour).filter(|message| !message.rate(day).is_empty()).count()
}

/// Watches the messages, each in its own slot.
async fn watch(history: &History, messages: &mut [Message]) -> Vec<SlotKey> {
    let rows: Vec<String> =
        messages.iter().map(|message| format!("(1, {}, '{}')", message.seq, message.sent_at)).collect();
    history.psql(&format!(
        "INSERT INTO receiptd.watched_messages (group_key, msg_seq, sent_at) VALUES {}",
        rows.join(", ")
    ));
    let mut slots = vec![];
    for message in messages {
        let key = history.slot_of(seq(i64::try_from(message.seq).unwrap())).await.key;
        message.phase = Phase::of_slot(key.slot_id);
        slots.push(key);
    }
    slots
}

/// Records the polls after `from` until `until`: many concurrently, those of one message in order.
async fn poll(history: &History, messages: &[Message], slots: &[SlotKey], from: Timestamp, until: Timestamp) {
    let due = |message: &Message| -> Vec<(Timestamp, Told)> {
        message.polls.iter().copied().filter(|poll| from < poll.0 && poll.0 <= until).collect()
    };
    let due: Vec<_> = messages.iter().map(due).collect();
    for round in 0..due.iter().map(Vec::len).max().unwrap_or_default() {
        let mut recordings = vec![];
        for slot in history.store.read_slots(slots).await.unwrap() {
            let number = slots.iter().position(|id| *id == slot.key).unwrap();
            let Some((at, told)) = due[number].get(round) else { continue };
            let counts = told.and_then(|(read, unread)| Counts::new(read.into(), unread.into()));
            let code = if counts.is_some() { 0 } else { 10062 };
            recordings.push(recording(slot, *at, Receipt { code, counts }));
        }
        assert_eq!(recordings.len(), due.iter().filter(|due| due.len() > round).count(), "a slot is gone");
        history.record(recordings).await;
    }
}

const MILESTONES: &str = "SELECT msg_seq, read_num, unread_num, to_char(known_until, t),
    to_char(first_read_after, t), to_char(first_read_by, t), to_char(half_read_after, t), to_char(half_read_by, t),
    to_char(p80_read_after, t), to_char(p80_read_by, t), to_char(p90_read_after, t), to_char(p90_read_by, t), to_char(all_read_after, t), to_char(all_read_by, t),
    read_rate_15m::numeric(5, 4), read_rate_1h::numeric(5, 4), read_rate_24h::numeric(5, 4), read_rate_7d::numeric(5, 4)
    FROM receiptd.message_milestones, (SELECT 'DD HH24:MI:SS' AS t) form WHERE first_polled_at IS NOT NULL ORDER BY msg_seq";

const DAYS: &str = "SELECT msg_seq, to_char(day, 'DD'), reads_gained, reads_lost, reads_found, read_num, unread_num, code,
    to_char(first_seen_at, 'DD HH24:MI:SS'), to_char(last_seen_at, 'DD HH24:MI:SS') FROM receiptd.message_days ORDER BY 1, 2";

const HOURLY: &str =
    "SELECT to_char(hour, 'DD HH24:MI:SS'), messages_sent, messages_active, reads_gained, reads_lost, reads_found,
    unread_backlog, messages_aged_24h FROM receiptd.hourly_receipts ORDER BY hour";

async fn compare(seed: u64) {
    let mut random = Rng::with_seed(seed);
    let mut messages: Vec<Message> = (1..=30).map(|seq| message(&mut random, seq)).collect();
    let history = History::new().await;
    let slots = watch(&history, &mut messages).await;
    let mut ages: HashMap<Timestamp, usize> = HashMap::new();
    let mut now = at("00:00") - TimeDelta::seconds(1);
    while now < end() {
        let step = TimeDelta::seconds(random.i64(60..9_000));
        poll(&history, &messages, &slots, now, (now + step).min(end())).await;
        now = (now + step).min(end());
        let polled: Vec<Polled> = messages.iter().filter_map(|message| message.until(now)).collect();
        let rows: Vec<String> = polled.iter().map(Polled::row).collect();
        assert_eq!(history.psql(MILESTONES), rows.join("\n"), "milestones of seed {seed} at {now}");
        while let Some(stretch) = history.store.roll_up_next(now).await.unwrap() {
            let hours = stretch.completes().into_iter().flat_map(Stretch::hours);
            ages.extend(hours.map(|hour| (hour.from, aged(&polled, hour.from))));
        }
        if random.u8(0..4) == 0 {
            let hour = (now - TimeDelta::hours(random.i64(0..5))).duration_trunc(TimeDelta::hours(1)).unwrap();
            history.store.roll_up_again(Stretch::of_hour(hour), false).await.unwrap();
            ages.entry(hour).and_modify(|ages| *ages = aged(&polled, hour));
        }
    }
    let messages: Vec<Polled> = messages.iter().filter_map(|message| message.until(end())).collect();
    let told = history.psql(HOURLY);
    let first = messages.iter().map(|message| message.sent_at.min(message.seen[0].at)).min().unwrap();
    let first = first.duration_trunc(TimeDelta::hours(1)).unwrap();
    let hours = (0..).map(|number| first + TimeDelta::hours(number)).take_while(|hour| *hour < end());
    let expected: Vec<String> =
        hours.map(|from| hour(&messages, from, ages.get(&from).copied().unwrap_or_default())).collect();
    for row in told.lines() {
        assert!(
            expected.iter().any(|expected| expected == row),
            "hours of seed {seed}: {row} is not in\n{}",
            expected.join("\n")
        );
    }
    let empty = |row: &&String| row.ends_with("|0|0|0|0|0|0|0");
    assert_eq!(told.lines().count(), expected.iter().filter(|row| !empty(row)).count(), "hours of seed {seed}\n{told}");
    ask_at_moments(&history, &messages, &mut random, seed);
    let days = [at("00:00"), at("00:00") + TimeDelta::days(1)];
    let expected: Vec<String> =
        messages.iter().flat_map(|message| days.iter().filter_map(|midnight| message.day(*midnight))).collect();
    assert_eq!(history.psql(DAYS), expected.join("\n"), "days of seed {seed}");
    for day in ["20", "21"] {
        history.psql(&format!("DROP TABLE receiptd_partitions.receipt_snapshots_202611{day}"));
    }
    assert_eq!(history.psql(DAYS), expected.join("\n"), "days of seed {seed}");
    ask_at_moments_without_snapshots(&history, &messages, &mut random, seed);
}

fn ask_at_moments_without_snapshots(history: &History, messages: &[Polled], random: &mut Rng, seed: u64) {
    for _ in 0..6 {
        let moment = at("00:00") + TimeDelta::seconds(random.i64(0..48 * 3_600));
        let known: Vec<String> = messages.iter().filter_map(|message| message.at_without_snapshots(moment)).collect();
        let asked = format!(
            "SELECT msg_seq, read_num, unread_num, code, to_char(observed_at, 'DD HH24:MI:SS'), is_exact
             FROM receiptd.receipts_at('{moment}') ORDER BY msg_seq"
        );
        assert_eq!(history.psql(&asked), known.join("\n"), "without snapshots: seed {seed} at {moment}");
    }
}

fn ask_at_moments(history: &History, messages: &[Polled], random: &mut Rng, seed: u64) {
    for _ in 0..4 {
        let moment = at("00:00") + TimeDelta::seconds(random.i64(0..HOURS * 3_600));
        let known: Vec<String> = messages.iter().filter_map(|message| message.at(moment)).collect();
        let asked = format!(
            "SELECT msg_seq, read_num, unread_num, code, to_char(observed_at, 'DD HH24:MI:SS')
             FROM receiptd.receipts_at('{moment}') ORDER BY msg_seq"
        );
        assert_eq!(history.psql(&asked), known.join("\n"), "seed {seed} at {moment}");
        let changed = messages.iter().filter(|message| message.has_changed_since(moment));
        let changed: Vec<String> = changed.map(|message| message.seq.to_string()).collect();
        // Late: everything was stored long after its time.
        history.psql("UPDATE receiptd.watched_messages SET updated_at = sent_at");
        for rows in [format!("messages_since('{moment}')"), format!("messages WHERE updated_at >= '{moment}'")] {
            let asked = format!("SELECT msg_seq FROM receiptd.{rows} ORDER BY 1");
            assert_eq!(history.psql(&asked), changed.join("\n"), "seed {seed}: {asked}");
        }
        let message = &messages[random.usize(0..messages.len())];
        let asked = format!(
            "SELECT to_char(at, 'DD HH24:MI:SS'), read_num, unread_num
             FROM receiptd.receipt_curve('g', {}, '37 minutes')",
            message.seq
        );
        assert_eq!(history.psql(&asked), message.curve(TimeDelta::minutes(37)), "seed {seed}, message {}", message.seq);
    }
}

#[tokio::test]
async fn random_histories_come_to_what_a_plain_reckoning_says() {
    // One after the other: while one waits for `psql`, idle transactions of others would be ended.
    for seed in 1..=4 {
        compare(seed).await;
    }
}
