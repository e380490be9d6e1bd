//! What this kernel allows, tried: tiny programs are loaded, attached where nothing passes by, and taken away again.
//!
//! Each trial has a deadline, on a thread that is left behind where the kernel does not answer: on a sick machine
//! attaching may wait for a lock that is never released.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::mpsc;
use std::time::Duration;

use aya_obj::btf::{Btf, BtfKind};

use super::Facts;
use super::allowed::Mechanism;
use super::calls::{self, NOTHING};
use super::obstacles::UPROBES_NEED_ADMIN;
use super::privileges::Capability;

/// How long the kernel has to answer a trial. Detaching a uprobe takes about a tenth of a second.
const DEADLINE: Duration = Duration::from_secs(5);

/// Functions that only the kernel's own self-tests call (net/bpf/test_run.c, from Linux 5.5 on).
const UNUSED_FUNCTIONS: [&CStr; 3] = [
    c"bpf_fentry_test1",
    c"bpf_fentry_test2",
    c"bpf_fentry_test3",
];
/// A tracepoint that fires seldom.
const RARE_TRACEPOINT: &CStr = c"sched_process_wait";
/// Its type in BTF (include/trace/bpf_probe.h).
const RARE_TRACEPOINT_TYPE: &str = "btf_trace_sched_process_wait";

/// Tries every mechanism.
pub fn all(facts: &Facts) -> BTreeMap<Mechanism, Result<(), String>> {
    let (sender, answers) = mpsc::channel();
    let facts = facts.clone();
    let spawned = std::thread::Builder::new()
        .name("trials".into())
        .spawn(move || {
            let tools = Tools::new(facts);
            for mechanism in Mechanism::ALL {
                if sender.send((mechanism, tools.attempt(mechanism))).is_err() {
                    return;
                }
            }
        });
    let mut all = BTreeMap::new();
    if let Err(error) = spawned {
        let reason = format!("not tried: no thread: {error}");
        return Mechanism::ALL
            .into_iter()
            .map(|m| (m, Err(reason.clone())))
            .collect();
    }
    for expected in Mechanism::ALL {
        if let Ok((mechanism, answer)) = answers.recv_timeout(DEADLINE) {
            all.insert(mechanism, answer);
        } else {
            let reason = format!("no answer within {} s", DEADLINE.as_secs());
            all.insert(expected, Err(reason));
            break;
        }
    }
    for mechanism in Mechanism::ALL {
        all.entry(mechanism)
            .or_insert_with(|| Err("not tried: an earlier trial had no answer".into()));
    }
    all
}

/// An error number in words: `EPERM (Operation not permitted)`.
fn said(error: &io::Error) -> String {
    let Some(number) = error.raw_os_error() else {
        return error.to_string();
    };
    // Internal to the kernel, but bpf(2) lets it out where an architecture has no trampolines (linux/errno.h).
    if number == 524 {
        return "ENOTSUPP (not supported by this kernel)".into();
    }
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    match crate::model::errno_name(number.unsigned_abs()) {
        Some(name) => format!("{name} ({text})"),
        None => format!("error {number} ({text})"),
    }
}

/// What the trials share.
struct Tools {
    facts: Facts,
    btf: Result<Btf, String>,
}

impl Tools {
    fn new(facts: Facts) -> Self {
        let btf = if facts.driver.btf {
            Btf::from_sys_fs().map_err(|error| error.to_string())
        } else {
            Err("no /sys/kernel/btf/vmlinux".into())
        };
        Self { facts, btf }
    }

    fn attempt(&self, mechanism: Mechanism) -> Result<(), String> {
        match mechanism {
            Mechanism::MappedMaps => made(calls::create_map(
                calls::MAP_ARRAY,
                4,
                8,
                1,
                calls::MMAPABLE,
            )),
            Mechanism::RingBuffer => {
                let page = crate::source::ebpf::page_size() as u32;
                made(calls::create_map(calls::MAP_RINGBUF, 0, 0, page, 0))
            }
            Mechanism::ReadKernel => calls::load(calls::RAW_TRACEPOINT, &calls::READS_KERNEL, None)
                .map(drop)
                .map_err(|refused| not_loaded(&refused)),
            Mechanism::RawTracepoint => {
                let program = loaded(calls::RAW_TRACEPOINT, None)?;
                made(calls::open_raw_tracepoint(Some(RARE_TRACEPOINT), &program)).map_err(attaching)
            }
            Mechanism::BtfTracepoint => {
                let id = self.type_id(RARE_TRACEPOINT_TYPE, BtfKind::Typedef)?;
                traced(calls::TRACE_RAW_TP, id)
            }
            Mechanism::Fentry => traced(calls::TRACE_FENTRY, self.unused_function()?),
            Mechanism::Fexit => traced(calls::TRACE_FEXIT, self.unused_function()?),
            Mechanism::Kprobe => self.kprobe(false),
            Mechanism::Kretprobe => self.kprobe(true),
            Mechanism::ProbeEvents => self.pool(),
            Mechanism::Uprobe => {
                let (event, program) = self.uprobe()?;
                calls::set_program(&event, &program).map_err(|e| attaching(said(&e)))
            }
            Mechanism::AttachCookie => {
                let (event, program) = match self.uprobe() {
                    Ok(both) => both,
                    Err(reason) => {
                        let event = self
                            .kprobe_event(false)
                            .map_err(|other| format!("{reason}; {other}"))?;
                        (event, loaded(calls::KPROBE, None)?)
                    }
                };
                made(calls::link_with_cookie(&event, &program, 1)).map_err(attaching)
            }
            Mechanism::TestRun => {
                let program = loaded(calls::RAW_TRACEPOINT, None)?;
                calls::test_run(&program).map_err(|e| said(&e))
            }
            Mechanism::RunTimeStats => made(calls::enable_stats()),
        }
    }

    fn type_id(&self, name: &str, kind: BtfKind) -> Result<u32, String> {
        let btf = self.btf.as_ref().map_err(Clone::clone)?;
        let id = btf.id_by_type_name_kind(name, kind);
        id.map_err(|_| format!("the kernel's type information has no {name}"))
    }

    fn unused_function(&self) -> Result<u32, String> {
        let mut last = Err("no function to try it on".to_owned());
        for function in UNUSED_FUNCTIONS {
            // ASCII, above.
            last = self.type_id(&function.to_string_lossy(), BtfKind::Func);
            if last.is_ok() {
                break;
            }
        }
        last
    }

    fn kprobe_event(&self, returns: bool) -> Result<OwnedFd, String> {
        let source = self
            .facts
            .tracing
            .kprobe_pmu
            .ok_or("the kernel has no kprobe event source")?;
        let mut last = Err("no function to try it on".to_owned());
        for function in UNUSED_FUNCTIONS {
            // Bit 0 of config is `retprobe` (perf_kprobe in kernel/events/core.c).
            last = calls::open_probe(source, u64::from(returns), function, 0, None)
                .map_err(|e| said(&e));
            if last.is_ok() {
                break;
            }
        }
        last
    }

    fn kprobe(&self, returns: bool) -> Result<(), String> {
        let event = self.kprobe_event(returns)?;
        let program = loaded(calls::KPROBE, None)?;
        calls::set_program(&event, &program).map_err(|e| attaching(said(&e)))
    }

    /// Not tried by making one: an event that stays behind where we are killed would be a trace of us.
    fn pool(&self) -> Result<(), String> {
        match &self.facts.tracing.tracefs {
            None => Err("tracefs is not mounted".into()),
            Some(tracefs) if tracefs.kprobe_events_writable => Ok(()),
            Some(tracefs) => Err(format!("{}/kprobe_events cannot be written", tracefs.path)),
        }
    }

    /// On a function of this process that is never called.
    fn uprobe(&self) -> Result<(OwnedFd, OwnedFd), String> {
        let source = self
            .facts
            .tracing
            .uprobe_pmu
            .ok_or("the kernel has no uprobe event source")?;
        let program = loaded(calls::KPROBE, None)?;
        let offset = file_offset(never_called as *const () as u64)
            .ok_or("the place of a function in this program's file is not known")?;
        let file = CString::new("/proc/self/exe").map_err(|error| error.to_string())?;
        let event = calls::open_probe(source, 0, &file, offset, Some(std::process::id()));
        let event = event.map_err(|error| {
            let admin = self.facts.privileges.has(Capability::SysAdmin);
            // Stable kernels before 6.16 have the change too, which the release does not say.
            if error.raw_os_error() == Some(libc::EACCES)
                && !admin
                && !self.facts.kernel.at_least(6, 16)
            {
                format!("{}: {UPROBES_NEED_ADMIN}", said(&error))
            } else {
                said(&error)
            }
        })?;
        Ok((event, program))
    }
}

/// A place for a uprobe.
#[inline(never)]
extern "C" fn never_called() {
    // Something of its own, so that it is not merged with another empty function.
    std::hint::black_box(0x6170_7363);
}

/// Where an address of this program lies in its file.
fn file_offset(address: u64) -> Option<u64> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    maps.lines().find_map(|line| {
        let mut fields = line.split_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let hex = |text: &str| u64::from_str_radix(text, 16).ok();
        let (start, end) = (hex(start)?, hex(end)?);
        let offset = hex(fields.nth(1)?)?;
        (start..end)
            .contains(&address)
            .then(|| address - start + offset)
    })
}

fn made(result: io::Result<OwnedFd>) -> Result<(), String> {
    result.map(drop).map_err(|e| said(&e))
}

fn attaching(reason: impl std::fmt::Display) -> String {
    format!("loads, but does not attach: {reason}")
}

fn loaded(kind: u32, attach: Option<(u32, u32)>) -> Result<OwnedFd, String> {
    calls::load(kind, &NOTHING, attach).map_err(|refused| not_loaded(&refused))
}

fn not_loaded(refused: &calls::Refused) -> String {
    let error = said(&refused.error);
    match &refused.said {
        Some(words) => format!("does not load: {error}, \"{words}\""),
        None => format!("does not load: {error}"),
    }
}

fn traced(place: u32, target: u32) -> Result<(), String> {
    let program = loaded(calls::TRACING, Some((place, target)))?;
    made(calls::open_raw_tracepoint(None, &program)).map_err(attaching)
}
