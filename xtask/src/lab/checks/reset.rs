//! A reset that lasts: who holds what meanwhile, who waits behind it, and that the hardware is named.

use super::evidence::{class, finding, items, number, text};
use super::{Evidence, Findings};
use crate::failure::Failure;

/// Judges the recording, which ends while the reset lasts.
pub fn judge(evidence: &Evidence, findings: &mut Findings) -> Result<(), Failure> {
    let diagnosis = evidence.diagnosis("reset.apscope")?;
    let verdict = text(&diagnosis, "verdict");
    findings.add(
        "verdict",
        verdict.starts_with("WAITING ON HARDWARE"),
        verdict,
    );
    let late = evidence.json("late.out")?;
    let summary = finding(&late, "AP007").map_or("not found", |found| text(found, "summary"));
    findings.add(
        "AP007 where nothing is attached, and it lasted before",
        names_the_queue(summary) && summary.contains("behind"),
        summary,
    );
    let Some(unbounded) = finding(&diagnosis, "AP007") else {
        let ids: Vec<&str> = items(&diagnosis, "findings")
            .map(|f| text(f, "id"))
            .collect();
        findings.add("AP007", false, format!("not found, but {}", ids.join(", ")));
        return Ok(());
    };
    let summary = text(unbounded, "summary");
    findings.add("AP007 names a queue", names_the_queue(summary), summary);
    let locks: Vec<&str> = items(unbounded, "locks")
        .filter_map(serde_json::Value::as_str)
        .map(class)
        .collect();
    findings.add(
        "held meanwhile: the driver's mutex",
        locks.contains(&"matrix_dev->mdevs_lock"),
        locks.join(", "),
    );
    let waiters: Vec<String> = items(&diagnosis["live"], "waiters")
        .filter(|waiter| class(text(waiter, "lock")) == "matrix_dev->mdevs_lock")
        .map(|waiter| {
            format!(
                "{} in {}",
                text(waiter, "comm"),
                text(waiter, "entry_point")
            )
        })
        .collect();
    let pqap = waiters
        .iter()
        .filter(|w| w.ends_with("in handle_pqap"))
        .count();
    findings.add(
        "behind it: both vCPUs in PQAP",
        pqap == 2,
        waiters.join(", "),
    );
    let tail: Vec<u64> = items(&diagnosis["live"], "waiters")
        .filter(|waiter| text(waiter, "entry_point") == "handle_pqap")
        .map(|waiter| number(waiter, "for_ns") / 1_000_000_000)
        .collect();
    findings.add(
        "each of them for seconds",
        tail.iter().all(|&seconds| seconds >= 2),
        format!("{tail:?} s"),
    );
    findings.equal(
        "diagnose, where it lasted before: exit code",
        &evidence.code("late.code")?,
        &1,
    );
    evidence.nothing_left("reset.left", "left behind", findings)
}

/// The first guest has the first adapter, with the two domains that its mdev shares with no other (`mdev_setup` in
/// `xtask/lab/workload/mdev.c`).
fn names_the_queue(summary: &str) -> bool {
    ["05.0004", "05.0047"]
        .iter()
        .any(|queue| summary.contains(queue))
}
