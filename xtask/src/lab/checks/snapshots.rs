//! A busy guest, read from the kernel's memory a hundred times and more, against what probes saw at the same time.

use super::evidence::number;
use super::{Evidence, Findings};
use crate::failure::Failure;

/// Fewest snapshots of a run, beside another machine on two processors: a third of what is usual.
const SNAPSHOTS: u64 = 100;

/// Fewest owners, and waiters, that they have named.
const FACTS: u64 = 20;

/// Judges the two recordings.
pub fn judge(evidence: &Evidence, findings: &mut Findings) -> Result<(), Failure> {
    for (what, code) in [
        ("workload", "workload.code"),
        ("snapshots", "snapshots.code"),
    ] {
        let what = format!("{what}: exit code");
        findings.equal(what, &evidence.code(code)?, &0);
    }
    let traced = evidence.export("traced.apscope")?;
    if evidence.kernel.series() == "5.10" {
        super::counts::exact(&traced, findings);
    } else {
        // Linux 7.2 preempts whoever reads maps, and skips programs of kprobes meanwhile.
        let missed = number(&traced, "missed");
        findings.add(
            "exact, or what was missed is said",
            traced["exact"] == (missed == 0),
            format!("exact {}, {missed} missed", traced["exact"]),
        );
    }
    let compared = evidence.example("snapshots_agree", &["snapshots.apscope", "traced.apscope"])?;
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
        let [seen, between, by_chance, contradicted] =
            ["seen", "between", "by_chance", "contradicted"].map(|name| number(facts, name));
        // A comparison that would also succeed at another time says nothing, and so does one of a few, or one that is late.
        findings.add(
            what,
            contradicted == 0
                && seen >= FACTS
                && by_chance < seen
                && between <= seen / 50,
            format!(
                "{seen} were, {between} just before or after, {contradicted} were not {}; at another time {by_chance} would \
                 have been",
                facts["first"]
            ),
        );
    }
    findings.equal(
        "mutexes and writers' locks with two owners",
        &number(&compared, "two_owners"),
        &0,
    );
    evidence.nothing_left("traced.left", "left behind", findings)
}
