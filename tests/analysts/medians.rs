//! `time_until`: times until messages reached something, including those that have not.

use fastrand::Rng;

use crate::history::History;

/// A message: the number of seconds until it got there, or for which it is known not to have.
type Message = (Option<i64>, Option<i64>);

fn asked(messages: &[Message], share: &str) -> String {
    let array = |of: fn(&Message) -> Option<i64>| {
        let times = messages.iter().map(|message| of(message).map_or("NULL".to_owned(), |time| format!("'{time} s'")));
        format!("ARRAY[{}]::interval[]", times.collect::<Vec<_>>().join(", "))
    };
    format!(
        "SELECT extract(epoch FROM receiptd.time_until({}, {}{share}))::bigint",
        array(|message| message.0),
        array(|message| message.1)
    )
}

#[tokio::test]
async fn the_median_is_null_unless_half_of_all_got_there() {
    let history = History::new().await;
    let median = |messages: &[Message]| history.psql(&asked(messages, ""));
    let never = (None, Some(1_000));
    assert_eq!(median(&[(Some(10), Some(900)), (Some(30), Some(900)), never, never]), "30");
    assert_eq!(median(&[(Some(10), Some(900)), never, never]), "");
    assert_eq!(median(&[(Some(10), None), (Some(20), None), (Some(30), None)]), "20");
    assert_eq!(median(&[]), "");
    assert_eq!(median(&[(None, None)]), "", "nothing is known of it");
    // Only the first five seconds of the young one are known.
    assert_eq!(median(&[(Some(10), Some(900)), (None, Some(5)), never]), "10");
    let ninth = |messages: &[Message]| history.psql(&asked(messages, ", 0.9"));
    let ten: Vec<Message> = (1..=10).map(|number| (Some(number), Some(900))).collect();
    assert_eq!(ninth(&ten), "9");
}

/// The plain calculation: each message that got there takes its share of those still known before.
fn reckoned(messages: &[Message], share: f64) -> Option<i64> {
    let mut times: Vec<i64> = messages.iter().filter_map(|message| message.0).collect();
    times.sort_unstable();
    times.dedup();
    let mut missing = 1.0;
    times.into_iter().find(|time| {
        let known =
            messages.iter().filter(|message| message.0.or(message.1).is_some_and(|until| until >= *time)).count();
        let got_there = messages.iter().filter(|message| message.0 == Some(*time)).count();
        missing *= 1.0 - got_there as f64 / known as f64;
        missing <= 1.0 - share + 1e-9
    })
}

#[tokio::test]
async fn random_messages_come_to_what_a_plain_reckoning_says() {
    let history = History::new().await;
    let mut random = Rng::with_seed(7);
    for _ in 0..40 {
        let mut message = || match random.u8(0..3) {
            0 => (None, Some(random.i64(0..20))),
            _ => (Some(random.i64(0..20)), Some(20)),
        };
        let messages: Vec<Message> = (0..15).map(|_| message()).collect();
        let expected = reckoned(&messages, 0.5).map(|time| time.to_string()).unwrap_or_default();
        assert_eq!(history.psql(&asked(&messages, "")), expected, "{messages:?}");
    }
}

#[tokio::test]
async fn a_group_whose_messages_are_not_read_by_half_is_no_fast_one() {
    let history = History::new().await;
    history.message(1, "09:00");
    history.message(2, "09:00");
    history.polls(1, &[("09:01", 0, 4), ("09:10", 2, 2)]).await;
    history.polls(2, &[("09:01", 0, 4), ("12:00", 1, 3)]).await;
    history.message(3, "09:00");
    history.polls(3, &[("09:01", 0, 4), ("12:00", 1, 3)]).await;
    history.roll_up("13:00").await;
    assert_eq!(history.psql("SELECT half_read_7d IS NULL FROM receiptd.group_engagement"), "t");
    let median =
        "SELECT receiptd.time_until(array_agg(half_read_at_most), array_agg(known_for)) FROM receiptd.messages";
    assert_eq!(history.psql(median), "");
    history.polls(2, &[("12:30", 2, 2)]).await;
    assert_eq!(history.psql(median), "03:30:00");
    assert_eq!(history.psql("SELECT half_read_7d FROM receiptd.group_engagement"), "03:30:00");
}
