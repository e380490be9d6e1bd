//! The order of locks that was seen, against the documented order of the generation; and that no cycle is suspected where
//! there is none.

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
