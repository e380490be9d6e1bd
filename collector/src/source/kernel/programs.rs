//! Attaching the programs that were loaded: one point after another, each with a deadline.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::deadline::{self, steps, within};
use super::jobs::{Job, Way, describe, jobs_of, matters};
use super::kprobes::{Kprobes, What};
use super::loading::Loaded;
use crate::attach::plan::Plan;
use crate::frame::AttachPoint;
use crate::source::ebpf::sys;

/// Sees threads end. It is no point of the plan: without it nothing is measured less.
pub(super) const TASK_EXIT: &str = "r_task_exit";

/// What is attached. Dropping it detaches.
pub struct Attached {
    links: Vec<(u8, OwnedFd)>,
    /// Shared with the threads that attach and that read misses; empty until tracefs has answered.
    kprobes: Arc<OnceLock<Arc<Kprobes>>>,
    /// kprobes of level 1; those of level 2 come after.
    level_1: usize,
    /// Names of the programs that were loaded.
    pub programs: Vec<&'static str>,
    /// Every point, and what became of it.
    pub points: Vec<AttachPoint>,
    /// Where attaching has stalled.
    pub stalled: Option<String>,
    /// What else there is to say.
    pub notes: Vec<String>,
    /// The level that was reached.
    pub level: u8,
}

/// Hits of kprobes that the kernel missed. Asking waits for nothing.
#[derive(Clone, Default)]
pub struct Misses(Arc<OnceLock<Arc<Kprobes>>>);

impl Misses {
    /// By program, those of events that were removed included.
    pub fn now(&self) -> BTreeMap<&'static str, u64> {
        self.0
            .get()
            .map(|kprobes| kprobes.missed())
            .unwrap_or_default()
    }

    /// Waits until they were read once more, at most this long.
    pub fn read_again(&self, at_most: Duration) {
        if let Some(kprobes) = self.0.get() {
            kprobes.read_again(at_most);
        }
    }
}

impl Attached {
    /// What kprobes have missed, from now on.
    pub fn misses(&self) -> Misses {
        Misses(Arc::clone(&self.kprobes))
    }

    /// Detaches what belongs to level 2 only. It may take its time, and is done by a thread that may be abandoned.
    pub fn drop_level_2(&mut self) {
        let (stay, go): (Vec<_>, Vec<_>) = self.links.drain(..).partition(|(level, _)| *level < 2);
        self.links = stay;
        self.level = self.level.min(1);
        drop(go);
        if let Some(kprobes) = self.kprobes.get() {
            kprobes.truncate(self.level_1);
        }
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.links.clear();
        // A thread that attaches and does not come back has them too.
        if let Some(kprobes) = self.kprobes.get() {
            kprobes.end();
        }
    }
}

/// Attaches programs to the points of the plan, up to this level. `over`: why not to a higher one.
///
/// What cannot be loaded or attached is in `points` with its reason. When a point takes longer than its deadline,
/// attaching ends there.
pub fn attach(
    loaded: Loaded,
    plan: &Plan,
    tracefs: Option<PathBuf>,
    level: u8,
    over: &str,
) -> Attached {
    let (jobs, left): (Vec<Job>, Vec<Job>) = jobs_of(plan)
        .into_iter()
        .partition(|job| job.level <= level);
    let mut points: Vec<AttachPoint> = plan.points.iter().map(describe).collect();
    for job in left {
        over.clone_into(&mut points[job.point].reason);
    }
    let programs = loaded
        .iter()
        .filter(|(_, fd)| fd.is_ok())
        .map(|(name, _)| *name)
        .collect();
    let kprobes = Arc::new(OnceLock::new());
    let worker = Worker {
        kprobes: Arc::clone(&kprobes),
        jobs: jobs.clone(),
        programs: loaded,
        tracefs,
        failed: None,
    };
    let attached = Attached {
        links: Vec::new(),
        kprobes,
        level_1: 0,
        programs,
        points,
        stalled: None,
        notes: Vec::new(),
        level: jobs.iter().map(|job| job.level).max().unwrap_or(0),
    };
    attach_jobs(attached, plan, &jobs, deadline::STEP, worker)
}

/// What one step of attaching gives: its link, and the number of kprobes then.
type Step = (Result<Option<OwnedFd>, String>, usize);

/// Does the jobs, and concludes which level was reached.
fn attach_jobs(
    mut attached: Attached,
    plan: &Plan,
    jobs: &[Job],
    time: Duration,
    mut worker: impl Attach,
) -> Attached {
    if jobs.is_empty() {
        return attached;
    }
    // The first step is no point's: it sees threads end.
    let outcome = steps("attach", time, jobs.len() + 1, move |n| match n {
        0 => worker.task_exit(),
        n => worker.job(n - 1),
    });
    let done = outcome.done.len();
    let mut incomplete = None;
    for (n, (result, kprobes)) in outcome.done.into_iter().enumerate() {
        let Some(n) = n.checked_sub(1) else {
            match result {
                Ok(link) => attached.links.extend(link.map(|link| (1, link))),
                Err(reason) => attached.notes.push(format!(
                    "records of threads that end are not given back ({TASK_EXIT}: {reason})"
                )),
            }
            continue;
        };
        let job = &jobs[n];
        let point = &mut attached.points[job.point];
        if job.level < 2 {
            attached.level_1 = kprobes;
        }
        match result {
            Ok(link) => {
                attached.links.extend(link.map(|link| (job.level, link)));
                point.mechanism = job.mechanism.name().into();
            }
            Err(reason) => {
                if job.level == 2 && matters(plan.points[job.point].point.role) {
                    incomplete.get_or_insert_with(|| format!("{}: {reason}", point.symbol));
                }
                point.mechanism = "none".into();
                point.reason = reason;
            }
        }
    }
    if let Some(why) = outcome.given_up {
        // The step behind those that came back; the first one is no job.
        let stuck = done.checked_sub(1).and_then(|n| jobs.get(n));
        let name = stuck.map_or(TASK_EXIT, |job| plan.points[job.point].point.name);
        attached.stalled = Some(format!("attaching {name} {why}"));
        // Whatever of this level is missing, the level is not complete.
        attached.level = stuck.map_or(0, |job| job.level.saturating_sub(1));
        // What is attached of a level that is not complete would only cost.
        let level = attached.level;
        attached.links.retain(|(of, _)| *of <= level.max(1));
        if level == 1
            && let Some(kprobes) = attached.kprobes.get()
        {
            let (kprobes, stay) = (Arc::clone(kprobes), attached.level_1);
            // Detaching may wait for what is stuck too; it goes on then, and ends with this process at the latest.
            let detached = within("detach", time, move || kprobes.truncate(stay));
            if let Err(why) = detached {
                let note = format!("detaching the kprobes of level 2 {why}: until then they cost");
                attached.notes.push(note);
            }
        }
        return attached;
    }
    // Acquisitions without releases, or the other way round, would be worse than neither.
    if attached.level == 2
        && let Some(missing) = incomplete
    {
        attached.drop_level_2();
        attached.stalled = Some(missing);
    }
    attached
}

/// Attaches; may never come back from it.
trait Attach: Send + 'static {
    /// What sees threads end.
    fn task_exit(&mut self) -> Step;
    /// A job, by its number.
    fn job(&mut self, number: usize) -> Step;
}

/// Attaches to the kernel.
struct Worker {
    jobs: Vec<Job>,
    programs: BTreeMap<&'static str, Result<OwnedFd, String>>,
    tracefs: Option<PathBuf>,
    kprobes: Arc<OnceLock<Arc<Kprobes>>>,
    /// Why there can be no kprobes.
    failed: Option<String>,
}

impl Attach for Worker {
    fn task_exit(&mut self) -> Step {
        let link = self.program(TASK_EXIT).and_then(|program| {
            sys::open_raw_tracepoint(program.as_fd(), Some(c"sched_process_exit"))
                .map(Some)
                .map_err(|e| e.to_string())
        });
        (link, 0)
    }

    fn job(&mut self, number: usize) -> Step {
        let job = self.jobs[number].clone();
        let result = match &job.way {
            Way::Kprobe(place, side) => self.kprobes().and_then(|kprobes| {
                let program = self.program(job.program)?;
                kprobes.attach(place, *side, (job.program, program.as_fd()))?;
                Ok(None)
            }),
            Way::Raw(name) => self.open(job.program, Some(name)),
            Way::Typed => self.open(job.program, None),
        };
        (
            result,
            self.kprobes.get().map_or(0, |kprobes| kprobes.len()),
        )
    }
}

impl Worker {
    fn program(&self, name: &str) -> Result<&OwnedFd, String> {
        match self.programs.get(name) {
            Some(Ok(program)) => Ok(program),
            Some(Err(reason)) => Err(reason.clone()),
            None => Err(format!("{name} was not loaded")),
        }
    }

    fn open(&self, name: &str, tracepoint: Option<&CStr>) -> Result<Option<OwnedFd>, String> {
        let program = self.program(name)?;
        sys::open_raw_tracepoint(program.as_fd(), tracepoint)
            .map(Some)
            .map_err(|e| e.to_string())
    }

    /// The kprobes, prepared for the first of them.
    fn kprobes(&mut self) -> Result<Arc<Kprobes>, String> {
        if let Some(kprobes) = self.kprobes.get() {
            return Ok(Arc::clone(kprobes));
        }
        if let Some(reason) = &self.failed {
            return Err(reason.clone());
        }
        let made = match &self.tracefs {
            Some(tracefs) => Kprobes::new(tracefs, What::Measures).map_err(|e| e.to_string()),
            None => Err("tracefs is not mounted".to_owned()),
        };
        match made {
            Ok(kprobes) => {
                let kprobes = Arc::new(kprobes);
                Kprobes::keep_reading(&kprobes);
                Ok(Arc::clone(self.kprobes.get_or_init(|| kprobes)))
            }
            Err(reason) => {
                self.failed = Some(reason.clone());
                Err(reason)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attach::offsets::{BuildIds, Offsets, Types};
    use crate::attach::plan::{Allowed, Machine, Mechanism, Named};
    use crate::attach::symbols::Symbols;

    /// Far more than a step takes on a busy machine.
    const SHORT: Duration = Duration::from_secs(3);

    /// Attaches everything at once, up to a job from which it never comes back.
    struct Fake {
        stuck_at: Option<usize>,
    }

    impl Attach for Fake {
        fn task_exit(&mut self) -> Step {
            (Ok(None), 0)
        }

        fn job(&mut self, number: usize) -> Step {
            while self.stuck_at == Some(number) {
                std::thread::park();
            }
            (Ok(None), number + 1)
        }
    }

    /// Three jobs of level 1 and two of level 2, on a plan with as many points.
    fn jobs() -> (Plan, Vec<Job>) {
        let symbols = Symbols::default();
        let types = Types::default();
        let offsets = Offsets::resolve(&types, &BuildIds::default());
        let plan = Plan::new(&Machine {
            symbols: &symbols,
            functions: None,
            tracepoints: None,
            types: &types,
            offsets: &offsets,
            allowed: &Allowed::everything(),
            level: 2,
            forced: None,
            named: Named::default(),
        });
        let jobs = [1, 1, 1, 2, 2]
            .into_iter()
            .enumerate()
            .map(|(point, level)| Job {
                program: "k_enter",
                way: Way::Typed,
                level,
                point,
                mechanism: Mechanism::Kprobe,
            })
            .collect();
        (plan, jobs)
    }

    fn attached(plan: &Plan, kprobes: Arc<Kprobes>) -> Attached {
        Attached {
            links: Vec::new(),
            kprobes: Arc::new(OnceLock::from(kprobes)),
            level_1: 0,
            programs: Vec::new(),
            points: plan.points.iter().map(describe).collect(),
            stalled: None,
            notes: Vec::new(),
            level: 2,
        }
    }

    #[test]
    fn when_attaching_stalls_the_level_that_is_complete_stays() {
        let (plan, jobs) = jobs();
        for (stuck_at, level, there) in [(Some(1), 0, 1), (Some(3), 1, 3), (None, 2, 5)] {
            let fake = Fake { stuck_at };
            let folder = tempfile::tempdir().unwrap();
            // Those that were made: the one that is stuck is on record too.
            let made = stuck_at.map_or(jobs.len(), |n| n + 1);
            let kprobes = Kprobes::made_up(folder.path(), made);
            let attached = attached(&plan, Arc::clone(&kprobes));
            let attached = attach_jobs(attached, &plan, &jobs, SHORT, fake);
            assert_eq!(attached.level, level, "{stuck_at:?}");
            let of_level_2 = kprobes.len() > 3;
            assert_eq!(of_level_2, level == 2, "{stuck_at:?}: {}", kprobes.len());
            let probed = attached.points.iter().filter(|p| p.mechanism == "kprobe");
            assert_eq!(probed.count(), there);
            let said = attached.stalled.clone().unwrap_or_default();
            match stuck_at {
                Some(n) => {
                    assert!(said.contains(plan.points[n].point.name), "{said}");
                    assert!(said.contains("did not end within"), "{said}");
                }
                None => assert_eq!(said, ""),
            }
        }
    }
}
