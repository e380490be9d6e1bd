//! The order of locks that was seen, against the documented order of the generation; that no cycle is suspected where there
//! is none, and that the one of stable 6.1 is found and explained.

use std::collections::BTreeSet;

use serde_json::Value;

use super::evidence::{items, text};
use super::{Evidence, Findings};
use crate::failure::Failure;

/// Order of Linux 5.10: the mutex is innermost in PQAP and outermost in the release of a device.
const ONE_LOCK: [(&str, &str); 2] = [
    ("vcpu->mutex", "matrix_dev->lock"),
    ("matrix_dev->lock", "kvm->lock"),
];

/// Order since Linux 6.0 (get_update_locks_for_kvm() and handle_pqap() in vfio_ap_ops.c).
const HOT_PLUG: [(&str, &str); 5] = [
    ("matrix_dev->guests_lock", "kvm->lock"),
    ("matrix_dev->guests_lock", "matrix_dev->mdevs_lock"),
    ("kvm->lock", "matrix_dev->mdevs_lock"),
    ("vcpu->mutex", "pqap_hook_rwsem"),
    ("pqap_hook_rwsem", "matrix_dev->mdevs_lock"),
];

/// Edges between classes.
pub fn edges(export: &Value) -> BTreeSet<(String, String)> {
    items(export, "order")
        .map(|edge| {
            (
                text(edge, "held").to_owned(),
                text(edge, "acquired").to_owned(),
            )
        })
        .collect()
}

/// Stable 6.1 has 51cdc8bc120e, by which `kvm->lock` is held around the group's lock when a kvm-vfio device is released, and
/// not the commit of v6.3 that mends it: opening a device of vfio_ap takes them the other way round. That cycle is real, and
/// there is no other.
fn group_and_kvm(diagnosis: &Value, findings: &mut Findings) {
    let suspected: Vec<&Value> = items(diagnosis, "findings")
        .filter(|finding| {
            ["AP001", "AP002", "AP003", "AP004", "AP005"].contains(&text(finding, "id"))
        })
        .collect();
    let known = |finding: &Value| {
        let summary = text(finding, "summary");
        let fix = "vfio: fix deadlock between group lock and kvm lock";
        text(finding, "id") == "AP002"
            && summary.contains("kvm->lock -> kv->lock -> group_lock")
            && finding["upstream"].to_string().contains(fix)
    };
    let summaries: Vec<&str> = suspected.iter().map(|f| text(f, "summary")).collect();
    findings.add(
        "the possible deadlock of kvm->lock and group_lock is found, with the commit that ended it, and no other",
        !suspected.is_empty() && suspected.iter().all(|finding| known(finding)),
        summaries.join("; "),
    );
}

/// Judges the trace.
pub fn judge(evidence: &Evidence, findings: &mut Findings) -> Result<(), Failure> {
    let seen = edges(&evidence.export("trace.apscope")?);
    let documented: &[_] = if evidence.has_one_lock() {
        &ONE_LOCK
    } else {
        &HOT_PLUG
    };
    let is_there = |a: &str, b: &str| seen.contains(&(a.to_owned(), b.to_owned()));
    let mut wrong = Vec::new();
    for &(held, acquired) in documented {
        if !is_there(held, acquired) {
            wrong.push(format!("{held} → {acquired} was not seen"));
        }
        if is_there(acquired, held) {
            wrong.push(format!("{acquired} → {held} was seen"));
        }
    }
    let of = format!("{} documented edges of {}", documented.len(), seen.len());
    findings.none("the documented order, and never the reverse", of, &wrong);
    let diagnosis = evidence.diagnosis("trace.apscope")?;
    if evidence.kernel.series() == "6.1" {
        group_and_kvm(&diagnosis, findings);
        return Ok(());
    }
    let serious = ["AP001", "AP002", "AP003", "AP004", "AP005"];
    let accused: Vec<String> = items(&diagnosis, "findings")
        .filter(|finding| serious.contains(&text(finding, "id")))
        .map(|finding| format!("{} {}", text(finding, "id"), text(finding, "summary")))
        .collect();
    findings.none(
        "no deadlock, real or possible, no lock leaked or released by others",
        text(&diagnosis, "verdict"),
        &accused,
    );
    Ok(())
}
