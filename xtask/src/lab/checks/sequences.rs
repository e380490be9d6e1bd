//! The emulated driver against the genuine one. Its lock sequences are written down, one file for each generation
//! (`collector/src/emulator/sequences`); here they are compared with what was traced on the kernel that has this
//! generation: which locks each entry point takes, and in which order. What is traced and not written, and what is
//! written, was exercised, and is not traced, are both wrong. Values that were returned must be among those of the emulated driver.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::Value;

use super::evidence::{class, items, number, text};
use super::{Evidence, Findings};
use crate::failure::Failure;

/// Class and mode: `-`, `read` or `write`.
type Lock = (String, &'static str);

/// Locks and edges.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Taken {
    locks: BTreeSet<Lock>,
    edges: BTreeSet<(Lock, Lock)>,
}

impl Taken {
    fn add(&mut self, other: &Self) {
        self.locks.extend(other.locks.iter().cloned());
        self.edges.extend(other.edges.iter().cloned());
    }
}

/// An entry point as the sequences name it, and the functions that a trace may name for the same.
struct Group {
    /// Beginnings of the names of its cases.
    cases: &'static [&'static str],
    functions: &'static [&'static str],
    /// Cases that the workload has certainly gone through.
    exercised: &'static [&'static str],
}

/// Functions that are called in more than one entry point: a lock that is taken there may be any case's.
const ANYWHERE: [&str; 5] = [
    "vfio_ap_mdev_reset_queues",
    "kvm_arch_crypto_set_masks",
    "kvm_arch_crypto_clear_masks",
    "vfio_ap_mdev_group_notifier",
    "-",
];

const GROUPS: [Group; 5] = [
    Group {
        cases: &["handle_pqap", "kvm handle_pqap", "PQAP of"],
        functions: &[
            "handle_pqap",
            "handle_pqap [kvm]",
            "kvm_vcpu_ioctl",
            "vfio_ap_irq_disable",
        ],
        exercised: &["handle_pqap enable", "handle_pqap disable"],
    },
    Group {
        cases: &["open", "release"],
        functions: &[
            "vfio_ap_mdev_open",
            "vfio_ap_mdev_release",
            "vfio_ap_mdev_open_device",
            "vfio_ap_mdev_close_device",
        ],
        exercised: &["open with a guest", "release with a guest"],
    },
    Group {
        cases: &["ioctl"],
        functions: &["vfio_ap_mdev_ioctl"],
        exercised: &["ioctl RESET", "ioctl GET_INFO"],
    },
    Group {
        cases: &["mdev create", "mdev remove"],
        functions: &[
            "vfio_ap_mdev_create",
            "vfio_ap_mdev_probe",
            "vfio_ap_mdev_remove",
        ],
        exercised: &["mdev create", "mdev remove"],
    },
    Group {
        cases: &["kvm_vfio_set_attr"],
        functions: &["kvm_vfio_set_attr"],
        exercised: &[],
    },
];

/// Attributes, whose cases begin with the name of the function.
const ATTRIBUTES: [&str; 6] = [
    "assign_adapter_store",
    "unassign_adapter_store",
    "assign_domain_store",
    "unassign_domain_store",
    "assign_control_domain_store",
    "unassign_control_domain_store",
];

/// Classes that no sequence has, or that no probe sees apart: the core's, and the notifier chain's.
const NOT_COMPARED: [&str; 2] = ["group_lock", "group notifier rwsem"];

/// What stable 6.1 has, and v6.0, which the emulated driver has, has not: since 51cdc8bc120e (v6.2) the release of the
/// kvm-vfio device runs under `kvm->lock` (`kvm_device_release`, virt/kvm/kvm_main.c).
const BACKPORT_6_1: (&str, &str) = (
    "kvm_device_release",
    "L(kvm->lock) L(kv->lock) U(kv->lock) U(kvm->lock)",
);

/// Judges the trace.
pub fn judge(evidence: &Evidence, findings: &mut Findings) -> Result<(), Failure> {
    let path = evidence
        .root
        .join("collector/src/emulator/sequences")
        .join(format!("{}.txt", evidence.generation()));
    let mut text = fs::read_to_string(&path).map_err(|e| Failure::file("reading", &path, &e))?;
    // The AP bus's mutex has had its new name since v6.19, also where an older release has the driver of a later one.
    if evidence.kernel.series().starts_with(['5', '6']) {
        text = text.replace("ap_attr_mutex", "ap_perms_mutex");
    }
    let mut written = parse(&text);
    if evidence.kernel.series() == "6.1" {
        let (case, operations) = BACKPORT_6_1;
        written.insert(case.into(), sequence(operations));
    }
    let export = evidence.export("trace.apscope")?;
    let traced = traced(&export);
    let (compared, wrong) = compare(&written, &traced);
    let of = format!(
        "{}: {} functions, {compared} locks and edges",
        evidence.generation(),
        traced.len()
    );
    findings.none(
        "the emulated driver takes the locks of the genuine one",
        of,
        &wrong,
    );
    let path = evidence
        .root
        .join("collector/src/emulator/sequences/returns")
        .join(format!("{}.txt", evidence.generation()));
    let text = fs::read_to_string(&path).map_err(|e| Failure::file("reading", &path, &e))?;
    let returned = returned(&export, evidence.has_one_lock());
    let refused = if evidence.has_one_lock() {
        "-EBUSY"
    } else {
        "ok"
    };
    let (compared, wrong) = compare_returns(&parse_returns(&text), &returned, refused);
    findings.none(
        "and returns what the genuine one returns",
        format!("{} functions, {compared} values", returned.len()),
        &wrong,
    );
    Ok(())
}

/// Values, by function, and for PQAP response codes by `function, function code`.
type Returns = BTreeMap<String, BTreeSet<String>>;

/// Values that are written: `function: value value`.
fn parse_returns(text: &str) -> Returns {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once(": "))
        .map(|(name, values)| {
            let values = values.split(' ').map(str::to_owned);
            (name.to_owned(), values.collect())
        })
        .collect()
}

/// Values that an export has. The response codes of 5.10 are no response codes (docs/kernel.md).
fn returned(export: &Value, status_unusable: bool) -> Returns {
    let keys = |value: &Value| -> BTreeSet<String> {
        let members = value.as_object().into_iter().flatten();
        members.map(|(key, _)| key.clone()).collect()
    };
    let mut returns = Returns::new();
    for entry in items(export, "entry_points").filter(|entry| number(entry, "calls") != 0) {
        let name = text(entry, "name");
        returns.insert(name.to_owned(), keys(&entry["returns"]));
        if !status_unusable {
            for function in keys(&entry["pqap"]) {
                let codes = keys(&entry["pqap"][&function]);
                returns.insert(format!("{name}, {function}"), codes);
            }
        }
    }
    returns
}

/// How many values were compared, and what differs. `running`: what writes to a matrix return while a guest has it.
fn compare_returns(written: &Returns, traced: &Returns, running: &str) -> (usize, Vec<String>) {
    let mut compared = 0;
    let mut wrong = Vec::new();
    for (function, values) in traced {
        compared += values.len();
        let Some(known) = written.get(function) else {
            wrong.push(format!("{function} is not written"));
            continue;
        };
        for value in values.difference(known) {
            wrong.push(format!("{function} returns {value}: not written"));
        }
    }
    for attribute in ATTRIBUTES {
        let has = |returns: &Returns| {
            returns
                .get(attribute)
                .is_some_and(|values| values.contains(running))
        };
        if !has(written) || !has(traced) {
            wrong.push(format!(
                "{attribute}, guest running: {running} is {}",
                if has(written) {
                    "not traced"
                } else {
                    "not written"
                }
            ));
        }
    }
    (compared, wrong)
}

/// What each case takes, by its name.
fn parse(text: &str) -> BTreeMap<String, Taken> {
    let lines = text.lines().map(str::trim);
    lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let (case, operations) = line.split_once(':').unwrap_or((line, ""));
            (case.to_owned(), sequence(operations))
        })
        .collect()
}

/// Follows a sequence of operations: `L(x)`, `U(x)`, `R(x)`, `UR(x)`, `W(x)`, `UW(x)`, `F(x)` and others.
fn sequence(operations: &str) -> Taken {
    let mut taken = Taken::default();
    let mut held: Vec<Lock> = Vec::new();
    // Names have blanks, parentheses do not nest.
    for operation in operations.split(')') {
        let Some((how, name)) = operation.trim().split_once('(') else {
            continue;
        };
        let class = class(name).to_owned();
        let mode = match how {
            "L" | "F" => "-",
            "R" => "read",
            "W" => "write",
            "U" | "UR" | "UW" => {
                held.retain(|(other, _)| *other != class);
                continue;
            }
            _ => continue,
        };
        let lock = (class, mode);
        let edges = held.iter().map(|held| (held.clone(), lock.clone()));
        taken
            .edges
            .extend(edges.filter(|(held, lock)| held.0 != lock.0));
        taken.locks.insert(lock.clone());
        // A flush waits, and holds nothing.
        if how != "F" {
            held.push(lock);
        }
    }
    taken
}

/// What each function takes, in an export.
fn traced(export: &Value) -> BTreeMap<String, Taken> {
    let mut functions: BTreeMap<String, Taken> = BTreeMap::new();
    let lock = |value: &Value, class: &str, mode: &str| -> Lock {
        let mode = match text(value, mode) {
            "read" => "read",
            "write" => "write",
            _ => "-",
        };
        (text(value, class).to_owned(), mode)
    };
    for element in items(export, "locks") {
        for function in items(element, "by_entry_point") {
            if number(function, "acquisitions") != 0 && text(element, "kind") != "work" {
                let taken = functions.entry(text(function, "name").into()).or_default();
                taken.locks.insert(lock(element, "class", "mode"));
            }
        }
    }
    for edge in items(export, "order") {
        let edge_of = (
            lock(edge, "held", "held_mode"),
            lock(edge, "acquired", "acquired_mode"),
        );
        if edge_of.0.0 != edge_of.1.0 {
            let taken = functions
                .entry(text(edge, "acquired_in").into())
                .or_default();
            taken.edges.insert(edge_of);
        }
    }
    functions
}

/// How many locks and edges were compared, and what differs.
fn compare(
    written: &BTreeMap<String, Taken>,
    traced: &BTreeMap<String, Taken>,
) -> (usize, Vec<String>) {
    let union = |begin: &[&str]| {
        let mut all = Taken::default();
        for (case, taken) in written {
            if begin.iter().any(|begin| case.starts_with(begin)) {
                all.add(taken);
            }
        }
        all
    };
    let anything = union(&[""]);
    let mut compared = 0;
    let mut wrong = Vec::new();
    for (function, seen) in traced {
        let allowed = if ANYWHERE.contains(&function.as_str()) {
            anything.clone()
        } else if let Some(group) = GROUPS
            .iter()
            .find(|group| group.functions.contains(&function.as_str()))
        {
            union(group.cases)
        } else {
            union(&[function])
        };
        compared += seen.locks.len() + seen.edges.len();
        for lock in seen.locks.difference(&allowed.locks) {
            wrong.push(format!("{function} takes {}: not written", spell(lock)));
        }
        for (held, lock) in seen.edges.difference(&allowed.edges) {
            wrong.push(format!(
                "{function} takes {} under {}: not written",
                spell(lock),
                spell(held)
            ));
        }
    }
    let mut must = |functions: &[&str], cases: &[&str]| {
        let mut seen = Taken::default();
        for function in functions.iter().chain(&ANYWHERE) {
            seen.add(traced.get(*function).unwrap_or(&Taken::default()));
        }
        for case in cases {
            let Some(expected) = written.get(*case) else {
                continue;
            };
            let is_compared = |lock: &Lock| {
                // A flush that does not have to wait is not seen.
                lock.0 != "reset_work" && !NOT_COMPARED.contains(&lock.0.as_str())
            };
            for lock in expected.locks.difference(&seen.locks) {
                if is_compared(lock) && lock.0 != "dev_set->lock" {
                    wrong.push(format!("{case}: {} was not traced", spell(lock)));
                }
            }
            for (held, lock) in expected.edges.difference(&seen.edges) {
                if is_compared(held) && is_compared(lock) && held.0 != "dev_set->lock" {
                    wrong.push(format!(
                        "{case}: {} under {} was not traced",
                        spell(lock),
                        spell(held)
                    ));
                }
            }
        }
    };
    for group in &GROUPS {
        must(group.functions, group.exercised);
    }
    for attribute in ATTRIBUTES {
        must(&[attribute], &[&format!("{attribute}, guest running")]);
    }
    wrong.dedup();
    (compared, wrong)
}

fn spell((class, mode): &Lock) -> String {
    match *mode {
        "-" => class.clone(),
        mode => format!("{class} ({mode})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(class: &str, mode: &'static str) -> Lock {
        (class.into(), mode)
    }

    #[test]
    fn a_sequence_has_locks_and_edges() {
        let taken = sequence("L(a[1]) R(b c) F(work) UR(b c) L(d) U(d) U(a[1]) Z(20) L(e) U(e)");
        let a = || lock("a", "-");
        let b = || lock("b c", "read");
        let work = || lock("work", "-");
        assert_eq!(
            taken.edges,
            BTreeSet::from([
                (a(), b()),
                (a(), work()),
                (b(), work()),
                (a(), lock("d", "-")),
            ])
        );
        assert_eq!(taken.locks.len(), 5);
    }

    #[test]
    fn differences_are_wrong_in_both_directions() {
        let written = parse(
            "# comment\n\
             ioctl RESET: L(m) U(m)\n\
             ioctl GET_INFO: L(m) U(m)\n\
             handle_pqap enable: L(vcpu->mutex[0]) L(m) U(m) U(vcpu->mutex[0])\n",
        );
        let pair = (lock("vcpu->mutex", "-"), lock("m", "-"));
        let mut traced = BTreeMap::from([
            (
                "vfio_ap_mdev_ioctl".to_owned(),
                Taken {
                    locks: BTreeSet::from([lock("m", "-")]),
                    edges: BTreeSet::new(),
                },
            ),
            (
                "handle_pqap".to_owned(),
                Taken {
                    locks: BTreeSet::from([lock("m", "-"), lock("vcpu->mutex", "-")]),
                    edges: BTreeSet::from([pair.clone()]),
                },
            ),
        ]);
        assert_eq!(compare(&written, &traced), (4, vec![]));

        let pqap = traced.get_mut("handle_pqap").expect("there");
        pqap.edges = BTreeSet::from([(pair.1, pair.0)]);
        let (_, wrong) = compare(&written, &traced);
        assert_eq!(
            wrong,
            [
                "handle_pqap takes vcpu->mutex under m: not written",
                "handle_pqap enable: m under vcpu->mutex was not traced"
            ]
        );
        let (_, wrong) = compare(&written, &BTreeMap::new());
        assert!(!wrong.is_empty(), "nothing traced is no agreement");
    }

    #[test]
    fn values_that_differ_are_wrong() {
        let all = |values: &str| {
            let lines = ATTRIBUTES.map(|name| format!("{name}: {values}\n"));
            parse_returns(&format!(
                "# comment\n{}handle_pqap, AQIC: 00 07\n",
                lines.concat()
            ))
        };
        let written = all("-EBUSY ok");
        assert_eq!(
            compare_returns(&written, &all("-EBUSY"), "-EBUSY"),
            (8, vec![])
        );
        let (_, wrong) = compare_returns(&written, &all("ok"), "-EBUSY");
        assert_eq!(wrong.len(), ATTRIBUTES.len(), "{wrong:?}");
        let (_, wrong) = compare_returns(&written, &all("-EBUSY -EINVAL"), "-EBUSY");
        assert_eq!(
            wrong[0],
            "assign_adapter_store returns -EINVAL: not written"
        );
        let export = serde_json::json!({ "entry_points": [
            { "name": "handle_pqap", "calls": 2, "returns": { "ok": 2 }, "pqap": { "AQIC": { "01": 2 } } },
            { "name": "matrix_show", "calls": 0, "returns": {} },
        ] });
        let traced = returned(&export, false);
        assert_eq!(traced.len(), 2);
        let (compared, wrong) = compare_returns(&written, &traced, "ok");
        assert_eq!(compared, 2);
        assert!(wrong.contains(&"handle_pqap is not written".to_owned()));
        assert!(wrong.contains(&"handle_pqap, AQIC returns 01: not written".to_owned()));
        assert_eq!(returned(&export, true).len(), 1);
    }

    #[test]
    fn the_written_sequences_are_understood() {
        let folder = crate::root().join("collector/src/emulator/sequences");
        for generation in ["v5.10", "v6.0", "v6.6", "v7.3"] {
            let text = fs::read_to_string(folder.join(format!("{generation}.txt")));
            let written = parse(&text.expect("read"));
            let pqap = &written["handle_pqap enable"];
            let innermost = if generation == "v5.10" {
                "matrix_dev->lock"
            } else {
                "matrix_dev->mdevs_lock"
            };
            let edge = (lock("vcpu->mutex", "-"), lock(innermost, "-"));
            assert!(pqap.edges.contains(&edge), "{generation}: {pqap:?}");
            let groups = GROUPS.iter().flat_map(|group| group.exercised);
            for case in groups {
                assert!(written.contains_key(*case), "{generation} has no {case}");
            }
        }
    }
}
