//! `cargo xtask bench`: figures as ratios against a peer, in one run, medians over several interleaved rounds.

mod baseline;
mod bpftrace;
mod dashboard;
mod diagnose;
pub mod emulator;
mod latency;
mod programs;
mod recording;
mod screen;
mod throughput;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::apscope::{self, Export, Scratch};
use crate::compare::count;
use crate::failure::Failure;
use crate::process;

use bpftrace::Bpftrace;
use emulator::Emulator;

/// What to measure.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Bench {
    /// Added cost of a traced lock cycle: apscope's eBPF programs against bpftrace, as root
    Probe(Options),
    /// Time of the eBPF programs for an event, against one that only writes a ring record, as root
    Programs(programs::Options),
    /// Lock cycles a second of the emulated driver, untraced, with many guests, and its memory
    Emulator(throughput::Options),
    /// Time of the diagnosis for a tick with 1,000 tasks, 500 locks and 5,000 order edges
    Diagnose(diagnose::Options),
    /// Time from the moment that a deadlock forms to the finding
    Latency(latency::Options),
    /// Time of the dashboard's pictures, and its share of a core, with 200 guests
    Dashboard(dashboard::Options),
    /// Time from an event to the picture that shows it, in a pseudo-terminal
    Screen(screen::Options),
    /// Bytes of a span in a recording, and spans that are replayed in a second
    Recording(recording::Options),
}

/// How to measure it.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Rounds; each measures bare, apscope and bpftrace once
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Length of each measurement
    #[arg(long, value_name = "D", default_value = "2s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// Use this apscope instead of building one
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

/// Runs an example of a crate in the release build; gives the JSON objects that it prints, one a line, of which there must
/// be one at least.
fn example(
    root: &Path,
    package: &str,
    name: &str,
    argument: Option<&Path>,
) -> Result<Vec<Value>, Failure> {
    let output = Command::new("cargo")
        .current_dir(root)
        .args(["run", "--quiet", "--release", "--package", package])
        .args(["--example", name, "--"])
        .args(argument)
        .output()
        .map_err(|e| Failure::new("running the example").cause(e.to_string()))?;
    if !output.status.success() {
        return Err(Failure::new("the example failed")
            .cause(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    let printed = String::from_utf8_lossy(&output.stdout);
    let measured: Vec<Value> = printed
        .lines()
        .map(|line| {
            serde_json::from_str(line)
                .map_err(|e| Failure::new(format!("not JSON: {line}")).cause(e.to_string()))
        })
        .collect::<Result<_, _>>()?;
    if measured.is_empty() {
        return Err(Failure::new("the example measured nothing"));
    }
    Ok(measured)
}

/// One thread takes and releases one mutex, back to back.
const SCENARIO: &str = "lock-cycle";

/// Runs a benchmark.
pub fn run(root: &Path, bench: Bench) -> Result<(), Failure> {
    match bench {
        Bench::Probe(options) => probe(root, options),
        Bench::Programs(options) => programs::run(root, options),
        Bench::Emulator(options) => throughput::run(root, options),
        Bench::Diagnose(options) => diagnose::run(root, &options),
        Bench::Latency(options) => latency::run(root, &options),
        Bench::Dashboard(options) => dashboard::run(root, &options),
        Bench::Screen(options) => screen::run(root, &options),
        Bench::Recording(options) => recording::run(root, &options),
    }
}

/// Nanoseconds per lock cycle, bare and traced both ways, and the ratio of what tracing adds.
fn probe(root: &Path, options: Options) -> Result<(), Failure> {
    let binary = apscope::binary(root, options.binary)?;
    let file = root.join("xtask/bench/probe.bt");
    let script = fs::read_to_string(&file).map_err(|e| Failure::file("reading", &file, &e))?;
    let scratch = Scratch::new()?;
    let (mut bare, mut ours, mut peers) = (Vec::new(), Vec::new(), Vec::new());
    let mut mechanism = String::new();
    for round in 1..=options.rounds {
        bare.push(without_probes(&binary, options.duration)?);
        let (cost, how) = with_apscope(&binary, options.duration, round, scratch.path())?;
        ours.push(cost);
        mechanism = how;
        peers.push(with_bpftrace(
            &binary,
            options.duration,
            &script,
            scratch.path(),
        )?);
        println!(
            "round {round}: bare {:.0} ns, apscope {:.0} ns, bpftrace {:.0} ns a cycle",
            bare[bare.len() - 1],
            ours[ours.len() - 1],
            peers[peers.len() - 1]
        );
    }
    let (bare, ours, peer) = (median(bare), median(ours), median(peers));
    println!(
        "\nmedian of {} rounds, probes attached as {mechanism}\n",
        options.rounds
    );
    println!("{:10} {:>12} {:>12}", "", "ns a cycle", "added ns");
    println!("{:10} {bare:>12.0}", "bare");
    println!("{:10} {ours:>12.0} {:>12.0}", "apscope", ours - bare);
    println!("{:10} {peer:>12.0} {:>12.0}", "bpftrace", peer - bare);
    println!("\nratio: {:.2}", (ours - bare) / (peer - bare));
    Ok(())
}

fn emulator(binary: &Path) -> Result<Emulator, Failure> {
    Emulator::start(
        binary,
        &["--scenario", SCENARIO, "--guests", "1", "--vcpus", "1"],
    )
}

fn without_probes(binary: &Path, duration: Duration) -> Result<f64, Failure> {
    let (took, truth) = emulator(binary)?.run(duration)?;
    per_cycle(took, cycles(&truth))
}

fn with_apscope(
    binary: &Path,
    duration: Duration,
    round: u32,
    folder: &Path,
) -> Result<(f64, String), Failure> {
    let export = Export {
        generation: None,
        scenario: SCENARIO.into(),
        seed: u64::from(round),
        probe: "ebpf".into(),
        ring_bytes: None,
        duration,
        more: vec!["--guests".into(), "1".into(), "--vcpus".into(), "1".into()],
    };
    let (measured, truth) = export.run(binary, folder)?;
    let seen: u64 = cycles(&measured);
    if seen != cycles(&truth) {
        return Err(Failure::new(format!(
            "apscope saw {seen} of {} cycles, so its cost means nothing",
            cycles(&truth)
        )));
    }
    let took = Duration::from_nanos(count(&measured["interval"]["duration_ns"]));
    let mechanism = measured["attach"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|a| {
            a["symbol"]
                .as_str()
                .is_some_and(|s| s.starts_with("mutex_unlock"))
        })
        .and_then(|a| a["mechanism"].as_str())
        .unwrap_or("unknown");
    Ok((per_cycle(took, seen)?, mechanism.to_owned()))
}

fn with_bpftrace(
    binary: &Path,
    duration: Duration,
    script: &str,
    folder: &Path,
) -> Result<f64, Failure> {
    let mut emulator = emulator(binary)?;
    let lock = emulator.point("kernel", "mutex_lock")?;
    let unlock = emulator.point("kernel", "mutex_unlock")?;
    let peer = Bpftrace::start(script, binary, lock, unlock, folder)?;
    let (took, truth) = emulator.run(duration)?;
    let (waits, holds) = peer.finish()?;
    let expected = cycles(&truth);
    // It may miss the last cycles when it ends, but probes that were not attached would cost nothing.
    if waits.min(holds) < expected - expected / 100 {
        return Err(Failure::new(format!(
            "bpftrace saw {waits} waits and {holds} holds of {expected} cycles, so its cost means nothing"
        )));
    }
    per_cycle(took, expected)
}

/// Acquisitions of all locks, in an export or a truth.
fn cycles(document: &Value) -> u64 {
    document["locks"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|lock| count(&lock["acquisitions"]))
        .sum()
}

fn per_cycle(took: Duration, cycles: u64) -> Result<f64, Failure> {
    if cycles == 0 {
        return Err(Failure::new("the emulator made no lock cycle"));
    }
    Ok(took.as_nanos() as f64 / cycles as f64)
}

/// The middle value; of an even number, the lower of the two.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    quantile(&values, 0.5)
}

/// The smallest of the sorted values that at least this share of them does not exceed; not a number where there is none.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted
        .get(rank.saturating_sub(1))
        .copied()
        .unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_not_moved_by_one_outlier() {
        assert!((median(vec![5.0, 1.0, 900.0]) - 5.0).abs() < f64::EPSILON);
        assert!((median(vec![2.0]) - 2.0).abs() < f64::EPSILON);
    }

    #[test]
    fn no_cycles_is_an_error_and_not_a_cost() {
        assert!(per_cycle(Duration::from_secs(1), 0).is_err());
        let cost = per_cycle(Duration::from_micros(1), 10).expect("there are cycles");
        assert!((cost - 100.0).abs() < 1e-9);
    }
}
