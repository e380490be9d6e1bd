//! What the kernel says of tasks that have been at the same thing for a while: whether they run or sleep, in which
//! function, how often they were switched, and whether they are gone.
//!
//! Takes live state as a reader has made it and adds to it, from `/proc/PID/task/TID/status` and, of a task that sleeps
//! and waits for no traced lock, `wchan`. Of one task in many, and of none that has only just begun something: what is
//! always moving needs no explanation. It does not know of locks, and measures nothing.
//!
//! Neither read waits for a lock that is traced, nor for the mm lock of a stuck process (kernels 5.10 to 7.3):
//! * `proc_pid_status` (`fs/proc/array.c`) takes a reference to the mm (`get_task_mm`, under the spinlock `task_lock`),
//!   and its `task_mem` reads counters of it without `mmap_lock`; signals are under the spinlock `sighand->siglock`
//!   (`task_sig`); state and switches are plain reads. Where the process ends at this very moment, `mmput` may give back
//!   the last reference and take the address space down, which nobody else uses by then; no file is closed by it, and
//!   so no driver's function called.
//! * `proc_pid_wchan` (`fs/proc/base.c`) asks `ptrace_may_access`, under `task_lock`, and `get_wchan`, which since 5.16
//!   holds the spinlock `pi_lock`.
//!
//! `stack` and `syscall` beside them are not opened here: `lock_trace` waits for `exec_update_lock`, which the process may
//! hold. Neither are `cmdline` and `environ`, which take `mmap_lock`.
//!
//! Cost: some 15 µs for a `status` and 8 µs for a `wchan` (Linux 6.18 on x86-64), so at most 3 ms in a tick of 100 ms, where
//! 128 tasks and more stand still; with ten of them, 0.2 ms.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use probe_ebpf::names::{CLASSES, entry_id};

use crate::frame;

/// Tasks that are asked for in a tick; where there are more, they take turns.
const A_TICK: usize = 128;
/// Least time between two ticks in which anything is asked for. Frames come more often when the ring fills.
const LEAST_NS: u64 = 45_000_000;
/// How much sooner the turn of a task comes that waits, or holds something that is not usually held for long.
const MATTERS: u64 = 8;
/// A record of a thread that has ended stays for this long at least.
const KEPT_NS: u64 = 600_000_000_000;
/// Bytes of a `status` that are read. It has some 60 lines; the switches are the last two.
const STATUS_BYTES: u64 = 16 * 1024;
/// Bytes of a `wchan` that are read: `KSYM_NAME_LEN` (include/linux/kallsyms.h) since 6.1.
const WCHAN_BYTES: u64 = 512;
/// `PROC_PID_INIT_INO` (include/linux/proc_ns.h): inode of the first pid namespace.
const FIRST_PID_NAMESPACE: u64 = 0xefff_fffc;

/// What a task is at: thread id, kind of record, series or entry point, and serial or start.
type Record = (u32, Kind, u32, u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Hold,
    Wait,
    Inside,
}

/// Whose tasks they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    /// A kernel's: the driver's functions are the kernel's own.
    Kernel,
    /// The emulated driver's, whose threads sleep in system calls where the kernel has functions of its own.
    Emulator,
}

/// What is remembered of tasks from tick to tick.
#[derive(Debug)]
pub(super) struct Tasks {
    of: Of,
    proc: PathBuf,
    /// Thread ids are those of `proc`.
    ids_are_ours: bool,
    before: HashSet<Record>,
    /// By thread id: the tick in which it was asked for last, or first seen standing.
    asked: HashMap<u32, u64>,
    /// Threads that are gone, by id: when that was seen.
    ended: HashMap<u32, u64>,
    tick: u64,
    last_ns: u64,
}

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// There is no such thread, or only its exit status is left.
    Gone,
    /// State letter, and switches.
    Is(char, u64),
    /// Nothing that can be understood.
    Nothing,
}

impl Tasks {
    /// Of tasks whose ids come from eBPF programs (`global_ids`: those of the first pid namespace) or from the process
    /// itself. In another pid namespace global ids would be somebody else's here, and nothing is asked for.
    pub(super) fn new(of: Of, global_ids: bool) -> Self {
        let ids_are_ours = !global_ids
            || std::fs::metadata("/proc/self/ns/pid")
                .is_ok_and(|ns| ns.ino() == FIRST_PID_NAMESPACE);
        Self::below(PathBuf::from("/proc"), of, ids_are_ours)
    }

    /// Thread ids are those of `/proc`.
    pub(super) const fn ids_are_ours(&self) -> bool {
        self.ids_are_ours
    }

    fn below(proc: PathBuf, of: Of, ids_are_ours: bool) -> Self {
        Self {
            of,
            proc,
            ids_are_ours,
            before: HashSet::new(),
            asked: HashMap::new(),
            ended: HashMap::new(),
            tick: 0,
            last_ns: 0,
        }
    }

    /// Adds state, place of sleep, switches and end to tasks that have a record (a hold, a wait, a call) which was there
    /// the last time, too.
    ///
    /// A thread that is gone stays with what it holds and waits for, and is said to have ended when it was gone before these
    /// were read; with neither, it is left out: a call of a thread that is gone is over.
    pub(super) fn fill(&mut self, live: &mut frame::Live, now_ns: u64) {
        if !self.ids_are_ours {
            return;
        }
        // Records were read before their threads are asked for: who ends in between has released what it holds there.
        let ended_before: HashSet<u32> = self.ended.keys().copied().collect();
        let due = self.tick == 0 || now_ns.saturating_sub(self.last_ns) >= LEAST_NS;
        if due {
            self.ask(live, now_ns);
            self.before = live
                .tasks
                .iter()
                .flat_map(records)
                .map(|(key, _)| key)
                .collect();
            (self.tick, self.last_ns) = (self.tick + 1, now_ns);
        }
        // Also where nothing was asked for: a thread that has ended does not come back.
        live.tasks.retain_mut(|task| {
            let ended = self.ended.contains_key(&task.tid);
            task.exited |= ended && ended_before.contains(&task.tid);
            if task.exited {
                task.state.clear();
                task.asleep_in.clear();
            }
            !(ended && task.holds.is_empty() && task.waits.is_empty())
        });
    }

    fn ask(&mut self, live: &mut frame::Live, now_ns: u64) {
        let mut turns: Vec<(u64, u64, usize)> = Vec::new();
        let mut asked = HashMap::new();
        for (place, task) in live.tasks.iter().enumerate() {
            let standing = records(task).filter(|(key, _)| self.before.contains(key));
            let Some(since) = standing.map(|(_, since)| since).min() else {
                // Another thread may have the id by now.
                self.ended.remove(&task.tid);
                continue;
            };
            let last = self.asked.get(&task.tid).copied().unwrap_or(self.tick);
            asked.insert(task.tid, last);
            let urgency = (self.tick - last + 1) * if matters(task) { MATTERS } else { 1 };
            turns.push((urgency, since, place));
        }
        self.asked = asked;
        // The longest first among those who have waited equally for their turn.
        turns.sort_unstable_by_key(|&(urgency, since, place)| {
            (std::cmp::Reverse(urgency), since, place)
        });
        for &(_, _, place) in turns.iter().take(A_TICK) {
            let task = &mut live.tasks[place];
            self.asked.insert(task.tid, self.tick);
            self.look(task, now_ns);
        }
        let present: HashSet<u32> = live.tasks.iter().map(|task| task.tid).collect();
        self.ended.retain(|tid, _| present.contains(tid));
    }

    fn look(&mut self, task: &mut frame::TaskState, now_ns: u64) {
        let place = self.place(task);
        match status(&place) {
            Said::Gone => {
                self.ended.entry(task.tid).or_insert(now_ns);
            }
            Said::Nothing => {}
            Said::Is(state, switches) => {
                self.ended.remove(&task.tid);
                task.switches = switches;
                task.state = state.into();
                if matches!(state, 'S' | 'D') && task.waits.is_empty() {
                    let function = wchan(&place);
                    match self.of {
                        Of::Kernel => task.asleep_in = function,
                        Of::Emulator => emulated(task, &function),
                    }
                }
            }
        }
    }

    /// `/proc/PID/task/TID`: an id that another process has got since is not mistaken for it.
    fn place(&self, task: &frame::TaskState) -> PathBuf {
        let tid = task.tid.to_string();
        if task.pid == 0 {
            return self.proc.join(tid);
        }
        let mut place = self.proc.join(task.pid.to_string());
        place.push("task");
        place.push(tid);
        place
    }

    /// The thread is known to be gone.
    pub(super) fn has_ended(&self, tid: u32) -> bool {
        self.ended.contains_key(&tid)
    }

    /// Thread ids whose record nobody needs any more: they ended ten minutes ago, and nobody waits for what they hold.
    pub(super) fn forgotten(&self, live: &frame::Live, now_ns: u64) -> Vec<u32> {
        let wanted: HashSet<u64> = live
            .tasks
            .iter()
            .flat_map(|task| task.waits.iter().map(|wait| wait.lock))
            .collect();
        live.tasks
            .iter()
            .filter(|task| {
                let ended = self.ended.get(&task.tid);
                ended.is_some_and(|&at| now_ns.saturating_sub(at) >= KEPT_NS)
                    && !task.holds.iter().any(|hold| wanted.contains(&hold.lock))
            })
            .map(|task| task.tid)
            .collect()
    }
}

/// A task's records, with their start.
fn records(task: &frame::TaskState) -> impl Iterator<Item = (Record, u64)> {
    let tid = task.tid;
    let holds = task.holds.iter().map(move |hold| {
        let key = (tid, Kind::Hold, hold.series, hold.serial);
        (key, hold.since_ns)
    });
    let waits = task.waits.iter().map(move |wait| {
        let key = (tid, Kind::Wait, wait.series, wait.serial);
        (key, wait.since_ns)
    });
    let inside = task.inside.iter().map(move |inside| {
        let key = (tid, Kind::Inside, inside.entry, inside.since_ns);
        (key, inside.since_ns)
    });
    holds.chain(waits).chain(inside)
}

/// It waits, or holds a lock that is not held for long as a rule.
fn matters(task: &frame::TaskState) -> bool {
    let usual = |series: u32| {
        CLASSES
            .get((series >> 1) as usize)
            .is_some_and(|class| class.long_hold_is_normal)
    };
    !task.waits.is_empty() || task.holds.iter().any(|hold| !usual(hold.series))
}

/// A file's text, at most so many bytes of it.
fn text(path: &Path, bytes: u64) -> std::io::Result<String> {
    let mut text = Vec::with_capacity(2048);
    File::open(path)?.take(bytes).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

pub(super) fn status(place: &Path) -> Said {
    match text(&place.join("status"), STATUS_BYTES) {
        Ok(text) => said(&text),
        // A thread that ends between the two is ESRCH (`proc_single_show`, fs/proc/base.c).
        Err(e) if e.kind() == ErrorKind::NotFound || e.raw_os_error() == Some(libc::ESRCH) => {
            Said::Gone
        }
        Err(_) => Said::Nothing,
    }
}

fn said(status: &str) -> Said {
    let (mut state, mut switches) = (None, 0_u64);
    for line in status.lines() {
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        match name {
            "State" => state = value.trim_start().chars().next(),
            "voluntary_ctxt_switches" | "nonvoluntary_ctxt_switches" => {
                switches = switches.saturating_add(value.trim().parse().unwrap_or(0));
            }
            _ => {}
        }
    }
    match state {
        // A zombie: the first thread of a process has ended, and others go on, or nobody has asked how it ended.
        Some('Z' | 'X') => Said::Gone,
        Some(state) if state.is_ascii_alphabetic() => Said::Is(state, switches),
        _ => Said::Nothing,
    }
}

/// The function a thread sleeps in; empty where that is not known (it runs, or one must not ask).
fn wchan(place: &Path) -> String {
    let text = text(&place.join("wchan"), WCHAN_BYTES).unwrap_or_default();
    // What a compiler has made of a function is called `poll_schedule_timeout.constprop.0`.
    let name = text.trim().split('.').next().unwrap_or_default();
    let sound = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if sound && name != "0" {
        name.to_owned()
    } else {
        String::new()
    }
}

/// What a system call of the emulated driver stands for. Its `msleep` is a nanosleep. Futexes are everything else that it
/// waits for: locks, most of which are traced; the guest's instructions, which run in a kernel; the last descriptor of a
/// device that is removed (a completion, whose functions `get_wchan` passes over for their caller).
fn emulated(task: &mut frame::TaskState, function: &str) {
    let inside = task.inside.last().map_or(entry_id::NONE, |i| i.entry as u8);
    match function {
        "hrtimer_nanosleep" | "do_nanosleep" => "msleep".clone_into(&mut task.asleep_in),
        // futex_wait_queue_me up to 5.15, futex_wait_queue up to 6.14, futex_do_wait from 6.15 on.
        _ if !function.starts_with("futex_") => function.clone_into(&mut task.asleep_in),
        _ if inside == entry_id::KVM_VCPU_IOCTL => "R".clone_into(&mut task.state),
        _ if inside == entry_id::REMOVE => {
            "vfio_unregister_group_dev".clone_into(&mut task.asleep_in);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;
