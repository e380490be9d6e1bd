//! What tracing costs: the same work with and without it, in turns. Times of an emulated machine say nothing about a real
//! one; the ratio is a bound against accidents, and the programs' own run time is the kernel's count.

use super::evidence::{items, number};
use super::{Evidence, Findings};
use crate::failure::Failure;

/// Everything above is an accident: a probe costs an exception here, and those are emulated.
const MOST: f64 = 5.0;

/// Judges the times.
pub fn judge(evidence: &Evidence, findings: &mut Findings) -> Result<(), Failure> {
    let times = evidence.text("times")?;
    let (bare, traced) = (fastest(&times, "bare"), fastest(&times, "traced"));
    let ratio = traced / bare;
    // Infinite where a kind has no round.
    let measured = [bare, traced]
        .iter()
        .all(|seconds| seconds.is_finite() && *seconds > 0.0);
    findings.add(
        format!("work takes at most {MOST} times as long"),
        measured && ratio <= MOST,
        format!("{ratio:.2} (at best {bare:.2} s bare, {traced:.2} s traced)"),
    );
    let trace = evidence.export("cost.apscope")?;
    let sum = |name: &str| -> u64 {
        items(&trace["overhead"], "programs")
            .map(|program| number(program, name))
            .sum()
    };
    let (runs, time) = (sum("runs"), sum("run_time_ns"));
    findings.add(
        "programs ran, and the kernel counted it",
        runs > 0 && time > 0,
        format!("{runs} runs of {} ns", time / runs.max(1)),
    );
    evidence.nothing_left("cost.left", "left behind", findings)
}

/// Seconds of the fastest round of a kind, infinite where there is none: lines `KIND BEGIN END`. Whatever else the machine
/// does makes rounds longer.
fn fastest(times: &str, kind: &str) -> f64 {
    times
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            let is_it = words.next() == Some(kind);
            let begin: f64 = words.next()?.parse().ok()?;
            let end: f64 = words.next()?.parse().ok()?;
            is_it.then_some(end - begin)
        })
        .fold(f64::INFINITY, f64::min)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fastest_round_counts() {
        let times = "warm 1.0 2.0\nbare 2.0 3.0\ntraced 4.0 6.5\nbare 7.0 7.5\n";
        assert!((fastest(times, "bare") - 0.5).abs() < 1e-9);
        assert!((fastest(times, "traced") - 2.5).abs() < 1e-9);
        assert!(fastest("nonsense\n", "bare").is_infinite());
    }
}
