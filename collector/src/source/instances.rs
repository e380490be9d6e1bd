//! Lock instances of a run: names and slots.

use probe_ebpf::abi::{LockKind, MAX_CLASSES, Mode, series};
use probe_ebpf::names::{CLASSES, mode_name};

use crate::emulator::protocol::Hello;
use crate::frame;

/// Slots of all locks of a run.
#[derive(Debug, Clone, Default)]
pub struct Instances {
    /// First slot of each lock of [`Hello::locks`]; an rwsem has two: write, then read.
    pub first_slots: Vec<u32>,
    /// Every slot, by id.
    pub all: Vec<frame::Instance>,
    /// By class: it has a single lock, and is no flag (whose instance keeps its last value).
    pub only: [bool; MAX_CLASSES],
}

impl Instances {
    /// Gives every lock its slots.
    #[must_use]
    pub fn new(hello: &Hello) -> Self {
        let mut this = Self::default();
        for lock in &hello.locks {
            this.first_slots.push(this.all.len() as u32);
            let kind = CLASSES.get(lock.class as usize).map(|class| class.kind);
            let of_class = hello.locks.iter().filter(|other| other.class == lock.class);
            if let Some(only) = this.only.get_mut(lock.class as usize) {
                *only = kind != Some(LockKind::Flag) && of_class.take(2).count() == 1;
            }
            for mode in modes(kind) {
                this.all.push(frame::Instance {
                    id: this.all.len() as u32,
                    name: lock.name.clone(),
                    address: lock.address,
                    series: u32::from(series(lock.class, *mode)),
                    guest: lock.guest.map_or(0, |g| g + 1),
                });
            }
        }
        this
    }

    /// Series that occur, in display order.
    #[must_use]
    pub fn series(&self) -> Vec<u32> {
        let mut series: Vec<u32> = self.all.iter().map(|i| i.series).collect();
        series.sort_unstable();
        series.dedup();
        series
    }
}

fn modes(kind: Option<LockKind>) -> &'static [Mode] {
    match kind {
        Some(LockKind::Rwsem) => &[Mode::Write, Mode::Read],
        _ => &[Mode::Exclusive],
    }
}

/// Spelling of a series: `kvm->lock`, or `pqap_hook_rwsem read`.
#[must_use]
pub fn series_name(series: u8) -> String {
    let Some(class) = CLASSES.get((series >> 1) as usize) else {
        return format!("series {series}");
    };
    match (class.kind, series & 1) {
        (LockKind::Rwsem, 0) => format!("{} {}", class.name, mode_name(Mode::Write)),
        (LockKind::Rwsem, _) => format!("{} {}", class.name, mode_name(Mode::Read)),
        _ => class.name.to_owned(),
    }
}
