//! What level 2 would cost: the rate of lock operations in the whole system is sampled before anything is attached.

use std::path::Path;
use std::time::{Duration, Instant};

use aya::Ebpf;
use aya::maps::{MapData, PerCpuArray};
use aya::programs::KProbe;
use std::os::fd::AsFd as _;

use super::governor;
use super::kprobes::{Kprobes, Place, Side};
use crate::attach::plan::{Plan, Status};
use crate::attach::points::{LockCall, Role};
use crate::source::ebpf::{chain, sys};

/// How long is sampled.
const TIME: Duration = Duration::from_millis(200);
const PROGRAM: &str = "k_count";

/// What level 2 is expected to cost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Expected {
    /// Calls seen.
    calls: u64,
    /// In this time.
    time: Duration,
    /// What the sampling program cost a call, in nanoseconds.
    program_ns: u64,
    /// Share of all CPUs' time.
    pub share: f64,
}

impl Expected {
    /// The estimate, with what it is made of.
    pub fn text(&self) -> String {
        let rate = self.calls as f64 / self.time.as_secs_f64();
        format!(
            "level 2 is expected to cost {:.2} % of the CPUs' time: {rate:.0} mutex and rwsem operations a second, seen \
             twice each, by programs of about {} ns and {} ns around them",
            self.share * 100.0,
            2 * self.program_ns,
            governor::OUTSIDE_NS,
        )
    }
}

/// Samples the functions that take locks, as the plan has found them.
pub fn expected(
    ebpf: &mut Ebpf,
    plan: &Plan,
    tracefs: Option<&Path>,
    cpus: u32,
) -> Result<Expected, String> {
    let tracefs = tracefs.ok_or("tracefs is not mounted")?;
    let program: &mut KProbe = ebpf
        .program_mut(PROGRAM)
        .ok_or("the object has no sampling program")?
        .try_into()
        .map_err(|e: aya::programs::ProgramError| chain(&e))?;
    program.load().map_err(|e| chain(&e))?;
    let fd = program
        .fd()
        .map_err(|e| chain(&e))?
        .as_fd()
        .try_clone_to_owned()
        .map_err(|e| e.to_string())?;
    // The function, and not its name: variants of one function are other functions.
    let mut symbols: Vec<&str> = plan
        .points
        .iter()
        .filter(|planned| planned.status == Status::Planned)
        .filter(|planned| {
            matches!(
                planned.point.role,
                Role::Lock(
                    LockCall::Acquire(_) | LockCall::AcquireInterruptible(_) | LockCall::Try(_)
                )
            )
        })
        .filter_map(|planned| Some(planned.target.as_ref()?.symbol.as_str()))
        .collect();
    symbols.sort_unstable();
    symbols.dedup();
    if symbols.is_empty() {
        return Err("no lock function can be probed".into());
    }
    let stats = sys::enable_run_time_stats().ok();
    let mut kprobes = Kprobes::new(tracefs).map_err(|e| e.to_string())?;
    for symbol in symbols {
        kprobes.attach(
            &Place::Symbol(symbol.to_owned()),
            Side::Entry,
            (PROGRAM, fd.as_fd()),
        )?;
    }
    let before = calls(ebpf)?;
    let start = Instant::now();
    std::thread::sleep(TIME);
    let seen = calls(ebpf)?.saturating_sub(before);
    let time = start.elapsed();
    drop(kprobes);
    let runs = sys::program_runs(fd.as_fd()).map_err(|e| e.to_string())?;
    drop(stats);
    let program_ns = runs.run_time_ns.checked_div(runs.runs).unwrap_or(0);
    let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    Ok(Expected {
        calls: seen,
        time,
        program_ns,
        share: governor::expected_share(seen, ns, program_ns, cpus),
    })
}

fn calls(ebpf: &Ebpf) -> Result<u64, String> {
    let map = ebpf.map("CALLS").ok_or("the object has no map CALLS")?;
    let calls: PerCpuArray<&MapData, u64> = PerCpuArray::try_from(map).map_err(|e| chain(&e))?;
    let values = calls.get(&0, 0).map_err(|e| chain(&e))?;
    Ok(values.iter().sum())
}
