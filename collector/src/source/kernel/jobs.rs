//! Which program goes to which point of the plan, how and in which order. Attaches nothing.

use std::ffi::CString;

use super::kprobes::{Place, Side as ProbeSide};
use crate::attach::plan::{Mechanism, Plan, Planned, Status};
use crate::attach::points::{LockCall, Role, Side};
use crate::attach::programs::program_of;
use crate::frame::AttachPoint;

/// How a program is attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// Through tracefs.
    Kprobe(Place, ProbeSide),
    /// A raw tracepoint of this name.
    Raw(CString),
    /// What the program was loaded for.
    Typed,
}

/// A program at a point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Its name.
    pub program: &'static str,
    /// How.
    pub way: Way,
    /// The level that it belongs to.
    pub level: u8,
    /// Index in the plan.
    pub point: usize,
    /// Mechanism.
    pub mechanism: Mechanism,
}

/// Whether the plan settles acquisitions at a task's next event: lock functions are probed at their entry.
pub fn is_tentative(plan: &Plan) -> bool {
    jobs_of(plan).iter().any(|job| {
        matches!(
            job.program,
            "k_mutex"
                | "k_mutex_may_fail"
                | "k_mutex_try"
                | "k_read"
                | "k_read_try"
                | "k_write"
                | "k_write_try"
        )
    })
}

/// Whether the plan attaches a program of this name.
pub fn attaches(plan: &Plan, program: &str) -> bool {
    jobs_of(plan).iter().any(|job| job.program == program)
}

/// Everything that the plan attaches, in the order in which it is attached.
pub fn jobs_of(plan: &Plan) -> Vec<Job> {
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

/// The first reason for which a point of level 2 is not planned.
pub fn why_not_level_2(plan: &Plan) -> Option<String> {
    let lost = plan
        .points
        .iter()
        .find(|planned| matters(planned.point.role) && planned.status == Status::Lost)?;
    Some(format!("{}: {}", lost.point.name, lost.reason))
}

/// Without this point, level 2 would be wrong: it takes or releases locks of the driver.
pub fn matters(role: Role) -> bool {
    matches!(
        role,
        Role::Lock(LockCall::Acquire(_) | LockCall::AcquireInterruptible(_) | LockCall::Release(_))
    )
}

/// A point as outputs have it, before it is attached.
pub fn describe(planned: &Planned) -> AttachPoint {
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
