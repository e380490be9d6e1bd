//! The kernel's own word on a guest that hangs, against ours: its list of blocked tasks (sysrq-w), and, where lockdep is
//! there, its list of the locks that each task has (sysrq-d).

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

use super::evidence::{class, finding, items, number, parse, run};
use super::{Evidence, Findings};
use crate::failure::Failure;

/// What both keys have printed.
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
    let mut command = Command::new(&evidence.apscope);
    command
        .args(["diagnose", "--json", "--from"])
        .arg(evidence.folder.join(LOG));
    let from_text = parse("the diagnosis of a text", &run(&mut command, &[0, 1])?)?;
    let of_text = finding(&from_text, "AP001").map(locks_of);
    findings.add(
        "the diagnosis of that text alone is the same",
        of_text.as_ref() == Some(&ours),
        of_text.map_or_else(|| "no AP001".into(), |locks| spell(&locks)),
    );
    if evidence.kernel.has_lockdep() {
        let mut theirs = kept(&log);
        theirs.retain(|thread, _| tasks.contains(thread));
        findings.add(
            "owners and waiters are those that lockdep names (sysrq-d)",
            theirs == ours,
            format!("{}, from memory {}", spell(&theirs), spell(&ours)),
        );
    }
    Ok(())
}

/// What a chain says of each of its tasks.
fn locks_of(deadlock: &Value) -> Locks {
    let mut locks = Locks::new();
    for step in items(deadlock, "chain") {
        let (has, waits) = locks.entry(number(step, "tid")).or_default();
        if let Some(lock) = step["keeps"]["lock"].as_str() {
            has.insert(class(lock).to_owned());
        }
        if let Some(lock) = step["waits"]["lock"].as_str() {
            class(lock).clone_into(waits);
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

/// The list of lockdep (debug_show_all_locks() in kernel/locking/lockdep.c), of the locks that apscope names here:
/// `2 locks held by NAME/492:`, and `#0: ADDRESS (&vcpu->mutex){+.+.}-{3:3}, at: …` in the order of taking. A lock counts
/// as held from the call on, so the last of a task that is blocked is what it waits for.
fn kept(log: &str) -> Locks {
    let list = log
        .rsplit_once("Showing all locks held in the system")
        .map_or("", |(_, list)| list);
    let mut all: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    let mut thread = None;
    for line in list.lines() {
        if let Some((_, name)) = line.split_once(" held by ") {
            let number = name.trim_end_matches(':').rsplit('/').next();
            thread = number.and_then(|number| number.parse().ok());
        } else if let (Some(thread), Some((_, lock))) = (thread, line.split_once(" (&")) {
            let name = lock.split(['{', ')']).next().unwrap_or_default();
            if ["matrix_dev->lock", "kvm->lock", "vcpu->mutex"].contains(&name) {
                all.entry(thread).or_default().push(name.to_owned());
            }
        }
    }
    all.into_iter()
        .map(|(thread, mut names)| {
            let waits = names.pop().unwrap_or_default();
            (thread, (names.into_iter().collect(), waits))
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
    fn the_last_lock_of_a_task_is_what_it_waits_for() {
        let log = "Showing all locks held in the system:\n\
            [ 9.0] 1 lock held by khungtaskd/20:\n\
            [ 9.0]  #0: 00000000013b6a28 (rcu_read_lock){....}-{1:2}, at: rcu\n\
            [ 9.0] 2 locks held by vcpu/0/492:\n\
            [ 9.0]  #0: 0000000002cc80b8 (&vcpu->mutex){+.+.}-{3:3}, at: kvm_vcpu_ioctl+0xa0/0xb20 [kvm]\n\
            [ 9.0]  #1: 0000000002da8e50 (&matrix_dev->lock){+.+.}-{3:3}, at: handle_pqap+0x7e/0x340 [vfio_ap]\n";
        let has = BTreeSet::from(["vcpu->mutex".to_owned()]);
        let expected = Locks::from([(492, (has, "matrix_dev->lock".to_owned()))]);
        assert_eq!(kept(log), expected);
        assert_eq!(
            spell(&expected),
            "492 has vcpu->mutex and waits for matrix_dev->lock"
        );
    }
}
