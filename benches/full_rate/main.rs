//! The figures of docs/measurements.md: the real binary, a private PostgreSQL and the simulated Chat, in separate
//! processes if their cost matters.
//!
//! `cargo bench --bench full_rate` runs all scenarios; `-- limit`, `-- full_calls`, `-- single`, `-- mixed`, `-- far`,
//! `-- price`, `-- flood` only one; `--seconds N` sets the duration (default: 60). Machines are noisy: compare within a
//! run.
#![allow(clippy::unwrap_used, reason = "a bench fails by panicking")]
#![expect(clippy::print_stdout, reason = "a bench answers people on its standard output")]

mod baseline;
mod cost;
mod flood;
mod price;
#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../../tests/daemon/proxy.rs"]
mod proxy;
mod setup;

use std::time::{Duration, Instant};

use price::{Changing, price};
use setup::{Setup, Watch};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    baseline::run_if_asked(&arguments);
    let seconds =
        arguments.iter().position(|argument| argument == "--seconds").map(|at| arguments[at + 1].parse().unwrap());
    let span = Duration::from_secs(seconds.unwrap_or(60));
    let wanted = |name: &str| {
        let names: Vec<_> = arguments
            .iter()
            .filter(|name| ["limit", "full_calls", "single", "mixed", "far", "price", "flood"].contains(&name.as_str()))
            .collect();
        names.is_empty() || names.iter().any(|wanted| *wanted == name)
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        if wanted("limit") {
            let watch = Watch { groups: 400, messages: 1, every: "1s", members: 200 };
            rate("400 due calls a second asked for", watch, span).await;
        }
        if wanted("full_calls") {
            for members in [20, 200] {
                let watch = Watch { groups: 1_000, messages: 50, every: "5s", members };
                rate("1,000 groups with 50 messages each, 200 due calls a second", watch, span).await;
            }
        }
        if wanted("single") {
            let watch = Watch { groups: 1_000, messages: 1, every: "5s", members: 200 };
            rate("1,000 groups with one message each", watch, span).await;
        }
        if wanted("mixed") {
            mixed(span).await;
        }
        if wanted("far") {
            for millis in [0, 30, 100] {
                far(Duration::from_millis(millis), span).await;
            }
        }
        if wanted("flood") {
            flood::flood(span).await;
        }
        if wanted("price") {
            for changing in [Changing::All, Changing::OneInTwenty, Changing::None] {
                price(changing, span).await;
            }
        }
    });
}

/// Polls at the full rate for `span` and prints the result.
async fn rate(title: &str, watch: Watch, span: Duration) {
    let mut setup = Setup::new(watch.members).await;
    setup.watch(watch).await;
    let daemon = setup.start_daemon(watch.every);
    // Until the rate is steady.
    setup.simulator.wait_for_calls(400).await;
    let (before, start) = (setup.simulator.ledger().calls(), Instant::now());
    let (daemon_before, postgres_before) = (cost::cpu(daemon.id()), setup.postgres_cpu());
    let (asked_before, snapshots_before) =
        (setup.simulator.ledger().messages_asked(), setup.count("receipt_snapshots").await);
    tokio::time::sleep(span).await;
    let took = start.elapsed().as_secs_f64();
    let ledger = setup.simulator.ledger();
    let calls = ledger.calls() - before;
    println!("\n{title}, {} members, {took:.0} s, 10 to 30 ms of latency", watch.members);
    println!("  calls                  {:.1} /s, {:.1} % of 200", calls as f64 / took, calls as f64 / took / 2.0);
    println!("  highest sliding second {}, {} refused", ledger.highest_sliding_second(), refused(&ledger));
    println!("  messages               {:.2} a call", (ledger.messages_asked() - asked_before) as f64 / calls as f64);
    let snapshots = setup.count("receipt_snapshots").await - snapshots_before;
    let changed = snapshots as f64 / (ledger.messages_asked() - asked_before) as f64 * 100.0;
    println!(
        "  snapshots              {:.0} /s: {changed:.1} % of what was asked for had changed",
        snapshots as f64 / took
    );
    println!(
        "  receiptd               {:.1} % of a core, {} MiB resident at the most",
        share(cost::cpu(daemon.id()) - daemon_before, took),
        cost::peak_resident_mib(daemon.id())
    );
    println!("  Postgres               {:.1} % of a core", share(setup.postgres_cpu() - postgres_before, took));
    daemon.stop();
    setup.compare_with_ledger().await;
}

/// Polls at the full rate while some answers take much longer than others.
async fn mixed(span: Duration) {
    for (title, latency) in [
        ("10 to 30 ms", "10ms..30ms"),
        ("100 ± 80 ms", "20ms..180ms"),
        ("a tenth at 20 ms, the rest at 300 ms", "1*20ms, 9*300ms"),
        ("300 ms", "300ms"),
    ] {
        let mut setup = Setup::with_latency(20, latency).await;
        setup.watch(Watch { groups: 400, messages: 1, every: "1s", members: 20 }).await;
        let daemon = setup.start_daemon("1s");
        // Until the ordinary latency is known.
        setup.simulator.wait_for_calls(2_000).await;
        let (before, start) = (setup.simulator.ledger().calls(), Instant::now());
        tokio::time::sleep(span).await;
        let (ledger, took) = (setup.simulator.ledger(), start.elapsed().as_secs_f64());
        let rate = (ledger.calls() - before) as f64 / took;
        println!("\nAnswers take {title}: {took:.0} s");
        println!("  calls                  {rate:.1} /s, {:.1} % of 200", rate / 2.0);
        println!("  highest sliding second {}, {} refused", ledger.highest_sliding_second(), refused(&ledger));
        daemon.stop();
    }
}

/// Polls at the full rate with a distant database.
async fn far(round_trip: Duration, span: Duration) {
    let mut setup = Setup::new(200).await;
    let watch = Watch { groups: 1_000, messages: 50, every: "5s", members: 200 };
    setup.watch(watch).await;
    let setup = setup.far_away(round_trip).await;
    let daemon = setup.start_daemon(watch.every);
    // Until it knows the duration of a read.
    setup.simulator.wait_for_calls(2_000).await;
    let (before, start) = (setup.simulator.ledger().calls(), Instant::now());
    tokio::time::sleep(span).await;
    let (ledger, took) = (setup.simulator.ledger(), start.elapsed().as_secs_f64());
    let rate = (ledger.calls() - before) as f64 / took;
    println!("\nA round trip of {round_trip:.0?} to the database, 50 messages a call, {took:.0} s");
    println!("  calls                  {rate:.1} /s, {:.1} % of 200", rate / 2.0);
    println!("  highest sliding second {}, {} refused", ledger.highest_sliding_second(), refused(&ledger));
    daemon.stop();
}

fn refused(ledger: &receiptd::simulator::Ledger) -> u64 {
    ledger.errors_by_code().values().sum()
}

fn share(cpu: Duration, seconds: f64) -> f64 {
    cpu.as_secs_f64() / seconds * 100.0
}
