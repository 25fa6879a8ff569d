//! Analytics compared with the model: random histories, recorded like the daemon does, checked after every step, and
//! rolled up in random steps, with random hours repeated.

use super::*;
use crate::history::History;

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
        history.psql(&format!("DROP TABLE receiptd_partitions.receipt_snapshots_202511{day}"));
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
