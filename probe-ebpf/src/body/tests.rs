//! The bodies against plain memory: a clock that is set by hand, tasks that are switched by hand.

mod kernel;
mod subjects;
mod works;
mod writers;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::vec::Vec;

use super::{Env, Note, entries, locks, waits};
use crate::abi::{
    self, Coarse, Config, Counters, EDGE_ANNOTATED, EDGE_ASCENDING, EDGE_DESCENDING,
    ENTRY_SETS_FLAG, ENTRY_TESTS_FLAG, ENTRY_TESTS_FLAG_IF_NO_DATA, Edge, EdgeKey, EntryInfo,
    EntryStats, HELD_SECOND_HOLDER, Info, LOCK_GUARDS_FLAG, LOCK_IS_WAIT_QUEUE, LockInfo, LockKind,
    MAX_HELD, MAX_NESTED, Mode, PROGRAMS, Program, Resolve, SPAN_ENTRY, SPAN_LOCK, SeriesStats,
    Span, Task, TaskExtremes, Word, series,
};
use crate::h2;
use crate::names::{class_id, entry_id};

/// A value of all zeroes.
fn zeroed<T>() -> T {
    // SAFETY: used only for types made of `Word`s, for which all zeroes is a value.
    unsafe { core::mem::zeroed() }
}

struct Fake {
    config: Config,
    clock: Cell<u64>,
    current: Cell<u32>,
    locks: BTreeMap<u64, LockInfo>,
    entries: BTreeMap<u8, EntryInfo>,
    tasks: Vec<(Task, TaskExtremes)>,
    series: Vec<SeriesStats>,
    entry_stats: Vec<EntryStats>,
    instances: Vec<Coarse>,
    by_entry: Vec<Coarse>,
    pqap: Vec<Word>,
    counters: Vec<Counters>,
    edges: Vec<Edge>,
    edge_slots: RefCell<BTreeMap<u64, usize>>,
    memory: RefCell<BTreeMap<u64, u64>>,
    spans: RefCell<Vec<Span>>,
    /// What the calls among them acted on, in their order.
    subjects: RefCell<Vec<(u64, u64)>>,
    ring: Cell<usize>,
    notes: RefCell<Vec<Note>>,
    adopted: RefCell<Vec<abi::Adopted>>,
    forgotten: RefCell<Vec<u64>>,
    level: Cell<u64>,
    stacks_over: Cell<u64>,
    epoch: Cell<u64>,
    waiting: Word,
    /// Tasks that have a record.
    recorded: RefCell<BTreeSet<u32>>,
    /// How often a record was asked for.
    task_looks: Cell<u32>,
}

const GUARD: u64 = 0x1000;
const KVM_LOCK: u64 = 0x2000;
const VCPU_MUTEX: u64 = 0x3000;
const RWSEM: u64 = 0x4000;
const MDEV: u64 = 0x5000;
const FLAG: u64 = MDEV + 0x10;
const QUEUE: u64 = MDEV + 0x18;
const NOTIFIER_BLOCK: u64 = MDEV + 0x40;
const HOOK: u64 = MDEV + 0x60;
const VCPU: u64 = 0x6000;
const KVM: u64 = 0x7000;
const RUN: u64 = 0x8000;
const WORK: u64 = 0xc000;

impl Fake {
    fn new() -> Self {
        let lock = |class, instance, kind: LockKind, flags| LockInfo {
            target: 0,
            instance,
            class,
            kind: kind as u8,
            flags,
            reserved: 0,
        };
        let flag = lock(class_id::KVM_BUSY, 5, LockKind::Flag, 0);
        let entry = |flags, resolve: Resolve| EntryInfo {
            flags,
            resolve: resolve as u8,
            reserved: [0; 6],
        };
        Self {
            config: Config {
                user_memory: 1,
                mdev_flag: 0x10,
                mdev_notifier: 0x40,
                mdev_hook: 0x60,
                device_driver_data: 8,
                mdev_device_driver_data: 8,
                vcpu_kvm: 0,
                vcpu_run: 8,
                kvm_hook: 16,
                run_gprs: 0,
                ap_device_qid: 12,
                has_flag: 1,
                contention_events: 1,
                ..Config::EMPTY
            },
            clock: Cell::new(1000),
            current: Cell::new(0),
            locks: BTreeMap::from([
                (
                    GUARD,
                    lock(
                        class_id::MATRIX_DEV_LOCK,
                        0,
                        LockKind::Mutex,
                        LOCK_GUARDS_FLAG,
                    ),
                ),
                (KVM_LOCK, lock(class_id::KVM_LOCK, 1, LockKind::Mutex, 0)),
                (
                    VCPU_MUTEX,
                    lock(class_id::VCPU_MUTEX, 2, LockKind::Mutex, 0),
                ),
                (
                    VCPU_MUTEX + 8,
                    lock(class_id::VCPU_MUTEX, 6, LockKind::Mutex, 0),
                ),
                (
                    RWSEM,
                    lock(class_id::PQAP_HOOK_RWSEM, 3, LockKind::Rwsem, 0),
                ),
                (FLAG, flag),
                (WORK, lock(class_id::RESET_WORK, 7, LockKind::Work, 0)),
                (
                    QUEUE,
                    LockInfo {
                        target: FLAG,
                        flags: LOCK_IS_WAIT_QUEUE,
                        ..flag
                    },
                ),
            ]),
            entries: BTreeMap::from([
                (
                    entry_id::GROUP_NOTIFIER,
                    entry(
                        ENTRY_SETS_FLAG
                            | ENTRY_TESTS_FLAG_IF_NO_DATA
                            | abi::ENTRY_RETURNS_NOTIFY
                            | abi::ENTRY_RETURNS_INT,
                        Resolve::Notifier,
                    ),
                ),
                (
                    entry_id::HANDLE_PQAP,
                    entry(
                        ENTRY_TESTS_FLAG | abi::ENTRY_PQAP | abi::ENTRY_RETURNS_INT,
                        Resolve::Vcpu,
                    ),
                ),
                (entry_id::ASSIGN_ADAPTER, entry(0, Resolve::Device)),
            ]),
            tasks: (0..2).map(|_| (zeroed(), zeroed())).collect(),
            series: (0..abi::MAX_SERIES).map(|_| zeroed()).collect(),
            entry_stats: (0..abi::MAX_ENTRY_POINTS).map(|_| zeroed()).collect(),
            instances: (0..8).map(|_| zeroed()).collect(),
            by_entry: (0..abi::MAX_SERIES * abi::MAX_ENTRY_POINTS)
                .map(|_| zeroed())
                .collect(),
            pqap: (0..2 * abi::PQAP_FUNCTIONS * abi::PQAP_RESPONSES)
                .map(|_| Word::new(0))
                .collect(),
            counters: (0..PROGRAMS).map(|_| zeroed()).collect(),
            edges: (0..16).map(|_| zeroed()).collect(),
            edge_slots: RefCell::default(),
            memory: RefCell::new(BTreeMap::from([
                (VCPU, KVM),
                (VCPU + 8, RUN),
                (KVM + 16, HOOK),
                (RUN, 3 << 24 | 0x0102),
                (RUN + 8, 0x0001_0000),
            ])),
            spans: RefCell::default(),
            subjects: RefCell::default(),
            ring: Cell::new(usize::MAX),
            notes: RefCell::default(),
            adopted: RefCell::default(),
            forgotten: RefCell::default(),
            level: Cell::new(2),
            stacks_over: Cell::new(u64::MAX),
            epoch: Cell::new(0),
            waiting: Word::new(0),
            recorded: RefCell::default(),
            task_looks: Cell::new(0),
        }
    }

    /// The flag has been looked at, and was clear.
    fn flag_known(self) -> Self {
        self.instances[5].value.set(1);
        self
    }

    fn at(&self, clock: u64) -> &Self {
        self.clock.set(clock);
        self
    }

    fn task_is(&self, task: u32) -> &Self {
        self.current.set(task);
        self
    }

    fn set_flag(&self, value: u64) {
        self.memory.borrow_mut().insert(FLAG, value);
    }

    fn stats(&self, class: u8, mode: Mode) -> &SeriesStats {
        &self.series[series(class, mode) as usize]
    }

    fn edge_count(&self, held: u8, acquired: u8, flags: u8) -> u64 {
        let matching = self.edges.iter().filter(|edge| {
            let key = EdgeKey::unpack(edge.key.get());
            edge.key.get() != 0
                && key.held >> 1 == held
                && key.acquired >> 1 == acquired
                && key.flags == flags
        });
        matching.map(|edge| edge.count.get()).sum()
    }

    fn held(&self, task: usize) -> Vec<u64> {
        self.tasks[task]
            .0
            .held
            .iter()
            .map(|held| held.lock.get())
            .filter(|lock| *lock != 0)
            .collect()
    }
}

fn sum(words: &[Word]) -> u64 {
    words.iter().map(Word::get).sum()
}

impl Env for Fake {
    fn config(&self) -> &Config {
        &self.config
    }
    fn now(&self) -> u64 {
        self.clock.get()
    }
    fn id(&self) -> u64 {
        (77 << 32) | u64::from(self.current.get())
    }
    fn lock(&self, address: u64) -> Option<LockInfo> {
        self.locks.get(&address).copied()
    }
    fn entry_info(&self, entry: u8) -> Option<EntryInfo> {
        self.entries.get(&entry).copied()
    }
    fn task(&self) -> Option<(&Task, &TaskExtremes)> {
        self.task_looks.set(self.task_looks.get() + 1);
        self.recorded.borrow_mut().insert(self.current.get());
        self.tasks
            .get(self.current.get() as usize)
            .map(|(task, extremes)| (task, extremes))
    }
    fn present_task(&self) -> Option<(&Task, &TaskExtremes)> {
        let present = self.recorded.borrow().contains(&self.current.get());
        if present {
            return self.task();
        }
        self.task_looks.set(self.task_looks.get() + 1);
        None
    }
    fn last_task(&self) -> Option<(&Task, &TaskExtremes)> {
        self.present_task()
    }

    fn series(&self, series: u8) -> Option<&SeriesStats> {
        self.series.get(series as usize)
    }
    fn entry_stats(&self, entry: u8) -> Option<&EntryStats> {
        self.entry_stats.get(entry as usize)
    }
    fn instance(&self, slot: u32) -> Option<&Coarse> {
        self.instances.get(slot as usize)
    }
    fn by_entry(&self, series: u8, entry: u8) -> Option<&Coarse> {
        self.by_entry
            .get(series as usize * abi::MAX_ENTRY_POINTS + entry as usize)
    }
    fn pqap(&self, entry: u8, function: u8, response: u8) -> Option<&Word> {
        self.pqap
            .get(abi::pqap_index(entry, function, response) as usize)
    }
    fn counters(&self, program: Program) -> Option<&Counters> {
        self.counters.get(program as usize)
    }
    fn edge(&self, key: u64, now_ns: u64) -> Option<&Edge> {
        let mut slots = self.edge_slots.borrow_mut();
        let next = slots.len();
        let slot = *slots.entry(key).or_insert(next);
        let edge = self.edges.get(slot)?;
        if edge.key.get() == 0 {
            edge.key.set(key);
            edge.first_ns.set(now_ns);
        }
        Some(edge)
    }
    fn read_u64(&self, address: u64) -> Option<u64> {
        self.memory.borrow().get(&address).copied()
    }
    fn read_u32(&self, address: u64) -> Option<u32> {
        self.memory
            .borrow()
            .get(&address)
            .map(|value| *value as u32)
    }
    fn read_comm(&self, address: u64) -> Option<[u64; 2]> {
        Some([self.read_u64(address)?, self.read_u64(address + 8)?])
    }
    fn read_u8(&self, address: u64) -> Option<u8> {
        self.memory.borrow().get(&address).map(|value| *value as u8)
    }
    fn write(&self, span: &Span) -> bool {
        let mut spans = self.spans.borrow_mut();
        if spans.len() >= self.ring.get() {
            return false;
        }
        spans.push(*span);
        true
    }
    fn write_call(&self, call: &abi::Call) -> bool {
        let written = self.write(&call.span);
        if written {
            self.subjects.borrow_mut().push((call.mdev, call.guest));
        }
        written
    }
    fn note(&self, note: Note, _: u64) {
        self.notes.borrow_mut().push(note);
    }
    fn adopt(&self, lock: abi::Adopted) -> bool {
        self.adopted.borrow_mut().push(lock);
        true
    }
    fn forget(&self, address: u64) {
        self.forgotten.borrow_mut().push(address);
    }
    fn waiting(&self) -> Option<&Word> {
        Some(&self.waiting)
    }
    fn epoch(&self) -> u64 {
        self.epoch.get()
    }
    fn stack(&self, duration: u64) -> Option<u64> {
        (duration >= self.stacks_over.get()).then_some(5)
    }
    /// Tasks' addresses are far from everything else's.
    fn current(&self) -> u64 {
        0x10_0000 + 0x1000 * u64::from(self.current.get())
    }
    fn level(&self) -> u64 {
        self.level.get()
    }
}

#[test]
fn an_uncontended_cycle_is_one_acquisition_with_wait_0_and_one_hold() {
    let env = Fake::new();
    locks::acquired(env.at(1000), KVM_LOCK, Mode::Exclusive);
    assert_eq!(env.held(0), [KVM_LOCK]);
    locks::release(env.at(1500), KVM_LOCK, || Mode::Exclusive);
    let stats = env.stats(class_id::KVM_LOCK, Mode::Exclusive);
    assert_eq!(
        (stats.wait[0].get(), sum(&stats.wait), stats.contended.get()),
        (1, 1, 0)
    );
    assert_eq!(
        (stats.hold[h2::bucket(500)].get(), stats.hold_sum.get()),
        (1, 500)
    );
    assert_eq!(sum(&env.instances[1].hold), 1);
    assert_eq!(
        env.tasks[0].1.hold[series(class_id::KVM_LOCK, Mode::Exclusive) as usize]
            .max
            .get(),
        500
    );
    assert!(env.held(0).is_empty());
    let spans = env.spans.borrow();
    assert_eq!(spans.len(), 1);
    assert_eq!(
        (
            spans[0].kind,
            spans[0].start_ns,
            spans[0].duration_ns,
            spans[0].extra
        ),
        (SPAN_LOCK, 1000, 500, 0)
    );
    assert_eq!(env.tasks[0].0.sequence.get() % 2, 0);
}

#[test]
fn a_contended_acquisition_waits_from_the_slow_path_on() {
    let env = Fake::new();
    locks::contended(env.at(1000), KVM_LOCK, Mode::Exclusive);
    assert_eq!(env.tasks[0].0.waits_len.get(), 1);
    locks::acquired(env.at(4000), KVM_LOCK, Mode::Exclusive);
    let stats = env.stats(class_id::KVM_LOCK, Mode::Exclusive);
    assert_eq!(
        (
            stats.contended.get(),
            stats.wait[0].get(),
            stats.wait_sum.get()
        ),
        (1, 0, 3000)
    );
    assert_eq!(stats.wait[h2::bucket(3000)].get(), 1);
    assert_eq!(env.tasks[0].0.waits_len.get(), 0);
    assert_eq!(env.tasks[0].0.held[0].wait.get(), 3000);
}

#[test]
fn an_interrupted_wait_is_a_failed_attempt() {
    let env = Fake::new();
    locks::contended(&env, VCPU_MUTEX, Mode::Exclusive);
    locks::failed(&env, VCPU_MUTEX, Mode::Exclusive);
    let stats = env.stats(class_id::VCPU_MUTEX, Mode::Exclusive);
    assert_eq!(
        (
            stats.attempts_failed.get(),
            sum(&stats.wait),
            env.tasks[0].0.waits_len.get()
        ),
        (1, 0, 0)
    );
}

#[test]
fn a_release_without_acquisition_has_no_hold() {
    let env = Fake::new();
    locks::release(&env, KVM_LOCK, || Mode::Exclusive);
    let stats = env.stats(class_id::KVM_LOCK, Mode::Exclusive);
    assert_eq!((stats.unmatched_releases.get(), sum(&stats.hold)), (1, 0));
    assert_eq!(*env.notes.borrow(), [Note::UnexpectedRelease]);
    assert!(env.spans.borrow().is_empty());
}

#[test]
fn an_unknown_lock_is_left_alone() {
    let env = Fake::new();
    locks::acquired(&env, 0xdead, Mode::Exclusive);
    locks::acquired(&env, QUEUE, Mode::Exclusive);
    assert!(env.held(0).is_empty());
    assert_eq!(env.series.iter().map(|s| sum(&s.wait)).sum::<u64>(), 0);
}

#[test]
fn readers_and_writers_are_series_of_their_own() {
    let env = Fake::new();
    locks::acquired(&env, RWSEM, Mode::Read);
    locks::release(&env, RWSEM, || Mode::Read);
    locks::acquired(&env, RWSEM, Mode::Write);
    locks::release(&env, RWSEM, || Mode::Write);
    for mode in [Mode::Read, Mode::Write] {
        assert_eq!(sum(&env.stats(class_id::PQAP_HOOK_RWSEM, mode).hold), 1);
    }
    assert_eq!(
        (sum(&env.instances[3].hold), sum(&env.instances[4].hold)),
        (1, 1)
    );
}

#[test]
fn edges_come_from_every_held_lock_and_release_order_is_free() {
    let env = Fake::new();
    locks::acquired(&env, KVM_LOCK, Mode::Exclusive);
    locks::acquired(&env, RWSEM, Mode::Write);
    locks::acquired(&env, GUARD, Mode::Exclusive);
    assert_eq!(
        env.edge_count(class_id::KVM_LOCK, class_id::MATRIX_DEV_LOCK, 0),
        1
    );
    assert_eq!(
        env.edge_count(class_id::PQAP_HOOK_RWSEM, class_id::MATRIX_DEV_LOCK, 0),
        1
    );
    assert_eq!(
        env.edge_count(class_id::KVM_LOCK, class_id::PQAP_HOOK_RWSEM, 0),
        1
    );
    locks::release(&env, KVM_LOCK, || Mode::Exclusive);
    locks::release(&env, GUARD, || Mode::Exclusive);
    locks::release(&env, RWSEM, || Mode::Write);
    assert!(env.held(0).is_empty());
    assert_eq!(sum(&env.stats(class_id::KVM_LOCK, Mode::Exclusive).hold), 1);
}

#[test]
fn a_contended_acquisition_makes_its_edge_when_it_starts_to_wait_and_only_then() {
    let env = Fake::new();
    locks::acquired(&env, VCPU_MUTEX, Mode::Exclusive);
    locks::contended(&env, KVM_LOCK, Mode::Exclusive);
    assert_eq!(
        env.edge_count(class_id::VCPU_MUTEX, class_id::KVM_LOCK, 0),
        1
    );
    locks::acquired(&env, KVM_LOCK, Mode::Exclusive);
    assert_eq!(
        env.edge_count(class_id::VCPU_MUTEX, class_id::KVM_LOCK, 0),
        1
    );
}

#[test]
fn a_trylock_makes_no_edge_to_its_lock_and_one_from_it() {
    let env = Fake::new();
    locks::acquired(&env, VCPU_MUTEX, Mode::Exclusive);
    locks::acquired_without_waiting(&env, KVM_LOCK, Mode::Exclusive);
    assert_eq!(
        env.edge_count(class_id::VCPU_MUTEX, class_id::KVM_LOCK, 0),
        0
    );
    locks::acquired(&env, GUARD, Mode::Exclusive);
    assert_eq!(
        env.edge_count(class_id::KVM_LOCK, class_id::MATRIX_DEV_LOCK, 0),
        1
    );
}

#[test]
fn an_rwsem_released_in_the_other_mode_is_still_held_on_record() {
    let env = Fake::new();
    locks::acquired(&env, RWSEM, Mode::Write);
    locks::release(&env, RWSEM, || Mode::Read);
    let of = |mode| env.stats(class_id::PQAP_HOOK_RWSEM, mode);
    assert_eq!(of(Mode::Read).unmatched_releases.get(), 1);
    assert_eq!(of(Mode::Write).unmatched_releases.get(), 0);
    assert_eq!(env.held(0), [RWSEM]);
    locks::release(&env, RWSEM, || Mode::Write);
    assert!(env.held(0).is_empty());
    assert_eq!(sum(&of(Mode::Write).hold), 1);
}

#[test]
fn two_instances_of_a_class_say_in_which_order() {
    let env = Fake::new();
    for (first, second) in [(VCPU_MUTEX, VCPU_MUTEX + 8), (VCPU_MUTEX + 8, VCPU_MUTEX)] {
        locks::acquired(&env, first, Mode::Exclusive);
        locks::acquired(&env, second, Mode::Exclusive);
        locks::release(&env, second, || Mode::Exclusive);
        locks::release(&env, first, || Mode::Exclusive);
    }
    assert_eq!(
        env.edge_count(class_id::VCPU_MUTEX, class_id::VCPU_MUTEX, EDGE_ASCENDING),
        1
    );
    assert_eq!(
        env.edge_count(class_id::VCPU_MUTEX, class_id::VCPU_MUTEX, EDGE_DESCENDING),
        1
    );
}

#[test]
fn more_locks_than_a_record_holds_are_counted_as_lost() {
    let mut env = Fake::new();
    let kvm_lock = env.locks[&KVM_LOCK];
    let addresses: Vec<u64> = (0..=MAX_HELD as u64).map(|n| 0x9000 + 8 * n).collect();
    env.locks
        .extend(addresses.iter().map(|address| (*address, kvm_lock)));
    for address in &addresses {
        locks::acquired(&env, *address, Mode::Exclusive);
    }
    assert_eq!(env.tasks[0].0.lost_holds.get(), 1);
    assert_eq!(env.counters[Program::Acquired as usize].overflowed.get(), 1);
    assert_eq!(
        sum(&env.stats(class_id::KVM_LOCK, Mode::Exclusive).wait),
        MAX_HELD as u64 + 1
    );
}

#[test]
fn without_a_task_slot_acquisitions_are_still_counted_and_the_loss_too() {
    let env = Fake::new();
    env.task_is(9);
    locks::acquired(&env, KVM_LOCK, Mode::Exclusive);
    locks::release(&env, KVM_LOCK, || Mode::Exclusive);
    let stats = env.stats(class_id::KVM_LOCK, Mode::Exclusive);
    assert_eq!(
        (stats.wait[0].get(), stats.unmatched_releases.get()),
        (1, 1)
    );
    assert_eq!(
        env.counters[Program::Acquired as usize].no_task_slot.get(),
        1
    );
}

#[test]
fn a_full_ring_counts_what_it_drops() {
    let env = Fake::new();
    env.ring.set(1);
    for _ in 0..3 {
        locks::acquired(&env, KVM_LOCK, Mode::Exclusive);
        locks::release(&env, KVM_LOCK, || Mode::Exclusive);
    }
    let counters = &env.counters[Program::Release as usize];
    assert_eq!(
        (
            counters.emitted.get(),
            counters.dropped.get(),
            env.spans.borrow().len()
        ),
        (3, 2, 1)
    );
}

/// set_kvm of v5.13: lock, set the flag, unlock, take kvm->lock, lock, clear the flag, unlock.
fn set_kvm(env: &Fake, start: u64) {
    entries::enter(
        env.at(start),
        entry_id::GROUP_NOTIFIER,
        [NOTIFIER_BLOCK, 1, KVM, 0, 0, 0],
    );
    locks::acquired(env, GUARD, Mode::Exclusive);
    env.set_flag(1);
    locks::release(env.at(start + 10), GUARD, || Mode::Exclusive);
}

fn finish_set_kvm(env: &Fake, end: u64) {
    locks::acquired(env, GUARD, Mode::Exclusive);
    env.set_flag(0);
    locks::release(env.at(end), GUARD, || Mode::Exclusive);
    entries::leave(env, entry_id::GROUP_NOTIFIER, 1);
}

#[test]
fn a_flag_is_a_lock_held_between_its_transitions() {
    let env = Fake::new();
    set_kvm(&env, 1000);
    assert_eq!(env.held(0), [FLAG]);
    locks::acquired(&env, KVM_LOCK, Mode::Exclusive);
    locks::release(&env, KVM_LOCK, || Mode::Exclusive);
    finish_set_kvm(&env, 1510);
    let stats = env.stats(class_id::KVM_BUSY, Mode::Exclusive);
    assert_eq!(
        (
            stats.acquisitions.get(),
            sum(&stats.hold),
            stats.hold_sum.get()
        ),
        (1, 1, 500)
    );
    assert_eq!((sum(&stats.wait), stats.contended.get()), (0, 0));
    assert_eq!(env.edge_count(class_id::KVM_BUSY, class_id::KVM_LOCK, 0), 1);
    assert_eq!(
        env.edge_count(class_id::MATRIX_DEV_LOCK, class_id::KVM_BUSY, 0),
        0,
        "no edge from a guard to its flag"
    );
    assert!(env.held(0).is_empty());
    let returns = &env.entry_stats[entry_id::GROUP_NOTIFIER as usize].returns;
    assert_eq!(returns[1].get(), 1, "NOTIFY_OK");
}

#[test]
fn set_and_clear_inside_one_critical_section_is_no_hold() {
    let env = Fake::new();
    entries::enter(
        &env,
        entry_id::GROUP_NOTIFIER,
        [NOTIFIER_BLOCK, 1, KVM, 0, 0, 0],
    );
    locks::acquired(&env, GUARD, Mode::Exclusive);
    env.set_flag(1);
    env.set_flag(0);
    locks::release(&env, GUARD, || Mode::Exclusive);
    assert_eq!(
        env.stats(class_id::KVM_BUSY, Mode::Exclusive)
            .acquisitions
            .get(),
        0
    );
}

#[test]
fn a_flag_that_was_set_before_anybody_looked_has_no_holder_in_the_end() {
    let env = Fake::new();
    env.set_flag(1);
    entries::enter(
        &env,
        entry_id::GROUP_NOTIFIER,
        [NOTIFIER_BLOCK, 1, KVM, 0, 0, 0],
    );
    locks::acquired(&env, GUARD, Mode::Exclusive);
    locks::release(&env, GUARD, || Mode::Exclusive);
    entries::leave(&env, entry_id::GROUP_NOTIFIER, 0);
    assert!(env.held(0).is_empty());
    // Whoever set it clears it: a release whose acquisition was not seen.
    entries::enter(
        env.task_is(1),
        entry_id::GROUP_NOTIFIER,
        [NOTIFIER_BLOCK, 1, KVM, 0, 0, 0],
    );
    locks::acquired(&env, GUARD, Mode::Exclusive);
    env.set_flag(0);
    locks::release(&env, GUARD, || Mode::Exclusive);
    let stats = env.stats(class_id::KVM_BUSY, Mode::Exclusive);
    assert_eq!(
        (
            stats.acquisitions.get(),
            stats.unmatched_releases.get(),
            sum(&stats.hold)
        ),
        (0, 1, 0)
    );
}

#[test]
fn a_flag_set_by_two_tasks_has_two_holders() {
    let env = Fake::new().flag_known();
    set_kvm(env.task_is(0), 1000);
    set_kvm(env.task_is(1), 1100);
    assert_eq!(
        (env.held(0), env.held(1)),
        (std::vec![FLAG], std::vec![FLAG])
    );
    let info = Info::unpack(
        env.tasks[1]
            .0
            .held
            .iter()
            .find(|h| h.lock.get() == FLAG)
            .expect("held")
            .info
            .get(),
    );
    assert_eq!(info.flags & HELD_SECOND_HOLDER, HELD_SECOND_HOLDER);
    finish_set_kvm(env.task_is(0), 1210);
    assert_eq!(env.held(1), [FLAG]);
    finish_set_kvm(env.task_is(1), 1310);
    let stats = env.stats(class_id::KVM_BUSY, Mode::Exclusive);
    assert_eq!((stats.acquisitions.get(), sum(&stats.hold)), (2, 2));
}

#[test]
fn a_setter_that_only_saw_the_flag_set_by_another_is_no_holder_in_the_end() {
    let env = Fake::new();
    set_kvm(env.task_is(0), 1000);
    env.task_is(1);
    // -EPERM: the guard is released with the flag still set by task 0.
    entries::enter(
        &env,
        entry_id::GROUP_NOTIFIER,
        [NOTIFIER_BLOCK, 1, KVM, 0, 0, 0],
    );
    locks::acquired(&env, GUARD, Mode::Exclusive);
    locks::release(&env, GUARD, || Mode::Exclusive);
    entries::leave(&env, entry_id::GROUP_NOTIFIER, 0);
    assert!(env.held(1).is_empty());
    finish_set_kvm(env.task_is(0), 1500);
    assert_eq!(
        env.stats(class_id::KVM_BUSY, Mode::Exclusive)
            .acquisitions
            .get(),
        1
    );
}

#[test]
fn sleeping_on_the_wait_queue_is_waiting_for_the_flag() {
    let env = Fake::new();
    set_kvm(env.task_is(0), 1000);
    env.task_is(1);
    locks::acquired(&env, VCPU_MUTEX, Mode::Exclusive);
    entries::enter(&env, entry_id::HANDLE_PQAP, [VCPU, 0, 0, 0, 0, 0]);
    locks::acquired(&env, GUARD, Mode::Exclusive);
    waits::prepare(env.at(2000), QUEUE);
    locks::release(&env, GUARD, || Mode::Exclusive);
    assert!(!env.held(1).contains(&FLAG), "a waiter is no holder");
    // Woken in vain, and queueing for the guard: two waits on the stack.
    locks::contended(env.at(2100), GUARD, Mode::Exclusive);
    assert_eq!(env.tasks[1].0.waits_len.get(), 2);
    locks::acquired(env.at(2200), GUARD, Mode::Exclusive);
    waits::prepare(&env, QUEUE);
    assert_eq!(env.tasks[1].0.waits[0].rounds.get(), 2);
    locks::release(&env, GUARD, || Mode::Exclusive);
    finish_set_kvm(env.task_is(0), 2500);
    waits::wake(&env, QUEUE);
    env.task_is(1);
    locks::acquired(env.at(3000), GUARD, Mode::Exclusive);
    waits::finish(&env, QUEUE);
    let stats = env.stats(class_id::KVM_BUSY, Mode::Exclusive);
    assert_eq!(
        (
            stats.contended.get(),
            sum(&stats.wait),
            stats.wait_sum.get()
        ),
        (1, 1, 1000)
    );
    assert_eq!(env.instances[5].wakes.get(), 1);
    assert_eq!(
        env.edge_count(class_id::VCPU_MUTEX, class_id::KVM_BUSY, 0),
        1
    );
    assert_eq!(
        env.edge_count(class_id::VCPU_MUTEX, class_id::KVM_BUSY, EDGE_ANNOTATED),
        0,
        "a test that waited is no test that found the flag clear"
    );
}

#[test]
fn a_wait_loop_that_did_not_sleep_is_no_wait() {
    let env = Fake::new();
    waits::prepare(&env, QUEUE);
    waits::finish(&env, QUEUE);
    let stats = env.stats(class_id::KVM_BUSY, Mode::Exclusive);
    assert_eq!((stats.contended.get(), sum(&stats.wait)), (0, 0));
}

#[test]
fn a_test_that_finds_the_flag_clear_leaves_an_annotated_edge() {
    let env = Fake::new();
    env.set_flag(0);
    locks::acquired(&env, VCPU_MUTEX, Mode::Exclusive);
    entries::enter(&env, entry_id::HANDLE_PQAP, [VCPU, 0, 0, 0, 0, 0]);
    locks::acquired(&env, GUARD, Mode::Exclusive);
    locks::release(&env, GUARD, || Mode::Exclusive);
    entries::leave(&env, entry_id::HANDLE_PQAP, 0);
    assert_eq!(
        env.edge_count(class_id::VCPU_MUTEX, class_id::KVM_BUSY, EDGE_ANNOTATED),
        1
    );
    // Without a hook the handler returns before it tests the flag.
    env.memory.borrow_mut().insert(KVM + 16, 0);
    entries::enter(&env, entry_id::HANDLE_PQAP, [VCPU, 0, 0, 0, 0, 0]);
    locks::acquired(&env, GUARD, Mode::Exclusive);
    assert_eq!(
        env.edge_count(class_id::VCPU_MUTEX, class_id::KVM_BUSY, EDGE_ANNOTATED),
        1
    );
}

#[test]
fn only_the_unset_side_of_the_notifier_tests_the_flag() {
    for (data, edges) in [(KVM, 0), (0, 1)] {
        let env = Fake::new();
        env.set_flag(0);
        locks::acquired(&env, KVM_LOCK, Mode::Exclusive);
        entries::enter(
            &env,
            entry_id::GROUP_NOTIFIER,
            [NOTIFIER_BLOCK, 1, data, 0, 0, 0],
        );
        locks::acquired(&env, GUARD, Mode::Exclusive);
        assert_eq!(
            env.edge_count(class_id::KVM_LOCK, class_id::KVM_BUSY, EDGE_ANNOTATED),
            edges
        );
    }
}

#[test]
fn calls_are_returns_plus_what_is_in_flight() {
    let env = Fake::new();
    let text = 0xa000;
    for (n, byte) in b"0x05\n".iter().enumerate() {
        env.memory
            .borrow_mut()
            .insert(text + n as u64, u64::from(*byte));
    }
    env.memory.borrow_mut().insert(0xb008, MDEV);
    entries::enter(
        env.at(100),
        entry_id::ASSIGN_ADAPTER,
        [0xb000, 0, text, 5, 0, 0],
    );
    let inside = &env.tasks[0].0.inside[0];
    assert_eq!(
        (inside.object.get(), inside.arg.get().to_ne_bytes()),
        (MDEV, *b"0x05\n\0\0\0")
    );
    let stats = &env.entry_stats[entry_id::ASSIGN_ADAPTER as usize];
    assert_eq!((stats.calls.get(), sum(&stats.returns)), (1, 0));
    entries::leave(env.at(350), entry_id::ASSIGN_ADAPTER, (-16_i64) as u64);
    assert_eq!(
        (
            stats.returns[16].get(),
            stats.latency[h2::bucket(250)].get()
        ),
        (1, 1)
    );
    assert_eq!(env.spans.borrow()[0].kind, SPAN_ENTRY);
    entries::leave(&env, entry_id::ASSIGN_ADAPTER, 5);
    assert_eq!((stats.unmatched_returns.get(), sum(&stats.returns)), (1, 1));
}

#[test]
fn pqap_responses_are_counted_by_function() {
    let env = Fake::new();
    entries::enter(&env, entry_id::HANDLE_PQAP, [VCPU, 0, 0, 0, 0, 0]);
    entries::leave(&env, entry_id::HANDLE_PQAP, 0);
    assert_eq!(
        env.pqap[abi::pqap_index(entry_id::HANDLE_PQAP, 3, 1) as usize].get(),
        1
    );
    // -EOPNOTSUPP in a C int: the upper half of the register means nothing.
    entries::enter(&env, entry_id::HANDLE_PQAP, [VCPU, 0, 0, 0, 0, 0]);
    entries::leave(&env, entry_id::HANDLE_PQAP, u64::from((-95_i32) as u32));
    assert_eq!(
        env.entry_stats[entry_id::HANDLE_PQAP as usize].returns[95].get(),
        1
    );
    assert_eq!(env.pqap.iter().map(Word::get).sum::<u64>(), 1);
}

#[test]
fn nesting_deeper_than_the_record_keeps_the_counts() {
    let env = Fake::new();
    for _ in 0..MAX_NESTED + 2 {
        entries::enter(&env, entry_id::ASSIGN_ADAPTER, [0; 6]);
    }
    for _ in 0..MAX_NESTED + 2 {
        entries::leave(&env, entry_id::ASSIGN_ADAPTER, 1);
    }
    let stats = &env.entry_stats[entry_id::ASSIGN_ADAPTER as usize];
    assert_eq!(
        (stats.calls.get(), sum(&stats.returns)),
        (MAX_NESTED as u64 + 2, MAX_NESTED as u64 + 2)
    );
    assert_eq!(env.counters[Program::Enter as usize].overflowed.get(), 2);
    assert_eq!(env.tasks[0].0.inside_len.get(), 0);
}

#[test]
fn a_call_whose_return_was_not_seen_is_dropped_by_the_next_return() {
    let env = Fake::new();
    entries::enter(&env, entry_id::ASSIGN_ADAPTER, [0; 6]);
    entries::enter(&env, entry_id::HANDLE_PQAP, [VCPU, 0, 0, 0, 0, 0]);
    entries::leave(&env, entry_id::ASSIGN_ADAPTER, 1);
    assert_eq!(env.tasks[0].0.inside_len.get(), 0);
}
