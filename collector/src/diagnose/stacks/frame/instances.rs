//! Which lock instance a class is, of which a text says nothing: by whose task it is.
//!
//! Takes classes and tasks; gives keys, and for keys numbers, names and addresses that are made up.

use std::collections::BTreeMap;

use probe_ebpf::abi::{LockKind, Mode, NO_INSTANCE, series};
use probe_ebpf::names::CLASSES;
use probe_ebpf::names::class_id::{
    AP_ATTR_MUTEX, AP_PERMS_MUTEX, GUESTS_LOCK, KVM_LOCK, MATRIX_DEV_LOCK, MDEVS_LOCK, VCPU_MUTEX,
};

use crate::frame;

/// The process that a task belongs to, as far as the text says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Group {
    /// Its thread group id.
    Process(u32),
    /// The parent of its process: all threads of a process have the same, and so have other processes.
    ChildrenOf(u32),
    /// Neither is in the text.
    Unknown,
}

/// A lock instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Key {
    /// The only one of its class.
    Global(u8),
    /// Of the guest, or of the mdev of the guest, of this process.
    Guest(u8, Group),
    /// Of a task: its vCPU, or the work item that it executes.
    Task(u8, u32),
    /// One of several, or of a guest that the text does not name.
    Unknown(u8),
}

impl Key {
    pub const fn class(self) -> u8 {
        match self {
            Self::Global(class)
            | Self::Guest(class, _)
            | Self::Task(class, _)
            | Self::Unknown(class) => class,
        }
    }

    /// Whether two tasks with this key mean the same lock.
    pub const fn is_known(self) -> bool {
        !matches!(self, Self::Unknown(_))
    }
}

/// Whether there is one lock of this class.
pub(super) const fn is_global(class: u8) -> bool {
    matches!(
        class,
        MATRIX_DEV_LOCK | GUESTS_LOCK | MDEVS_LOCK | AP_PERMS_MUTEX | AP_ATTR_MUTEX
    )
}

/// Numbers for keys.
#[derive(Debug, Default)]
pub(super) struct Instances {
    /// By key: a number, and the first id unless there are too many.
    ids: BTreeMap<Key, (u32, Option<u32>)>,
    groups: Vec<Group>,
    all: Vec<frame::Instance>,
}

/// Instances that a model takes of a run.
const MAX_INSTANCES: usize = 16_384;

/// No kernel has anything there: below s390's and x86's kernel addresses, above what processes map.
const FIRST_ADDRESS: u64 = 0x7fff_a900_0000_0000;

impl Instances {
    /// The instance of a key and mode ([`NO_INSTANCE`] beyond what a model takes), and its address.
    ///
    /// `group` is that of the task: what is its own, such as its vcpu->mutex, is its guest's.
    pub fn get(&mut self, key: Key, mode: Mode, group: Group) -> (u32, u64) {
        let class = key.class();
        let kind = CLASSES.get(usize::from(class)).map(|class| class.kind);
        let rwsem = kind == Some(LockKind::Rwsem);
        let number = self.ids.get(&key).map(|(number, first)| (*number, *first));
        let (number, first) = number.unwrap_or_else(|| self.add(key, rwsem, group));
        let read = u32::from(rwsem && mode == Mode::Read);
        (
            first.map_or(NO_INSTANCE, |first| first + read),
            address(number),
        )
    }

    fn add(&mut self, key: Key, rwsem: bool, group: Group) -> (u32, Option<u32>) {
        // A guest's kvm->lock, which names it, comes first.
        let guest = match key {
            Key::Guest(_, group) => self.guest(group),
            Key::Task(VCPU_MUTEX, _) => self.guest(group),
            _ => 0,
        };
        if let Some(known) = self.ids.get(&key) {
            return *known;
        }
        let number = u32::try_from(self.ids.len()).unwrap_or(u32::MAX);
        if self.all.len() + 2 > MAX_INSTANCES {
            self.ids.insert(key, (number, None));
            return (number, None);
        }
        let first = u32::try_from(self.all.len()).unwrap_or(NO_INSTANCE);
        let modes: &[Mode] = if rwsem {
            &[Mode::Write, Mode::Read]
        } else {
            &[Mode::Exclusive]
        };
        for (mode, id) in modes.iter().zip(first..) {
            self.all.push(frame::Instance {
                id,
                name: name(key),
                address: address(number),
                series: u32::from(series(key.class(), *mode)),
                guest,
            });
        }
        self.ids.insert(key, (number, Some(first)));
        (number, Some(first))
    }

    fn guest(&mut self, group: Group) -> u32 {
        let at = self.groups.iter().position(|known| *known == group);
        let at = at.unwrap_or_else(|| {
            self.groups.push(group);
            let at = self.groups.len() - 1;
            self.get(Key::Guest(KVM_LOCK, group), Mode::Exclusive, group);
            at
        });
        u32::try_from(at + 1).unwrap_or(0)
    }

    /// All instances, and the number of guests.
    pub fn finish(self) -> (Vec<frame::Instance>, u32) {
        let guests = u32::try_from(self.groups.len()).unwrap_or(u32::MAX);
        (self.all, guests)
    }
}

fn address(number: u32) -> u64 {
    FIRST_ADDRESS + u64::from(number) * 64
}

fn name(key: Key) -> String {
    let class = CLASSES
        .get(usize::from(key.class()))
        .map_or("?", |class| class.name);
    match key {
        Key::Global(_) => class.to_owned(),
        Key::Guest(_, Group::Process(pid)) => format!("{class}[process {pid}]"),
        Key::Guest(_, Group::ChildrenOf(pid)) => format!("{class}[children of {pid}]"),
        Key::Task(_, tid) => format!("{class}[task {tid}]"),
        Key::Guest(_, Group::Unknown) | Key::Unknown(_) => format!("{class}[?]"),
    }
}
