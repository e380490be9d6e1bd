//! The deadlock of 2021 on the driver that had it: that it is named, with its tasks, its locks and its functions, soon, and
//! that apscope itself does not become part of it.

use std::collections::BTreeSet;

use serde_json::Value;

use super::evidence::{class, finding, items, number, text};
use super::{Evidence, Findings};
use crate::failure::Failure;

/// Function in which each lock is held, and the lock that is waited for there, with the function.
const CYCLE: [(&str, &str, &str, &str); 3] = [
    (
        "vcpu->mutex",
        "kvm_vcpu_ioctl",
        "matrix_dev->lock",
        "handle_pqap",
    ),
    (
        "matrix_dev->lock",
        "vfio_ap_mdev_release",
        "kvm->lock",
        "kvm_arch_crypto_clear_masks",
    ),
    (
        "kvm->lock",
        "kvm_s390_handle_pv",
        "vcpu->mutex",
        "kvm_s390_handle_pv",
    ),
];

/// Judges the run that hangs.
pub fn judge(evidence: &Evidence, findings: &mut Findings) -> Result<(), Failure> {
    let said = evidence.text("workload.out")?;
    let (hung_ns, tasks) = hung(&said).ok_or_else(|| {
        Failure::found("the driver did not hang")
            .cause(said.lines().last().unwrap_or("").to_owned())
    })?;
    findings.equal(
        "workload: tasks do not come back",
        &evidence.code("workload.code")?,
        &3,
    );
    let report = evidence.json("hang.out")?;
    let verdict = text(&report, "verdict");
    findings.add("verdict", verdict.starts_with("DEADLOCK"), verdict);
    findings.equal("exit code of diagnose", &evidence.code("hang.code")?, &1);
    let Some(deadlock) = finding(&report, "AP001") else {
        findings.add("AP001", false, "not found");
        return Ok(());
    };
    named(deadlock, &tasks, findings);
    functions(deadlock, findings);
    #[expect(clippy::cast_possible_wrap, reason = "times since boot")]
    let after_ms = (number(deadlock, "found_at_ns") as i64 - hung_ns as i64) / 1_000_000;
    // With lockdep every lock costs more, and the machine is not alone.
    let (bound, at_most_ms) = if evidence.kernel.has_lockdep() {
        ("three seconds", 3000)
    } else {
        ("a second", 1000)
    };
    findings.add(
        format!("found within {bound} of the hang"),
        after_ms <= at_most_ms,
        format!("{after_ms} ms after all three were asleep"),
    );
    let reported = evidence
        .text("dmesg.hung")?
        .contains("blocked for more than");
    findings.add(
        "before khungtaskd",
        !reported,
        if reported {
            "it has reported"
        } else {
            "it has not reported yet"
        },
    );
    afterwards(evidence, &tasks, findings)
}

/// Exactly these tasks and locks.
fn named(deadlock: &Value, tasks: &BTreeSet<u64>, findings: &mut Findings) {
    let named: BTreeSet<u64> = items(deadlock, "tasks").map(|t| number(t, "tid")).collect();
    findings.add(
        "AP001 names exactly the three tasks",
        &named == tasks && items(deadlock, "tasks").count() == 3,
        format!("{named:?}"),
    );
    let locks: Vec<&str> = items(deadlock, "locks")
        .filter_map(Value::as_str)
        .map(class)
        .collect();
    let expected: BTreeSet<&str> = CYCLE.iter().map(|&(held, ..)| held).collect();
    findings.add(
        "AP001 names exactly the three locks",
        locks.len() == 3 && locks.iter().copied().collect::<BTreeSet<_>>() == expected,
        locks.join(", "),
    );
}

/// And these functions: which probes see, and stacks only as far as the compiler has left them.
fn functions(deadlock: &Value, findings: &mut Findings) {
    let steps = steps(deadlock);
    let expected: BTreeSet<_> = CYCLE
        .iter()
        .map(|&(_, held_in, waits_for, waits_in)| {
            (
                held_in.to_owned(),
                waits_for.to_owned(),
                waits_in.to_owned(),
            )
        })
        .collect();
    findings.add(
        "and their functions",
        steps == expected,
        steps
            .iter()
            .map(|(held_in, lock, waits_in)| format!("{held_in}: {waits_in} waits for {lock}"))
            .collect::<Vec<_>>()
            .join("; "),
    );
}

/// For each task of a chain: where it holds, what it waits for, and where. The first task's holding is at the end, where
/// the circle closes.
fn steps(deadlock: &Value) -> BTreeSet<(String, String, String)> {
    let chain: Vec<&Value> = items(deadlock, "chain").collect();
    let held_in = |tid: u64| {
        chain
            .iter()
            .filter(|step| number(step, "tid") == tid)
            .find_map(|step| step["keeps"]["entry_point"].as_str())
            .unwrap_or("-")
    };
    chain
        .iter()
        .filter(|step| step["waits"].is_object())
        .map(|step| {
            let waits = &step["waits"];
            (
                held_in(number(step, "tid")).to_owned(),
                class(text(waits, "lock")).to_owned(),
                text(waits, "entry_point").to_owned(),
            )
        })
        .collect()
}

/// What apscope does to, and with, a guest that hangs.
fn afterwards(
    evidence: &Evidence,
    tasks: &BTreeSet<u64>,
    findings: &mut Findings,
) -> Result<(), Failure> {
    evidence.nothing_left("hang.left", "left behind after the hang", findings)?;
    first_look(evidence, tasks, findings)?;
    if !evidence.kernel.has_lockdep() {
        attached_late(evidence, findings)?;
    }
    let stuck = evidence.text("stuck")?;
    let names: Vec<&str> = stuck.lines().collect();
    findings.add(
        "asleep for good at the end: the three tasks and nobody else",
        names.len() == tasks.len() && !stuck.contains("apscope"),
        names.join(", "),
    );
    Ok(())
}

/// Who comes when it hangs already, and attaches everything.
fn attached_late(evidence: &Evidence, findings: &mut Findings) -> Result<(), Failure> {
    for (file, what) in [
        (
            "late.left",
            "left behind by attaching to and detaching from a guest that hangs",
        ),
        (
            "kill.left",
            "left behind after SIGKILL on a guest that hangs",
        ),
    ] {
        evidence.nothing_left(file, what, findings)?;
    }
    let verdict = evidence.json("late.out")?;
    let verdict = text(&verdict, "verdict");
    findings.add(
        "attached when it hung already, and ended by itself",
        evidence.code("late.code")? == 1 && verdict.starts_with("DEADLOCK"),
        verdict,
    );
    Ok(())
}

/// Who comes when it hangs already, and asks nothing but the kernel's memory.
fn first_look(
    evidence: &Evidence,
    tasks: &BTreeSet<u64>,
    findings: &mut Findings,
) -> Result<(), Failure> {
    let report = evidence.json("first.out")?;
    let seconds = |file: &str| -> Result<f64, Failure> {
        Ok(evidence.text(file)?.trim().parse().unwrap_or(f64::NAN))
    };
    let took = seconds("first.ended")? - seconds("first.began")?;
    findings.add(
        "asked when it hung already: ends with what the kernel's memory says",
        evidence.code("first.code")? == 1 && report["source"]["level"] == 0,
        format!(
            "{took:.2} s from start to end: {}",
            text(&report, "verdict")
        ),
    );
    match finding(&report, "AP001") {
        Some(deadlock) => named(deadlock, tasks, findings),
        None => findings.add("AP001 without a probe", false, "not found"),
    }
    evidence.nothing_left("first.left", "left behind by it", findings)
}

/// `hung: monotonic_ns=N tasks=A,B,C` of the workload.
fn hung(said: &str) -> Option<(u64, BTreeSet<u64>)> {
    let (_, rest) = said.split_once("hung: monotonic_ns=")?;
    let (ns, rest) = rest.split_once(" tasks=")?;
    let tasks = rest.lines().next()?.split(',');
    let tasks = tasks.map(|tid| tid.trim().parse().ok());
    Some((ns.parse().ok()?, tasks.collect::<Option<_>>()?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_workload_says_when_and_who() {
        let said = "workload: hung: monotonic_ns=295 tasks=465,466,467\nworkload: x\n";
        assert_eq!(hung(said), Some((295, BTreeSet::from([465, 466, 467]))));
        assert_eq!(hung("workload: finished"), None);
    }

    #[test]
    fn the_first_holding_of_a_circle_is_where_it_closes() {
        let wait = |lock: &str| json!({ "lock": lock, "entry_point": "w" });
        let deadlock = json!({ "chain": [
            { "tid": 1, "waits": wait("a") },
            { "tid": 2, "keeps": { "entry_point": "two" }, "waits": wait("b[x]") },
            { "tid": 1, "keeps": { "entry_point": "one" } },
        ] });
        let step = |f: &str, lock: &str| (f.to_owned(), lock.to_owned(), "w".to_owned());
        assert_eq!(
            steps(&deadlock),
            BTreeSet::from([step("one", "a"), step("two", "b")])
        );
    }
}
