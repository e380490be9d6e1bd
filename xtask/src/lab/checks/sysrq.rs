//! The kernel's own word on a guest that hangs, against ours: its list of blocked tasks (sysrq-w), and what follows from
//! that text alone.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::evidence::{class, finding, items, number};
use super::{Evidence, Findings};
use crate::failure::Failure;

/// What the kernel has printed.
const LOG: &str = "dmesg.sysrq";

/// By thread: the locks that it has, and the one that it waits for, without their instances.
type Locks = BTreeMap<u64, (BTreeSet<String>, String)>;

/// Compares them with what was read from memory before any probe.
pub fn judge(evidence: &Evidence, findings: &mut Findings) -> Result<(), Failure> {
    let log = evidence.text(LOG)?;
    let report = evidence.json("first.out")?;
    let Some(deadlock) = finding(&report, "AP001") else {
        findings.add("AP001 without a probe", false, "not found");
        return Ok(());
    };
    let ours = locks_of(deadlock);
    let tasks: BTreeSet<u64> = ours.keys().copied().collect();
    let blocked = blocked(&log);
    findings.add(
        "blocked tasks are those that the kernel names (sysrq-w)",
        !blocked.is_empty() && blocked == tasks,
        format!("{blocked:?}"),
    );
    let of_text = evidence.diagnosis_of_text(LOG)?;
    let of_text = finding(&of_text, "AP001").map(locks_of);
    findings.add(
        "the diagnosis of that text alone is the same",
        of_text.as_ref() == Some(&ours),
        of_text.map_or_else(|| "no AP001".into(), |locks| spell(&locks)),
    );
    Ok(())
}

/// What a chain says of each of its tasks: a step has what the one before it waits for.
fn locks_of(deadlock: &Value) -> Locks {
    let mut locks = Locks::new();
    let mut wanted: Option<String> = None;
    for step in items(deadlock, "chain") {
        let (has, waits) = locks.entry(number(step, "tid")).or_default();
        has.extend(wanted.take());
        if let Some(lock) = step["waits"]["lock"].as_str() {
            class(lock).clone_into(waits);
            wanted = Some(class(lock).to_owned());
        }
    }
    locks
}

/// Threads in the last list of blocked tasks (show_state_filter() in kernel/sched/core.c):
/// `task:NAME state:D stack:… pid:  492 ppid: …`.
fn blocked(log: &str) -> BTreeSet<u64> {
    let list = log.rsplit_once("Show Blocked State").map_or("", |(_, l)| l);
    list.lines()
        .filter(|line| line.contains("task:") && line.contains("state:D"))
        .filter_map(|line| {
            let (_, rest) = line.split_once("pid:")?;
            rest.split_whitespace().next()?.parse().ok()
        })
        .collect()
}

fn spell(locks: &Locks) -> String {
    let tasks: Vec<String> = locks
        .iter()
        .map(|(thread, (has, waits))| {
            let has: Vec<&str> = has.iter().map(String::as_str).collect();
            format!("{thread} has {} and waits for {waits}", has.join(", "))
        })
        .collect();
    tasks.join("; ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn blocked_tasks_are_those_of_the_last_list() {
        let log = "[ 1.0] sysrq: Show Blocked State\n\
            [ 1.0] task:old  state:D stack:    0 pid:    7 ppid:     1 flags:0x0\n\
            [ 9.0] sysrq: Show Blocked State\n\
            [ 9.0] task:vcpu/0  state:D stack:    0 pid:  492 ppid:   490 flags:0x0\n\
            [ 9.0] Call Trace:\n\
            [ 9.0] task:idle  state:S stack:    0 pid:  3 ppid:   2 flags:0x0\n";
        assert_eq!(blocked(log), BTreeSet::from([492]));
        assert!(blocked("nothing").is_empty());
    }

    #[test]
    fn a_chain_says_who_has_what_and_waits_for_what() {
        let deadlock = json!({ "chain": [
            { "tid": 1, "waits": { "lock": "matrix_dev->lock" } },
            { "tid": 2, "waits": { "lock": "kvm->lock[x]" } },
            { "tid": 1, "keeps": {} },
        ] });
        assert_eq!(
            spell(&locks_of(&deadlock)),
            "1 has kvm->lock and waits for matrix_dev->lock; 2 has matrix_dev->lock and waits for kvm->lock"
        );
    }
}
