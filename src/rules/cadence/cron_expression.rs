//! Cron expressions in the usual form, converted for crate `cron`.
//!
//! That crate requires seconds, numbers weekdays from 1 = Sunday and refuses ranges that end on a Sunday. Here five
//! fields get a `0` for the seconds, and weekdays have their usual meaning: 0 and 7 are Sunday, 1 is Monday. If both
//! the day of the month and the weekday are given, both must match.

use std::{
    collections::BTreeSet,
    fmt,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
};

use cron::Schedule;

use crate::domain::Timestamp;

/// Why a cron expression is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCron {
    /// Neither five nor six fields.
    #[error("cron {0:?} has {1} fields: give five (minute hour day month weekday), or six with seconds first")]
    Fields(String, usize),
    /// The weekday field is invalid.
    #[error("cron {0:?}: {1:?} is not a weekday: use 0-7 (0 and 7 are Sunday) or SUN-SAT, with `,` `-` `/` and `*`")]
    Weekday(String, String),
    /// Another field is invalid.
    #[error("cron {0:?}: {1}, with `,` `-` `/` and `*`")]
    Field(String, String),
    /// The expression has no date in the future.
    #[error("cron {0:?} never matches a date in the future")]
    Never(String),
}

/// Maximum number of remembered steps: the present one, and those in which slots were polled last.
const STEPS: usize = 4;

/// A valid cron expression.
#[derive(Clone)]
pub struct Cron {
    expression: String,
    schedule: Arc<Schedule>,
    /// Times, each with the next one after it, the latest last. Computing one is slow, and it is the same for all
    /// messages of all slots until it has come.
    steps: Arc<Mutex<Vec<(Timestamp, Timestamp)>>>,
}

impl Cron {
    /// Parses an expression of five or six fields that fires after `now`.
    ///
    /// # Errors
    /// If it is invalid or never fires.
    pub fn parse(expression: &str, now: Timestamp) -> Result<Self, InvalidCron> {
        let (schedule, expression) = (Arc::new(parse(expression, now)?), expression.to_owned());
        Ok(Self { expression, schedule, steps: Arc::default() })
    }

    /// The next time after `time`.
    pub fn next_after(&self, time: Timestamp) -> Option<Timestamp> {
        let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, next)) = steps.iter().rev().find(|(from, next)| (*from..*next).contains(&time)) {
            return Some(*next);
        }
        // The crate's own result may not be later.
        let next = self.schedule.after(&time).find(|next| *next > time)?;
        if steps.len() == STEPS {
            steps.remove(0);
        }
        steps.push((time, next));
        Some(next)
    }
}

impl fmt::Display for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.expression)
    }
}

impl fmt::Debug for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cron({self})")
    }
}

fn parse(expression: &str, now: Timestamp) -> Result<Schedule, InvalidCron> {
    let whole = || expression.to_owned();
    let mut fields: Vec<&str> = expression.split_whitespace().collect();
    match fields.len() {
        5 => fields.insert(0, "0"),
        6 => {}
        count => return Err(InvalidCron::Fields(whole(), count)),
    }
    let weekdays = weekdays(fields[5]).map_err(|part| InvalidCron::Weekday(whole(), part))?;
    fields[5] = &weekdays;
    let schedule = Schedule::from_str(&fields.join(" ")).map_err(|_| InvalidCron::Field(whole(), fault(&fields)))?;
    if schedule.after(&now).next().is_none() {
        return Err(InvalidCron::Never(whole()));
    }
    Ok(schedule)
}

/// The fields before the weekday, and their valid values.
const FIELDS: [(&str, &str); 5] = [
    ("second", "0-59"),
    ("minute", "0-59"),
    ("hour", "0-23"),
    ("day of the month", "1-31"),
    ("month", "1-12 or JAN-DEC"),
];

/// The invalid fields: those that fail even if all others are `*`. The crate's own message takes many lines.
fn fault(fields: &[&str]) -> String {
    let fails = |place: usize| {
        let mut alone = ["*"; 6];
        alone[place] = fields[place];
        Schedule::from_str(&alone.join(" ")).is_err()
    };
    let faults = FIELDS.iter().enumerate().filter(|(place, _)| fails(*place));
    let said = faults.map(|(place, (name, range))| format!("{:?} is not a valid {name}: use {range}", fields[place]));
    said.collect::<Vec<_>>().join("; ")
}

/// The weekday field in the numbers of crate `cron`, with every range written out.
fn weekdays(field: &str) -> Result<String, String> {
    if matches!(field, "*" | "?") {
        return Ok("*".to_owned());
    }
    let mut days = BTreeSet::new();
    for part in field.split(',') {
        days.extend(weekday_part(part).ok_or_else(|| part.to_owned())?);
    }
    Ok(days.iter().map(|day| (day + 1).to_string()).collect::<Vec<_>>().join(","))
}

/// The days of one part, from 0 = Sunday: `*`, a day or a range (which may pass Saturday), with or without a step.
fn weekday_part(part: &str) -> Option<Vec<u8>> {
    let (range, step) = match part.split_once('/') {
        Some((range, step)) => (range, Some(step.parse::<u8>().ok().filter(|step| (1..=7).contains(step))?)),
        None => (part, None),
    };
    let (first, last) = match range.split_once('-') {
        Some((first, last)) => (weekday(first)?, weekday(last)?),
        None if range == "*" => (0, 6),
        None if step.is_some() => (weekday(range)?, 6),
        None => (weekday(range)?, weekday(range)?),
    };
    // Both 7 and 0 are Sunday: at the end of a range, 7 is the Sunday after Saturday.
    let last = if last < first { last + 7 } else { last };
    Some((first..=last).step_by(usize::from(step.unwrap_or(1))).map(|day| day % 7).collect())
}

fn weekday(name: &str) -> Option<u8> {
    const NAMES: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
    let lower = name.to_ascii_lowercase();
    let by_name = NAMES.iter().position(|day| lower == *day).and_then(|day| u8::try_from(day).ok());
    by_name.or_else(|| name.parse().ok().filter(|day| *day <= 7))
}

#[cfg(test)]
mod tests {
    use chrono::Datelike;
    use proptest::prelude::*;

    use super::*;

    fn monday() -> Timestamp {
        "2026-11-23T00:00:00Z".parse().unwrap()
    }

    fn next(expression: &str) -> String {
        let schedule = parse(expression, monday()).unwrap();
        schedule.after(&monday()).next().unwrap().to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
    }

    #[test]
    fn five_fields_fire_on_the_minute_and_six_have_seconds_first() {
        assert_eq!(next("*/15 8-11 * * MON-FRI"), "2026-11-23T08:00:00Z");
        assert_eq!(next("30 */15 8-11 * * MON-FRI"), "2026-11-23T08:00:30Z");
    }

    proptest! {
        #[test]
        fn earlier_lookups_do_not_change_the_next_time(
            asked in proptest::collection::vec(0_i64..86_400 * 3, 1..60),
        ) {
            let cron = Cron::parse("*/17 6-9 * * *", monday()).unwrap();
            for second in asked {
                let time = monday() + chrono::TimeDelta::seconds(second);
                prop_assert_eq!(cron.next_after(time), cron.schedule.after(&time).find(|next| *next > time));
            }
        }
    }

    #[test]
    fn weekdays_mean_what_they_mean_everywhere_else() {
        let days = |field: &str| {
            let schedule = parse(&format!("0 12 * * {field}"), monday()).unwrap();
            let week = schedule.after(&monday()).take_while(|day| *day < monday() + chrono::TimeDelta::days(7));
            week.map(|day| day.weekday().to_string()).collect::<Vec<_>>().join(" ")
        };
        for (field, expected) in [
            ("1-5", "Mon Tue Wed Thu Fri"),
            ("0", "Sun"),
            ("7", "Sun"),
            ("5-7", "Fri Sat Sun"),
            ("fri-sun", "Fri Sat Sun"),
            ("6-1", "Mon Sat Sun"),
            ("0-6/2", "Tue Thu Sat Sun"),
            ("*/3", "Wed Sat Sun"),
            ("MON,3", "Mon Wed"),
            ("*", "Mon Tue Wed Thu Fri Sat Sun"),
            ("0-7", "Mon Tue Wed Thu Fri Sat Sun"),
        ] {
            assert_eq!(days(field), expected, "{field}");
        }
    }

    #[test]
    fn what_cannot_be_followed_is_refused_with_its_reason() {
        assert!(matches!(parse("* * * *", monday()), Err(InvalidCron::Fields(_, 4))));
        assert!(matches!(parse("0 0 0 1 1 * 2027", monday()), Err(InvalidCron::Fields(_, 7))));
        assert!(matches!(parse("0 0 * * 8", monday()), Err(InvalidCron::Weekday(_, part)) if part == "8"));
        assert!(matches!(parse("0 0 * * MON/0", monday()), Err(InvalidCron::Weekday(..))));
        assert_eq!(
            parse("61 0 * * *", monday()).unwrap_err().to_string(),
            "cron \"61 0 * * *\": \"61\" is not a valid minute: use 0-59, with `,` `-` `/` and `*`"
        );
        let several = parse("0 25 0 * FRI", monday()).unwrap_err().to_string();
        assert!(
            several.contains("\"25\" is not a valid hour: use 0-23; \"0\" is not a valid day of the month: use 1-31"),
            "{several}"
        );
        let nonsense = parse("x\ny 0 * * *", monday()).unwrap_err().to_string();
        assert!(!nonsense.contains('\n'), "{nonsense}");
        assert!(matches!(parse("0 0 30 2 *", monday()), Err(InvalidCron::Never(_))));
    }

    #[test]
    fn day_of_month_and_weekday_must_both_match() {
        assert_eq!(next("0 0 13 * FRI"), "2027-08-13T00:00:00Z");
    }
}
