//! Loading the programs that the plan needs, several at a time, each with a deadline.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use aya::programs::Program;
use aya::{Btf, Ebpf};

use super::deadline::{self, GivenUp};
use super::jobs::{Way, jobs_of};
use super::programs::TASK_EXIT;
use crate::attach::plan::Plan;
use crate::source::ebpf::loading::{UnderWay, side_by_side};
use crate::source::ebpf::{chain, object};

/// How often somebody looks whether a program takes too long.
const LOOK: Duration = Duration::from_millis(200);

/// A program was being loaded and did not come back, and with it everything that was loaded.
#[derive(Debug, thiserror::Error)]
#[error("loading {program} {why}")]
pub struct NotLoaded {
    program: &'static str,
    why: GivenUp,
}

/// Programs, by name: each one's descriptor, or why it is not there.
pub type Loaded = BTreeMap<&'static str, Result<OwnedFd, String>>;

/// Loads every program that the plan needs, on threads that may be given up.
///
/// # Errors
///
/// If one does not come back. What the kernel refuses is in [`Loaded`] with its reason.
pub fn load_all(ebpf: Ebpf, plan: &Plan) -> Result<(Ebpf, Loaded), NotLoaded> {
    let jobs = jobs_of(plan);
    let typed = jobs.iter().any(|job| job.way == Way::Typed);
    // Each with the function or tracepoint that it is for.
    let mut wanted: BTreeMap<&'static str, String> = BTreeMap::new();
    for job in &jobs {
        let target = plan.points[job.point].target.as_ref();
        let symbol = target.map_or("", |target| target.symbol.as_str());
        let function = symbol.rsplit(':').next().unwrap_or(symbol);
        wanted
            .entry(job.program)
            .or_insert_with(|| function.to_owned());
    }
    if !jobs.is_empty() {
        wanted.entry(TASK_EXIT).or_default();
    }
    let first = wanted.keys().next().copied().unwrap_or(TASK_EXIT);
    supervised(first, deadline::LOAD, move |under_way| {
        let mut ebpf = ebpf;
        let btf = typed.then(|| Btf::from_sys_fs().map_err(|e| chain(&e)));
        let names: Vec<_> = wanted.keys().copied().collect();
        let loaded = side_by_side(&mut ebpf, &names, |name, program| {
            under_way.during(name, || load(program, name, &wanted[name], btf.as_ref()))
        });
        let mut loaded: Loaded = loaded.into_iter().collect();
        for name in names {
            let missing = || Err(format!("the object has no program {name}"));
            loaded.entry(name).or_insert_with(missing);
        }
        (ebpf, loaded)
    })
}

/// Does the work on a thread of its own, and gives it up when something that is under way takes longer than `time`.
/// `first`: what is blamed when nothing is under way.
fn supervised<T: Send + 'static>(
    first: &'static str,
    time: Duration,
    work: impl FnOnce(&UnderWay) -> T + Send + 'static,
) -> Result<T, NotLoaded> {
    let under_way = Arc::new(UnderWay::default());
    let (sender, receiver) = mpsc::channel();
    let of_thread = Arc::clone(&under_way);
    let not_loaded = |program, why| NotLoaded { program, why };
    std::thread::Builder::new()
        .name("load".into())
        .spawn(move || {
            // A receiver that has given up does not want it.
            let _ = sender.send(work(&of_thread));
        })
        .map_err(|e| not_loaded(first, GivenUp::NoThread(e.to_string())))?;
    loop {
        match receiver.recv_timeout(LOOK.min(time)) {
            Ok(done) => return Ok(done),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                if let Some(program) = under_way.longer_than(time) {
                    return Err(not_loaded(program, GivenUp::Late(time)));
                }
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                let program = under_way.longer_than(Duration::ZERO).unwrap_or(first);
                return Err(not_loaded(program, GivenUp::Died));
            }
        }
    }
}

/// Loads a program; typed ones for their function or tracepoint.
fn load(
    program: &mut Program,
    name: &'static str,
    function: &str,
    btf: Option<&Result<Btf, String>>,
) -> Result<OwnedFd, String> {
    let btf = || match btf {
        Some(Ok(btf)) => Ok(btf),
        Some(Err(e)) => Err(e.clone()),
        None => Err("no BTF".to_owned()),
    };
    let result = match program {
        Program::BtfTracePoint(program) => program.load(function, btf()?),
        Program::FEntry(program) => program.load(function, btf()?),
        Program::FExit(program) => program.load(function, btf()?),
        _ => return object::load_untyped(program, name).map_err(|e| e.to_string()),
    };
    result.map_err(|e| format!("load: {}", chain(&e)))?;
    let fd = program.fd().map_err(|e| chain(&e))?;
    fd.as_fd().try_clone_to_owned().map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_never_comes_back_is_named() {
        let result = supervised("first", Duration::from_millis(50), |under_way| {
            under_way.during("quick", || ());
            under_way.during("stuck", || {
                loop {
                    std::thread::park();
                }
            });
        });
        let error: Result<(), _> = result.map_err(|e| e.to_string());
        assert_eq!(error, Err("loading stuck did not end within 0.05 s".into()));
    }

    #[test]
    fn all_together_may_take_longer_than_one() {
        let result = supervised("first", Duration::from_millis(400), |under_way| {
            for name in ["a", "b", "c", "d", "e"] {
                under_way.during(name, || std::thread::sleep(Duration::from_millis(100)));
            }
            7
        });
        assert_eq!(result.ok(), Some(7));
    }

    #[test]
    fn a_thread_that_dies_is_told() {
        let result: Result<(), _> = supervised("first", Duration::from_secs(60), |under_way| {
            under_way.during("dies", || std::panic::panic_any(()));
        });
        let error = result.map_err(|e| e.to_string());
        assert_eq!(error, Err("loading dies its thread has died".into()));
    }
}
