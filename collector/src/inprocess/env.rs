//! Maps and helpers for probe bodies that run in the emulator's own process.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

use probe_ebpf::abi::{
    self, Call, Coarse, Config, Counters, Edge, EntryInfo, EntryStats, LockInfo, MAX_CPUS,
    MAX_ENTRY_POINTS, MAX_SERIES, PROGRAMS, Program, SeriesStats, Span, Task, TaskExtremes, Word,
};
use probe_ebpf::body::{Env, Note};

use super::ring::SharedRing;
use super::table::{Addresses, Table};
use crate::source::memory::Memory;
use crate::source::reader::monotonic_ns;

/// What the probe bodies work on.
pub struct InProcess {
    pub(super) config: Config,
    pub(super) locks: Addresses,
    pub(super) entries: [EntryInfo; MAX_ENTRY_POINTS],
    pub(super) memory: Memory,
    pub(super) ring: SharedRing,
    pub(super) tasks: Table,
    pub(super) edges: Table,
    pub(super) threads: AtomicU64,
}

thread_local! {
    /// Number of the thread, its id, and its task slot plus one.
    static THREAD: Cell<(u64, u64, u64)> = const { Cell::new((0, 0, 0)) };
}

impl InProcess {
    /// Number (from 0), id and task slot of the current thread.
    fn thread(&self) -> (u64, u64, u64) {
        let (number, id, slot) = THREAD.get();
        if id != 0 {
            return (number, id, slot);
        }
        // SAFETY: no precondition.
        let tid = unsafe { libc::gettid() } as u64;
        let id = (u64::from(std::process::id()) << 32) | tid;
        let number = self.threads.fetch_add(1, Ordering::Relaxed);
        let slot = self.tasks.slot(tid, |slot| {
            if let Some(task) = self.memory.tasks.get(slot as usize) {
                set_comm(&task.comm);
                task.id.set(id);
            }
        });
        let slot = slot.map_or(0, |slot| u64::from(slot) + 1);
        THREAD.set((number, id, slot));
        (number, id, slot)
    }

    fn shard(&self) -> usize {
        self.thread().0 as usize & self.config.shard_mask as usize
    }
}

/// Writes the current thread's name.
fn set_comm(words: &[Word; 2]) {
    let mut name = [0_u8; 16];
    // SAFETY: PR_GET_NAME writes at most 16 bytes to the buffer.
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    let (first, second) = name.split_at(8);
    for (word, bytes) in words.iter().zip([first, second]) {
        word.set(u64::from_ne_bytes(bytes.try_into().unwrap_or_default()));
    }
}

impl Env for InProcess {
    fn config(&self) -> &Config {
        &self.config
    }

    fn now(&self) -> u64 {
        monotonic_ns()
    }

    fn id(&self) -> u64 {
        self.thread().1
    }

    fn lock(&self, address: u64) -> Option<LockInfo> {
        self.locks.get(address)
    }

    fn entry_info(&self, entry: u8) -> Option<EntryInfo> {
        self.entries.get(entry as usize).copied()
    }

    fn task(&self) -> Option<(&Task, &TaskExtremes)> {
        let slot = self.thread().2.checked_sub(1)? as usize;
        Some((
            self.memory.tasks.get(slot)?,
            self.memory.extremes.get(slot)?,
        ))
    }

    fn present_task(&self) -> Option<(&Task, &TaskExtremes)> {
        self.task()
    }

    fn last_task(&self) -> Option<(&Task, &TaskExtremes)> {
        self.task()
    }

    fn series(&self, series: u8) -> Option<&SeriesStats> {
        self.memory
            .series
            .get(self.shard() * MAX_SERIES + series as usize)
    }

    fn entry_stats(&self, entry: u8) -> Option<&EntryStats> {
        self.memory
            .entries
            .get(self.shard() * MAX_ENTRY_POINTS + entry as usize)
    }

    fn instance(&self, slot: u32) -> Option<&Coarse> {
        self.memory.instances.get(slot as usize)
    }

    fn by_entry(&self, series: u8, entry: u8) -> Option<&Coarse> {
        self.memory
            .by_entry
            .get(series as usize * MAX_ENTRY_POINTS + entry as usize)
    }

    fn pqap(&self, entry: u8, function: u8, response: u8) -> Option<&Word> {
        self.memory
            .pqap
            .get(abi::pqap_index(entry, function, response) as usize)
    }

    fn counters(&self, program: Program) -> Option<&Counters> {
        // SAFETY: no precondition.
        let cpu = unsafe { libc::sched_getcpu() }.max(0) as usize & (MAX_CPUS - 1);
        self.memory.counters.get(cpu * PROGRAMS + program as usize)
    }

    fn edge(&self, key: u64, now_ns: u64) -> Option<&Edge> {
        let slot = self.edges.slot(key, |slot| {
            if let Some(edge) = self.memory.edges.get(slot as usize) {
                set_comm(&edge.first_comm);
                edge.first_tid.set(self.id() & 0xffff_ffff);
                edge.first_ns.set(now_ns);
                edge.key.set(key);
            }
        });
        self.memory.edges.get(slot? as usize)
    }

    fn read_u64(&self, address: u64) -> Option<u64> {
        if address == 0 || !address.is_multiple_of(8) {
            return None;
        }
        // SAFETY: the bodies read only members of the emulator's objects, in this very process, whose addresses come
        // from the emulator's own calls. Objects are not freed while actors run.
        Some(unsafe { AtomicU64::from_ptr(address as *mut u64) }.load(Ordering::Relaxed))
    }

    fn read_u8(&self, address: u64) -> Option<u8> {
        if address == 0 {
            return None;
        }
        // SAFETY: as above.
        Some(
            unsafe { std::sync::atomic::AtomicU8::from_ptr(address as *mut u8) }
                .load(Ordering::Relaxed),
        )
    }

    fn read_u32(&self, address: u64) -> Option<u32> {
        if address == 0 || !address.is_multiple_of(4) {
            return None;
        }
        // SAFETY: as above.
        Some(
            unsafe { std::sync::atomic::AtomicU32::from_ptr(address as *mut u32) }
                .load(Ordering::Relaxed),
        )
    }

    fn read_comm(&self, address: u64) -> Option<[u64; 2]> {
        if address == 0 {
            return None;
        }
        // SAFETY: the caller of the probe point has passed the address of 16 bytes that it does not change during the
        // call.
        Some(unsafe { (address as *const [u64; 2]).read_unaligned() })
    }

    fn write(&self, span: &Span) -> bool {
        self.ring.push(&Call::of(*span))
    }

    fn write_call(&self, call: &Call) -> bool {
        self.ring.push(call)
    }

    fn note(&self, _: Note, _: u64) {
        // Counted by the caller, and the collector's summary line says how many; there is no log to write to here.
    }
}
