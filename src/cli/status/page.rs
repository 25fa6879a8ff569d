//! `receiptd status --watch`: the status, read curves, the next polls and refused groups on a terminal. Redrawn in
//! place; off a terminal, or on a dumb one, printed one after the other. Read-only.

use std::io::{self, Write};

use console::{Term, is_dumb, truncate_str};
use receiptd::{
    config::Http,
    domain::Timestamp,
    store::{PageData, ReadCurve, Store, StoreError},
    text::{counted::counted, printable::printable, sparkline::sparkline},
};
use tokio_util::sync::CancellationToken;

use super::{
    lines::lines,
    look::{EVERY, Status, look},
};
use crate::cli::{relative::when, stdout, watching::Watching};

/// Maximum number of due calls shown.
const DUE: usize = 5;

/// Shows the status until `stop`.
pub async fn show(store: &Store, http: &Http, place: &str, stop: &CancellationToken) -> anyhow::Result<()> {
    let term = Term::stdout();
    let mut watching = Watching::new(EVERY);
    while let Some((status, data)) = watching.next(stop, || read(store, http)).await? {
        let now = store.clock().now();
        let mut page = vec![format!("receiptd  app {}  {}", store.sdk_app_id(), now.format("%Y-%m-%d %H:%M:%S UTC"))];
        page.push(String::new());
        page.extend(lines(&status, place, now));
        page.extend(of_database(&data, now));
        draw(&term, &page)?;
    }
    Ok(())
}

async fn read(store: &Store, http: &Http) -> Result<(Status, PageData), StoreError> {
    Ok((look(store, http).await?, store.glance().await?))
}

/// Draws as many lines as the terminal has, over the previous ones.
fn draw(term: &Term, page: &[String]) -> io::Result<()> {
    if !term.is_term() || is_dumb() {
        let mut out = stdout();
        page.iter().try_for_each(|line| writeln!(out, "{line}"))?;
        return writeln!(out);
    }
    let (rows, columns) = term.size();
    term.clear_screen()?;
    let fitting = page.iter().take(usize::from(rows).saturating_sub(1));
    let fitting: Vec<_> = fitting.map(|line| truncate_str(line, columns.into(), "…")).collect();
    term.write_line(&fitting.join("\n"))
}

fn of_database(data: &PageData, now: Timestamp) -> Vec<String> {
    let mut page = section("Newest messages", data.curves.iter().map(curve));
    let due = data.due.iter().take(DUE).map(|call| {
        let when = when(call.next_poll_at, now);
        format!("{:<32}  {when:<10}  {}", call.group_id, counted(call.messages.unsigned_abs(), "message"))
    });
    page.extend(section("Due next", due));
    let quarantined = data.quarantined.iter().map(|group| {
        let code = group.state_code.map_or_else(String::new, |code| code.to_string());
        format!("{:<32}  {code:<6}  {}", group.group_id, group.state_reason.as_deref().unwrap_or_default())
    });
    page.extend(section("Quarantined", quarantined));
    page
}

/// A heading with its lines; nothing if there are none.
fn section(heading: &str, lines: impl Iterator<Item = String>) -> Vec<String> {
    let lines: Vec<String> = lines.map(|line| printable(&line).into_owned()).collect();
    if lines.is_empty() {
        return lines;
    }
    [String::new(), heading.to_owned()].into_iter().chain(lines).collect()
}

fn curve(curve: &ReadCurve) -> String {
    let seconds: Vec<f64> = curve.seen_at.iter().map(|time| time.timestamp_millis() as f64 / 1_000.0).collect();
    let shares: Vec<f64> = curve.percent.iter().map(|percent| f64::from(*percent) / 100.0).collect();
    let last = curve.percent.last().copied().unwrap_or_default();
    let name = format!("{} #{}", curve.group_id, curve.msg_seq);
    format!("{name:<32}  {}  {last:>3.0} % read", sparkline(&seconds, &shares))
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use receiptd::store::{DueCall, QuarantinedGroup};

    use super::*;

    #[test]
    fn the_page_has_sections_for_data_only() {
        let now: Timestamp = "2026-11-23T12:00:00Z".parse().unwrap();
        assert!(of_database(&PageData::default(), now).is_empty());
        let due = |seconds| DueCall {
            group_id: "g".to_owned(),
            next_poll_at: now + TimeDelta::seconds(seconds),
            messages: 1,
        };
        let quarantined = QuarantinedGroup {
            group_id: "bad\u{1b}[2J".to_owned(),
            state_code: Some(10010),
            state_reason: Some("gone".to_owned()),
            probe_at: None,
        };
        let curve = ReadCurve {
            group_id: "g".to_owned(),
            msg_seq: 7,
            sent_at: now,
            seen_at: vec![now, now + TimeDelta::seconds(31)],
            percent: vec![0.0, 100.0],
        };
        let data = PageData { due: vec![due(-5), due(65)], curves: vec![curve], quarantined: vec![quarantined] };
        let page: Vec<String> = of_database(&data, now).iter().map(|line| line.replace("  ", " ")).collect();
        let page = page.join("\n");
        for expected in
            ["Newest messages\ng #7", "█ 100 % read", "5s ago", "in 1m 5s", "1 message", "Quarantined\nbad\\u{1b}[2J"]
        {
            assert!(page.contains(expected), "{expected:?} is missing in:\n{page}");
        }
    }
}
