//! What discovery would cost: estimated from the latest messages of some groups.

use chrono::TimeDelta;

use super::interval;
use crate::{
    domain::Timestamp,
    rules::protocol::others::{GetGroupInfo, HistoryPage, MessageKind},
};

/// Number of a group's messages per hour, by a page of its latest ones: those of the last day, or, if the page does
/// not reach that far, those since its oldest.
pub fn messages_per_hour(page: &HistoryPage, now: Timestamp) -> f64 {
    const DAY: TimeDelta = TimeDelta::days(1);
    let day_ago = now - DAY;
    let is_counted = |kind| matches!(kind, MessageKind::Ordinary);
    let times: Vec<Timestamp> = page
        .messages
        .iter()
        .filter(|message| is_counted(message.kind))
        .filter_map(|message| message.sent_at.filter(|sent_at| *sent_at >= day_ago))
        .collect();
    let oldest = page.messages.iter().filter_map(|message| message.sent_at).min();
    let span = match oldest {
        Some(oldest) if page.has_more && oldest > day_ago => (now - oldest).max(TimeDelta::minutes(1)),
        _ => DAY,
    };
    times.len() as f64 * 3_600.0 / span.as_seconds_f64()
}

/// Number of calls per second that look for new messages in groups with these times since their latest messages.
pub fn looks_per_second(quiet: impl IntoIterator<Item = std::time::Duration>) -> f64 {
    let looks: f64 = quiet.into_iter().map(|quiet| 1.0 / interval(quiet).as_secs_f64()).sum();
    looks / GetGroupInfo::MOST as f64
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{domain::MsgSeq, rules::protocol::others::HistoryMessage};

    #[test]
    fn a_busy_group_is_estimated_from_less_than_a_day() {
        let now: Timestamp = "2026-11-26T12:00:00Z".parse().unwrap();
        let page = |minutes: &[i64], has_more| HistoryPage {
            messages: minutes
                .iter()
                .zip((1..=20).rev())
                .map(|(minutes, seq)| HistoryMessage {
                    seq: MsgSeq::try_from(seq).unwrap(),
                    sent_at: Some(now - TimeDelta::minutes(*minutes)),
                    kind: MessageKind::Ordinary,
                })
                .collect(),
            has_more,
        };
        assert_eq!(messages_per_hour(&page(&[10, 20, 30], true), now), 6.0);
        assert_eq!(messages_per_hour(&page(&[60, 120, 3_000], true), now), 2.0 / 24.0);
        assert_eq!(messages_per_hour(&page(&[60, 120, 180], false), now), 3.0 / 24.0);
        assert_eq!(messages_per_hour(&HistoryPage::default(), now), 0.0);
    }

    #[test]
    fn five_hundred_busy_groups_take_a_call_a_second() {
        assert!((looks_per_second(vec![Duration::ZERO; 500]) - 1.0).abs() < 1e-9);
    }
}
