//! Stacks of long waits and holds: taken by the programs when a wait or a hold has ended, read from their map and given
//! names here; and of waits that have not ended, from /proc.

use std::collections::BTreeMap;
use std::fs;

use aya::Ebpf;
use aya::maps::{MapData, StackTraceMap};
use blazesym::symbolize::source::{Kernel, Process, Source};
use blazesym::symbolize::{Input, Symbolized, Symbolizer};
use blazesym::{MaybeDefault, Pid};
use probe_ebpf::abi::Span;

use super::ebpf::{ProbeError, chain};
use crate::frame;

/// Frames of one stack, as the kernel keeps them (`PERF_MAX_STACK_DEPTH`).
const MOST_FRAMES: usize = 127;
/// Stacks that are given names in one tick; more are counted, and said in the log.
const A_TICK: usize = 64;

thread_local! {
    /// Symbol tables that were read, which may not go to another thread: all stacks are named on the collector's.
    static SYMBOLIZER: Symbolizer = Symbolizer::new();
}

/// Whose addresses they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// The kernel's.
    Kernel,
    /// A process's: the emulated driver.
    Process(u32),
}

/// Reads stacks and names their frames.
pub struct Stacks {
    map: StackTraceMap<MapData>,
    whose: Whose,
    /// Ended waits and holds of this tick.
    waiting: Vec<Span>,
    /// Records that were too many for their tick.
    unnamed: u64,
    /// Waits that have not ended and whose stack was read: (thread, serial).
    told: BTreeMap<u32, u64>,
}

impl Stacks {
    /// Takes the map out of the object.
    pub fn new(ebpf: &mut Ebpf, whose: Whose) -> Result<Self, ProbeError> {
        let map = ebpf
            .take_map("STACKS")
            .ok_or(ProbeError::Missing("STACKS"))?;
        let map = StackTraceMap::try_from(map).map_err(|e| ProbeError::Map {
            map: "STACKS",
            reason: chain(&e),
        })?;
        Ok(Self {
            map,
            whose,
            waiting: Vec::new(),
            unnamed: 0,
            told: BTreeMap::new(),
        })
    }

    /// Remembers a record of the ring; true if it is one of a stack.
    pub fn take(&mut self, record: &Span) -> bool {
        if record.kind != probe_ebpf::abi::SPAN_STACK {
            return false;
        }
        if self.waiting.len() < A_TICK {
            self.waiting.push(*record);
        } else {
            self.unnamed += 1;
        }
        true
    }

    /// Stacks that were too many for their tick, since this was last asked.
    pub fn take_unnamed(&mut self) -> u64 {
        std::mem::take(&mut self.unnamed)
    }

    /// The stacks of this tick, with names.
    pub fn named(&mut self, mut comm: impl FnMut(u32) -> String) -> Vec<frame::Stack> {
        let records = std::mem::take(&mut self.waiting);
        records
            .iter()
            .filter_map(|record| {
                let id = u32::try_from(record.extra).ok()?;
                let trace = self.map.get(&id, 0).ok()?;
                let addresses: Vec<u64> = trace.frames().iter().map(|f| f.ip).collect();
                // Room for others. A program that takes the same stack now may find it gone.
                let _ = self.map.remove(&id);
                Some(frame::Stack {
                    tid: record.tid,
                    comm: comm(record.tid),
                    series: u32::from(record.what),
                    instance: record.instance.wrapping_add(1),
                    entry: u32::from(record.inside),
                    hold: record.flags & 1 != 0,
                    ended: true,
                    since_ns: record.start_ns,
                    duration_ns: record.duration_ns,
                    frames: self.of_task(self.names(&addresses)),
                })
            })
            .collect()
    }

    /// Stacks of waits that have lasted for `over` nanoseconds and go on, once for each wait. Only the kernel's: /proc
    /// has no stacks of user code.
    pub fn of_waits(&mut self, live: &frame::Live, now_ns: u64, over: u64) -> Vec<frame::Stack> {
        if self.whose != Whose::Kernel {
            return Vec::new();
        }
        let mut stacks = Vec::new();
        let mut told = BTreeMap::new();
        for task in &live.tasks {
            let Some(wait) = task.waits.last() else {
                continue;
            };
            let duration = now_ns.saturating_sub(wait.since_ns);
            if duration < over || stacks.len() >= A_TICK {
                continue;
            }
            told.insert(task.tid, wait.serial);
            if self.told.get(&task.tid) == Some(&wait.serial) {
                continue;
            }
            // Reading it takes `exec_update_lock` of the task's process for a moment (lock_trace(), fs/proc/base.c), which
            // no task holds while it waits for a lock that is traced here.
            let text = fs::read_to_string(format!("/proc/{}/stack", task.tid)).unwrap_or_default();
            stacks.push(frame::Stack {
                tid: task.tid,
                comm: task.comm.clone(),
                series: wait.series,
                instance: wait.instance.wrapping_add(1),
                entry: wait.entry,
                hold: false,
                ended: false,
                since_ns: wait.since_ns,
                duration_ns: duration,
                frames: proc_frames(&text),
            });
        }
        self.told = told;
        stacks
    }

    /// Frames without those of the program that took the stack.
    fn of_task(&self, mut frames: Vec<String>) -> Vec<String> {
        if self.whose == Whose::Kernel {
            frames.drain(..own_frames(&frames));
        }
        frames
    }

    fn names(&self, addresses: &[u64]) -> Vec<String> {
        let source = match self.whose {
            // Symbols are kallsyms'; a vmlinux is large, and is not looked for on somebody's machine.
            Whose::Kernel => Source::Kernel(Kernel {
                vmlinux: MaybeDefault::None,
                ..Kernel::default()
            }),
            Whose::Process(pid) => Source::Process(Process::new(Pid::from(pid))),
        };
        let plain = |address: &u64| format!("{address:#x}");
        let addresses = &addresses[..addresses.len().min(MOST_FRAMES)];
        SYMBOLIZER.with(|symbolizer| {
            match symbolizer.symbolize(&source, Input::AbsAddr(addresses)) {
                Ok(named) => named
                    .iter()
                    .zip(addresses)
                    .map(|(named, address)| name_of(named).unwrap_or_else(|| plain(address)))
                    .collect(),
                Err(_) => addresses.iter().map(plain).collect(),
            }
        })
    }
}

/// How many frames at the beginning are those of the program that took the stack, and of what has called it. A tracepoint's
/// programs are called by `__bpf_trace_*` and `bpf_trace_run*` (kernel/trace/bpf_trace.c), those of fexit by a trampoline,
/// those of a kprobe through ftrace. Frames between them that are called otherwise go with them.
fn own_frames(frames: &[String]) -> usize {
    const BEGINNINGS: [&str; 14] = [
        "bpf_prog_",
        "__bpf_prog_",
        "bpf_get_stackid",
        "bpf_trace_run",
        "__bpf_trace_",
        "__traceiter_",
        "bpf_trampoline_",
        "trace_call_bpf",
        "kprobe_perf_func",
        "kprobe_dispatcher",
        "kretprobe_perf_func",
        "kretprobe_dispatcher",
        "kprobe_ftrace_handler",
        "ftrace_trampoline",
    ];
    /// From the stack that is taken to the function that was probed.
    const MOST: usize = 16;
    let own = |frame: &String| BEGINNINGS.iter().any(|start| frame.starts_with(start));
    let first = &frames[..frames.len().min(MOST)];
    first.iter().rposition(own).map_or(0, |last| last + 1)
}

/// `name+0xoffset`, with the module behind it.
fn name_of(named: &Symbolized<'_>) -> Option<String> {
    let Symbolized::Sym(symbol) = named else {
        return None;
    };
    let module = symbol
        .module
        .as_ref()
        .map(|module| format!(" [{}]", module.to_string_lossy()))
        .unwrap_or_default();
    Some(format!("{}+{:#x}{module}", symbol.name, symbol.offset))
}

/// Frames of `/proc/TID/stack`: lines `[<0>] name+0x1/0x2 [module]`.
fn proc_frames(text: &str) -> Vec<String> {
    text.lines()
        .take(MOST_FRAMES)
        .map(|line| {
            let frame = line
                .split_once("] ")
                .map_or(line, |(_, frame)| frame)
                .trim();
            match frame.split_once('/') {
                Some((place, rest)) => match rest.split_once(' ') {
                    Some((_, module)) => format!("{place} {module}"),
                    None => place.to_owned(),
                },
                None => frame.to_owned(),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{own_frames, proc_frames};

    #[test]
    fn a_stack_begins_with_the_function_that_was_probed() {
        let frames = |names: &[&str]| -> Vec<String> {
            names.iter().map(|name| format!("{name}+0x1")).collect()
        };
        let by_tracepoint = frames(&[
            "bpf_prog_8bd1f0e1a2b3c4d5_b_contention_end",
            "bpf_prog_8bd1f0e1a2b3c4d5_b_contention_end",
            "bpf_trace_run2",
            "__traceiter_contention_end",
            "rwsem_down_write_slowpath",
            "down_write",
        ]);
        assert_eq!(own_frames(&by_tracepoint), 4);
        let by_fexit = frames(&[
            "bpf_prog_1_x_mutex_lock",
            "bpf_trampoline_6442",
            "kvm_ioctl",
        ]);
        assert_eq!(own_frames(&by_fexit), 2);
        assert_eq!(own_frames(&frames(&["mutex_lock", "kvm_ioctl"])), 0);
        assert_eq!(own_frames(&[]), 0);
    }

    #[test]
    fn frames_of_proc_have_the_form_of_all_others() {
        let text = "[<0>] handle_pqap+0x56/0x330 [vfio_ap]\n[<0>] kvm_vcpu_ioctl+0x2cc/0x800 [kvm]\n\
                    [<0>] system_call+0x72/0x90\n0xffffffffffffffff\n";
        assert_eq!(
            proc_frames(text),
            [
                "handle_pqap+0x56 [vfio_ap]",
                "kvm_vcpu_ioctl+0x2cc [kvm]",
                "system_call+0x72",
                "0xffffffffffffffff"
            ]
        );
    }
}
