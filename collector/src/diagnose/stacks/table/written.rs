//! The table against the written lock sequences of each generation, which were made from the kernel's sources: whatever
//! the table claims to be held where a lock is asked for is held there in some case, and every case is in the table.

use std::collections::BTreeSet;

use probe_ebpf::abi::Mode;
use probe_ebpf::names::CLASSES;
use probe_ebpf::names::class_id::{
    AP_ATTR_MUTEX, AP_PERMS_MUTEX, DEV_SET_LOCK, GROUP_LOCK, GROUP_NOTIFIER_RWSEM, GROUP_RWSEM,
    KV_LOCK, KVM_BUSY, MATRIX_DEV_LOCK, PQAP_HOOK_RWSEM, RESET_WORK, VCPU_MUTEX,
};

use super::places::Held;
use super::sequences;
use super::steps::{Act, Lock, Sequence};
use crate::attach::generation::Generation;

fn text(generation: Generation) -> &'static str {
    match generation {
        Generation::V5_10 => include_str!("../../../emulator/sequences/v5.10.txt"),
        Generation::V5_11 => include_str!("../../../emulator/sequences/v5.11.txt"),
        Generation::V5_13 => include_str!("../../../emulator/sequences/v5.13.txt"),
        Generation::V5_15Rc => include_str!("../../../emulator/sequences/v5.15-rc.txt"),
        Generation::Rfc2021_06 => include_str!("../../../emulator/sequences/rfc-2021-06.txt"),
        Generation::Rfc2021_07 => include_str!("../../../emulator/sequences/rfc-2021-07.txt"),
        Generation::V5_15 => include_str!("../../../emulator/sequences/v5.15.txt"),
        Generation::V5_19 => include_str!("../../../emulator/sequences/v5.19.txt"),
        Generation::V6_0 => include_str!("../../../emulator/sequences/v6.0.txt"),
        Generation::V6_6 => include_str!("../../../emulator/sequences/v6.6.txt"),
        Generation::V7_3 => include_str!("../../../emulator/sequences/v7.3.txt"),
    }
}

/// Somewhere a lock is asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Point {
    case: &'static str,
    held: BTreeSet<(u8, u8)>,
    awaited: (u8, u8),
}

fn key((class, mode): Lock) -> (u8, u8) {
    (class, mode as u8)
}

fn class(name: &str) -> u8 {
    let name = name.split_once('[').map_or(name, |(name, _)| name);
    let at = CLASSES.iter().position(|class| class.name == name);
    u8::try_from(at.unwrap_or_else(|| panic!("{name}"))).unwrap()
}

fn points(text: &'static str) -> Vec<Point> {
    let mut points = Vec::new();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    for (case, mut rest) in lines.filter_map(|line| line.split_once(": ")) {
        let mut held: Vec<Lock> = Vec::new();
        while !rest.is_empty() {
            if let Some(value) = rest.strip_prefix("kvm_busy=") {
                held.retain(|(class, _)| *class != KVM_BUSY);
                if value.starts_with('1') {
                    held.push((KVM_BUSY, Mode::Exclusive));
                }
                rest = value[1..].trim_start();
                continue;
            }
            let (op, after) = rest.split_once('(').unwrap();
            let (name, after) = after.split_once(')').unwrap();
            rest = after.trim_start();
            let mode = match op {
                "L" | "F" => Mode::Exclusive,
                "R" => Mode::Read,
                "W" => Mode::Write,
                "prepare" => {
                    let held = held.iter().filter(|(class, _)| *class != MATRIX_DEV_LOCK);
                    points.push(Point {
                        case,
                        held: held.copied().map(key).collect(),
                        awaited: key((KVM_BUSY, Mode::Exclusive)),
                    });
                    continue;
                }
                "U" | "UR" | "UW" => {
                    let class = class(name);
                    held.retain(|(held, _)| *held != class);
                    continue;
                }
                "Z" | "wake" | "finish" => continue,
                _ => panic!("{op}"),
            };
            let lock = (class(name), mode);
            points.push(Point {
                case,
                held: held.iter().copied().map(key).collect(),
                awaited: key(lock),
            });
            if op != "F" {
                held.push(lock);
            }
        }
    }
    points
}

/// The cases that call a function.
fn is_case_of(function: &str, case: &str) -> bool {
    let prefixes: &[&str] = match function {
        "vfio_ap_mdev_create" | "vfio_ap_mdev_probe" => &["mdev create"],
        "vfio_ap_mdev_remove" => &["mdev remove"],
        "vfio_ap_queue_dev_probe" | "vfio_ap_mdev_probe_queue" => &["queue probe"],
        "vfio_ap_queue_dev_remove" | "vfio_ap_mdev_remove_queue" => &["queue remove"],
        "vfio_ap_mdev_ioctl" => &["ioctl "],
        "handle_pqap" | "handle_pqap [kvm]" | "kvm_s390_handle_b2" => &["handle_pqap"],
        "kvm_vcpu_ioctl" => &["handle_pqap", "PQAP"],
        "vfio_ap_mdev_group_notifier" => &[
            "group notifier",
            "open with",
            "kvm_vfio_set_attr add",
            "kvm_vfio_set_attr del",
        ],
        "blocking_notifier_call_chain" => &["open with", "kvm_vfio_set_attr"],
        "vfio_ap_mdev_release" | "vfio_ap_mdev_close_device" | "vfio_device_fops_release" => {
            &["release"]
        }
        "vfio_df_group_close" => &["release"],
        "vfio_ap_mdev_open" | "vfio_ap_mdev_open_device" | "vfio_df_group_open" => &["open"],
        "vfio_ap_mdev_dma_unmap" => &["dma_unmap"],
        "vfio_ap_mdev_request" => &["request"],
        "vfio_ap_mdev_resource_in_use" => &["in_use", "apmask_store, in use"],
        "vfio_ap_on_cfg_changed" => &["cfg_changed"],
        "vfio_ap_on_scan_complete" => &["scan_complete"],
        "kvm_arch_vm_ioctl" | "kvm_s390_handle_pv" | "kvm_vm_ioctl" => &["PV "],
        "aqmask_store" => &["apmask_store"],
        "kvm_vfio_set_attr" => &["kvm_vfio_set_attr"],
        other => return case == other || case.starts_with(&format!("{other}, ")),
    };
    prefixes.iter().any(|prefix| case.starts_with(prefix))
}

/// Taken by callers, which are functions of their own in the table.
const CONTEXT: [u8; 9] = [
    VCPU_MUTEX,
    PQAP_HOOK_RWSEM,
    GROUP_NOTIFIER_RWSEM,
    KV_LOCK,
    DEV_SET_LOCK,
    GROUP_LOCK,
    GROUP_RWSEM,
    AP_PERMS_MUTEX,
    AP_ATTR_MUTEX,
];

/// What the table has and no case shows: (function, generation, awaited), and why.
const NOT_WRITTEN: &[(&str, &[Generation], Option<u8>)] = &[
    // kvm's release of the kvm-vfio device is not emulated.
    (
        "kvm_device_release",
        &[Generation::V6_0, Generation::V6_6, Generation::V7_3],
        None,
    ),
    // Waiting for the flag is written for the notifier, which calls the same function.
    ("vfio_ap_mdev_release", &[Generation::V5_13], Some(KVM_BUSY)),
    (
        "vfio_ap_mdev_close_device",
        &[Generation::V5_15Rc],
        Some(KVM_BUSY),
    ),
    // As v7.3, which has a case; v6.6's is of releases before v6.15.
    ("vfio_ap_mdev_request", &[Generation::V6_6], None),
    // The cases remove an mdev without queues, and change a configuration whose queues are gone.
    (
        "vfio_ap_mdev_remove",
        &[Generation::V6_6, Generation::V7_3],
        Some(RESET_WORK),
    ),
    (
        "vfio_ap_on_cfg_changed",
        &[Generation::V6_6, Generation::V7_3],
        Some(RESET_WORK),
    ),
];

struct Claim {
    rule: &'static Sequence,
    awaited: (u8, u8),
    held: BTreeSet<(u8, u8)>,
    maybe: BTreeSet<(u8, u8)>,
}

impl Claim {
    fn is_about(&self, point: &Point) -> bool {
        let context = |(class, _): &&(u8, u8)| CONTEXT.contains(class);
        let mut functions = self.rule.functions.iter();
        functions.any(|function| is_case_of(function, point.case))
            && self.awaited == point.awaited
            && self.held.difference(&point.held).all(|lock| {
                // `in_use` is called without the bus in some cases.
                point.case.starts_with("in_use") && context(&lock)
            })
            && point
                .held
                .difference(&self.held)
                .all(|lock| self.maybe.contains(lock) || context(&lock))
    }
}

fn claims(generation: Generation) -> Vec<Claim> {
    let rules = sequences::TABLE.iter().flat_map(|part| part.iter());
    let mut claims = Vec::new();
    for rule in rules.filter(|rule| rule.generations.has(generation)) {
        let mut held = Held::default();
        for step in rule.steps {
            let mut before = held.clone();
            let awaited = match step.act {
                Act::Lock(lock) | Act::LockIf(lock) => Some(lock),
                Act::WaitFlag(class, guard) => {
                    before.release(guard);
                    Some((class, Mode::Exclusive))
                }
                Act::Flush => Some((RESET_WORK, Mode::Exclusive)),
                _ => None,
            };
            claims.extend(awaited.map(|awaited| Claim {
                rule,
                awaited: key(awaited),
                held: before.sure.into_iter().map(key).collect(),
                maybe: before.maybe.into_iter().map(key).collect(),
            }));
            held.pass(step.act);
        }
    }
    claims
}

#[test]
fn what_is_claimed_is_written() {
    let mut failed = Vec::new();
    let mut checked = 0;
    for generation in Generation::ALL {
        let points = points(text(generation));
        assert!(points.len() > 50, "{}", generation.name());
        for claim in claims(generation) {
            let excepted = NOT_WRITTEN.iter().any(|(function, generations, awaited)| {
                claim.rule.functions.contains(function)
                    && generations.contains(&generation)
                    && awaited.is_none_or(|awaited| awaited == claim.awaited.0)
            });
            checked += 1;
            if !excepted && !points.iter().any(|point| claim.is_about(point)) {
                failed.push(format!(
                    "{} {}: awaited {:?}, held {:?}, perhaps {:?}",
                    generation.name(),
                    claim.rule.functions[0],
                    claim.awaited,
                    claim.held,
                    claim.maybe
                ));
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert!(checked > 200, "{checked}");
}

#[test]
fn what_is_written_is_claimed() {
    let mut failed = Vec::new();
    for generation in Generation::ALL {
        let claims = claims(generation);
        for point in points(text(generation)) {
            // The vfio core's functions of these releases are not in the table: what they wait for is not known.
            let core = [DEV_SET_LOCK, GROUP_LOCK, GROUP_RWSEM].contains(&point.awaited.0)
                && !point.case.starts_with("kvm_vfio_set_attr")
                && !matches!(generation, Generation::V6_6 | Generation::V7_3);
            if !core && !claims.iter().any(|claim| claim.is_about(&point)) {
                failed.push(format!("{} {point:?}", generation.name()));
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
