//! Live state against the kernel's own lock words: each tick, who owns the known locks is read from the locks.
//!
//! A holder on record that the lock word confirms has both for evidence. An owner that no record has (the lock was
//! taken before anything was attached, or at a level that does not see holds) is shown with the lock word for evidence.
//! The word is read after the record, so a record that it contradicts is over (or has not begun, where an acquisition is
//! recorded when it is tried): it is taken out of the frame, and counted if the word contradicts it in a second reading too.

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
/// `MUTEX_FLAG_PICKUP` (kernel/locking/mutex.h), `RWSEM_READER_OWNED` (kernel/locking/rwsem.c).
const MUTEX_PICKUP: u64 = 4;
const RWSEM_READER_OWNED: u64 = 1;
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

impl Watched {
    /// Instance id of a mode: an rwsem's readers come behind its writers.
    const fn instance(&self, mode: Mode) -> u32 {
        self.slot + (matches!(self.kind, LockKind::Rwsem) && matches!(mode, Mode::Read)) as u32
    }

    /// A hold of it that no probe has seen begin, in no function that is known.
    pub fn holding(
        &self,
        mode: Mode,
        since_ns: u64,
        serial: u64,
        evidence: &str,
    ) -> frame::Holding {
        frame::Holding {
            series: u32::from(series(self.class, mode)),
            instance: self.instance(mode),
            lock: self.address,
            since_ns,
            serial,
            adopted: true,
            evidence: evidence.into(),
            ..frame::Holding::default()
        }
    }

    /// A wait for it that no probe has seen begin, in no function that is known.
    pub fn waiting(
        &self,
        mode: Mode,
        since_ns: u64,
        serial: u64,
        evidence: &str,
    ) -> frame::Waiting {
        frame::Waiting {
            series: u32::from(series(self.class, mode)),
            instance: self.instance(mode),
            lock: self.address,
            since_ns,
            serial,
            evidence: evidence.into(),
            ..frame::Waiting::default()
        }
    }
}

/// What was seen in earlier ticks.
#[derive(Debug, Default)]
pub struct Verifier {
    /// Where the next tick begins.
    next: usize,
    /// Owners known from the word alone: since when, and where that is not known to be exact, when they were first seen.
    owners: HashMap<u64, (u64, u64)>,
    /// By lock: the owner in its word, and that task's thread id as it was last read.
    read: HashMap<u64, (u64, u32)>,
    /// Holdings that a word has contradicted once: (thread, serial).
    doubted: HashMap<(u32, u64), u32>,
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
    /// CLOCK_MONOTONIC less the scheduler's clock.
    clock_ns: i64,
}

/// What a look is to look at.
pub struct Asked<'a> {
    /// Whether a thread is known to be gone.
    pub ended: &'a dyn Fn(u32) -> bool,
    /// Locks with waiters, by address.
    pub waited_for: &'a HashSet<u64>,
    /// All locks, and not those alone whose turn it is.
    pub all: bool,
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
            clock_ns: 0,
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
            clock_ns: 0,
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
            clock_ns: 0,
        }
    }

    /// Thread id of a task; `None` where there is none: where this is no thread's id, or that of its process is none.
    pub fn tid(&self, memory: &impl Memory, task: u64) -> Option<u32> {
        let id = |offset: u32| {
            memory
                .u32(task.wrapping_add(u64::from(offset)))
                .filter(|id| (1..=MOST_PIDS).contains(id))
        };
        let tid = id(self.pid)?;
        self.tgid
            .is_none_or(|tgid| id(tgid).is_some())
            .then_some(tid)
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

    /// The live record of a task, made if there is none.
    pub fn record<'l>(
        &self,
        memory: &impl Memory,
        task: u64,
        tid: u32,
        live: &'l mut frame::Live,
    ) -> &'l mut frame::TaskState {
        let place = live.tasks.iter().position(|task| task.tid == tid);
        let place = place.unwrap_or_else(|| {
            live.tasks.push(self.describe(memory, task, tid));
            live.tasks.len() - 1
        });
        &mut live.tasks[place]
    }

    /// When a task has run last, by the scheduler's clock (`update_curr`, kernel/sched/fair.c); it stays the same while the
    /// task sleeps.
    pub fn last_run(&self, memory: &impl Memory, task: u64) -> Option<u64> {
        let offset = self.exec_start?;
        memory.u64(task.wrapping_add(u64::from(offset)))
    }

    /// When a task that sleeps has run last, CLOCK_MONOTONIC: what it waits for, it has waited for since then at least.
    /// `now_ns` where that is not known.
    pub fn blocked_since(&self, memory: &impl Memory, task: u64, now_ns: u64) -> u64 {
        self.last_run(memory, task)
            .filter(|&at| at != 0)
            .and_then(|at| at.checked_add_signed(self.clock_ns))
            .map_or(now_ns, |at| at.min(now_ns))
    }

    /// Takes the difference between CLOCK_MONOTONIC and the scheduler's clock from this thread's own account, where the
    /// kernel shows it (`/proc/thread-self/sched`, CONFIG_SCHED_DEBUG). The two run apart by what NTP adjusts.
    pub fn set_clock(&mut self, sched: &str, now_ns: u64) {
        let of = sched.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            (name.trim() == "se.exec_start").then_some(value.trim())
        });
        // Milliseconds, with six digits behind the point.
        let Some((ms, ns)) = of.and_then(|value| value.split_once('.')) else {
            return;
        };
        let (Ok(ms), Ok(ns)) = (ms.parse::<u64>(), ns.parse::<u64>()) else {
            return;
        };
        let own = ms.saturating_mul(1_000_000).saturating_add(ns);
        self.clock_ns = now_ns.cast_signed().wrapping_sub(own.cast_signed());
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
        asked: &Asked<'_>,
        live: &mut frame::Live,
        now_ns: u64,
    ) -> u64 {
        let mut contradicted = 0;
        let mut doubted = HashMap::new();
        let a_tick = if asked.all { locks.len() } else { A_TICK };
        // Locks may have gone since.
        let first = self.next.checked_rem(locks.len()).unwrap_or(0);
        let recorded: HashSet<(u64, u32)> = live
            .tasks
            .iter()
            .flat_map(|task| task.holds.iter().map(|hold| (hold.lock, task.tid)))
            .collect();
        let held: HashSet<u64> = recorded.iter().map(|(lock, _)| *lock).collect();
        for (n, lock) in locks.iter().enumerate() {
            // Those whose turn it is, those that somebody holds on record or waits for, and those with an owner that only the
            // word has named.
            let turn = (n + locks.len() - first) % locks.len() < a_tick;
            if !turn
                && !held.contains(&lock.address)
                && !asked.waited_for.contains(&lock.address)
                && !self.owners.contains_key(&lock.address)
            {
                continue;
            }
            let Some(owner) = owner_of(memory, places, lock) else {
                continue;
            };
            let before = self.read.get(&lock.address).copied();
            // The task_struct of a thread that has ended with the lock may be another's before it is known to have ended.
            let still = |tid| (asked.ended)(tid) || recorded.contains(&(lock.address, tid));
            let tid = match (owner, before) {
                (0, _) => 0,
                (task, Some((same, tid))) if task == same && still(tid) => tid,
                (task, _) => match places.tid(memory, task) {
                    Some(tid) => tid,
                    None => continue,
                },
            };
            self.read.insert(lock.address, (owner, tid));
            for task in &mut live.tasks {
                let owns = task.tid == tid;
                task.holds.retain_mut(|holding| {
                    if holding.lock != lock.address || holding.evidence != "probe" {
                        return true;
                    }
                    let alone = holding.series == u32::from(series(lock.class, Mode::Write));
                    if owns && alone {
                        holding.evidence = "probe,lock word".into();
                    }
                    // The word does not name readers, but there is none beside a writer.
                    if owns || !alone && tid == 0 {
                        return true;
                    }
                    let key = (task.tid, holding.serial);
                    let times = self.doubted.get(&key).copied().unwrap_or(0) + 1;
                    doubted.insert(key, times);
                    contradicted += u64::from(times == 2);
                    false
                });
            }
            if tid == 0 {
                self.owners.remove(&lock.address);
                continue;
            }
            self.show_owner(memory, places, lock, owner, tid, live, now_ns);
        }
        if !locks.is_empty() {
            self.next = (first + a_tick) % locks.len();
        }
        self.doubted = doubted;
        // Locks that have gone leave nothing behind.
        if self.read.len() > locks.len() * 2 {
            let known: HashSet<u64> = locks.iter().map(|lock| lock.address).collect();
            self.read.retain(|address, _| known.contains(address));
            self.owners.retain(|address, _| known.contains(address));
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
        let entry = self.owners.entry(lock.address).or_insert((owner, now_ns));
        if entry.0 != owner {
            *entry = (owner, now_ns);
        }
        // It has held the lock since it ran last, at least. Before that it may have released and taken it again.
        let slept = places.last_run(memory, owner);
        let since_ns = slept.map_or(entry.1, |_| places.blocked_since(memory, owner, now_ns));
        // The same owner that has not run since is the same holding.
        let serial = slept.unwrap_or(entry.1) ^ owner;
        let holding = lock.holding(Mode::Write, since_ns, serial, "lock word");
        places.record(memory, owner, tid, live).holds.push(holding);
    }
}

/// The `task_struct` of a lock's exclusive owner; 0 where it has none, or is given to one that has not taken it yet; `None`
/// where that cannot be told.
fn owner_of(memory: &impl Memory, places: &Places, lock: &Watched) -> Option<u64> {
    match lock.kind {
        LockKind::Mutex => {
            let word = memory.u64(lock.address.wrapping_add(u64::from(places.mutex_owner)))?;
            Some(if word & MUTEX_PICKUP == 0 {
                word & !OWNER_FLAGS
            } else {
                0
            })
        }
        LockKind::Rwsem => {
            let (count, owner) = places.rwsem?;
            let count = memory.u64(lock.address.wrapping_add(u64::from(count)))?;
            if count & RWSEM_WRITER == 0 {
                return Some(0);
            }
            let word = memory.u64(lock.address.wrapping_add(u64::from(owner)))?;
            // The writer has not put its name there yet: it is the last reader's.
            (word & RWSEM_READER_OWNED == 0).then_some(word & !OWNER_FLAGS)
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
        clock_ns: 0,
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

    fn asked(ended: &dyn Fn(u32) -> bool) -> Asked<'_> {
        static NONE: std::sync::LazyLock<HashSet<u64>> = std::sync::LazyLock::new(HashSet::new);
        Asked {
            ended,
            waited_for: &NONE,
            all: false,
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
        verifier.check(&memory, &PLACES, &locks(), &asked(&nobody), &mut live, 5);
        memory.0.insert(TASK + 8, 43);
        for now in 6..9 {
            let mut live = recorded(42);
            let ended = |tid| tid == 42;
            assert_eq!(
                verifier.check(&memory, &PLACES, &locks(), &asked(&ended), &mut live, now),
                0
            );
            assert_eq!(live.tasks.len(), 1);
            assert_eq!(live.tasks[0].holds[0].evidence, "probe,lock word");
        }
        // Somebody else owns it: another word.
        memory.0.insert(LOCK, TASK * 2);
        memory.0.insert(TASK * 2 + 8, 44);
        let mut live = recorded(42);
        verifier.check(
            &memory,
            &PLACES,
            &locks(),
            &asked(&|tid| tid == 42),
            &mut live,
            9,
        );
        assert_eq!(live.tasks[1].tid, 44);
    }

    #[test]
    fn what_is_no_thread_has_no_id() {
        let places = Places::for_tests(8, 16, 24);
        let tid = |words: &[(u64, u64)]| {
            let memory = Words(words.iter().copied().collect());
            places.tid(&memory, TASK)
        };
        assert_eq!(tid(&[(TASK + 8, 895), (TASK + 16, 894)]), Some(895));
        assert_eq!(tid(&[(TASK + 8, 895), (TASK + 16, 3_761_749_032)]), None);
        assert_eq!(tid(&[(TASK + 8, 895), (TASK + 16, 0)]), None);
        assert_eq!(
            tid(&[(TASK + 8, u64::from(MOST_PIDS) + 1), (TASK + 16, 1)]),
            None
        );
        assert_eq!(tid(&[(TASK + 8, 895)]), None);
    }

    #[test]
    fn the_word_confirms_a_record() {
        let memory = Words(BTreeMap::from([(LOCK, TASK | 1), (TASK + 8, 42)]));
        let mut live = recorded(42);
        let mut verifier = Verifier::default();
        assert_eq!(
            verifier.check(&memory, &PLACES, &locks(), &asked(&nobody), &mut live, 5),
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
            verifier.check(&memory, &PLACES, &locks(), &asked(&nobody), &mut live, now);
            let holding = &live.tasks[0].holds[0];
            assert_eq!(holding.evidence, "lock word");
            assert!(holding.adopted);
            assert_eq!(holding.since_ns, since);
        }
    }

    #[test]
    fn a_contradicted_record_is_over_and_counts_the_second_time() {
        let memory = Words(BTreeMap::from([(LOCK, 0)]));
        let mut verifier = Verifier::default();
        let mut live = recorded(42);
        assert_eq!(
            verifier.check(&memory, &PLACES, &locks(), &asked(&nobody), &mut live, 5),
            0
        );
        assert!(live.tasks[0].holds.is_empty());
        let mut live = recorded(42);
        assert_eq!(
            verifier.check(&memory, &PLACES, &locks(), &asked(&nobody), &mut live, 6),
            1
        );
        assert!(live.tasks[0].holds.is_empty());
    }

    /// The lock went from one to another between the reading of the records and that of the word.
    #[test]
    fn a_lock_has_one_owner() {
        let memory = Words(BTreeMap::from([(LOCK, TASK), (TASK + 8, 43)]));
        let mut live = recorded(42);
        Verifier::default().check(&memory, &PLACES, &locks(), &asked(&nobody), &mut live, 5);
        let owners: Vec<(u32, &str)> = live
            .tasks
            .iter()
            .flat_map(|task| task.holds.iter().map(|hold| (task.tid, &*hold.evidence)))
            .collect();
        assert_eq!(owners, [(43, "lock word")]);
    }

    #[test]
    fn there_are_no_readers_beside_a_writer() {
        const COUNT: u64 = LOCK + 8;
        let places = Places {
            rwsem: Some((8, 0)),
            ..PLACES
        };
        let locks = [Watched {
            kind: LockKind::Rwsem,
            ..locks()[0]
        }];
        let holders = |words: &[(u64, u64)]| {
            let memory = Words(words.iter().copied().collect());
            let mut live = recorded(42);
            live.tasks[0].holds[0].series = u32::from(series(0, Mode::Read));
            Verifier::default().check(&memory, &places, &locks, &asked(&nobody), &mut live, 5);
            let holders = live.tasks.iter().filter(|task| !task.holds.is_empty());
            holders.map(|task| task.tid).collect::<Vec<u32>>()
        };
        let other = (TASK + 8, 43);
        assert_eq!(holders(&[(COUNT, 0x100), (LOCK, TASK | 1), other]), [42]);
        assert_eq!(holders(&[(COUNT, 1), (LOCK, TASK), other]), [43]);
        // It has just become a reader, by `downgrade_write`.
        assert_eq!(holders(&[(COUNT, 1), (LOCK, TASK), (TASK + 8, 42)]), [42]);
    }

    #[test]
    fn what_cannot_be_read_contradicts_nothing() {
        let memory = Words(BTreeMap::new());
        let mut verifier = Verifier::default();
        for _ in 0..3 {
            let mut live = recorded(42);
            assert_eq!(
                verifier.check(&memory, &PLACES, &locks(), &asked(&nobody), &mut live, 5),
                0
            );
            assert_eq!(live.tasks[0].holds.len(), 1);
        }
    }

    /// Its owner has released it, and the next one sleeps yet.
    #[test]
    fn a_mutex_that_is_handed_over_has_no_owner() {
        let memory = Words(BTreeMap::from([
            (LOCK, TASK | MUTEX_PICKUP),
            (TASK + 8, 43),
        ]));
        let mut live = recorded(42);
        Verifier::default().check(&memory, &PLACES, &locks(), &asked(&nobody), &mut live, 5);
        assert!(live.tasks.iter().all(|task| task.holds.is_empty()));
    }

    /// A thread has ended with the lock, which nobody knows yet, and its task_struct is another's.
    #[test]
    fn a_record_outlives_its_task_struct() {
        let mut memory = Words(BTreeMap::from([(LOCK, TASK), (TASK + 8, 42)]));
        let mut verifier = Verifier::default();
        for _ in 0..3 {
            let mut live = recorded(42);
            verifier.check(&memory, &PLACES, &locks(), &asked(&nobody), &mut live, 5);
            assert_eq!(live.tasks.len(), 1);
            assert_eq!(live.tasks[0].holds[0].evidence, "probe,lock word");
            memory.0.insert(TASK + 8, 43);
        }
    }

    /// A hold counts in two readings: who has been seen to own a lock is looked at in each.
    #[test]
    fn of_many_locks_owners_and_what_is_waited_for_are_read_in_every_tick() {
        let many: Vec<Watched> = (0..A_TICK as u64 * 3)
            .map(|n| Watched {
                address: LOCK + n * 0x100,
                ..locks()[0]
            })
            .collect();
        let last = many[many.len() - 1].address;
        let mut memory = Words(many.iter().map(|lock| (lock.address, 0)).collect());
        memory.0.insert(last, TASK);
        memory.0.insert(TASK + 8, 42);
        let owners = |verifier: &mut Verifier, waited_for: &HashSet<u64>, now| {
            let mut live = frame::Live::default();
            let asked = Asked {
                ended: &nobody,
                waited_for,
                all: false,
            };
            verifier.check(&memory, &PLACES, &many, &asked, &mut live, now);
            live.tasks.len()
        };
        let mut verifier = Verifier::default();
        let none = HashSet::new();
        assert_eq!(owners(&mut verifier, &none, 1), 0, "not its turn");
        assert_eq!(owners(&mut verifier, &HashSet::from([last]), 2), 1);
        for now in 3..6 {
            assert_eq!(owners(&mut verifier, &none, now), 1);
        }
        // What is on record is looked at in each, too.
        memory.0.insert(last, 0);
        let mut live = recorded(42);
        live.tasks[0].holds[0].lock = last;
        let mut verifier = Verifier::default();
        verifier.check(&memory, &PLACES, &many, &asked(&nobody), &mut live, 6);
        assert!(live.tasks[0].holds.is_empty());
    }

    /// Guests end while the locks of others are looked at in turn.
    #[test]
    fn locks_may_go_between_two_readings() {
        let many: Vec<Watched> = (0..12)
            .map(|n| Watched {
                address: LOCK + n * 0x100,
                ..locks()[0]
            })
            .collect();
        let mut memory = Words(many.iter().map(|lock| (lock.address, 0)).collect());
        memory.0.insert(LOCK, TASK);
        memory.0.insert(TASK + 8, 42);
        let mut verifier = Verifier::default();
        for (now, left) in [12, 3, 0, 1, 12, 2].into_iter().enumerate() {
            let mut live = frame::Live::default();
            let locks = &many[..left];
            verifier.check(
                &memory,
                &PLACES,
                locks,
                &asked(&nobody),
                &mut live,
                now as u64,
            );
            assert_eq!(live.tasks.len(), left.min(1), "{left} locks");
        }
    }

    #[test]
    fn the_clock_of_the_scheduler_is_set_by_the_own_account() {
        let mut places = Places::for_tests(0, 4, 8);
        let memory = Words(BTreeMap::from([(TASK + 8, 5_000_000_000)]));
        assert_eq!(
            places.blocked_since(&memory, TASK, 9_000_000_000),
            5_000_000_000
        );
        places.set_clock("se.exec_start   :   8000.000000\n", 9_000_000_000);
        assert_eq!(
            places.blocked_since(&memory, TASK, 9_000_000_000),
            6_000_000_000
        );
        // Later than now: it runs.
        places.set_clock("se.exec_start : 1000.000000", 9_000_000_000);
        assert_eq!(
            places.blocked_since(&memory, TASK, 9_000_000_000),
            9_000_000_000
        );
        places.set_clock("se.exec_start : x", 9_000_000_000);
    }
}
