//! What goes away while apscope is attached: apscope, a guest, an mdev, the driver. Nothing may be left behind, and what was
//! seen up to then must be whole.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::evidence::{calls, items, number, text};
use super::{Evidence, Findings};
use crate::failure::Failure;

/// What is assigned to the mdev and given to its guest, as the kernel's memory and the driver's attributes have it.
fn matrices(evidence: &Evidence, findings: &mut Findings) -> Result<(), Failure> {
    let export = evidence.json("matrix.json")?;
    let sysfs = evidence.text("matrix.sysfs")?;
    let mut expected: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut uuid = "";
    for line in sysfs.lines() {
        match line.split_once(' ') {
            Some(("uuid", name)) => {
                uuid = name;
                expected.entry(name.to_owned()).or_default();
            }
            Some(_) => {
                let queues = expected.entry(uuid.to_owned()).or_default();
                queues.insert(line.to_owned());
            }
            None => {}
        }
    }
    let read: BTreeMap<String, BTreeSet<String>> = items(&export, "objects")
        .filter(|object| text(object, "kind") == "mdev")
        .map(|object| {
            let queues = ["assigned", "in_guest"].into_iter().flat_map(|which| {
                let queues = queues(&object[which]).into_iter();
                queues.map(move |queue| format!("{which} {queue}"))
            });
            (text(object, "name").to_owned(), queues.collect())
        })
        .collect();
    let something = expected.values().any(|queues| queues.len() > 1);
    findings.add(
        "the matrix in the kernel's memory is what the driver shows",
        something && read == expected,
        format!("memory {read:?}, sysfs {expected:?}"),
    );
    Ok(())
}

/// Queues of a matrix, as the driver's attribute names them (`vfio_ap_mdev_matrix_show`): with adapters or with domains
/// alone there are none.
fn queues(matrix: &Value) -> Vec<String> {
    let numbers = |name| items(matrix, name).filter_map(Value::as_u64);
    let pairs = numbers("adapters").flat_map(|adapter| {
        numbers("domains").map(move |domain| format!("{adapter:02x}.{domain:04x}"))
    });
    pairs.collect()
}

/// The driver is used while probes are attached. What had begun before ends once for the one vCPU that there is, and is
/// counted apart.
fn since(trace: &Value, findings: &mut Findings) {
    let entries = items(trace, "entry_points").map(|entry| ("name", "unmatched_returns", entry));
    let locks = items(trace, "locks").map(|lock| ("class", "unmatched_releases", lock));
    let unmatched: Vec<(&str, u64)> = entries
        .chain(locks)
        .map(|(name, what, value)| (text(value, name), number(value, what)))
        .filter(|(_, count)| *count != 0)
        .collect();
    findings.add(
        "calls and holds that had begun before it attached: one of each at most",
        unmatched.iter().all(|(_, count)| *count == 1),
        if unmatched.is_empty() {
            "none".to_owned()
        } else {
            let names: Vec<_> = unmatched.iter().map(|(name, _)| *name).collect();
            names.join(", ")
        },
    );
}

/// Judges the recordings.
pub fn judge(evidence: &Evidence, findings: &mut Findings) -> Result<(), Failure> {
    for (file, what) in [
        ("kill.left", "left behind after SIGKILL"),
        (
            "unload.left",
            "left behind after guests and the driver have gone",
        ),
    ] {
        evidence.nothing_left(file, what, findings)?;
    }
    matrices(evidence, findings)?;
    findings.equal(
        "rmmod vfio_ap while attached",
        &evidence.code("rmmod.code")?,
        &0,
    );
    let unload = evidence.export("unload.apscope")?;
    findings.equal(
        "and the run ends with",
        &text(&unload["source"], "ended"),
        &"driver unloaded",
    );
    // Two guests' mdevs: that of the guest that was killed, and that of the workload afterwards.
    let removed = calls(&unload, "vfio_ap_mdev_remove");
    findings.add(
        "mdevs were removed while attached, one after its guest was killed",
        removed > 1,
        removed.to_string(),
    );
    let pqap = calls(&unload, "handle_pqap");
    findings.add(
        "with calls of handle_pqap up to then",
        pqap > 0,
        pqap.to_string(),
    );
    super::counts::exact_or_said(evidence, &unload, findings);
    since(&unload, findings);
    let dmesg = evidence.text("dmesg")?.to_lowercase();
    let wrong: Vec<String> = dmesg
        .lines()
        .filter(|line| {
            ["oops", "bug:", "warning:", "illegal operation"]
                .iter()
                .any(|w| line.contains(w))
        })
        .map(str::to_owned)
        .collect();
    findings.none("complaints of the kernel", "none", &wrong);
    Ok(())
}
