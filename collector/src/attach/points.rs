//! The table of everything that is probed in a kernel: functions and tracepoints, as data.
//!
//! Each point says what it is for, under which names it may be found, which generations of the driver have it, what its
//! arguments are and what is lost without it. Does not know of any machine.

mod entries;
mod locks;
mod not_probed;
mod others;

use probe_ebpf::abi::Mode;
use probe_ebpf::names::class_id;

use super::generation::Generation::{
    Rfc2021_06, Rfc2021_07, V5_10, V5_11, V5_13, V5_15, V5_15Rc, V5_19, V6_0, V6_6, V7_3,
};
use super::generation::Generations;

pub use not_probed::{NOT_PROBED, NotProbed};

/// What a call of a lock function does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockCall {
    /// Acquires, however long it takes; void.
    Acquire(Mode),
    /// Acquires, or gives up with `-EINTR`.
    AcquireInterruptible(Mode),
    /// Acquires at once or not at all; returns 1 for success (`mutex_trylock`, `down_*_trylock`).
    Try(Mode),
    /// Releases.
    Release(Mode),
    /// A writer becomes a reader.
    Downgrade,
}

/// When a program of [`Role::Contention`] runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contention {
    /// The slow path begins to spin or to sleep; a mutex says so for both.
    Begin,
    /// It ends.
    End,
}

/// A step of a wait queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitQueue {
    /// A task is put onto the queue.
    Prepare,
    /// It is taken off.
    Finish,
    /// Somebody wakes the queue.
    Wake,
}

/// A step of a work item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// A worker begins to execute it.
    Start,
    /// The worker is done.
    End,
    /// A task waits for it.
    Flush,
}

/// What ends, so that its locks are forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    /// A guest.
    Kvm,
    /// A vCPU.
    Vcpu,
    /// A mediated device.
    Mdev,
    /// A queue of the driver.
    Queue,
}

/// What a point is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// An entry point, by its id: counted, timed, and the place where locks are adopted.
    Entry(u8),
    /// A lock function, filtered by the lock's address.
    Lock(LockCall),
    /// The slow path of any lock.
    Contention(Contention),
    /// A wait queue.
    WaitQueue(WaitQueue),
    /// A work item.
    Work(Work),
    /// An object ends.
    Gone(Gone),
}

/// What is at a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A function.
    Function,
    /// A tracepoint, named `group:event`.
    Tracepoint,
}

/// Which of a function's sides are of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Its entry, with arguments.
    Enter,
    /// Its return, with the value.
    Return,
}

/// Which calls of a function belong to a point, where the function does more than that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// All calls.
    All,
    /// Calls by a vCPU (argument 1) whose intercepted instruction (`ipa` of its state description) is this.
    Instruction(u16),
    /// Calls of a guest's ioctl with this command as argument 2. Argument 1 is the guest's file: `private_data` is the
    /// guest.
    VmIoctl(u32),
}

/// PQAP.
pub const PQAP: u16 = 0xb2af;

/// `KVM_S390_PV_COMMAND`: `_IOWR(KVMIO, 0xc5, struct kvm_pv_cmd)`, 32 bytes (include/uapi/linux/kvm.h, v5.10).
pub const KVM_S390_PV_COMMAND: u32 = 0xc020_aec5;

/// One name under which a point may be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Name {
    /// Symbol of the source, or `group:event`.
    pub symbol: &'static str,
    /// Module; `None` is vmlinux.
    pub module: Option<&'static str>,
    /// Which of its calls count.
    pub filter: Filter,
    /// What is different under this name.
    pub note: &'static str,
}

/// One point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    /// Name for people; unique.
    pub name: &'static str,
    /// What is at it.
    pub kind: Kind,
    /// What it is for.
    pub role: Role,
    /// The lowest level at which it is attached: 1 or 2.
    pub level: u8,
    /// Generations that have it, or that need it.
    pub generations: Generations,
    /// Names, in order of preference.
    pub names: &'static [Name],
    /// Meaning of its arguments.
    pub arguments: &'static str,
    /// What is lost without it.
    pub lost: &'static str,
    /// Entry points that stand in for it, in order, where it is missing.
    pub instead: &'static [u8],
    /// Whether the machine is expected to have it whenever its generation does. Variants of lock functions and
    /// functions that are often inlined are not: their absence is no loss when one of their kin is there.
    pub expected: bool,
}

/// A variable of the kernel whose value or address names locks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variable {
    /// Name for people.
    pub name: &'static str,
    /// What it is.
    pub content: Content,
    /// Generations that have it.
    pub generations: Generations,
    /// Symbol and module (`None` is vmlinux), in order of preference.
    pub names: &'static [(&'static str, Option<&'static str>)],
    /// What is lost without it.
    pub lost: &'static str,
}

/// What a variable holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// A pointer to `struct ap_matrix_dev`, which has the driver's locks.
    MatrixDev,
    /// A lock of this class itself.
    Lock(u8),
}

const VFIO_AP: Option<&str> = Some("vfio_ap");
const KVM: Option<&str> = Some("kvm");
const ALL: Generations = Generations::ALL;
const DRAFTS: Generations = Generations::of(&[Rfc2021_06, Rfc2021_07]);
/// Until the driver became a vfio_device driver in v5.15-rc1.
const MDEV_OPS: Generations = Generations::of(&[V5_10, V5_11, V5_13]).or(DRAFTS);
const DEVICE_OPS: Generations = MDEV_OPS.not();
const NOTIFIER: Generations = Generations::range(V5_10, V5_15);
const BEFORE_HOT_PLUG: Generations = Generations::range(V5_10, V5_19);
const HOT_PLUG: Generations = Generations::range(V6_0, V7_3);
const RESET_WORK: Generations = Generations::of(&[V6_6, V7_3]);
const FLAG: Generations = Generations::of(&[V5_13, V5_15Rc]);
/// 6.10 added `ap_config`; the nearest generation is v6.6.
const AP_CONFIG: Generations = RESET_WORK;

const fn name(symbol: &'static str, module: Option<&'static str>) -> Name {
    Name {
        symbol,
        module,
        filter: Filter::All,
        note: "",
    }
}

impl Point {
    const fn or(mut self, instead: &'static [u8]) -> Self {
        self.instead = instead;
        self
    }

    const fn rare(mut self) -> Self {
        self.expected = false;
        self
    }

    /// The sides of a function that are probed, if there is a mechanism for each.
    #[must_use]
    pub const fn sides(&self) -> &'static [Side] {
        const BOTH: &[Side] = &[Side::Enter, Side::Return];
        const ENTER: &[Side] = &[Side::Enter];
        match self.role {
            Role::Entry(_)
            | Role::Work(Work::Flush)
            | Role::Lock(
                LockCall::Acquire(_) | LockCall::AcquireInterruptible(_) | LockCall::Try(_),
            ) => BOTH,
            _ => ENTER,
        }
    }
}

macro_rules! vfio_ap {
    ($($symbol:literal),+) => { &[$(name($symbol, VFIO_AP)),+] };
}

macro_rules! kvm {
    ($($symbol:literal),+) => { &[$(name($symbol, KVM)),+] };
}

macro_rules! vmlinux {
    ($($symbol:literal),+) => { &[$(name($symbol, None)),+] };
}

use {kvm, vfio_ap, vmlinux};

/// All points, entry points first.
pub fn points() -> impl Iterator<Item = &'static Point> {
    entries::ENTRIES
        .iter()
        .chain(locks::LOCKS)
        .chain(others::OTHERS)
}

/// All variables.
pub const VARIABLES: &[Variable] = &[
    Variable {
        name: "matrix_dev",
        content: Content::MatrixDev,
        generations: ALL,
        names: &[("matrix_dev", VFIO_AP)],
        lost: "the driver's own locks, until an entry point names an mdev",
    },
    Variable {
        name: "ap_perms_mutex",
        content: Content::Lock(class_id::AP_PERMS_MUTEX),
        // vfio_ap takes it since v6.0, the bus itself always.
        generations: Generations::range(V5_10, V6_6),
        names: &[
            ("lab_ap_perms_mutex", Some("aplab")),
            ("ap_perms_mutex", Some("ap")),
            ("ap_perms_mutex", None),
        ],
        lost: "the AP bus's lock around apmask and aqmask",
    },
    Variable {
        name: "ap_attr_mutex",
        content: Content::Lock(class_id::AP_ATTR_MUTEX),
        generations: RESET_WORK,
        names: &[("ap_attr_mutex", Some("ap")), ("ap_attr_mutex", None)],
        lost: "the AP bus's lock around apmask and aqmask (its name since v6.19)",
    },
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use probe_ebpf::names::ENTRY_POINTS;

    use super::*;

    #[test]
    fn every_entry_point_is_in_the_table_once() {
        let ids: Vec<u8> = points()
            .filter_map(|point| match point.role {
                Role::Entry(id) => Some(id),
                _ => None,
            })
            .collect();
        let set: HashSet<u8> = ids.iter().copied().collect();
        assert_eq!(set.len(), ids.len());
        for id in 1..ENTRY_POINTS.len() as u8 {
            assert!(set.contains(&id), "{}", ENTRY_POINTS[id as usize].name);
        }
    }

    #[test]
    fn names_agree_with_the_list_of_entry_points() {
        for point in points() {
            let Role::Entry(id) = point.role else {
                continue;
            };
            let entry = &ENTRY_POINTS[usize::from(id)];
            assert!(
                point.names.iter().any(|name| name.symbol == entry.symbol
                    && name.module.unwrap_or("kernel") == entry.module),
                "{}",
                point.name
            );
        }
    }

    #[test]
    fn points_are_told_apart_and_complete() {
        let mut seen = HashSet::new();
        for point in points() {
            assert!(seen.insert(point.name), "{}", point.name);
            assert!(!point.names.is_empty() && !point.lost.is_empty());
            assert!(matches!(point.level, 1 | 2));
            assert!(!point.generations.is_empty(), "{}", point.name);
        }
    }
}
