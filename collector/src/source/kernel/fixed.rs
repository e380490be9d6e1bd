//! Locks that are known before anything is attached: the driver's, the bus's, and those that a person names.
//!
//! Takes the driver's memory, the plan's variables and the options; gives slots, descriptions and the programs' table. What
//! comes and goes while measuring is in `adopted.rs`.

use probe_ebpf::abi::{
    GIVEN_MUTEX_SLOT, LOCK_GUARDS_FLAG, LOCK_IS_ONLY_INSTANCE, LockInfo, LockKind, Mode,
    SLOTS_PER_ADOPTED, SLOTS_PER_GIVEN, series,
};
use probe_ebpf::names::{CLASSES, class_id};

use super::objects::{self, FixedLock};
use super::verify::Watched;
use super::words::{Kernel, Memory as _};
use crate::attach::offsets::Offsets;
use crate::attach::plan::Plan;
use crate::attach::points::Content;
use crate::frame;
use crate::options::{GivenKind, GivenLock, KernelOptions};
use crate::source::instances::Instances;

/// The driver's `matrix_dev`.
pub fn matrix_dev(memory: &Kernel, plan: &Plan) -> Option<u64> {
    let variable = plan
        .variables
        .iter()
        .find(|variable| variable.variable.content == Content::MatrixDev)?;
    memory
        .u64(variable.address?)
        .filter(|address| *address != 0)
}

/// Locks that are known before anything is attached.
pub fn locks(
    memory: &Kernel,
    offsets: &Offsets,
    plan: &Plan,
    options: &KernelOptions,
    matrix_dev: Option<u64>,
    has_flag: bool,
) -> Vec<FixedLock> {
    let mut fixed = matrix_dev.map_or_else(Vec::new, |matrix_dev| {
        objects::driver_locks(memory, offsets, matrix_dev, has_flag)
    });
    for variable in &plan.variables {
        let Some(address) = variable.address else {
            continue;
        };
        match variable.variable.content {
            Content::MatrixDev => {}
            Content::Lock(class) => fixed.push(FixedLock {
                address,
                class,
                kind: CLASSES
                    .get(usize::from(class))
                    .map_or(LockKind::Mutex, |class| class.kind),
                name: variable.variable.name.to_owned(),
                guards_flag: false,
            }),
        }
    }
    fixed.extend(options.locks.iter().map(of_given));
    fixed
}

fn of_given(lock: &GivenLock) -> FixedLock {
    FixedLock {
        address: lock.address,
        class: class_id::GIVEN_LOCK,
        kind: LockKind::Rwsem,
        name: lock.name.clone(),
        guards_flag: false,
    }
}

/// Slots of the fixed locks.
pub fn instances(fixed: &[FixedLock], given: &[Given]) -> Instances {
    let mut instances = Instances::default();
    let mut next = 0;
    for lock in fixed {
        let first = next;
        instances.first_slots.push(first);
        if lock.class == class_id::GIVEN_LOCK {
            next += SLOTS_PER_GIVEN;
            let given = given.iter().find(|given| given.address == lock.address);
            instances
                .all
                .extend(given.into_iter().flat_map(Given::shown));
            continue;
        }
        next += SLOTS_PER_ADOPTED;
        let alone = fixed
            .iter()
            .filter(|other| other.class == lock.class)
            .count()
            == 1;
        if let Some(only) = instances.only.get_mut(usize::from(lock.class)) {
            *only = alone && lock.kind == LockKind::Mutex;
        }
        let modes: &[Mode] = if lock.kind == LockKind::Rwsem {
            &[Mode::Write, Mode::Read]
        } else {
            &[Mode::Exclusive]
        };
        for (mode, id) in modes.iter().zip(first..) {
            instances.all.push(frame::Instance {
                id,
                name: lock.name.clone(),
                address: lock.address,
                series: u32::from(series(lock.class, *mode)),
                guest: 0,
            });
        }
    }
    instances
}

/// The programs' table of locks.
pub fn table(fixed: &[FixedLock], instances: &Instances) -> Vec<(u64, LockInfo)> {
    fixed
        .iter()
        .zip(&instances.first_slots)
        .map(|(lock, slot)| {
            let mut flags = 0;
            if lock.guards_flag {
                flags |= LOCK_GUARDS_FLAG;
            }
            if instances.only.get(usize::from(lock.class)) == Some(&true) {
                flags |= LOCK_IS_ONLY_INSTANCE;
            }
            let info = LockInfo {
                target: 0,
                instance: *slot,
                class: lock.class,
                kind: lock.kind as u8,
                flags,
                reserved: 0,
            };
            (lock.address, info)
        })
        .collect()
}

/// Locks whose words are looked at from the start on; given ones only where their kind is known.
pub fn watched(fixed: &[FixedLock], instances: &Instances, given: &[Given]) -> Vec<Watched> {
    let drivers = fixed
        .iter()
        .zip(&instances.first_slots)
        .filter(|(lock, _)| lock.class != class_id::GIVEN_LOCK)
        .map(|(lock, slot)| Watched {
            address: lock.address,
            class: lock.class,
            kind: lock.kind,
            slot: *slot,
            tgid: 0,
        });
    drivers
        .chain(given.iter().filter_map(Given::watched))
        .collect()
}

/// A lock that a person named, and what is known of its kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// Address.
    pub address: u64,
    /// First of its slots.
    slot: u32,
    name: String,
    /// What it was given as.
    said: Option<GivenKind>,
    /// What functions were called on it.
    seen: Vec<GivenKind>,
}

impl Given {
    /// The locks of the options. Slots are those that [`instances`] gives out.
    pub fn all(fixed: &[FixedLock], options: &KernelOptions) -> Vec<Self> {
        let before = fixed
            .iter()
            .filter(|lock| lock.class != class_id::GIVEN_LOCK)
            .count();
        let first = before as u32 * SLOTS_PER_ADOPTED;
        options
            .locks
            .iter()
            .zip(0..)
            .map(|(lock, n)| Self {
                address: lock.address,
                slot: first + n * SLOTS_PER_GIVEN,
                name: lock.name.clone(),
                said: lock.kind,
                seen: Vec::new(),
            })
            .collect()
    }

    /// The kinds that it is shown as: as what it is used, else as what it was given; an rwsem until one is known.
    fn kinds(&self) -> Vec<GivenKind> {
        if self.seen.is_empty() {
            vec![self.said.unwrap_or(GivenKind::Rwsem)]
        } else {
            self.seen.clone()
        }
    }

    /// Series of all of its slots, whatever it will turn out to be.
    pub fn series(&self) -> [(u32, u8); 3] {
        [
            (self.slot, series(class_id::GIVEN_LOCK, Mode::Write)),
            (self.slot + 1, series(class_id::GIVEN_LOCK, Mode::Read)),
            (
                self.slot + GIVEN_MUTEX_SLOT,
                series(class_id::GIVEN_MUTEX, Mode::Exclusive),
            ),
        ]
    }

    /// What it is has neither been said nor shown.
    fn is_unknown(&self) -> bool {
        self.seen.is_empty() && self.said.is_none()
    }

    fn shown(&self) -> Vec<frame::Instance> {
        let kinds = self.kinds();
        let name = if self.is_unknown() {
            format!("{} (mutex or rwsem)", self.name)
        } else {
            self.name.clone()
        };
        self.series()
            .into_iter()
            .filter(|(_, series)| {
                let mutex = *series == self.series()[2].1;
                kinds.contains(if mutex {
                    &GivenKind::Mutex
                } else {
                    &GivenKind::Rwsem
                })
            })
            .map(|(id, series)| frame::Instance {
                id,
                name: name.clone(),
                address: self.address,
                series: u32::from(series),
                guest: 0,
            })
            .collect()
    }

    /// Its word, where its kind is known.
    pub fn watched(&self) -> Option<Watched> {
        let kind = match (self.seen.as_slice(), self.said) {
            ([kind], _) => *kind,
            ([], Some(kind)) => kind,
            // Both: its word can be read as neither.
            _ => return None,
        };
        Some(match kind {
            GivenKind::Mutex => Watched {
                address: self.address,
                class: class_id::GIVEN_MUTEX,
                kind: LockKind::Mutex,
                slot: self.slot + GIVEN_MUTEX_SLOT,
                tgid: 0,
            },
            GivenKind::Rwsem => Watched {
                address: self.address,
                class: class_id::GIVEN_LOCK,
                kind: LockKind::Rwsem,
                slot: self.slot,
                tgid: 0,
            },
        })
    }

    /// Looks at what a frame says of it. Returns what to show from now on where that changes, and what to say of it.
    pub fn look(&mut self, frame: &frame::Frame) -> Option<(Vec<frame::Instance>, Option<String>)> {
        let before = (self.kinds(), self.is_unknown());
        for (slot, series) in self.series() {
            let used = frame.series.iter().any(|delta| {
                delta.series == u32::from(series)
                    && delta.by_instance.iter().any(|by| by.id == slot)
            });
            let kind = if series == self.series()[2].1 {
                GivenKind::Mutex
            } else {
                GivenKind::Rwsem
            };
            if used && !self.seen.contains(&kind) {
                self.seen.push(kind);
            }
        }
        let now = self.kinds();
        if (&now, self.is_unknown()) == (&before.0, before.1) {
            return None;
        }
        let said = self.said.map_or_else(String::new, |said| {
            format!(", though it was given as {}", said.name())
        });
        let used: Vec<&str> = now.iter().map(|kind| kind.name()).collect();
        let doubtful = now.len() > 1 || !said.is_empty();
        let text = doubtful.then(|| {
            format!(
                "{} is used as {}{said}: is it the address of a lock?",
                self.name,
                used.join(" and ")
            )
        });
        Some((self.shown(), text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(kind: Option<GivenKind>) -> KernelOptions {
        KernelOptions {
            locks: [0x1000, 0x2000]
                .into_iter()
                .map(|address| GivenLock {
                    address,
                    kind,
                    name: format!("{address:#x}"),
                })
                .collect(),
            ..KernelOptions::default()
        }
    }

    fn made(kind: Option<GivenKind>) -> (Vec<FixedLock>, Vec<Given>, Instances) {
        let options = options(kind);
        let driver = FixedLock {
            address: 0x10,
            class: class_id::MATRIX_DEV_LOCK,
            kind: LockKind::Mutex,
            name: "matrix_dev->lock".into(),
            guards_flag: true,
        };
        let mut fixed = vec![driver];
        fixed.extend(options.locks.iter().map(of_given));
        let given = Given::all(&fixed, &options);
        let instances = instances(&fixed, &given);
        (fixed, given, instances)
    }

    fn used(series: u8, id: u32) -> frame::Frame {
        frame::Frame {
            series: vec![frame::SeriesDelta {
                series: u32::from(series),
                by_instance: vec![frame::CoarseDelta {
                    id,
                    acquisitions: 1,
                    ..frame::CoarseDelta::default()
                }],
                ..frame::SeriesDelta::default()
            }],
            ..frame::Frame::default()
        }
    }

    const MUTEX: u8 = series(class_id::GIVEN_MUTEX, Mode::Exclusive);
    const READ: u8 = series(class_id::GIVEN_LOCK, Mode::Read);

    #[test]
    fn slots_do_not_overlap_and_the_table_agrees_with_them() {
        let (fixed, given, instances) = made(None);
        assert_eq!(instances.first_slots, [0, 2, 6]);
        let table = table(&fixed, &instances);
        for (given, (address, info)) in given.iter().zip(&table[1..]) {
            assert_eq!((given.address, given.slot), (*address, info.instance));
            assert_eq!(info.flags, 0);
        }
        let flags = LOCK_GUARDS_FLAG | LOCK_IS_ONLY_INSTANCE;
        assert_eq!(table[0].1.flags, flags);
        assert_eq!(watched(&fixed, &instances, &given).len(), 1);
    }

    #[test]
    fn a_lock_that_mutex_functions_take_becomes_a_mutex() {
        let (_, mut given, instances) = made(None);
        assert_eq!(instances.all.len(), 1 + 2 * 2);
        assert_eq!(given[1].watched(), None);
        assert_eq!(given[1].look(&used(MUTEX, 4)), None, "another lock's slot");
        let (shown, said) = given[1].look(&used(MUTEX, 8)).expect("a change");
        assert_eq!(said, None);
        assert_eq!(shown.len(), 1);
        assert_eq!((shown[0].id, shown[0].series), (8, u32::from(MUTEX)));
        let watched = given[1].watched().expect("known now");
        assert_eq!((watched.kind, watched.slot), (LockKind::Mutex, 8));
        assert_eq!(given[1].look(&used(MUTEX, 8)), None, "said once");
    }

    #[test]
    fn an_rwsem_stays_what_it_is_shown_as_and_is_watched() {
        let (_, mut given, instances) = made(None);
        assert_eq!(instances.all[1].name, "0x1000 (mutex or rwsem)");
        let (shown, said) = given[0].look(&used(READ, 3)).expect("known now");
        assert_eq!((shown.len(), said), (2, None));
        assert!(shown.iter().all(|instance| instance.name == "0x1000"));
        assert_eq!(given[0].look(&used(READ, 3)), None, "said once");
        assert_eq!(given[0].watched().map(|w| w.kind), Some(LockKind::Rwsem));
    }

    #[test]
    fn what_contradicts_the_kind_that_was_given_is_said() {
        let (_, mut given, instances) = made(Some(GivenKind::Mutex));
        assert_eq!(instances.all.len(), 1 + 2);
        assert_eq!(given[0].watched().map(|w| w.kind), Some(LockKind::Mutex));
        let (shown, said) = given[0].look(&used(READ, 3)).expect("a change");
        assert_eq!(shown.len(), 2);
        assert!(said.is_some_and(|said| said.contains("given as mutex")));
        let (shown, said) = given[0].look(&used(MUTEX, 4)).expect("both");
        assert_eq!(shown.len(), 3);
        assert!(said.is_some_and(|said| said.contains("rwsem and mutex")));
        assert_eq!(given[0].watched(), None);
    }
}
