//! A busy guest, read from the kernel's memory a hundred times and more, against what probes saw at the same time.

use super::evidence::number;
use super::{Evidence, Findings};
use crate::failure::Failure;

/// Fewest snapshots of a run.
const SNAPSHOTS: u64 = 100;

/// Fewest owners, and waiters, that they have named.
const FACTS: u64 = 20;

/// Judges the recordings: one by probes, and those of snapshots.
pub fn judge(evidence: &Evidence, findings: &mut Findings) -> Result<(), Failure> {
    findings.equal("workload: exit code", &evidence.code("workload.code")?, &0);
    let traced = evidence.export("traced.apscope")?;
    super::counts::exact_or_said(evidence, &traced, findings);
    let names = evidence.names()?;
    let mut recordings = vec!["traced.apscope"];
    recordings.extend(
        names
            .iter()
            .map(String::as_str)
            .filter(|name| name.starts_with("snapshots-") && name.ends_with(".apscope")),
    );
    let compared = evidence.example("snapshots_agree", &recordings)?;
    let snapshots = number(&compared, "compared");
    findings.add(
        format!("{SNAPSHOTS} snapshots and more while probes were there"),
        snapshots >= SNAPSHOTS,
        snapshots.to_string(),
    );
    for (kind, what) in [
        ("holds", "owners that snapshots named were owners"),
        ("waits", "waiters that snapshots named were waiters"),
    ] {
        let facts = &compared[kind];
        let [seen, between, contradicted] =
            ["seen", "between", "contradicted"].map(|name| number(facts, name));
        // A comparison of a few facts says nothing, and so does one that is late.
        findings.add(
            what,
            contradicted == 0 && seen >= FACTS && between <= seen / 50,
            format!(
                "{seen} were, {between} just before or after, {contradicted} were not {}",
                facts["first"]
            ),
        );
    }
    // Nor does one that would succeed at any other time. Guests hold locks of their own nearly always, so that all facts are
    // looked at together, and waits alone.
    for (facts, of) in [(&compared, ""), (&compared["waits"], ", for waits alone")] {
        let [unseen, elsewhen] = ["unseen", "unseen_elsewhen"].map(|name| number(facts, name));
        findings.add(
            format!(
                "the same with the times of another part of the run is worse, whichever that is{of}"
            ),
            elsewhen > unseen,
            format!("{unseen} not seen at that time, {elsewhen} and more at others"),
        );
    }
    findings.equal(
        "mutexes and writers' locks with two owners, in snapshots or by probes",
        &compared["two_owners"],
        &serde_json::json!([]),
    );
    evidence.nothing_left("traced.left", "left behind", findings)
}
