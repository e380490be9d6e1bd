//! Against lockdep: the cycle that it prints, and the one that apscope finds in the same run, edge by edge; and that before
//! any conversion neither has one.

use std::collections::BTreeSet;

use serde_json::Value;

use super::evidence::{finding, items, text};
use super::order::edges;
use super::{Evidence, Findings};
use crate::failure::Failure;

/// The recording as it was before any conversion.
const BEFORE: &str = "before.part";

/// Judges the recording, its beginning, and the kernel's messages.
pub fn judge(evidence: &Evidence, findings: &mut Findings) -> Result<(), Failure> {
    let before = evidence.text("dmesg.before")?;
    findings.equal("lockdep, before any conversion", &cycle(&before).len(), &0);
    let diagnosis = evidence.diagnosis(BEFORE)?;
    findings.add(
        "apscope, before any conversion",
        finding(&diagnosis, "AP002").is_none(),
        format!(
            "{} edges, {}",
            edges(&evidence.export(BEFORE)?).len(),
            text(&diagnosis, "verdict")
        ),
    );
    let truth = evidence.json("truth.json")?;
    let trace = evidence.export(BEFORE)?;
    super::counts::entry_points(&trace, &truth, evidence.has_one_lock(), findings);

    let lockdep = cycle(&evidence.text("dmesg.after")?);
    findings.add("lockdep, after it", lockdep.len() == 3, spell(&lockdep));
    let Some(found) = finding(&evidence.diagnosis("lockdep.apscope")?, "AP002").cloned() else {
        findings.add("apscope, after it: AP002", false, "not found");
        return Ok(());
    };
    let ours = edges_of(&found);
    findings.add(
        "apscope, after it: the very edges of lockdep",
        !ours.is_empty() && ours == lockdep,
        spell(&ours),
    );
    Ok(())
}

/// The edges of a finding: its locks in a circle.
fn edges_of(finding: &Value) -> BTreeSet<(String, String)> {
    let locks: Vec<&str> = items(finding, "locks").filter_map(Value::as_str).collect();
    circle(&locks)
}

fn circle(locks: &[&str]) -> BTreeSet<(String, String)> {
    let next = locks.iter().cycle().skip(1);
    locks
        .iter()
        .zip(next)
        .map(|(held, acquired)| ((*held).to_owned(), (*acquired).to_owned()))
        .collect()
}

/// The edges of the circle that lockdep has printed (print_circular_bug() in kernel/locking/lockdep.c): `-> #N (NAME)` are
/// the locks from the last to the first, and the last is held where the first is wanted.
fn cycle(dmesg: &str) -> BTreeSet<(String, String)> {
    let mut lines = dmesg.lines();
    let printed = "possible circular locking dependency detected";
    if !lines.any(|line| line.contains(printed)) {
        return BTreeSet::new();
    }
    let mut locks = Vec::new();
    for line in lines {
        if let Some((_, rest)) = line.split_once("-> #")
            && let Some((number, rest)) = rest.split_once(" (")
        {
            let name = rest.split(['{', ')']).next().unwrap_or_default();
            locks.push(name.trim_start_matches('&'));
            if number == "0" {
                break;
            }
        }
    }
    locks.reverse();
    circle(&locks)
}

fn spell(edges: &BTreeSet<(String, String)>) -> String {
    let edges: Vec<_> = edges.iter().map(|(a, b)| format!("{a} → {b}")).collect();
    edges.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_circle_of_a_report_is_read() {
        let report = "WARNING: possible circular locking dependency detected\n\
            [ 1.0] -> #2 (&kvm->lock){+.+.}-{3:3}:\n\
            [ 1.0]        lock_acquire+0x132/0x320\n\
            -> #1 (&matrix_dev->lock){+.+.}-{3:3}:\n\
            -> #0 (&vcpu->mutex){+.+.}-{3:3}:\n\
            -> #7 (another report)\n";
        assert_eq!(
            spell(&cycle(report)),
            "kvm->lock → vcpu->mutex, matrix_dev->lock → kvm->lock, vcpu->mutex → matrix_dev->lock"
        );
        assert!(cycle("nothing").is_empty());
    }
}
