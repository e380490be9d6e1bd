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
    let (bare, traced) = (total(&times, "bare"), total(&times, "traced"));
    let ratio = if bare > 0.0 {
        traced / bare
    } else {
        f64::INFINITY
    };
    findings.add(
        format!("work takes at most {MOST} times as long"),
        ratio <= MOST && traced > 0.0,
        format!("{ratio:.2} ({bare:.1} s bare, {traced:.1} s traced)"),
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

/// Seconds of the rounds of a kind: lines `KIND BEGIN END`.
fn total(times: &str, kind: &str) -> f64 {
    times
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            let is_it = words.next() == Some(kind);
            let begin: f64 = words.next()?.parse().ok()?;
            let end: f64 = words.next()?.parse().ok()?;
            is_it.then_some(end - begin)
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_added() {
        let times = "warm 1.0 2.0\nbare 2.0 3.0\ntraced 4.0 6.5\nbare 7.0 7.5\n";
        assert!((total(times, "bare") - 1.5).abs() < 1e-9);
        assert!((total(times, "traced") - 2.5).abs() < 1e-9);
        assert!(total("nonsense\n", "bare").abs() < 1e-9);
    }
}
