//! The judge of cadences: how accurately they show when messages were read, at equal numbers of calls.
//!
//! `cargo bench --bench truth` polls the messages of four synthetic worlds, whose reads are known, by a fixed interval,
//! by tiers and by the pace of the default cadence, with the real code for cadences, slots, recording and the schedule,
//! and prints the errors; also while three and twenty times as much is due as the limit allows, on average over the
//! days in which messages are sent. `-- main`, `-- sparse`, …: one world only; `-- webhooks`: only the remaining
//! polls beside webhooks; `-- cost`: only the time that decisions take. `--seeds N`: number of worlds of each kind (3 by default). There are no receipts of real
//! people in this: the figures rank cadences, and predict nobody's minutes.
#![allow(clippy::unwrap_used, reason = "a bench fails by panicking")]
#![expect(clippy::print_stdout, reason = "a bench answers people on its standard output")]

mod cost;
mod policies;
mod readers;
mod report;
mod worlds;

use receiptd::daemon::poller::replay::Findings;

use self::{policies::Policy, report::Report, worlds::WORLDS};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (mut seeds, mut worlds) = (3, vec![]);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--bench" => {}
            "webhooks" => return beside_webhooks(),
            "cost" => return cost::print(),
            "--seeds" => seeds = arguments.next().unwrap().parse().unwrap(),
            name => worlds.push(WORLDS.iter().find(|world| world.name == name).expect("the name of a world")),
        }
    }
    if worlds.is_empty() {
        worlds = WORLDS.iter().collect();
    }
    let mut report = Report::default();
    for world in worlds {
        let messages: Vec<_> = (1..=seeds).map(|seed| world.messages(seed)).collect();
        let tiers: Vec<_> = messages.iter().map(|sent| Policy::Tiers.of(sent, 1.0)).collect();
        report.world(world, &messages);
        for (part, share) in [("as many calls as tiers", 1.0), ("half as many", 0.5)] {
            report.part(part);
            for policy in Policy::ALL {
                let found =
                    messages.iter().zip(&tiers).map(|(sent, tiers)| policy.at_calls(sent, tiers.calls as f64 * share));
                report.row(policy, &found.collect::<Vec<_>>());
            }
        }
        for (part, factor) in [("3 times too much due", 3.0), ("20 times too much due", 20.0)] {
            report.part(part);
            for policy in Policy::OVERLOADED {
                let found = messages.iter().zip(&tiers).map(|(sent, Findings { calls, .. })| {
                    let calls = *calls as f64;
                    policy.at_limit(sent, calls, calls / world.seconds() / factor)
                });
                report.row(policy, &found.collect::<Vec<_>>());
            }
        }
    }
    report.end();
    beside_webhooks();
    cost::print();
}

/// Prints the remaining polls, and the widths of the intervals, while webhooks report a fraction of the reads.
fn beside_webhooks() {
    println!("\nBeside webhooks, in the main world: what is known of a message, by the share of reads that they tell.");
    println!("patience  told   calls a message   of those without   mean width of the first four milestones   lost");
    let sent = WORLDS[0].messages(1);
    for patience in [8, 24] {
        let without = Policy::beside_webhooks(&sent, 0.0, patience).calls as f64;
        for told in [0.0, 0.5, 0.9, 1.0] {
            let found = Policy::beside_webhooks(&sent, told, patience);
            let calls = found.calls as f64;
            println!(
                "{patience:>8}  {:>3.0} %  {:>15.1}  {:>14.1} %  {:>37.0} s  {:>5}",
                told * 100.0,
                calls / found.messages as f64,
                calls / without * 100.0,
                found.milestone_width(),
                found.lost
            );
        }
    }
}
