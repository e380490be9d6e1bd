//! Many tasks blocked on one lock, with more to run than there are CPUs: counts equal the truth, or say that they are "at
//! least", and by how much at most.

use super::evidence::{items, number, text};
use super::{Evidence, Findings};
use crate::failure::Failure;

/// Judges the recording.
pub fn judge(evidence: &Evidence, findings: &mut Findings) -> Result<(), Failure> {
    let truth = evidence.json("truth.json")?;
    let trace = evidence.export("pile.apscope")?;
    findings.equal("workload: exit code", &evidence.code("workload.code")?, &0);
    let piled = evidence.text("workload.out")?;
    let piled = piled
        .split_once("piled: ")
        .and_then(|(_, rest)| {
            rest.split_once("tasks=")?
                .1
                .lines()
                .next()?
                .trim()
                .parse()
                .ok()
        })
        .unwrap_or(0_u64);
    findings.add("tasks blocked at once", piled >= 200, piled.to_string());
    let missed = number(&trace, "missed");
    if trace["exact"] == true {
        super::counts::exact(&trace, findings);
        super::counts::entry_points(&trace, &truth, false, findings);
    } else {
        let mut wrong = Vec::new();
        let mut lacking = 0;
        for entry in items(&truth, "entry_points") {
            let seen = items(&trace, "entry_points")
                .find(|seen| text(seen, "name") == text(entry, "name"))
                .map_or(0, |seen| number(seen, "calls"));
            let made = number(entry, "calls");
            lacking += made.saturating_sub(seen);
            if seen > made {
                wrong.push(format!("{}: {seen} of {made}", text(entry, "name")));
            }
        }
        if lacking > missed {
            wrong.push(format!(
                "{lacking} calls are not there, {missed} are missed"
            ));
        }
        let of = format!("{lacking} calls are not there, {missed} hits are said to be missed");
        findings.none("counts are \"at least\", by the right number", of, &wrong);
    }
    let contended: u64 = items(&trace, "locks")
        .filter(|lock| text(lock, "class") == "matrix_dev->mdevs_lock")
        .map(|lock| number(lock, "contended"))
        .sum();
    findings.add(
        "waits on mdevs_lock",
        contended >= piled.saturating_sub(1),
        contended.to_string(),
    );
    evidence.nothing_left("pile.left", "left behind", findings)
}
