//! Live state against the kernel's own lock words: each tick, who owns the known locks is read from the locks.
//!
//! A holder on record that the lock word confirms has both for evidence. An owner that no record has (the lock was
//! taken before anything was attached, or at a level that does not see holds) is shown with the lock word for evidence.
//! A record that the lock word contradicts in two readings is counted, and taken out of the frame.

use std::collections::{HashMap, HashSet};

use probe_ebpf::abi::{LockKind, Mode, series};

use super::words::Memory;
use crate::attach::offsets::{Field, Offsets};
use crate::emulator::protocol::TaskLayout;
use crate::frame;

/// Locks looked at in a tick; where there are more, they take turns.
const A_TICK: usize = 256;
/// Bits of an owner word that are no part of the address (kernel/locking/mutex.c, rwsem.c).
const OWNER_FLAGS: u64 = 7;
/// `RWSEM_WRITER_LOCKED` (kernel/locking/rwsem.c).
const RWSEM_WRITER: u64 = 1;
const COMM_BYTES: usize = 16;
/// `PID_MAX_LIMIT` (include/linux/threads.h).
const MOST_PIDS: u32 = 4 << 20;

/// A lock whose word is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watched {
    /// Address.
    pub address: u64,
    /// Class id.
    pub class: u8,
    /// Kind.
    pub kind: LockKind,
    /// Instance slot (an rwsem's writers').
    pub slot: u32,
    /// Process of its guest; 0 where it has none, or that is not known.
    pub tgid: u32,
}

/// What was seen in earlier ticks.
#[derive(Debug, Default)]
pub struct Verifier {
    /// Where the next tick begins.
    next: usize,
    /// Owners known from the word alone: since when.
    owners: HashMap<u64, (u64, u64)>,
    /// By lock: the owner in its word, and that task's thread id as it was last read.
    read: HashMap<u64, (u64, u32)>,
    /// Holdings that a word has contradicted once: (thread, serial).
    doubted: HashMap<(u32, u64), u32>,
    serial: u64,
}

/// Offsets that are needed.
#[derive(Debug, Clone, Copy)]
pub struct Places {
    mutex_owner: u32,
    rwsem: Option<(u32, u32)>,
    pid: u32,
    tgid: Option<u32>,
    comm: Option<u32>,
    exec_start: Option<u32>,
}

impl Places {
    /// Thread id, process id and last run at these offsets.
    #[cfg(test)]
    pub const fn for_tests(pid: u32, tgid: u32, exec_start: u32) -> Self {
        Self {
            mutex_owner: 0,
            rwsem: None,
            pid,
            tgid: Some(tgid),
            comm: None,
            exec_start: Some(exec_start),
        }
    }

    /// Those of this kernel; `None` where owners cannot be read.
    pub fn new(offsets: &Offsets) -> Option<Self> {
        Some(Self {
            mutex_owner: offsets.get(Field::MutexOwner)?,
            rwsem: offsets
                .get(Field::RwsemCount)
                .zip(offsets.get(Field::RwsemOwner)),
            pid: offsets.get(Field::TaskPid)?,
            tgid: offsets.get(Field::TaskTgid),
            comm: offsets.get(Field::TaskComm),
            exec_start: offsets.get(Field::TaskExecStart),
        })
    }

    /// Those of the emulated kernel's task structures. Words are the first members of its locks.
    pub const fn emulated(layout: &TaskLayout) -> Self {
        Self {
            mutex_owner: 0,
            rwsem: Some((0, 8)),
            pid: layout.tid,
            tgid: Some(layout.tgid),
            comm: Some(layout.comm),
            exec_start: Some(layout.since),
        }
    }

    /// Thread id of a task; `None` where there is none.
    pub fn tid(&self, memory: &impl Memory, task: u64) -> Option<u32> {
        memory
            .u32(task.wrapping_add(u64::from(self.pid)))
            .filter(|tid| (1..=MOST_PIDS).contains(tid))
    }

    /// A record of a task, empty but for its names.
    pub fn describe(&self, memory: &impl Memory, task: u64, tid: u32) -> frame::TaskState {
        let at = |offset: u32| task.wrapping_add(u64::from(offset));
        frame::TaskState {
            tid,
            pid: self
                .tgid
                .and_then(|offset| memory.u32(at(offset)))
                .unwrap_or(tid),
            comm: self
                .comm
                .and_then(|offset| memory.text(at(offset), COMM_BYTES))
                .unwrap_or_default(),
            ..frame::TaskState::default()
        }
    }

    /// When a task that sleeps has run last (`update_curr`, kernel/sched/fair.c): what it waits for, it has waited for since
    /// then at least. The scheduler's clock counts from the start of the machine, as CLOCK_MONOTONIC does, but for what
    /// NTP adjusts. `now_ns` where that is not known.
    pub fn blocked_since(&self, memory: &impl Memory, task: u64, now_ns: u64) -> u64 {
        self.exec_start
            .and_then(|offset| memory.u64(task.wrapping_add(u64::from(offset))))
            .filter(|&at| at != 0 && at < now_ns)
            .unwrap_or(now_ns)
    }
}

impl Verifier {
    /// Compares a frame's live state with the lock words. Returns how many holders on record were contradicted.
    ///
    /// The `task_struct` of a thread that has `ended` may be anything by now. While a word goes on to name it, the lock is
    /// that thread's.
    pub fn check(
        &mut self,
        memory: &impl Memory,
        places: &Places,
        locks: &[Watched],
        ended: &dyn Fn(u32) -> bool,
        live: &mut frame::Live,
        now_ns: u64,
    ) -> u64 {
        let mut contradicted = 0;
        let mut doubted = HashMap::new();
        for n in 0..locks.len().min(A_TICK) {
            let lock = &locks[(self.next + n) % locks.len()];
            let Some(owner) = owner_of(memory, places, lock) else {
                continue;
            };
            let before = self.read.get(&lock.address).copied();
            let tid = match (owner, before) {
                (0, _) => 0,
                (task, Some((same, tid))) if task == same && ended(tid) => tid,
                (task, _) => match places.tid(memory, task) {
                    Some(tid) => tid,
                    None => continue,
                },
            };
            self.read.insert(lock.address, (owner, tid));
            for task in &mut live.tasks {
                let owns = task.tid == tid;
                task.holds.retain_mut(|holding| {
                    let this = holding.lock == lock.address && holding.evidence == "probe";
                    // A reader is not named by the word.
                    if !this || holding.series != u32::from(series(lock.class, Mode::Write)) {
                        return true;
                    }
                    if owns {
                        holding.evidence = "probe,lock word".into();
                        return true;
                    }
                    let key = (task.tid, holding.serial);
                    let times = self.doubted.get(&key).copied().unwrap_or(0) + 1;
                    doubted.insert(key, times);
                    contradicted += u64::from(times == 2);
                    times < 2
                });
            }
            if tid == 0 {
                self.owners.remove(&lock.address);
                continue;
            }
            self.show_owner(memory, places, lock, owner, tid, live, now_ns);
        }
        if !locks.is_empty() {
            self.next = (self.next + A_TICK.min(locks.len())) % locks.len();
        }
        self.doubted = doubted;
        // Locks that have gone leave nothing behind.
        if self.read.len() > locks.len() * 2 {
            let known: HashSet<u64> = locks.iter().map(|lock| lock.address).collect();
            self.read.retain(|address, _| known.contains(address));
        }
        contradicted
    }

    /// Adds the owner to the live state, unless its record is there.
    #[expect(
        clippy::too_many_arguments,
        reason = "one owner of one lock, with everything that a record of it needs"
    )]
    fn show_owner(
        &mut self,
        memory: &impl Memory,
        places: &Places,
        lock: &Watched,
        owner: u64,
        tid: u32,
        live: &mut frame::Live,
        now_ns: u64,
    ) {
        let known = live.tasks.iter().any(|task| {
            task.tid == tid
                && task
                    .holds
                    .iter()
                    .any(|holding| holding.lock == lock.address)
        });
        if known {
            return;
        }
        let entry = self
            .owners
            .entry(lock.address)
            .and_modify(|(of, since)| {
                if *of != owner {
                    (*of, *since) = (owner, now_ns);
                }
            })
            .or_insert_with(|| (owner, places.blocked_since(memory, owner, now_ns)));
        let since_ns = entry.1;
        self.serial += 1;
        let holding = frame::Holding {
            series: u32::from(series(lock.class, Mode::Write)),
            instance: lock.slot,
            lock: lock.address,
            since_ns,
            // The same owner since the same time is the same holding.
            serial: since_ns ^ owner,
            adopted: true,
            evidence: "lock word".into(),
            ..frame::Holding::default()
        };
        if let Some(task) = live.tasks.iter_mut().find(|task| task.tid == tid) {
            task.holds.push(holding);
            return;
        }
        live.tasks.push(frame::TaskState {
            holds: vec![holding],
            ..places.describe(memory, owner, tid)
        });
    }
}

/// The `task_struct` of a lock's exclusive owner; 0 where it has none, `None` where that cannot be told.
fn owner_of(memory: &impl Memory, places: &Places, lock: &Watched) -> Option<u64> {
    match lock.kind {
        LockKind::Mutex => {
            let word = memory.u64(lock.address.wrapping_add(u64::from(places.mutex_owner)))?;
            Some(word & !OWNER_FLAGS)
        }
        LockKind::Rwsem => {
            let (count, owner) = places.rwsem?;
            let count = memory.u64(lock.address.wrapping_add(u64::from(count)))?;
            if count & RWSEM_WRITER == 0 {
                return Some(0);
            }
            let word = memory.u64(lock.address.wrapping_add(u64::from(owner)))?;
            Some(word & !OWNER_FLAGS)
        }
        LockKind::Flag | LockKind::Work => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    struct Words(BTreeMap<u64, u64>);

    impl Memory for Words {
        fn read(&self, address: u64, into: &mut [u8]) -> bool {
            let Some(word) = self.0.get(&address) else {
                return false;
            };
            // A task's id is a 32-bit word.
            let bytes = if into.len() == 4 {
                (*word as u32).to_ne_bytes().to_vec()
            } else {
                word.to_ne_bytes().to_vec()
            };
            let length = into.len().min(bytes.len());
            into[..length].copy_from_slice(&bytes[..length]);
            true
        }
    }

    const LOCK: u64 = 0x1000;
    const TASK: u64 = 0x8000;
    const PLACES: Places = Places {
        mutex_owner: 0,
        rwsem: None,
        pid: 8,
        tgid: None,
        comm: None,
        exec_start: None,
    };

    fn locks() -> [Watched; 1] {
        [Watched {
            address: LOCK,
            class: 0,
            kind: LockKind::Mutex,
            slot: 0,
            tgid: 0,
        }]
    }

    fn recorded(tid: u32) -> frame::Live {
        frame::Live {
            tasks: vec![frame::TaskState {
                tid,
                holds: vec![frame::Holding {
                    lock: LOCK,
                    serial: 7,
                    evidence: "probe".into(),
                    ..frame::Holding::default()
                }],
                ..frame::TaskState::default()
            }],
            ..frame::Live::default()
        }
    }

    fn nobody(_: u32) -> bool {
        false
    }

    /// The task_struct of the owner is another's by now, or nothing.
    #[test]
    fn a_thread_that_has_ended_keeps_its_lock() {
        let mut memory = Words(BTreeMap::from([(LOCK, TASK | 1), (TASK + 8, 42)]));
        let mut verifier = Verifier::default();
        let mut live = recorded(42);
        verifier.check(&memory, &PLACES, &locks(), &nobody, &mut live, 5);
        memory.0.insert(TASK + 8, 43);
        for now in 6..9 {
            let mut live = recorded(42);
            let ended = |tid| tid == 42;
            assert_eq!(
                verifier.check(&memory, &PLACES, &locks(), &ended, &mut live, now),
                0
            );
            assert_eq!(live.tasks.len(), 1);
            assert_eq!(live.tasks[0].holds[0].evidence, "probe,lock word");
        }
        // Somebody else owns it: another word.
        memory.0.insert(LOCK, TASK * 2);
        memory.0.insert(TASK * 2 + 8, 44);
        let mut live = recorded(42);
        verifier.check(&memory, &PLACES, &locks(), &|tid| tid == 42, &mut live, 9);
        assert_eq!(live.tasks[1].tid, 44);
    }

    #[test]
    fn the_word_confirms_a_record() {
        let memory = Words(BTreeMap::from([(LOCK, TASK | 1), (TASK + 8, 42)]));
        let mut live = recorded(42);
        let mut verifier = Verifier::default();
        assert_eq!(
            verifier.check(&memory, &PLACES, &locks(), &nobody, &mut live, 5),
            0
        );
        assert_eq!(live.tasks[0].holds[0].evidence, "probe,lock word");
        assert_eq!(live.tasks.len(), 1);
    }

    #[test]
    fn an_owner_without_a_record_is_shown_since_it_was_seen() {
        let memory = Words(BTreeMap::from([(LOCK, TASK), (TASK + 8, 42)]));
        let mut verifier = Verifier::default();
        for (now, since) in [(5, 5), (9, 5)] {
            let mut live = frame::Live::default();
            verifier.check(&memory, &PLACES, &locks(), &nobody, &mut live, now);
            let holding = &live.tasks[0].holds[0];
            assert_eq!(holding.evidence, "lock word");
            assert!(holding.adopted);
            assert_eq!(holding.since_ns, since);
        }
    }

    #[test]
    fn a_record_is_contradicted_by_two_readings_not_by_one() {
        let memory = Words(BTreeMap::from([(LOCK, 0)]));
        let mut verifier = Verifier::default();
        let mut live = recorded(42);
        assert_eq!(
            verifier.check(&memory, &PLACES, &locks(), &nobody, &mut live, 5),
            0
        );
        assert_eq!(live.tasks[0].holds.len(), 1);
        let mut live = recorded(42);
        assert_eq!(
            verifier.check(&memory, &PLACES, &locks(), &nobody, &mut live, 6),
            1
        );
        assert!(live.tasks[0].holds.is_empty());
    }

    #[test]
    fn what_cannot_be_read_contradicts_nothing() {
        let memory = Words(BTreeMap::new());
        let mut verifier = Verifier::default();
        for _ in 0..3 {
            let mut live = recorded(42);
            assert_eq!(
                verifier.check(&memory, &PLACES, &locks(), &nobody, &mut live, 5),
                0
            );
            assert_eq!(live.tasks[0].holds.len(), 1);
        }
    }
}
