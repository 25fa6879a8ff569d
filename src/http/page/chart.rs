//! The charts of the page, as SVG: calls by minute, and read curves. Pure.

use maud::{Markup, html};

use crate::{
    daemon::activity::{MINUTES, Minute},
    domain::Timestamp,
    rules::protocol::Class,
    store::ReadCurve,
    text::counted::counted,
};

/// Height of the chart of calls; a minute is ten wide.
const HEIGHT: f64 = 110.0;

/// Width and height of a curve.
const CURVE: (f64, f64) = (200.0, 48.0);

/// The colour of a class, by its name: answered, retried, or refused.
pub(super) fn kind(class: &str) -> &'static str {
    Class::ALL.into_iter().find(|each| each.name() == class).map_or("again", kind_of)
}

fn kind_of(class: Class) -> &'static str {
    match class {
        Class::Success => "good",
        Class::Retry | Class::SlowDown | Class::SignAgain | Class::Split | Class::Unknown => "again",
        Class::Wait | Class::AppFault | Class::GroupFault | Class::Message | Class::Incomplete => "bad",
    }
}

/// The colours, from the bottom of a bar.
const KINDS: [&str; 3] = ["good", "again", "bad"];

/// Calls by minute, the latest on the right; the busiest minute has the full height.
pub(super) fn calls(minutes: &[Minute]) -> Markup {
    let highest = minutes.iter().map(Minute::attempts).max().unwrap_or(0).max(1) as f64;
    let first = MINUTES.saturating_sub(minutes.len());
    html! {
        svg .calls viewBox=(format!("0 0 {} {HEIGHT}", MINUTES * 10)) preserveAspectRatio="none" role="img" aria-label="Calls \
            in the last hour, by minute" {
            rect .frame x="0" y=(HEIGHT - 1.0) width=(MINUTES * 10) height="1" {}
            @for (number, minute) in minutes.iter().enumerate() {
                g {
                    title { (title(minute, minutes.len() - 1 - number)) }
                    @for (kind, top, height) in stacked(minute, highest) {
                        rect class=(kind) x=((first + number) * 10 + 1) width="8" y=(format!("{top:.1}")) height=(format!("{height:.1}")) {}
                    }
                }
            }
        }
    }
}

fn title(minute: &Minute, ago: usize) -> String {
    let (calls, messages) = (counted(minute.attempts(), "call"), counted(minute.messages, "message"));
    format!("{ago} min ago: {calls}, {messages}, {}", counted(minute.changes, "change"))
}

/// The parts of a bar from the bottom: kind, upper edge and height.
fn stacked(minute: &Minute, highest: f64) -> Vec<(&'static str, f64, f64)> {
    let mut top = HEIGHT - 1.0;
    let part = |kind| {
        let of_kind = Class::ALL.into_iter().filter(|class| kind_of(*class) == kind);
        let calls: u64 = of_kind.map(|class| minute.calls[class as usize]).sum();
        let height = calls as f64 / highest * (HEIGHT - 6.0);
        top -= height;
        (calls > 0).then_some((kind, top, height))
    };
    KINDS.into_iter().filter_map(part).collect()
}

/// The fraction of members who had read a message, from its sending to now.
pub(super) fn curve(curve: &ReadCurve, now: Timestamp) -> Markup {
    let last = curve.percent.last().copied().unwrap_or_default();
    html! {
        svg viewBox=(format!("0 0 {} {}", CURVE.0, CURVE.1)) role="img" aria-label=(format!("read by {last:.0} %")) {
            rect .frame x="0" y=(CURVE.1 - 1.0) width=(CURVE.0) height="1" {}
            path .curve d=(path(curve, now)) {}
        }
    }
}

/// A line from the first observation, with a step at each change.
fn path(curve: &ReadCurve, now: Timestamp) -> String {
    let seconds = |time: Timestamp| (time - curve.sent_at).num_milliseconds().max(0) as f64 / 1e3;
    let whole = seconds(now).max(1.0);
    let x = |time: Timestamp| (seconds(time) / whole * CURVE.0).min(CURVE.0);
    let y = |percent: f32| (CURVE.1 - 2.0) * (1.0 - f64::from(percent) / 100.0) + 1.0;
    let steps =
        curve.seen_at.iter().zip(&curve.percent).map(|(at, percent)| format!("H{:.1}V{:.1}", x(*at), y(*percent)));
    let first = curve.seen_at.first().map_or(CURVE.0, |at| x(*at));
    format!("M{first:.1} {:.1}{}H{}", y(0.0), steps.collect::<String>(), CURVE.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_minute_is_rightmost_and_the_busiest_is_tallest() {
        let mut minutes = vec![Minute::default(); 3];
        (minutes[1].calls[Class::Success as usize], minutes[2].calls[Class::Success as usize]) = (100, 50);
        minutes[2].calls[Class::Retry as usize] = 50;
        let svg = calls(&minutes).into_string();
        assert!(svg.contains("x=\"591\" width=\"8\" y=\"57.0\" height=\"52.0\""), "{svg}");
        assert!(
            svg.contains("x=\"581\" width=\"8\" y=\"5.0\" height=\"104.0\"") && svg.contains("0 min ago: 100 calls")
        );
    }

    #[test]
    fn a_curve_starts_at_the_first_poll_and_rises_at_each_change() {
        let at = |minutes| "2026-11-23T12:00:00Z".parse::<Timestamp>().unwrap() + chrono::TimeDelta::minutes(minutes);
        let curve = ReadCurve {
            group_id: "team".to_owned(),
            msg_seq: 7,
            sent_at: at(0),
            seen_at: vec![at(5), at(10)],
            percent: vec![50.0, 100.0],
        };
        assert_eq!(path(&curve, at(20)), "M50.0 47.0H50.0V24.0H100.0V1.0H200");
    }
}
