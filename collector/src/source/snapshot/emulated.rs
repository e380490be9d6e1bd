//! The same of the emulated driver: its owner words and task structures, read from its process's memory.
//!
//! What the real kernel's wait lists and stacks say, the emulated one has in its task structures: what a task waits for,
//! and the entry points that it is in. Takes what the emulator says of itself at the start, and never what it counts.

use std::collections::{HashMap, HashSet};

use probe_ebpf::abi::{LockKind, Mode};
use probe_ebpf::names::{CLASSES, ENTRY_POINTS};

use super::queues::{Queue, Shapes, readers};
use super::stacks::Slept;
use super::{
    Scene, clear_flags, evidence, owners_wait_no_more, show_waiter, show_worker, unseen_readers,
};
use crate::attach::generation::{Generation, Generations};
use crate::diagnose::stacks::text::{self, Task};
use crate::emulator::protocol::{Hello, TaskLayout};
use crate::frame;
use crate::source::instances::Instances;
use crate::source::kernel::verify::{Asked, Places, Verifier, Watched};
use crate::source::kernel::words::Memory;

/// Tasks that are looked at.
const MOST_TASKS: usize = 65_536;

/// Memory of another process.
pub struct Process(pub u32);

impl Memory for Process {
    fn read(&self, address: u64, into: &mut [u8]) -> bool {
        let local = libc::iovec {
            iov_base: into.as_mut_ptr().cast(),
            iov_len: into.len(),
        };
        let remote = libc::iovec {
            iov_base: address as *mut libc::c_void,
            iov_len: into.len(),
        };
        // SAFETY: `local` is `into`, which is borrowed for the call; the other address is looked up in the other process.
        let read = unsafe {
            libc::process_vm_readv(
                self.0.cast_signed(),
                &raw const local,
                1,
                &raw const remote,
                1,
                0,
            )
        };
        usize::try_from(read) == Ok(into.len())
    }
}

/// Looks at an emulator that was running before it was measured.
pub struct Emulated {
    process: Process,
    layout: TaskLayout,
    generations: Generations,
    watched: Vec<Watched>,
    places: Places,
    verifier: Verifier,
}

/// A task that waits for something or is in an entry point.
struct Seen {
    address: u64,
    tid: u32,
    blocker: u64,
    reads: bool,
    inside: Vec<u8>,
}

impl Emulated {
    /// Of an emulator.
    pub fn new(hello: &Hello, instances: &Instances) -> Self {
        let layout = hello.tasks;
        let watched = hello.locks.iter().zip(&instances.first_slots);
        let watched = watched.filter_map(|(lock, slot)| {
            Some(Watched {
                address: lock.address,
                class: lock.class,
                kind: CLASSES.get(usize::from(lock.class))?.kind,
                slot: *slot,
                // All guests are of one process: told apart by number.
                tgid: lock.guest.map_or(0, |guest| guest + 1),
            })
        });
        let generation = Generation::ALL
            .into_iter()
            .find(|generation| generation.name() == hello.generation);
        Self {
            process: Process(hello.pid),
            layout,
            generations: generation.map_or(Generations::ALL, |one| Generations::of(&[one])),
            watched: watched.collect(),
            places: Places::emulated(&layout),
            verifier: Verifier::default(),
        }
    }

    /// Adds to live state what no probe has seen.
    pub fn look(&mut self, live: &mut frame::Live, now_ns: u64) {
        let scene = Scene {
            memory: &self.process,
            places: &self.places,
            watched: &self.watched,
            generations: self.generations,
            now_ns,
            all: true,
        };
        let asked = Asked {
            ended: &|_| false,
            waited_for: &HashSet::new(),
            all: true,
        };
        self.verifier.check(
            scene.memory,
            scene.places,
            scene.watched,
            &asked,
            live,
            now_ns,
        );
        let (tasks, whole) = self.tasks();
        let locks: HashMap<u64, &Watched> = self.watched.iter().map(|w| (w.address, w)).collect();
        for seen in &tasks {
            if let Some(lock) = locks.get(&seen.blocker) {
                let mode = match (lock.kind, seen.reads) {
                    (LockKind::Rwsem, true) => Mode::Read,
                    (LockKind::Rwsem, false) => Mode::Write,
                    _ => Mode::Exclusive,
                };
                show_waiter(&scene, lock, seen.address, mode, live);
            }
        }
        if whole {
            for lock in scene.watched {
                owners_wait_no_more(lock, live);
            }
        }
        let queues = self.queues();
        for lock in scene.watched.iter().filter(|w| w.kind == LockKind::Work) {
            let worker = self
                .process
                .u64(lock.address.wrapping_add(u64::from(self.layout.worker)));
            if let Some(worker) = worker.filter(|worker| *worker != 0) {
                show_worker(&scene, lock, worker, now_ns, live);
            }
        }
        for seen in tasks.iter().filter(|seen| !seen.inside.is_empty()) {
            let slept = self.slept(seen, &locks, now_ns);
            evidence::add(&scene, &Shapes::emulated(), &queues, &slept, live);
        }
        live.unseen_readers = unseen_readers(&self.watched, &queues, live);
        live.clear_flags = clear_flags(&self.watched, &queues);
    }

    /// Tasks that are at something, from the newest on, and whether these are all.
    fn tasks(&self) -> (Vec<Seen>, bool) {
        let mut found = Vec::new();
        let mut been = HashSet::new();
        let mut at = self.process.u64(self.layout.newest).unwrap_or(0);
        let mut bytes = vec![0; self.layout.size as usize];
        while at != 0 && been.len() < MOST_TASKS && been.insert(at) {
            if !self.process.read(at, &mut bytes) {
                break;
            }
            let u32_at = |offset: u32| word::<4>(&bytes, offset).map(u32::from_ne_bytes);
            let u64_at = |offset: u32| word::<8>(&bytes, offset).map(u64::from_ne_bytes);
            let (Some(tid), Some(blocker), Some(depth), Some(next)) = (
                u32_at(self.layout.tid),
                u64_at(self.layout.blocker),
                u32_at(self.layout.depth),
                u64_at(self.layout.next),
            ) else {
                break;
            };
            let inside = (0..depth.min(self.layout.deepest))
                .map_while(|n| u32_at(self.layout.inside + 4 * n))
                .filter_map(|entry| u8::try_from(entry).ok())
                .filter(|entry| usize::from(*entry) < ENTRY_POINTS.len());
            let seen = Seen {
                address: at,
                tid,
                blocker,
                reads: word::<1>(&bytes, self.layout.reads) == Some([1]),
                inside: inside.collect(),
            };
            if seen.blocker != 0 || !seen.inside.is_empty() {
                found.push(seen);
            }
            at = next;
        }
        (found, at == 0)
    }

    fn queues(&self) -> HashMap<u64, Queue> {
        let queue = |lock: &Watched| {
            let queue = match lock.kind {
                LockKind::Rwsem => Queue {
                    readers: readers(self.process.u64(lock.address)?),
                    whole: true,
                    ..Queue::default()
                },
                LockKind::Flag => {
                    let mut flag = [0];
                    self.process.read(lock.address, &mut flag).then_some(())?;
                    Queue {
                        set: flag[0] != 0,
                        whole: true,
                        ..Queue::default()
                    }
                }
                LockKind::Mutex | LockKind::Work => return None,
            };
            Some((lock.address, queue))
        };
        self.watched.iter().filter_map(queue).collect()
    }

    /// What a task is in, as the kernel's stacks have it: primitives are left out, as `in_sched_functions` does.
    fn slept(&self, seen: &Seen, locks: &HashMap<u64, &Watched>, now_ns: u64) -> Slept {
        let frame = |symbol: &str, module: &str| text::Frame {
            symbol: symbol.into(),
            offset: None,
            module: (module != "kernel").then(|| module.to_owned()),
            reliable: true,
        };
        let work = locks
            .get(&seen.blocker)
            .is_some_and(|lock| lock.kind == LockKind::Work);
        let flush = work.then(|| frame("__flush_work", "kernel"));
        let inside = seen.inside.iter().rev().filter_map(|entry| {
            let entry = ENTRY_POINTS.get(usize::from(*entry))?;
            Some(frame(entry.symbol, entry.module))
        });
        Slept {
            pid: self.process.0,
            switches: 0,
            since_ns: now_ns,
            task: Task {
                tid: seen.tid,
                state: Some(if seen.blocker == 0 { 'S' } else { 'D' }),
                frames: flush.into_iter().chain(inside).collect(),
                ..Task::default()
            },
        }
    }
}

fn word<const N: usize>(bytes: &[u8], offset: u32) -> Option<[u8; N]> {
    bytes.get(offset as usize..)?.first_chunk().copied()
}
