//! What level 2 would cost: the rate of lock operations in the whole system is sampled before anything is attached.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use aya::Ebpf;
use aya::maps::{Map, MapData, PerCpuArray};

use super::deadline::{self, steps, within};
use super::governor;
use super::kprobes::{Kprobes, Place, Side, What};
use crate::attach::plan::{Plan, Status};
use crate::attach::points::{LockCall, Role};
use crate::source::ebpf::{Beat, ProbeError, chain, object, sys};

const CALLS: &str = "CALLS";
/// How long is sampled.
const TIME: Duration = Duration::from_millis(200);
const PROGRAM: &str = "k_count";
/// For how many ticks of the kernel it counts: one second and a half at least, and fifteen at most.
const LIMIT_TICKS: u64 = 1500;

/// Why nothing was sampled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotSampled {
    /// Attaching to a function that level 2 needs, or detaching from it, did not come back.
    #[error("{0}")]
    Stalled(String),
    /// Something else.
    #[error("{0}")]
    Failed(String),
}

impl From<String> for NotSampled {
    fn from(why: String) -> Self {
        Self::Failed(why)
    }
}

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

/// Loads the counting program.
///
/// # Errors
///
/// What the kernel says of it.
pub fn load(ebpf: &mut Ebpf) -> Result<Sampler, ProbeError> {
    let program = object::load_program(ebpf, PROGRAM)?;
    let heartbeat = Beat::load(ebpf, LIMIT_TICKS)?;
    let data = object::own_map(ebpf, CALLS)?;
    let calls = PerCpuArray::try_from(Map::PerCpuArray(data)).map_err(|e| ProbeError::Map {
        map: CALLS,
        reason: chain(&e),
    })?;
    Ok(Sampler {
        program,
        heartbeat,
        calls,
    })
}

/// The counting program, loaded, and its count.
pub struct Sampler {
    program: OwnedFd,
    /// It counts only for a while after a beat.
    heartbeat: Beat,
    calls: PerCpuArray<MapData, u64>,
}

impl Sampler {
    /// Samples the functions that take locks, as the plan has found them. What does not come back is given up.
    pub fn expected(
        self,
        plan: &Plan,
        tracefs: Option<&Path>,
        cpus: u32,
    ) -> Result<Expected, NotSampled> {
        let failed = |why: &str| NotSampled::Failed(why.to_owned());
        let tracefs = tracefs
            .ok_or_else(|| failed("tracefs is not mounted"))?
            .to_owned();
        let symbols = symbols(plan);
        if symbols.is_empty() {
            return Err(failed("no lock function can be probed"));
        }
        let stats = sys::enable_run_time_stats().ok();
        let program = self.program.try_clone().map_err(|e| e.to_string())?;
        let made: Arc<OnceLock<Kprobes>> = Arc::default();
        let kprobes = Arc::clone(&made);
        let functions = symbols.clone();
        // The first step prepares the others.
        let attached = steps("sample", deadline::STEP, symbols.len() + 1, move |n| {
            let Some(symbol) = n.checked_sub(1).and_then(|n| functions.get(n)) else {
                let new = Kprobes::new(&tracefs, What::Samples).map_err(|e| e.to_string())?;
                // Nobody else sets it.
                let _ = kprobes.set(new);
                return Ok(());
            };
            let kprobes = kprobes.get().ok_or("not prepared")?;
            let place = Place::Symbol(symbol.clone());
            kprobes.attach(&place, Side::Entry, (PROGRAM, program.as_fd()))
        });
        let count = || self.calls();
        let sampled = match attached.given_up {
            Some(why) => {
                let n = attached.done.len().checked_sub(1);
                let what = n.and_then(|n| symbols.get(n)).map_or("kprobes", |s| s);
                Err(NotSampled::Stalled(format!("attaching {what} {why}")))
            }
            None => attached
                .done
                .into_iter()
                .collect::<Result<(), String>>()
                .and_then(|()| self.heartbeat.once().map_err(|e| e.to_string()))
                .and_then(|()| sample(count))
                .map_err(NotSampled::Failed),
        };
        let ended = within("sample", deadline::STEP, move || {
            if let Some(kprobes) = made.get() {
                kprobes.end();
            }
        });
        let (seen, time) = sampled?;
        ended.map_err(|why| NotSampled::Stalled(format!("detaching {why}")))?;
        let runs = sys::program_runs(self.program.as_fd()).map_err(|e| e.to_string())?;
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

    fn calls(&self) -> Result<u64, String> {
        let values = self.calls.get(&0, 0).map_err(|e| chain(&e))?;
        Ok(values.iter().sum())
    }
}

/// How many calls are counted in which time.
fn sample(calls: impl Fn() -> Result<u64, String>) -> Result<(u64, Duration), String> {
    let before = calls()?;
    let start = Instant::now();
    std::thread::sleep(TIME);
    Ok((calls()?.saturating_sub(before), start.elapsed()))
}

/// The functions that take locks, and not their names: variants of one function are other functions.
fn symbols(plan: &Plan) -> Vec<String> {
    let mut symbols: Vec<String> = plan
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
        .filter_map(|planned| Some(planned.target.as_ref()?.symbol.clone()))
        .collect();
    symbols.sort_unstable();
    symbols.dedup();
    symbols
}
