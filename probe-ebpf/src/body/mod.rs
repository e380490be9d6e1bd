//! The probe bodies: what is measured, and how.
//!
//! Each public function of [`locks`], [`waits`], [`works`] and [`entries`] is one probe. It takes an [`Env`] (maps and helpers)
//! and the probe's arguments, and knows nothing of how it was attached.
//!
//! * Statistics are only ever added to, atomically, so any number of tasks may run a body at once.
//! * A [`Task`] record is written by its own task alone; `sequence` is odd meanwhile.
//! * Nothing is lost silently: every map that is full is counted in [`Counters`].

pub mod adopt;
pub mod attempts;
pub mod contention;
pub mod entries;
mod flags;
mod holds;
pub mod locks;
pub mod order;
mod stats;
mod subject;
pub mod waits;
pub mod works;

#[cfg(test)]
mod tests;

use crate::abi::{
    Adopted, Call, Coarse, Config, Counters, Edge, EntryInfo, EntryStats, Extremes, Info, Inside,
    LockInfo, MAX_NESTED, MAX_WAITS, Mode, NO_INSTANCE, Program, SPAN_STACK, SeriesStats, Span,
    Task, TaskExtremes, Waiting, Word,
};
use crate::h2;

/// A diagnostic of a probe body: goes to the log, rate-limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Note {
    /// A lock was released whose acquisition was not seen.
    UnexpectedRelease,
    /// Every task slot is taken.
    NoTaskSlot,
    /// Every edge slot is taken.
    NoEdgeSlot,
    /// More held locks, waits or nested calls than a record has room for.
    Overflow,
    /// Object memory could not be read.
    Unreadable,
}

/// Maps and helpers, as a body sees them.
///
/// Every lookup may fail: the eBPF verifier wants each to be tested.
pub trait Env {
    /// The configuration.
    fn config(&self) -> &Config;
    /// CLOCK_MONOTONIC, in nanoseconds.
    fn now(&self) -> u64;
    /// Thread id of the current task, and its thread group id in the upper half.
    fn id(&self) -> u64;
    /// What is known about an address; `None` if it is not traced.
    fn lock(&self, address: u64) -> Option<LockInfo>;
    /// Attach-time facts of an entry point.
    fn entry_info(&self, entry: u8) -> Option<EntryInfo>;
    /// The current task's record, made on first use; `None` when there is no slot left.
    fn task(&self) -> Option<(&Task, &TaskExtremes)>;
    /// The current task's record, if it has one.
    fn present_task(&self) -> Option<(&Task, &TaskExtremes)>;
    /// The current task's record, if it can be had without a search. Where thread ids are given to others, it may be that
    /// of another thread.
    fn last_task(&self) -> Option<(&Task, &TaskExtremes)>;
    /// Statistics of a lock series in the current shard.
    fn series(&self, series: u8) -> Option<&SeriesStats>;
    /// Statistics of an entry point in the current shard.
    fn entry_stats(&self, entry: u8) -> Option<&EntryStats>;
    /// Statistics of an instance.
    fn instance(&self, slot: u32) -> Option<&Coarse>;
    /// Statistics of a lock series inside an entry point.
    fn by_entry(&self, series: u8, entry: u8) -> Option<&Coarse>;
    /// Counter of a PQAP function code and response code.
    fn pqap(&self, entry: u8, function: u8, response: u8) -> Option<&Word>;
    /// Counters of a program on the current CPU.
    fn counters(&self, program: Program) -> Option<&Counters>;
    /// The edge with this key, made on first use; `None` when there is no slot left.
    fn edge(&self, key: u64, now_ns: u64) -> Option<&Edge>;
    /// Records the order edges of an acquisition: [`order::record`], where it can be called as a function of its own
    /// (the eBPF verifier looks at a global function once, and at inlined code again for each state it is reached
    /// in).
    fn edges(&self, task: &Task, acquired: order::Acquired, now_ns: u64) -> bool
    where
        Self: Sized,
    {
        order::record(self, task, acquired, now_ns)
    }
    /// Eight bytes of object memory.
    fn read_u64(&self, address: u64) -> Option<u64>;
    /// Four bytes of object memory.
    fn read_u32(&self, address: u64) -> Option<u32>;
    /// One byte of object memory.
    fn read_u8(&self, address: u64) -> Option<u8>;
    /// A process's name, 16 bytes of memory at any address.
    fn read_comm(&self, address: u64) -> Option<[u64; 2]>;
    /// Writes a span to the ring; false if there is no room.
    fn write(&self, span: &Span) -> bool;
    /// Writes a completed call to the ring; false if there is no room.
    fn write_call(&self, call: &Call) -> bool;
    /// Says something in the log.
    fn note(&self, note: Note, value: u64);
    /// Adds a lock to the table of locks, unless it is there; true if it is there then. For kernels, whose locks come
    /// and go.
    fn adopt(&self, _lock: Adopted) -> bool {
        false
    }
    /// Takes a lock out of the table of locks.
    fn forget(&self, _address: u64) {}
    /// Address of the current task's `struct task_struct`.
    fn current(&self) -> u64 {
        0
    }
    /// Waits that `contention_begin` has begun and `contention_end` has not ended: never fewer than there are, so that
    /// 0 says that no end can be one of them. Waits whose end was not seen stay in it.
    fn waiting(&self) -> Option<&Word> {
        None
    }
    /// The level that is attached: below 2, holds are not seen.
    fn level(&self) -> u64 {
        2
    }
    /// See [`crate::abi::gate::EPOCH`].
    fn epoch(&self) -> u64 {
        0
    }
    /// Takes the current task's stack, if a wait or hold of this length is long enough for that: its key in `STACKS`.
    fn stack(&self, _duration: u64) -> Option<u64> {
        None
    }
}

/// A record of before a silence of the collector is no record: releases and returns were not seen meanwhile.
#[inline(always)]
fn renew<E: Env>(env: &E, task: &Task) {
    if env.config().adopts == 0 {
        return;
    }
    let epoch = env.epoch();
    if task.epoch.get() == epoch {
        return;
    }
    begin(task);
    for held in &task.held {
        held.lock.set(0);
    }
    task.held_len.set(0);
    task.waits_len.set(0);
    task.inside_len.set(0);
    task.pending.set(0);
    task.epoch.set(epoch);
    end(task);
}

/// Instance slot of a lock in a mode: an rwsem has two, write then read.
#[inline(always)]
fn instance_of(info: &LockInfo, mode: Mode) -> u32 {
    if info.instance == NO_INSTANCE {
        return NO_INSTANCE;
    }
    info.instance + u32::from(matches!(mode, Mode::Read))
}

/// Records the order edges of an acquisition, if the task holds anything.
#[inline(always)]
fn record_order<E: Env>(
    env: &E,
    program: Program,
    task: &Task,
    acquired: order::Acquired,
    now: u64,
) {
    if task.held_len.get() != 0 && !env.edges(task, acquired, now) {
        failure(env, program, Note::NoEdgeSlot, acquired.address);
    }
}

/// Marks a task record as being changed.
#[inline(always)]
fn begin(task: &Task) {
    task.sequence.set_ordered(task.sequence.get() + 1);
}

/// Marks a task record as whole again.
#[inline(always)]
fn end(task: &Task) {
    task.sequence.set_ordered(task.sequence.get() + 1);
}

/// A fresh serial number of a holding or waiting.
#[inline(always)]
fn serial(task: &Task) -> u64 {
    let serial = task.serial.get() + 1;
    task.serial.set(serial);
    serial
}

/// The innermost entry point the task is inside of.
#[inline(always)]
fn innermost(task: &Task) -> Option<&Inside> {
    let n = task.inside_len.get();
    if n == 0 || n > MAX_NESTED as u64 {
        return None;
    }
    task.inside
        .get(((n - 1) & (MAX_NESTED as u64 - 1)) as usize)
}

/// Id of the innermost entry point; 0 outside all.
#[inline(always)]
fn current_entry(task: &Task) -> u8 {
    match innermost(task) {
        Some(inside) => inside.entry.get() as u8,
        None => 0,
    }
}

/// The innermost wait.
#[inline(always)]
fn innermost_wait(task: &Task) -> Option<&Waiting> {
    let n = task.waits_len.get();
    if n == 0 || n > MAX_WAITS as u64 {
        return None;
    }
    task.waits.get(((n - 1) & (MAX_WAITS as u64 - 1)) as usize)
}

/// Ends the innermost wait.
#[inline(always)]
fn pop_wait(task: &Task) {
    task.waits_len.set(task.waits_len.get() - 1);
}

/// Takes a value into account for minimum and maximum. Single writer.
#[inline(always)]
fn extreme(extremes: &Extremes, value: u64) {
    if value > extremes.max.get() {
        extremes.max.set(value);
    }
    let inverse = u64::MAX - value;
    if inverse > extremes.inverse_min.get() {
        extremes.inverse_min.set(inverse);
    }
}

/// Adds one to a full-resolution bucket.
#[inline(always)]
fn add_full(buckets: &[Word; h2::BUCKETS], value: u64) {
    if let Some(word) = buckets.get(opaque(h2::bucket(value))) {
        word.add(1);
    }
}

/// Adds one to a coarse bucket.
#[inline(always)]
fn add_coarse(buckets: &[Word; h2::COARSE_BUCKETS], value: u64) {
    let bucket = opaque(h2::ilog2(value) as usize);
    if let Some(word) = buckets.get(bucket & (h2::COARSE_BUCKETS - 1)) {
        word.add(1);
    }
}

/// A small number, as one whose value the eBPF verifier does not know: it would follow every path that knows another
/// value on its own, to the end of the program.
#[inline(always)]
fn unknown(task: &Task, value: usize) -> usize {
    // The count never gets that far, so this is an exclusive or with 0.
    opaque(value ^ (task.lost_holds.get() >> 58) as usize)
}

/// Hides a value's range from the compiler, so that the bound check that the eBPF verifier needs stays.
#[inline(always)]
fn opaque(value: usize) -> usize {
    #[cfg(target_arch = "bpf")]
    {
        let mut value = value;
        // SAFETY: moves a register to itself.
        unsafe { core::arch::asm!("{0} = {0}", inout(reg) value) };
        value
    }
    #[cfg(not(target_arch = "bpf"))]
    value
}

/// Counts a failure of the infrastructure.
#[inline(always)]
fn failure<E: Env>(env: &E, program: Program, note: Note, value: u64) {
    if let Some(counters) = env.counters(program) {
        match note {
            Note::UnexpectedRelease => counters.unmatched.add(1),
            Note::NoTaskSlot => counters.no_task_slot.add(1),
            Note::NoEdgeSlot => counters.no_edge_slot.add(1),
            Note::Overflow => counters.overflowed.add(1),
            Note::Unreadable => counters.unreadable.add(1),
        }
    }
    env.note(note, value);
}

/// A wait (or, with `hold`, a hold) that began at `since` has ended after `duration` nanoseconds: its stack is taken where
/// that is long.
#[inline(always)]
fn take_stack<E: Env>(
    env: &E,
    program: Program,
    task: &Task,
    info: Info,
    since: u64,
    duration: u64,
    hold: bool,
) {
    let Some(stack) = env.stack(duration) else {
        return;
    };
    let record = Span {
        start_ns: since,
        duration_ns: duration,
        extra: stack,
        tid: task.id.get() as u32,
        instance: info.instance,
        result: 0,
        kind: SPAN_STACK,
        what: info.series,
        inside: info.entry,
        flags: u8::from(hold),
    };
    emit(env, program, &record);
}

/// Writes a span and counts it, and its loss.
#[inline(always)]
fn emit<E: Env>(env: &E, program: Program, span: &Span) {
    let written = env.write(span);
    count_record(env, program, written);
}

/// Counts a record of the ring, and its loss.
#[inline(always)]
fn count_record<E: Env>(env: &E, program: Program, written: bool) {
    if let Some(counters) = env.counters(program) {
        counters.emitted.add(1);
        if !written {
            counters.dropped.add(1);
        }
    }
}
