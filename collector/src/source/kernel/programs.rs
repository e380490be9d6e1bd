//! Which program goes to which point of the plan, and attaching them: one point after another, each with a deadline.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use aya::programs::{BtfTracePoint, FEntry, FExit, KProbe, Program, RawTracePoint};
use aya::{Btf, Ebpf};

use super::kprobes::{Kprobes, Place, Side as ProbeSide};
use crate::attach::plan::{Mechanism, Plan, Planned, Status};
use crate::attach::points::{LockCall, Role, Side};
use crate::attach::programs::program_of;
use crate::frame::AttachPoint;
use crate::source::ebpf::{chain, sys};

/// Sees threads end.
const TASK_EXIT: &str = "r_task_exit";
/// How long one point may take to attach. Longer means that something that is needed for it is stuck.
const DEADLINE: Duration = Duration::from_secs(10);

/// How a program is attached.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Way {
    /// Through tracefs.
    Kprobe(Place, ProbeSide),
    /// A raw tracepoint of this name.
    Raw(CString),
    /// What the program was loaded for.
    Typed,
}

/// A program at a point.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Job {
    program: &'static str,
    way: Way,
    level: u8,
    /// Index in the plan.
    point: usize,
    mechanism: Mechanism,
}

/// Whether the plan settles acquisitions at a task's next event: lock functions are probed at their entry.
pub fn is_tentative(plan: &Plan) -> bool {
    jobs_of(plan).iter().any(|job| {
        matches!(
            job.program,
            "k_mutex" | "k_mutex_may_fail" | "k_mutex_try" | "k_read" | "k_write"
        )
    })
}

/// Whether the plan attaches a program of this name.
pub fn attaches(plan: &Plan, program: &str) -> bool {
    jobs_of(plan).iter().any(|job| job.program == program)
}

fn jobs_of(plan: &Plan) -> Vec<Job> {
    let mut jobs = Vec::new();
    for (point, planned) in plan.points.iter().enumerate() {
        let (Status::Planned, Some(target), Ok((program, mechanism))) =
            (planned.status, &planned.target, program_of(planned))
        else {
            continue;
        };
        let way = match mechanism {
            Mechanism::Kprobe | Mechanism::Kretprobe => {
                let side = if mechanism == Mechanism::Kprobe {
                    ProbeSide::Entry
                } else {
                    ProbeSide::Return
                };
                Way::Kprobe(place_of(target), side)
            }
            Mechanism::RawTracepoint => {
                let event = target.symbol.rsplit(':').next().unwrap_or_default();
                // No tracepoint has a NUL in its name.
                Way::Raw(CString::new(event).unwrap_or_default())
            }
            Mechanism::BtfTracepoint | Mechanism::Fentry | Mechanism::Fexit => Way::Typed,
        };
        jobs.push(Job {
            program,
            way,
            level: planned.point.level,
            point,
            mechanism,
        });
    }
    // Level 2 last, so that it can go first. Return probes before entry probes: a call that is seen has its return seen.
    jobs.sort_by_key(|job| (job.level, job.mechanism != Mechanism::Kretprobe));
    jobs
}

fn place_of(target: &crate::attach::plan::Target) -> Place {
    match (&target.module, target.unique, target.address) {
        (Some(module), _, _) => Place::Symbol(format!("{module}:{}", target.symbol)),
        (None, false, Some(address)) => Place::Address(address),
        (None, _, _) => Place::Symbol(target.symbol.clone()),
    }
}

/// What is attached. Dropping it detaches.
pub struct Attached {
    links: Vec<(u8, OwnedFd)>,
    /// Shared with the thread that attaches, so that what it has made stays when it does not come back.
    kprobes: Arc<Mutex<Option<Kprobes>>>,
    /// kprobes of level 1; those of level 2 come after.
    level_1: usize,
    missed_before: BTreeMap<&'static str, u64>,
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

impl Attached {
    /// Hits of kprobes that the kernel missed, by program; those of events that were removed included.
    pub fn missed(&self) -> BTreeMap<&'static str, u64> {
        let mut all = self.missed_before.clone();
        if let Ok(kprobes) = self.kprobes.try_lock()
            && let Some(kprobes) = kprobes.as_ref()
        {
            for (program, missed) in kprobes.missed() {
                *all.entry(program).or_default() += missed;
            }
        }
        all
    }

    /// Detaches what belongs to level 2 only. It may take its time, and is done by a thread that may be abandoned.
    pub fn drop_level_2(&mut self) {
        let (stay, go): (Vec<_>, Vec<_>) = self.links.drain(..).partition(|(level, _)| *level < 2);
        self.links = stay;
        self.level = self.level.min(1);
        drop(go);
        // A thread that attaches and does not come back has them.
        if let Ok(mut kprobes) = self.kprobes.try_lock()
            && let Some(kprobes) = kprobes.as_mut()
        {
            let before = kprobes.missed();
            kprobes.truncate(self.level_1);
            let after = kprobes.missed();
            for (program, missed) in before {
                let kept = after.get(program).copied().unwrap_or(0);
                *self.missed_before.entry(program).or_default() += missed.saturating_sub(kept);
            }
        }
    }
}

/// Loads every program that the plan needs and attaches it to its points.
///
/// What cannot be loaded or attached is in `points` with its reason. When a point takes longer than its deadline,
/// attaching ends there.
pub fn attach(ebpf: &mut Ebpf, plan: &Plan, tracefs: Option<PathBuf>) -> Attached {
    let jobs = jobs_of(plan);
    let mut loaded: BTreeMap<&'static str, Result<OwnedFd, String>> = BTreeMap::new();
    let btf = jobs
        .iter()
        .any(|job| job.way == Way::Typed)
        .then(|| Btf::from_sys_fs().map_err(|e| chain(&e)));
    for job in &jobs {
        if !loaded.contains_key(job.program) {
            let symbol = plan.points[job.point]
                .target
                .as_ref()
                .map_or("", |target| target.symbol.as_str());
            let function = symbol.rsplit(':').next().unwrap_or(symbol);
            loaded.insert(job.program, load(ebpf, job.program, function, btf.as_ref()));
        }
    }
    let programs = loaded
        .iter()
        .filter(|(_, fd)| fd.is_ok())
        .map(|(name, _)| *name)
        .collect();
    let mut points: Vec<AttachPoint> = Vec::new();
    for planned in &plan.points {
        points.push(describe(planned));
    }
    let needs_kprobes = jobs.iter().any(|job| matches!(job.way, Way::Kprobe(..)));
    let (sender, receiver) = mpsc::channel();
    let kprobes = Arc::new(Mutex::new(None));
    let worker = Worker {
        kprobes: Arc::clone(&kprobes),
        jobs: jobs.clone(),
        programs: loaded,
        tracefs: needs_kprobes.then_some(tracefs).flatten(),
    };
    let mut attached = Attached {
        links: Vec::new(),
        kprobes: Arc::clone(&kprobes),
        level_1: 0,
        missed_before: BTreeMap::new(),
        programs,
        points,
        stalled: None,
        notes: Vec::new(),
        level: jobs.iter().map(|job| job.level).max().unwrap_or(0),
    };
    if attached.level > 0 {
        match attach_task_exit(ebpf) {
            Ok(link) => {
                attached.links.push((1, link));
                attached.programs.push(TASK_EXIT);
            }
            Err(reason) => attached.notes.push(format!(
                "records of threads that end are not given back ({TASK_EXIT}: {reason})"
            )),
        }
    }
    let spawned = std::thread::Builder::new()
        .name("attach".into())
        .spawn(move || worker.run(&sender));
    if let Err(e) = spawned {
        attached.stalled = Some(format!("no thread to attach with: {e}"));
        attached.level = 0;
        return attached;
    }
    let mut waiting_for = None;
    let mut incomplete = None;
    loop {
        match receiver.recv_timeout(DEADLINE) {
            Ok(Event::Starts(job)) => waiting_for = Some(job),
            Ok(Event::Done(job, result)) => {
                let job = &jobs[job];
                let point = &mut attached.points[job.point];
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
            Ok(Event::End { level_1 }) => {
                attached.level_1 = level_1;
                // Acquisitions without releases, or the other way round, would be worse than neither.
                if attached.level == 2
                    && let Some(missing) = incomplete
                {
                    attached.drop_level_2();
                    attached.stalled = Some(missing);
                }
                return attached;
            }
            Err(_) => {
                let job = waiting_for.map(|job: usize| &jobs[job]);
                let name = job.map_or("the first", |job| plan.points[job.point].point.name);
                attached.stalled = Some(format!(
                    "{name} did not attach within {} s",
                    DEADLINE.as_secs()
                ));
                // Whatever of this level is missing, the level is not complete.
                attached.level = job.map_or(0, |job| job.level.saturating_sub(1));
                // What is attached of a level that is not complete would only cost.
                let level = attached.level;
                attached.links.retain(|(of, _)| *of <= level.max(1));
                return attached;
            }
        }
    }
}

/// The first reason for which a point of level 2 is not planned.
pub fn why_not_level_2(plan: &Plan) -> Option<String> {
    let lost = plan
        .points
        .iter()
        .find(|planned| matters(planned.point.role) && planned.status == Status::Lost)?;
    Some(format!("{}: {}", lost.point.name, lost.reason))
}

/// Without this point, level 2 would be wrong: it takes or releases locks of the driver.
fn matters(role: Role) -> bool {
    matches!(
        role,
        Role::Lock(LockCall::Acquire(_) | LockCall::AcquireInterruptible(_) | LockCall::Release(_))
    )
}

fn describe(planned: &Planned) -> AttachPoint {
    let side = match planned.side {
        Side::Enter => "",
        Side::Return => " return",
    };
    AttachPoint {
        symbol: format!("{}{side}", planned.label()),
        mechanism: "none".into(),
        reason: match (planned.status, program_of(planned)) {
            (Status::Planned, Err(why)) => why.to_owned(),
            _ => planned.reason.clone(),
        },
    }
}

/// Loads a program; typed ones for their function or tracepoint.
fn load(
    ebpf: &mut Ebpf,
    name: &'static str,
    function: &str,
    btf: Option<&Result<Btf, String>>,
) -> Result<OwnedFd, String> {
    let program = ebpf
        .program_mut(name)
        .ok_or_else(|| format!("the object has no program {name}"))?;
    let btf = || match btf {
        Some(Ok(btf)) => Ok(btf),
        Some(Err(e)) => Err(e.clone()),
        None => Err("no BTF".to_owned()),
    };
    let result = match program {
        Program::KProbe(program) => KProbe::load(program),
        Program::RawTracePoint(program) => RawTracePoint::load(program),
        Program::BtfTracePoint(program) => BtfTracePoint::load(program, function, btf()?),
        Program::FEntry(program) => FEntry::load(program, function, btf()?),
        Program::FExit(program) => FExit::load(program, function, btf()?),
        _ => return Err(format!("{name} is of another type")),
    };
    result.map_err(|e| format!("load: {}", chain(&e)))?;
    let fd = program.fd().map_err(|e| chain(&e))?;
    fd.as_fd().try_clone_to_owned().map_err(|e| e.to_string())
}

/// Gives the records of threads that end to others. It is no point of the plan: without it nothing is measured less.
fn attach_task_exit(ebpf: &mut Ebpf) -> Result<OwnedFd, String> {
    let program = load(ebpf, TASK_EXIT, "", None)?;
    sys::open_raw_tracepoint(program.as_fd(), Some(c"sched_process_exit"))
        .map_err(|e| e.to_string())
}

enum Event {
    Starts(usize),
    Done(usize, Result<Option<OwnedFd>, String>),
    End { level_1: usize },
}

/// Attaches, on a thread of its own.
struct Worker {
    jobs: Vec<Job>,
    programs: BTreeMap<&'static str, Result<OwnedFd, String>>,
    tracefs: Option<PathBuf>,
    kprobes: Arc<Mutex<Option<Kprobes>>>,
}

impl Worker {
    fn run(self, events: &mpsc::Sender<Event>) {
        let mut failed = None;
        if let Some(tracefs) = &self.tracefs {
            match (Kprobes::new(tracefs), self.kprobes.lock()) {
                (Ok(made), Ok(mut kprobes)) => *kprobes = Some(made),
                (Err(e), _) => failed = Some(e.to_string()),
                (Ok(_), Err(e)) => failed = Some(e.to_string()),
            }
        }
        let mut level_1 = 0;
        for (number, job) in self.jobs.iter().enumerate() {
            if events.send(Event::Starts(number)).is_err() {
                return;
            }
            let result = match &self.programs[job.program] {
                Err(reason) => Err(reason.clone()),
                Ok(program) => match &job.way {
                    Way::Kprobe(place, side) => match (&failed, self.kprobes.lock()) {
                        (Some(reason), _) => Err(reason.clone()),
                        (None, Ok(mut kprobes)) => match kprobes.as_mut() {
                            Some(kprobes) => kprobes
                                .attach(place, *side, (job.program, program.as_fd()))
                                .map(|()| None),
                            None => Err("tracefs is not mounted".to_owned()),
                        },
                        (None, Err(e)) => Err(e.to_string()),
                    },
                    Way::Raw(name) => sys::open_raw_tracepoint(program.as_fd(), Some(name))
                        .map(Some)
                        .map_err(|e| e.to_string()),
                    Way::Typed => sys::open_raw_tracepoint(program.as_fd(), None)
                        .map(Some)
                        .map_err(|e| e.to_string()),
                },
            };
            if job.level < 2
                && let Ok(kprobes) = self.kprobes.lock()
                && let Some(kprobes) = kprobes.as_ref()
            {
                level_1 = kprobes.len();
            }
            if events.send(Event::Done(number, result)).is_err() {
                return;
            }
        }
        // A receiver that has given up does not want it.
        let _ = events.send(Event::End { level_1 });
    }
}
