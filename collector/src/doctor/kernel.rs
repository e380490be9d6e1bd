//! What can be measured of a kernel, its driver's locks or those that were named: the attach plan, judged.

mod problems;
mod rows;

use serde::Serialize;

use super::emulated::merged;
use super::{Chosen, Examined, Kind, Probe, Problem, Severity, Shown};
use crate::attach::offsets::{Field, OffsetSource, Offsets};
use crate::attach::plan::{Loss, Plan, Planned, Status};
use crate::attach::points::{LockCall, Role, Side};
use crate::attach::programs::program_of;
use crate::machine::{Basis, Mechanism};
use crate::options::{GivenLock, KernelOptions};
use crate::source::kernel::{ADDRESS_HINT, NO_MEMORY, unreadable};
use crate::survey::Survey;

/// Which generation of the driver it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GenerationFacts {
    /// What it may be: one, or several that cannot be told apart yet. Empty: none that is known.
    pub candidates: Vec<String>,
    /// Facts that leave them.
    pub evidence: Vec<String>,
    /// Facts that no generation has along with the others.
    pub contradictions: Vec<String>,
    /// What is open, and what would decide it.
    pub open: Vec<String>,
}

/// A member of a struct of the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OffsetRow {
    /// `struct.member`.
    pub field: String,
    /// In bytes; absent where it is not known or there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u32>,
    /// Where that is known from, or why it is not.
    pub source: String,
    /// The struct is known and has no such member.
    pub absent: bool,
}

pub(super) fn examine(survey: &Survey, options: &KernelOptions, reason: &str) -> Examined {
    let Survey { offsets, plan, .. } = survey;
    let driver = survey.has_driver() || problems::loaded(&survey.facts);
    let full = survey.plan_at(options, 2);
    let attach = rows::rows(plan, &full);
    let mut problems = problems::prerequisites(survey, options);
    problems.extend(merged(problems::mechanisms(survey, options)));
    let prevented = |problems: &[Problem]| {
        let mut problems = problems.iter();
        problems.any(|problem| problem.severity == Severity::Prevents)
    };
    if !prevented(&problems) {
        // The nearest to the root of what is lost.
        problems.splice(0..0, problems::level_not_reached(&attach, options));
    }
    if !prevented(&problems) {
        let all_of = |plan: &Plan| {
            let mut losses = plan.losses.clone();
            losses.extend(rows::without_program(plan));
            losses
        };
        let losses = all_of(plan);
        let by_choice = options.mechanism.map_or_else(Vec::new, |_| {
            let free = KernelOptions {
                mechanism: None,
                ..options.clone()
            };
            let anyway = all_of(&survey.plan_at(&free, options.level));
            let names: Vec<&String> = anyway.iter().flat_map(|loss| &loss.names).collect();
            let of_choice = |loss: &&Loss| !loss.names.iter().any(|name| names.contains(&name));
            losses.iter().filter(of_choice).cloned().collect()
        });
        problems::add_losses(&mut problems, &losses, &by_choice);
        problems.extend(problems::without_effect(survey, options));
    }
    let unreadable = if survey.allowed.basis == Basis::Probed && !prevented(&problems) {
        unreadable(&options.locks)
    } else {
        Vec::new()
    };
    problems.extend(unreadable.iter().map(|lock| Problem {
        severity: Severity::Prevents,
        what: format!(
            "the lock {} cannot be read: {NO_MEMORY} {:#x}",
            lock.name, lock.address
        ),
        lost: "everything: what is there is no lock of this kernel".into(),
        remedy: ADDRESS_HINT.into(),
    }));
    Examined {
        source: Chosen {
            kind: Kind::Kernel,
            probe: Probe::Ebpf,
            level: Some(options.level),
            reason: reason.to_owned(),
        },
        attach,
        offsets: offset_rows(offsets),
        shows: shows(survey, options, &full, &unreadable),
        blind_spots: plan
            .blind_spots
            .iter()
            .map(|spot| spot.text.to_owned())
            .collect(),
        generation: driver.then(|| generation(plan)),
        problems,
        subject: subject(plan, options),
    }
}

/// What can be measured, in words.
fn subject(plan: &Plan, options: &KernelOptions) -> String {
    let names = plan.generation.candidates.names();
    match (names.as_slice(), options.locks.as_slice()) {
        ([], []) => "vfio_ap can be measured".to_owned(),
        ([], [lock]) => format!("the lock {} can be measured", lock.name),
        ([], locks) => format!("{} locks can be measured", locks.len()),
        (names, _) => format!("vfio_ap ({}) can be measured", names.join(" or ")),
    }
}

fn generation(plan: &Plan) -> GenerationFacts {
    let detected = &plan.generation;
    let facts = |list: &[crate::attach::generation::Evidence]| {
        list.iter().map(|evidence| evidence.fact.clone()).collect()
    };
    GenerationFacts {
        candidates: detected
            .candidates
            .names()
            .into_iter()
            .map(str::to_owned)
            .collect(),
        evidence: facts(&detected.evidence),
        contradictions: facts(&detected.contradictions),
        open: detected.open.clone(),
    }
}

fn offset_rows(offsets: &Offsets) -> Vec<OffsetRow> {
    let rows = offsets.iter().map(|(field, offset, source)| OffsetRow {
        field: field.name(),
        offset,
        source: match source {
            OffsetSource::Btf { file, .. } => format!("BTF of {file}"),
            OffsetSource::Layout { key } => key.clone(),
            OffsetSource::Absent { known_from } => format!("not in this generation ({known_from})"),
            OffsetSource::Missing { why } => why.clone(),
        },
        absent: matches!(source, OffsetSource::Absent { .. }),
    });
    rows.collect()
}

fn shows(
    survey: &Survey,
    options: &KernelOptions,
    full: &Plan,
    unreadable: &[GivenLock],
) -> Vec<Shown> {
    let Survey {
        facts,
        allowed,
        offsets,
        plan,
        ..
    } = survey;
    let driver = problems::loaded(facts);
    let none = if driver {
        "no such point on this kernel"
    } else {
        "the driver is not there"
    };
    // Some of what a role needs is enough to show it; what is lost of it has a row of its own.
    let probed_in = |plan: &Plan, role: &dyn Fn(&Planned) -> bool| -> Result<(), String> {
        let wanted =
            |planned: &&Planned| !matches!(planned.status, Status::NotNeeded) && role(planned);
        let mut reason = none.to_owned();
        for planned in plan.points.iter().filter(wanted) {
            match (planned.status, program_of(planned)) {
                (Status::Planned, Ok(_)) => return Ok(()),
                (Status::Planned, Err(why)) => why.clone_into(&mut reason),
                _ => reason.clone_from(&planned.reason),
            }
        }
        Err(reason)
    };
    let probed = |role: &dyn Fn(&Planned) -> bool| probed_in(plan, role);
    let offset_of = |fields: &[Field]| -> Result<(), String> {
        let mut reason = String::new();
        for field in fields {
            match offsets.source(*field) {
                OffsetSource::Btf { .. } | OffsetSource::Layout { .. } => return Ok(()),
                OffsetSource::Absent { .. } => "not in this generation".clone_into(&mut reason),
                OffsetSource::Missing { why } => reason.clone_from(why),
            }
        }
        Err(reason)
    };
    // Adopted from the arguments of the driver's functions, and of those that call it.
    let known = |fields: &[Field]| -> Result<(), String> {
        if !driver {
            return Err(none.to_owned());
        }
        offset_of(fields)
    };
    let entry = |planned: &Planned| matches!(planned.point.role, Role::Entry(_));
    let entries = |planned: &Planned| entry(planned) && planned.side == Side::Enter;
    let returns = |planned: &Planned| entry(planned) && planned.side == Side::Return;
    let contention = |planned: &Planned| matches!(planned.point.role, Role::Contention(_));
    let acquired = |planned: &Planned| {
        matches!(
            planned.point.role,
            Role::Lock(LockCall::Acquire(_) | LockCall::AcquireInterruptible(_))
        )
    };
    let queues = |planned: &Planned| matches!(planned.point.role, Role::WaitQueue(_));
    let works = |planned: &Planned| matches!(planned.point.role, Role::Work(_));
    let flag = known(&[Field::MdevKvmBusy]).and_then(|()| probed(&queues));
    let work = known(&[Field::QueueResetWork]).and_then(|()| probed(&works));
    let every_acquisition = match (options.level, probed_in(full, &acquired)) {
        (2, answer) => answer,
        (_, Ok(())) => Err("would be with --level 2".to_owned()),
        (_, Err(why)) => Err(format!("not at this level, nor at level 2: {why}")),
    };
    let stats = if facts.settings.bpf_stats_enabled == Some(1) {
        Ok(())
    } else {
        allowed.get(Mechanism::RunTimeStats).map_err(str::to_owned)
    };
    // Of locks that were named too, without the driver.
    let owners = if options.locks.is_empty() {
        known(&[Field::MutexOwner])
    } else {
        offset_of(&[Field::MutexOwner, Field::RwsemOwner])
    };
    let own = [Field::MatrixDevLock, Field::MatrixDevMdevsLock];
    let mut shows: Vec<Shown> = options
        .locks
        .iter()
        .map(|lock| {
            let there = if unreadable.contains(lock) {
                Err("its address cannot be read".to_owned())
            } else {
                Ok(())
            };
            Shown::new(&format!("the lock {}", lock.name), there)
        })
        .collect();
    shows.extend([
        Shown::new("entry points: calls and arguments", probed(&entries)),
        Shown::new(
            "entry points: latencies and returned values",
            probed(&returns),
        ),
        Shown::new("the driver's own locks", known(&own)),
        Shown::new("kvm->lock", known(&[Field::KvmLock])),
        Shown::new("vcpu->mutex", known(&[Field::KvmVcpuMutex])),
        Shown::new("pqap_hook_rwsem", known(&[Field::KvmPqapHookRwsem])),
        Shown::new("contended waits (level 1)", probed(&contention)),
        Shown::new("every acquisition and hold (level 2)", every_acquisition),
        Shown::new("the open-coded lock kvm_busy", flag),
        Shown::new("work items that verify queue resets", work),
        Shown::new("owners, from lock words", owners),
        Shown::new("what the eBPF programs cost", stats),
    ]);
    shows
}
