//! Durations as text. Days are the longest unit, since months and years vary in length, and a configured `90d` should
//! be displayed as `90d`.

use std::time::Duration;

const DAY: u64 = 86_400;

/// The exact duration, such as `90d`, `1d 2h 30m` or `50ms`.
pub fn exactly(span: Duration) -> String {
    let days = span.as_secs() / DAY;
    let rest = span - Duration::from_secs(days * DAY);
    match (days, rest) {
        (0, rest) => humantime::format_duration(rest).to_string(),
        (days, Duration::ZERO) => format!("{days}d"),
        (days, rest) => format!("{days}d {}", humantime::format_duration(rest)),
    }
}

/// The duration in its two largest units, rounded down to seconds, such as `40d 12h` or `3m 20s`.
pub fn roughly(span: Duration) -> String {
    let exact = exactly(Duration::from_secs(span.as_secs()));
    exact.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600;

    #[test]
    fn days_are_the_longest_unit_and_nothing_is_left_out() {
        for (millis, said) in [
            (0, "0s"),
            (50, "50ms"),
            (5_400_000, "1h 30m"),
            (DAY * 1_000, "1d"),
            (90 * DAY * 1_000, "90d"),
            (800 * DAY * 1_000, "800d"),
            ((DAY + 2 * HOUR) * 1_000 + 1, "1d 2h 1ms"),
        ] {
            assert_eq!(exactly(Duration::from_millis(millis)), said);
        }
    }

    #[test]
    fn two_units_are_enough_to_say_how_long_ago_something_was() {
        for (millis, said) in [
            (999, "0s"),
            (59_999, "59s"),
            ((40 * DAY + 12 * HOUR + 3 * 60 + 7) * 1_000, "40d 12h"),
            (3 * HOUR * 1_000 + 20_500, "3h 20s"),
        ] {
            assert_eq!(roughly(Duration::from_millis(millis)), said);
        }
    }
}
