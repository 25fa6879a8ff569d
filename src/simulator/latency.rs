//! The latency of answers: one range, or a mix of several. Pure.

use std::{ops::RangeInclusive, str::FromStr, time::Duration};

use fastrand::Rng;

/// A mix of weighted ranges; latencies are evenly distributed in each.
///
/// ```
/// use receiptd::simulator::Latency;
///
/// assert!("10ms..30ms".parse::<Latency>().is_ok());
/// assert!("1*20ms, 9*300ms..400ms".parse::<Latency>().is_ok(), "a tenth of the calls at 20 ms");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Latency(Vec<(u32, RangeInclusive<Duration>)>);

impl Latency {
    /// Ranges with their weights. The error says what is invalid.
    pub fn mix(parts: impl IntoIterator<Item = (u32, RangeInclusive<Duration>)>) -> Result<Self, &'static str> {
        let parts: Vec<_> = parts.into_iter().collect();
        if parts.iter().any(|(_, range)| range.is_empty()) {
            return Err("the range of latencies must not be empty");
        }
        if parts.iter().map(|(weight, _)| u64::from(*weight)).sum::<u64>() == 0 {
            return Err("the weights of the latencies must not all be zero");
        }
        Ok(Self(parts))
    }

    /// What is invalid, if anything.
    pub(super) fn fault(&self) -> Option<&'static str> {
        Self::mix(self.0.clone()).err()
    }

    /// The latency of one call.
    pub(super) fn draw(&self, rng: &mut Rng) -> Duration {
        let micros = |duration: &Duration| duration.as_micros() as u64;
        let sum: u64 = self.0.iter().map(|(weight, _)| u64::from(*weight)).sum();
        let mut left = rng.u64(..sum);
        let drawn = self.0.iter().find(|(weight, _)| match left.checked_sub((*weight).into()) {
            Some(rest) => {
                left = rest;
                false
            }
            None => true,
        });
        let range = drawn.map_or(Duration::ZERO..=Duration::ZERO, |(_, range)| range.clone());
        Duration::from_micros(rng.u64(micros(range.start())..=micros(range.end())))
    }
}

impl From<RangeInclusive<Duration>> for Latency {
    fn from(range: RangeInclusive<Duration>) -> Self {
        Self(vec![(1, range)])
    }
}

impl FromStr for Latency {
    type Err = String;

    /// Parses `20ms`, `10ms..30ms` or a mix such as `1*20ms, 9*300ms..400ms`.
    fn from_str(text: &str) -> Result<Self, String> {
        let span = |text: &str| humantime::parse_duration(text.trim()).map_err(|error| format!("{text:?}: {error}"));
        let part = |text: &str| {
            let (weight, range) = text.split_once('*').unwrap_or(("1", text));
            let weight = weight.trim().parse().map_err(|error| format!("{weight:?}: {error}"))?;
            let (least, most) = range.split_once("..").unwrap_or((range, range));
            Ok((weight, span(least)?..=span(most)?))
        };
        let parts: Result<Vec<_>, String> = text.split(',').map(part).collect();
        Self::mix(parts?).map_err(str::to_owned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn one_range_or_a_mix_can_be_written() {
        for (text, parts) in [
            ("5ms", vec![(1, ms(5)..=ms(5))]),
            ("10ms..1s", vec![(1, ms(10)..=ms(1_000))]),
            ("1*20ms, 9*300ms..400ms", vec![(1, ms(20)..=ms(20)), (9, ms(300)..=ms(400))]),
        ] {
            assert_eq!(text.parse(), Ok(Latency(parts)), "{text}");
        }
        for (text, word) in [("soon", "soon"), ("30ms..10ms", "empty"), ("0*5ms", "zero"), ("x*5ms", "x"), ("", "\"\"")]
        {
            let error = text.parse::<Latency>().unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn each_part_of_a_mix_has_its_share_and_its_range() {
        let mix: Latency = "1*20ms, 9*300ms..400ms".parse().unwrap();
        let mut rng = Rng::with_seed(7);
        let drawn: Vec<Duration> = (0..10_000).map(|_| mix.draw(&mut rng)).collect();
        let fast = drawn.iter().filter(|latency| **latency == ms(20)).count();
        assert!((900..1_100).contains(&fast), "{fast}");
        assert!(drawn.iter().all(|latency| *latency == ms(20) || (ms(300)..=ms(400)).contains(latency)));
    }
}
