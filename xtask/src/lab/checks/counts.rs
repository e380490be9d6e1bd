//! Counts against the truth of the program that did the work: calls and returned values of every entry point that it knows
//! of, PQAP by function and response code, what was written, and locks that are taken once for each call.

use std::collections::BTreeMap;

use serde_json::Value;

use super::evidence::{acquisitions, calls, items, number, text};
use super::{Evidence, Findings};
use crate::failure::Failure;

/// Writes that an export has at most (docs/json.md).
const MOST_WRITES: u64 = 100;

/// Judges the trace.
pub fn judge(evidence: &Evidence, findings: &mut Findings) -> Result<(), Failure> {
    let truth = evidence.json("truth.json")?;
    let trace = evidence.export("trace.apscope")?;
    findings.equal("workload: exit code", &evidence.code("workload.code")?, &0);
    entry_points(&trace, &truth, evidence.has_one_lock(), findings);
    exact(&trace, findings);
    writes(&trace, &truth, findings);
    // KVM_RUN takes its vCPU's mutex once (kvm_vcpu_ioctl() in virt/kvm/kvm_main.c).
    findings.equal(
        "vcpu->mutex is taken once for each KVM_RUN",
        &acquisitions(&trace, "vcpu->mutex", "-"),
        &calls(&truth, "kvm_vcpu_ioctl"),
    );
    if evidence.has_one_lock() {
        // assign_adapter_store() and its siblings refuse while a guest has the matrix.
        let busy = returned(&trace, "_store", "-EBUSY");
        findings.equal(
            "EBUSY of matrix writes while a guest has the matrix",
            &busy,
            &returned(&truth, "_store", "-EBUSY"),
        );
        findings.add("there was EBUSY", busy > 0, busy.to_string());
        let notified = calls(&trace, "vfio_ap_mdev_group_notifier");
        findings.add(
            "the group notifier was traced",
            notified > 0,
            notified.to_string(),
        );
    } else {
        findings.equal(
            "pqap_hook_rwsem is read-locked once for each PQAP that is handled",
            &acquisitions(&trace, "pqap_hook_rwsem", "read"),
            &calls(&truth, "handle_pqap"),
        );
    }
    leaks(&trace, findings);
    evidence.nothing_left("trace.left", "left behind", findings)
}

/// Whether everything was seen.
pub fn exact(trace: &Value, findings: &mut Findings) {
    let events = &trace["events"];
    findings.add(
        "exact, nothing missed, nothing dropped",
        trace["exact"] == true && number(trace, "missed") == 0 && number(events, "dropped") == 0,
        format!(
            "exact {}, {} missed, {} of {} spans dropped",
            trace["exact"],
            number(trace, "missed"),
            number(events, "dropped"),
            number(events, "emitted"),
        ),
    );
}

/// Whether everything was seen, or the right thing is said. Linux 7.2 preempts whoever reads maps, and skips programs of
/// kprobes meanwhile.
pub fn exact_or_said(evidence: &Evidence, trace: &Value, findings: &mut Findings) {
    if evidence.kernel.series() != "7.2" {
        exact(trace, findings);
        return;
    }
    let missed = number(trace, "missed");
    findings.add(
        "exact, or what was missed is said",
        trace["exact"] == (missed == 0),
        format!("exact {}, {missed} missed", trace["exact"]),
    );
}

/// Compares every entry point of a truth with an export: the same calls, the same returned values, the same answers. Where
/// the status of AQIC cannot be used (ap_aqic() of 5.10 returns the wrong half of its register), answers are only counted.
pub fn entry_points(trace: &Value, truth: &Value, status_unusable: bool, findings: &mut Findings) {
    let seen: BTreeMap<&str, &Value> = items(trace, "entry_points")
        .map(|entry| (text(entry, "name"), entry))
        .collect();
    let mut wrong = Vec::new();
    let (mut functions, mut compared) = (0, 0);
    for entry in items(truth, "entry_points") {
        let name = text(entry, "name");
        let Some(seen) = seen.get(name) else {
            wrong.push(format!("{name} is not there"));
            continue;
        };
        functions += 1;
        compared += number(entry, "calls");
        for member in ["calls", "in_flight", "returns", "pqap"] {
            // What is absent from a truth was not counted.
            let same = match member {
                _ if entry[member].is_null() => true,
                "pqap" if status_unusable => {
                    functions_of(&entry["pqap"]) == functions_of(&seen["pqap"])
                }
                _ => entry[member] == seen[member],
            };
            if !same {
                wrong.push(format!(
                    "{name}: {member} {}, truth {}",
                    seen[member], entry[member]
                ));
            }
        }
    }
    if compared == 0 {
        wrong.push("nothing was compared".into());
    }
    let of = format!("{functions} functions, {compared} calls");
    findings.none("calls and returns equal the truth", of, &wrong);
}

/// PQAP by function, whatever was answered.
fn functions_of(pqap: &Value) -> BTreeMap<&str, u64> {
    let functions = pqap.as_object().into_iter().flatten();
    functions
        .map(|(name, codes)| {
            let codes = codes.as_object().into_iter().flatten();
            (
                name.as_str(),
                codes.filter_map(|(_, count)| count.as_u64()).sum(),
            )
        })
        .collect()
}

/// How often functions whose names end so have returned that.
fn returned(document: &Value, suffix: &str, what: &str) -> u64 {
    items(document, "entry_points")
        .filter(|entry| text(entry, "name").ends_with(suffix))
        .map(|entry| number(&entry["returns"], what))
        .sum()
}

/// The last writes that were seen are among those that were made, with the same result.
fn writes(trace: &Value, truth: &Value, findings: &mut Findings) {
    let key = |attribute: &str, value: &str, result: &str| {
        // A span has the first 8 bytes of the text.
        let value: String = value.chars().take(8).collect();
        (attribute.to_owned(), value, result.to_owned())
    };
    let mut made: BTreeMap<_, u64> = BTreeMap::new();
    for write in items(truth, "writes") {
        let key = key(
            text(write, "attribute"),
            text(write, "value"),
            text(write, "errno"),
        );
        *made.entry(key).or_default() += number(write, "count");
    }
    let mut wrong = Vec::new();
    let mut compared = 0_u64;
    for write in items(trace, "writes") {
        let Some(attribute) = text(write, "entry_point").strip_suffix("_store") else {
            continue;
        };
        compared += 1;
        let key = key(attribute, text(write, "text"), text(write, "returns"));
        match made.get_mut(&key) {
            Some(left @ 1..) => *left -= 1,
            _ => wrong.push(format!("{} {:?} → {}", key.0, key.1, key.2)),
        }
    }
    // An export has the last of them.
    let all: u64 = items(truth, "writes")
        .filter(|write| !["create", "remove"].contains(&text(write, "attribute")))
        .map(|write| number(write, "count"))
        .sum();
    let expected = all.min(MOST_WRITES);
    if compared != expected || expected == 0 {
        wrong.push(format!("{compared} were seen, {expected} must be"));
    }
    let of = format!("{compared} writes");
    findings.none("numbers that were written, with their results", of, &wrong);
}

/// Nothing is held at the end, and no lock of the driver was released without having been taken.
fn leaks(trace: &Value, findings: &mut Findings) {
    let held: Vec<String> = items(&trace["live"], "holders")
        .chain(items(&trace["live"], "waiters"))
        .map(|live| format!("{} by {}", text(live, "lock"), text(live, "comm")))
        .collect();
    findings.none("held or waited for at the end", "nothing", &held);
    let mut looked_at = 0;
    let mut wrong = Vec::new();
    let own = items(trace, "locks").filter(|lock| text(lock, "class").starts_with("matrix_dev->"));
    for lock in own {
        let [taken, released, unmatched] =
            ["acquisitions", "releases", "unmatched_releases"].map(|name| number(lock, name));
        looked_at += taken;
        if unmatched != 0 || taken != released {
            wrong.push(format!(
                "{}: {taken} acquisitions, {released} releases, {unmatched} unmatched",
                text(lock, "class"),
            ));
        }
    }
    let of = format!("{looked_at} of each");
    findings.none(
        "acquisitions and releases of the driver's locks match",
        of,
        &wrong,
    );
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn judged(trace: &Value, truth: &Value, status_unusable: bool) -> bool {
        let mut findings = Findings::default();
        entry_points(trace, truth, status_unusable, &mut findings);
        findings.lines[0].passed
    }

    #[test]
    fn counts_that_differ_by_one_are_wrong() {
        let document = |calls: u64, code: &str| {
            json!({ "entry_points": [
                { "name": "handle_pqap", "calls": calls, "in_flight": 0, "returns": { "ok": 4 },
                  "pqap": { "AQIC": { code: 4 } } },
            ] })
        };
        let truth = document(4, "00");
        assert!(judged(&truth, &truth, false));
        assert!(!judged(&document(5, "00"), &truth, false));
        assert!(!judged(&document(4, "07"), &truth, false));
        assert!(judged(&document(4, "07"), &truth, true));
        assert!(!judged(&json!({ "entry_points": [] }), &truth, false));
        let empty = json!({});
        assert!(!judged(&empty, &empty, false), "nothing is no success");
    }

    #[test]
    fn a_write_is_among_those_that_were_made() {
        let truth = json!({ "writes": [
            { "attribute": "assign_domain", "value": "0x47", "errno": "ok", "count": 1 },
        ] });
        let judged = |text: &str, times: usize| {
            let write =
                json!({ "entry_point": "assign_domain_store", "text": text, "returns": "ok" });
            let trace = json!({ "writes": vec![write; times] });
            let mut findings = Findings::default();
            writes(&trace, &truth, &mut findings);
            findings.lines[0].passed
        };
        assert!(judged("0x47", 1));
        assert!(!judged("0x47", 2));
        assert!(!judged("0x48", 1));
        assert!(!judged("0x47", 0), "one was made");
    }
}
