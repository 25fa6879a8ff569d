//! Curves as one line of text.

/// Width of a curve, in characters.
const WIDTH: usize = 32;

/// A curve of fractions over time, from the first time to the last. Each fraction holds until the next one.
pub fn sparkline(seconds: &[f64], shares: &[f64]) -> String {
    const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let (first, last) = (seconds.first().copied().unwrap_or_default(), seconds.last().copied().unwrap_or_default());
    let level = |column: usize| {
        let time = first + (last - first) * column as f64 / (WIDTH - 1) as f64;
        let share = seconds.iter().zip(shares).take_while(|(seconds, _)| **seconds <= time).last();
        // Only 100 % reaches the top.
        LEVELS[share.map_or(0, |(_, share)| (share * 7.0).floor().clamp(0.0, 7.0) as usize)]
    };
    (0..WIDTH).map(level).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_rises_from_nobody_to_everybody() {
        for start in [0.0, 1_000.0] {
            let line = sparkline(&[start, start + 10.0, start + 31.0], &[0.0, 0.5, 1.0]);
            assert_eq!(line, format!("{}{}█", "▁".repeat(10), "▄".repeat(21)));
        }
    }

    #[test]
    fn a_curve_of_one_point_is_level_and_of_none_is_empty() {
        assert_eq!(sparkline(&[0.0], &[0.9]), "▇".repeat(WIDTH));
        assert_eq!(sparkline(&[], &[]), "▁".repeat(WIDTH));
    }
}
