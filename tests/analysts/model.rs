//! What the roll-up comes to, against a plain reckoning of the same from all that was seen: random histories, rolled up in
//! random steps, with random hours done again.

use chrono::{DurationRound, TimeDelta};
use fastrand::Rng;
use receiptd::domain::Timestamp;

use crate::history::{History, at};

/// What a poll saw that differed from the one before.
#[derive(Clone, Copy)]
struct Seen {
    at: Timestamp,
    /// Read and unread; none where it said that there is no receipt.
    counts: Option<(i32, i32)>,
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
    seen: Vec<Seen>,
}

const HOURS: i64 = 50;

fn end() -> Timestamp {
    at("00:00") + TimeDelta::hours(HOURS)
}

/// A message that people read, join and leave, and whose receipt comes and goes. It is polled every few minutes; `sent_at` may
/// be hours off, as an application says it.
fn message(random: &mut Rng, seq: usize) -> Message {
    let mut now = at("00:00") + TimeDelta::seconds(random.i64(0..HOURS * 1_800));
    let sent_at = now + TimeDelta::seconds(random.i64(-10_000..600));
    let (mut read, mut unread) = (random.i32(0..3), random.i32(0..12));
    let (mut seen, mut prior_at, mut known): (Vec<Seen>, _, _) = (vec![], None, None);
    for _ in 0..random.usize(1..60) {
        let counts = (random.u8(0..20) > 0).then_some((read, unread));
        if seen.last().is_none_or(|last| last.counts != counts) {
            seen.push(Seen { at: now, counts, prior_at, prior_read: known });
            known = counts.map(|(read, _)| read).or(known);
        }
        prior_at = Some(now);
        // On the hour now and then.
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
        if now >= end() {
            break;
        }
    }
    Message { seq, sent_at, seen }
}

impl Message {
    /// The counts that were known just before `time`, or at it if that counts too.
    fn known(&self, is_until: impl Fn(Timestamp) -> bool) -> Option<(i32, i32)> {
        self.seen.iter().rev().find(|seen| is_until(seen.at) && seen.counts.is_some()).and_then(|seen| seen.counts)
    }

    fn is_polled_before(&self, time: Timestamp) -> bool {
        self.seen[0].at < time
    }

    fn milestone(&self, is_reached: impl Fn(i32, i32) -> bool) -> String {
        let reached = self.seen.iter().find(|seen| seen.counts.is_some_and(|(read, unread)| is_reached(read, unread)));
        let after = reached.and_then(|seen| seen.prior_at.filter(|_| seen.prior_read.is_some()));
        format!("{}|{}", shown(after), shown(reached.map(|seen| seen.at)))
    }

    fn rate(&self, age: TimeDelta) -> String {
        let then = self.sent_at + age;
        let counts = self.known(|at| at <= then).filter(|_| then < end());
        let rate = counts.filter(|(read, unread)| read + unread > 0).map(|(read, unread)| {
            let rate = f64::from(read) / f64::from(read + unread);
            format!("{rate:.4}")
        });
        rate.unwrap_or_default()
    }

    /// The row of the message in `receipts_at`, if anything was known of it then.
    fn at(&self, moment: Timestamp) -> Option<String> {
        let seen = self.seen.iter().rev().find(|seen| seen.at <= moment)?;
        Some(format!("{}|{}|{}|{}", self.seq, both(self.known(|at| at <= moment)), seen.code(), shown(Some(seen.at))))
    }

    /// The rows of the message in `receipt_curve`.
    fn curve(&self, step: TimeDelta) -> String {
        let steps = (0..).map(|number| self.sent_at + step * number).take_while(|at| *at <= end());
        let row = |at| format!("{}|{}", shown(Some(at)), both(self.known(|seen| seen <= at)));
        steps.map(row).collect::<Vec<_>>().join("\n")
    }

    /// The row of the message in `message_milestones`.
    fn row(&self) -> String {
        let counts = both(self.known(|_| true));
        let milestones = [
            self.milestone(|read, _| read > 0),
            self.milestone(|read, unread| read + unread > 0 && read * 2 >= read + unread),
            self.milestone(|read, unread| read + unread > 0 && read * 10 >= (read + unread) * 9),
            self.milestone(|read, unread| read + unread > 0 && unread == 0),
        ];
        let ages = [TimeDelta::minutes(15), TimeDelta::hours(1), TimeDelta::hours(24), TimeDelta::days(7)];
        let rates = ages.map(|age| self.rate(age));
        format!("{}|{counts}|{}|{}", self.seq, milestones.join("|"), rates.join("|"))
    }
}

fn both(counts: Option<(i32, i32)>) -> String {
    counts.map_or_else(|| "|".to_owned(), |(read, unread)| format!("{read}|{unread}"))
}

fn shown(time: Option<Timestamp>) -> String {
    time.map(|time| time.format("%d %H:%M:%S").to_string()).unwrap_or_default()
}

/// The row of an hour in `hourly_receipts`.
fn hour(messages: &[Message], from: Timestamp) -> String {
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
    let aged = messages.iter().filter(|message| within(message.sent_at + TimeDelta::hours(24)));
    let aged = aged.filter(|message| !message.rate(TimeDelta::hours(24)).is_empty()).count();
    format!("{}|{sent}|{}|{gained}|{lost}|{found}|{unread}|{aged}", shown(Some(from)), polled.count())
}

fn store(history: &History, messages: &[Message]) {
    let number = |number: Option<i32>| number.map_or_else(|| "NULL".to_owned(), |number| number.to_string());
    let (mut watched, mut snapshots) = (vec![], vec![]);
    for message in messages {
        let Message { seq, sent_at, seen } = message;
        let (first, last) = (seen[0], seen[seen.len() - 1]);
        let known = message.known(|_| true);
        let counts = format!("{}, {}", number(known.map(|counts| counts.0)), number(known.map(|counts| counts.1)));
        let times = format!("'{}', '{}', '{}'", first.at, last.at, end());
        watched.push(format!("(1, {seq}, '{sent_at}', {counts}, {}, {times})", last.code()));
        snapshots.extend(seen.iter().map(|seen| {
            let (read, unread) = (seen.counts.map(|counts| counts.0), seen.counts.map(|counts| counts.1));
            let code = seen.code();
            let prior_at = seen.prior_at.map_or_else(|| "NULL".to_owned(), |prior| format!("'{prior}'"));
            let counts = format!("{}, {}, {code}, {prior_at}", number(read), number(unread));
            format!("(1, {seq}, '{}', {counts}, {})", seen.at, number(seen.prior_read))
        }));
    }
    history.psql(&format!(
        "INSERT INTO receiptd.watched_messages (group_key, msg_seq, sent_at, read_num, unread_num, receipt_code,
            first_polled_at, last_changed_at, known_until) VALUES {};
         INSERT INTO receiptd.receipt_snapshots
            (group_key, msg_seq, polled_at, read_num, unread_num, code, prior_polled_at, prior_read_num) VALUES {}",
        watched.join(", "),
        snapshots.join(", ")
    ));
}

const MILESTONES: &str = "SELECT msg_seq, read_num, unread_num,
    to_char(first_read_after, t), to_char(first_read_by, t), to_char(half_read_after, t), to_char(half_read_by, t),
    to_char(p90_read_after, t), to_char(p90_read_by, t), to_char(all_read_after, t), to_char(all_read_by, t),
    read_rate_15m::numeric(5, 4), read_rate_1h::numeric(5, 4), read_rate_24h::numeric(5, 4), read_rate_7d::numeric(5, 4)
    FROM receiptd.message_milestones, (SELECT 'DD HH24:MI:SS' AS t) form ORDER BY msg_seq";

const HOURLY: &str =
    "SELECT to_char(hour, 'DD HH24:MI:SS'), messages_sent, messages_active, reads_gained, reads_lost, reads_found,
    unread_backlog, messages_aged_24h FROM receiptd.hourly_receipts ORDER BY hour";

async fn compare(seed: u64) {
    let mut random = Rng::with_seed(seed);
    let messages: Vec<Message> = (1..=30).map(|seq| message(&mut random, seq)).collect();
    let history = History::new().await;
    store(&history, &messages);
    let mut now = at("00:00");
    while now < end() {
        now = (now + TimeDelta::seconds(random.i64(60..9_000))).min(end());
        while history.store.roll_up_next(now).await.unwrap().is_some() {}
        if random.u8(0..4) == 0 {
            let back = TimeDelta::hours(random.i64(0..5));
            history.store.roll_up_again((now - back).duration_trunc(TimeDelta::hours(1)).unwrap()).await.unwrap();
        }
    }
    let rows: Vec<String> = messages.iter().map(Message::row).collect();
    assert_eq!(history.psql(MILESTONES), rows.join("\n"), "milestones of seed {seed}");
    let told = history.psql(HOURLY);
    let first = messages.iter().map(|message| message.sent_at.min(message.seen[0].at)).min().unwrap();
    let first = first.duration_trunc(TimeDelta::hours(1)).unwrap();
    let hours = (0..).map(|number| first + TimeDelta::hours(number)).take_while(|hour| *hour < end());
    let expected: Vec<String> = hours.map(|from| hour(&messages, from)).collect();
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
}

fn ask_at_moments(history: &History, messages: &[Message], random: &mut Rng, seed: u64) {
    for _ in 0..4 {
        let moment = at("00:00") + TimeDelta::seconds(random.i64(0..HOURS * 3_600));
        let known: Vec<String> = messages.iter().filter_map(|message| message.at(moment)).collect();
        let asked = format!(
            "SELECT msg_seq, read_num, unread_num, code, to_char(observed_at, 'DD HH24:MI:SS')
             FROM receiptd.receipts_at('{moment}') ORDER BY msg_seq"
        );
        assert_eq!(history.psql(&asked), known.join("\n"), "seed {seed} at {moment}");
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
    // One after the other: while one waits for `psql`, the transactions of others would stand idle until they are ended.
    for seed in 1..=4 {
        compare(seed).await;
    }
}
