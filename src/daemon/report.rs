//! The state of the daemon in one value, for systemd's status line, the log, the page and `receiptd status`.
//!
//! From memory only: neither the database nor the service is asked. Contains no secret.

use std::{
    fmt,
    time::{Duration, Instant},
};

use indicatif::HumanCount;
use serde::Serialize;

use crate::{
    clock,
    daemon::{
        activity::Minute,
        discovery::DiscoveryReport,
        events::WebhookReport,
        poller::HeldGroup,
        status::{DaemonStatus, Role},
    },
    host::Holder,
    rules::protocol::Class,
    store::Watched,
    text::counted::counted,
};

/// The state of the daemon.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The process that polls.
    pub role: Role,
    /// The epoch of the lease, if this process holds it.
    pub epoch: Option<i64>,
    /// Watched messages and groups, as last counted.
    pub watched: Option<Watched>,
    /// Why it is not polling, if so.
    pub trouble: Option<String>,
    /// Why calls are paused, while it is not known whether the app or single groups are refused.
    pub doubt: Option<String>,
    /// Number of groups held back because Tencent Chat refused them.
    pub held_groups: usize,
    /// The first of them.
    pub held: Vec<HeldGroup>,
    /// What is wrong with the clocks, if anything. Meanwhile nothing expires and nothing is removed.
    pub clock: Option<String>,
    /// Calls on the schedule: messages of a group that are polled together.
    pub scheduled_calls: usize,
    /// Polls in flight.
    pub polls_in_flight: usize,
    /// Calls per second, over the last ten seconds.
    pub calls_per_second: f64,
    /// Current rate limit in calls per second, lower after a slow-down.
    pub calls_per_second_allowed: u32,
    /// Factor by which all intervals are longer, since more is due than the limit allows; 1 while everything fits.
    pub stretch: f64,
    /// Maximum number of messages per call, lower than configured if the service accepts fewer.
    pub batch_size: usize,
    /// Time for which the most overdue poll that has not started has been due, in seconds.
    pub behind_seconds: f64,
    /// Counts of webhooks and their results since the start; `None` if this process doesn't listen for them.
    pub webhooks: Option<WebhookReport>,
    /// The same in words.
    pub webhooks_in_words: Option<String>,
    /// Discovery; `None` if it is not running.
    pub discovery: Option<DiscoveryReport>,
    /// The last hour.
    pub last_hour: Hour,
}

/// Activity within an hour.
#[derive(Debug, Clone, Serialize)]
pub struct Hour {
    /// Attempts by class of their outcome, without zeros.
    pub calls: Vec<(&'static str, u64)>,
    /// Messages asked for.
    pub messages: u64,
    /// Receipts that differed from the previous ones.
    pub changes: u64,
    /// Rows written to `receipt_snapshots`.
    pub snapshots: u64,
    /// Maximum number of attempts sent within any second.
    pub highest_second: usize,
    /// Lateness of the latest poll, in seconds.
    pub latest_by_seconds: f64,
}

impl From<Minute> for Hour {
    fn from(minute: Minute) -> Self {
        let calls = Class::ALL.iter().zip(minute.calls).filter(|(_, calls)| *calls > 0);
        Self {
            calls: calls.map(|(class, calls)| (class.name(), calls)).collect(),
            messages: minute.messages,
            changes: minute.changes,
            snapshots: minute.snapshots,
            highest_second: minute.highest_second,
            latest_by_seconds: minute.latest_by.as_secs_f64(),
        }
    }
}

impl Report {
    /// The state of the daemon with this `status`.
    pub fn of(status: &DaemonStatus, now: Instant) -> Self {
        let poller = status.poller();
        let of_poller = |tell: fn(&crate::daemon::poller::PollerStatus) -> usize| poller.as_deref().map_or(0, tell);
        let (held_groups, held) = poller.as_deref().map(crate::daemon::poller::PollerStatus::held).unwrap_or_default();
        let webhooks = status.webhooks().map(|webhooks| webhooks.report(clock::uptime()));
        Self {
            role: status.role(),
            epoch: status.epoch(),
            watched: status.watched(),
            trouble: status.trouble(),
            doubt: poller.as_deref().and_then(crate::daemon::poller::PollerStatus::doubt),
            held_groups,
            held,
            clock: status.doubt().map(|doubt| doubt.to_string()),
            scheduled_calls: of_poller(crate::daemon::poller::PollerStatus::slots),
            polls_in_flight: of_poller(crate::daemon::poller::PollerStatus::in_flight),
            calls_per_second: status.activity().rate(now),
            calls_per_second_allowed: poller.as_ref().map_or(0, |poller| poller.rate()),
            stretch: poller.as_ref().map_or(1.0, |poller| poller.stretch()),
            batch_size: of_poller(crate::daemon::poller::PollerStatus::batch_size),
            behind_seconds: poller.as_ref().map_or(Duration::ZERO, |poller| poller.behind()).as_secs_f64(),
            webhooks_in_words: webhooks.as_ref().map(ToString::to_string),
            webhooks,
            discovery: status.discovery(),
            last_hour: status.activity().hour(now).into(),
        }
    }

    /// The last hour in one line.
    pub fn hour_in_words(&self) -> String {
        let hour = &self.last_hour;
        let calls: u64 = hour.calls.iter().map(|(_, calls)| calls).sum();
        let classes: Vec<String> =
            hour.calls.iter().map(|(class, calls)| format!("{class} {}", HumanCount(*calls))).collect();
        let classes = if classes.is_empty() { String::new() } else { format!(" ({})", classes.join(", ")) };
        format!(
            "the last hour: {}{classes} for {}, {}, {}; at most {} in a second, polls up to {:.1} s late; {self}",
            counted(calls, "call"),
            counted(hour.messages, "message"),
            counted(hour.changes, "change"),
            counted(hour.snapshots, "snapshot"),
            counted(hour.highest_second as u64, "call"),
            hour.latest_by_seconds,
        )
    }
}

/// One line, as in `systemctl status`.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.tell_work(f)?;
        self.clock.iter().try_for_each(|clock| write!(f, "; warning: {clock}"))
    }
}

impl Report {
    fn tell_work(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(trouble) = &self.trouble {
            return f.write_str(trouble);
        }
        if let Role::StandingBy(other) = &self.role {
            let other = other.as_deref().map_or_else(|| "an unknown holder".to_owned(), Holder::in_words);
            return write!(f, "standing by: this app is polled by {other}");
        }
        match &self.watched {
            Some(Watched { groups, messages, .. }) => {
                let (groups, messages) = (groups.unsigned_abs(), messages.unsigned_abs());
                write!(f, "polling {} in {}", counted(messages, "message"), counted(groups, "group"))?;
            }
            None => write!(f, "polling {} on the schedule", counted(self.scheduled_calls as u64, "call"))?,
        }
        write!(f, ", {:.0} calls/s, {:.1} s behind", self.calls_per_second, self.behind_seconds)?;
        if self.stretch > 1.0 {
            write!(f, "; intervals are {:.1} times as long, since more is due than the limit allows", self.stretch)?;
        }
        match self.held_groups {
            0 => Ok(()),
            1 => f.write_str("; 1 refused group is held back"),
            held => write!(f, "; {} refused groups are held back", HumanCount(held as u64)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut minute = Minute { messages: 620, changes: 31, highest_second: 187, ..Minute::default() };
        (minute.calls[Class::Success as usize], minute.calls[Class::Retry as usize]) = (12_430, 1);
        Report {
            role: Role::Polling,
            epoch: Some(3),
            watched: Some(Watched { groups: 310, messages: 12_431, quarantined: 0 }),
            trouble: None,
            doubt: None,
            held_groups: 0,
            held: vec![],
            clock: None,
            scheduled_calls: 400,
            polls_in_flight: 4,
            calls_per_second: 187.2,
            calls_per_second_allowed: 200,
            stretch: 1.0,
            batch_size: 50,
            behind_seconds: 0.42,
            webhooks: None,
            webhooks_in_words: None,
            discovery: None,
            last_hour: minute.into(),
        }
    }

    #[test]
    fn the_line_says_what_is_polled_how_fast_and_how_late() {
        assert_eq!(report().to_string(), "polling 12,431 messages in 310 groups, 187 calls/s, 0.4 s behind");
        let held = Report { held_groups: 1_200, ..report() }.to_string();
        assert!(held.ends_with("0.4 s behind; 1,200 refused groups are held back"), "{held}");
        let stretched = Report { stretch: 2.44, ..report() }.to_string();
        let why = "0.4 s behind; intervals are 2.4 times as long, since more is due than the limit allows";
        assert!(stretched.ends_with(why), "{stretched}");
        let one = Report { watched: Some(Watched { groups: 1, messages: 1, quarantined: 0 }), ..report() };
        assert_eq!(one.to_string(), "polling 1 message in 1 group, 187 calls/s, 0.4 s behind");
        let uncounted = Report { watched: None, ..report() };
        assert_eq!(uncounted.to_string(), "polling 400 calls on the schedule, 187 calls/s, 0.4 s behind");
    }

    #[test]
    fn the_line_says_what_is_wrong_instead_and_who_polls_instead() {
        let standing = Report { role: Role::StandingBy(Some("db2 part 1 process 17".to_owned())), ..report() };
        assert_eq!(standing.to_string(), "standing by: this app is polled by db2 (process 17)");
        let trouble = Some("no calls".to_owned());
        assert_eq!(Report { trouble: trouble.clone(), ..report() }.to_string(), "no calls");
        let clock = Some("clocks differ".to_owned());
        assert_eq!(Report { trouble, clock, ..report() }.to_string(), "no calls; warning: clocks differ");
    }

    #[test]
    fn an_hour_is_summed_up_in_a_line() {
        assert_eq!(
            report().hour_in_words(),
            "the last hour: 12,431 calls (success 12,430, retry 1) for 620 messages, 31 changes, 0 snapshots; at \
             most 187 calls in a second, polls up to 0.0 s late; polling 12,431 messages in 310 groups, 187 calls/s, \
             0.4 s behind"
        );
    }
}
