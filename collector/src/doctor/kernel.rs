//! What can be measured of the kernel's driver: the attach plan, judged.

use serde::Serialize;

use super::emulated::{merged, missing};
use super::{AttachRow, Chosen, Examined, Kind, Probe, Problem, RowStatus, Severity, Shown};
use crate::attach::offsets::{Field, OffsetSource, Offsets};
use crate::attach::plan::{self, Instead, Loss, Machine, Plan, Planned, Status};
use crate::attach::points::{LockCall, Role, Side};
use crate::attach::symbols::Symbols;
use crate::machine::{Allowed, Capability, Facts, Mechanism, Tables};
use probe_ebpf::names::ENTRY_POINTS;

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

/// Mechanisms without which nothing is measured.
const NEEDED: [Mechanism; 3] = [
    Mechanism::MappedMaps,
    Mechanism::RingBuffer,
    Mechanism::ReadKernel,
];

pub(super) fn examine(facts: &Facts, allowed: &Allowed, reason: String) -> Examined {
    let tables = Tables::read(facts);
    let offsets = Offsets::resolve(&tables.types, &tables.ids);
    let nothing = Symbols::default();
    let plan_allowed = for_plan(allowed);
    let plan = Plan::new(&Machine {
        symbols: tables.symbols.as_ref().unwrap_or(&nothing),
        functions: tables.functions.as_ref().ok(),
        tracepoints: tables.tracepoints.as_ref().ok(),
        types: &tables.types,
        offsets: &offsets,
        allowed: &plan_allowed,
        // Everything is to be seen; each row has its level.
        level: 2,
        forced: None,
    });
    let mut problems = prerequisites(facts, &tables, &plan, &offsets);
    problems.extend(merged(mechanisms(facts, allowed, &plan)));
    let loaded = facts.driver.module("vfio_ap").is_some();
    if loaded && problems.iter().all(|p| p.severity != Severity::Prevents) {
        add_losses(&mut problems, &plan.losses);
    }
    let names = plan.generation.candidates.names();
    let subject = if names.is_empty() {
        "vfio_ap can be measured".to_owned()
    } else {
        format!("vfio_ap ({}) can be measured", names.join(" or "))
    };
    Examined {
        source: Chosen {
            kind: Kind::Kernel,
            probe: Probe::Ebpf,
            reason,
        },
        attach: plan.points.iter().map(row).collect(),
        offsets: offset_rows(&offsets),
        shows: shows(facts, allowed, &plan, &offsets),
        blind_spots: plan
            .blind_spots
            .iter()
            .map(|spot| spot.text.to_owned())
            .collect(),
        generation: Some(generation(&plan)),
        problems,
        subject,
    }
}

fn for_plan(allowed: &Allowed) -> plan::Allowed {
    let get = |mechanism| allowed.get(mechanism).map_err(str::to_owned);
    plan::Allowed {
        btf_tracepoint: get(Mechanism::BtfTracepoint),
        raw_tracepoint: get(Mechanism::RawTracepoint),
        fentry: get(Mechanism::Fentry),
        fexit: get(Mechanism::Fexit),
        kprobe: get(Mechanism::Kprobe),
        kretprobe: get(Mechanism::Kretprobe),
        stop_machine: false,
    }
}

fn problem(severity: Severity, what: &str, lost: &str, remedy: &str) -> Problem {
    Problem {
        severity,
        what: what.into(),
        lost: lost.into(),
        remedy: remedy.into(),
    }
}

/// Whether any entry point is probed.
fn any_entry(plan: &Plan) -> bool {
    plan.attached()
        .any(|planned| matches!(planned.point.role, Role::Entry(_)))
}

/// What must be there before any mechanism is of use.
fn prerequisites(facts: &Facts, tables: &Tables, plan: &Plan, offsets: &Offsets) -> Vec<Problem> {
    let mut problems = Vec::new();
    if facts.driver.module("vfio_ap").is_none() {
        let remedy = if facts.kernel.arch == "s390x" {
            "modprobe vfio_ap, on a kernel built with CONFIG_VFIO_AP; or --source emulator"
        } else {
            "run apscope on the IBM Z host whose guests use vfio_ap; or --source emulator"
        };
        problems.push(problem(
            Severity::Prevents,
            "the module vfio_ap is not loaded",
            "everything: there is no driver to measure",
            remedy,
        ));
        return problems;
    }
    if let Err(why) = &tables.symbols {
        problems.push(problem(
            Severity::Prevents,
            why,
            "everything: without symbols the driver's functions are not found",
            "a kernel built with CONFIG_KALLSYMS, and /proc mounted",
        ));
        return problems;
    }
    let types = [
        Field::KvmLock,
        Field::MatrixDevLock,
        Field::MatrixDevMdevsLock,
    ];
    if types.iter().all(|field| offsets.get(*field).is_none()) {
        let why = match offsets.source(Field::KvmLock) {
            OffsetSource::Missing { why } => why.as_str(),
            _ => "struct ap_matrix_dev has no lock that is known",
        };
        problems.push(problem(
            Severity::Prevents,
            &format!("the offsets of kvm->lock and of the driver's locks are not known: {why}"),
            "everything: no lock can be told from others, and no guess is made",
            "a kernel with module BTF (CONFIG_DEBUG_INFO_BTF_MODULES)",
        ));
    }
    if plan.generation.candidates.is_empty() {
        problems.push(problem(
            Severity::Prevents,
            "the driver's generation is none of those known",
            "everything: what its functions mean is not known",
            "a newer apscope",
        ));
    } else if let Some(fact) = plan.generation.contradictions.first() {
        problems.push(problem(
            Severity::Degrades,
            &format!(
                "the driver is like no generation that is known: {}",
                fact.fact
            ),
            "certainty of what upstream did about a finding",
            "a newer apscope",
        ));
    }
    if facts.settings.ftrace_enabled == Some(0) {
        problems.push(problem(
            Severity::Prevents,
            "kernel.ftrace_enabled is 0",
            "everything at functions: no fentry and no kprobe at a function's entry fires",
            "sysctl kernel.ftrace_enabled=1",
        ));
    }
    if facts.tracing.addresses == Some(false) {
        let remedy = match facts.settings.kptr_restrict {
            Some(2..) => "sysctl kernel.kptr_restrict=1, and root or CAP_SYSLOG",
            _ => "run as root, or with CAP_SYSLOG",
        };
        problems.push(problem(
            Severity::Degrades,
            "/proc/kallsyms shows zeros instead of addresses",
            "the driver's own locks until an entry point names an mdev; functions whose name is not unique",
            remedy,
        ));
    }
    if facts.kernel.realtime {
        problems.push(problem(
            Severity::Degrades,
            "PREEMPT_RT: a mutex is an rt_mutex, without the owner word",
            "owners read from lock words, and the check of live holders against them",
            "a kernel without PREEMPT_RT for the diagnosis",
        ));
    }
    if let Err(why) = &tables.functions {
        let is_fatal = if any_entry(plan) {
            Severity::Degrades
        } else {
            Severity::Prevents
        };
        problems.push(problem(
            is_fatal,
            &format!("which functions ftrace can patch is not known: {why}"),
            "every probe at a function: placed by breakpoint, it might stop the machine",
            if facts.privileges.reads_as_root() {
                "mount -t tracefs tracefs /sys/kernel/tracing"
            } else {
                "run as root, or with CAP_DAC_READ_SEARCH, and with tracefs mounted"
            },
        ));
    }
    problems
}

/// What is not allowed, and matters.
fn mechanisms(facts: &Facts, allowed: &Allowed, plan: &Plan) -> Vec<Problem> {
    let loaded = facts.driver.module("vfio_ap").is_some();
    let has = |mechanism| allowed.has(mechanism);
    let mut problems = Vec::new();
    for (mechanism, answer) in allowed.iter() {
        let Err(why) = answer else { continue };
        let severity = match mechanism {
            needed if NEEDED.contains(&needed) => Severity::Prevents,
            // The driver's functions are a module's, which only kprobes reach.
            Mechanism::Kprobe if !(loaded && any_entry(plan)) => Severity::Prevents,
            Mechanism::BtfTracepoint if has(Mechanism::RawTracepoint) => Severity::Note,
            Mechanism::Fentry if has(Mechanism::Kprobe) => Severity::Note,
            Mechanism::RunTimeStats if facts.settings.bpf_stats_enabled == Some(1) => {
                Severity::Note
            }
            Mechanism::Kprobe
            | Mechanism::Kretprobe
            | Mechanism::KretprobePool
            | Mechanism::Fexit
            | Mechanism::Fentry
            | Mechanism::BtfTracepoint
            | Mechanism::RawTracepoint
            | Mechanism::RunTimeStats => Severity::Degrades,
            // Of use for the emulated driver and for self-tests.
            _ => continue,
        };
        problems.push(missing(facts, allowed, mechanism, why, severity));
    }
    if !facts.privileges.has(Capability::SysAdmin) {
        problems.push(problem(
            Severity::Note,
            "CAP_SYS_ADMIN missing",
            "whether another collector is attached here",
            "run as root",
        ));
    }
    problems
}

/// Losses of the plan; those with one reason are one problem. A loss whose reason is a problem already adds to that.
fn add_losses(problems: &mut Vec<Problem>, losses: &[Loss]) {
    let mut grouped: Vec<(String, Vec<&str>, Vec<&str>)> = Vec::new();
    for loss in losses {
        let words = loss.reason.split(' ');
        let own = |word: &str| loss.names.iter().any(|name| name == word);
        let words = words.map(|word| if own(word) { "it" } else { word });
        let reason = words.collect::<Vec<_>>().join(" ");
        let index = grouped.iter().position(|(known, ..)| *known == reason);
        let index = index.unwrap_or_else(|| {
            grouped.push((reason, Vec::new(), Vec::new()));
            grouped.len() - 1
        });
        let (_, names, lost) = &mut grouped[index];
        for name in &loss.names {
            if !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
        if !lost.contains(&loss.lost.as_str()) {
            lost.push(&loss.lost);
        }
    }
    for (reason, names, lost) in grouped {
        let names = match names.as_slice() {
            [first, _, _, _, ..] => format!("{first} and {} more", names.len() - 1),
            few => few.join(", "),
        };
        let lost = lost.join("; ");
        let cause = problems.iter_mut().find(|problem| {
            let why = problem.what.split_once(": ").map(|(_, why)| why);
            why.is_some_and(|why| reason.ends_with(why))
        });
        match cause {
            Some(problem) => {
                problem.lost = format!("{}; at {names}: {lost}", problem.lost);
            }
            None => problems.push(Problem {
                severity: Severity::Degrades,
                what: format!("{names}: {reason}"),
                lost,
                remedy: "nothing, on this kernel".into(),
            }),
        }
    }
}

fn row(planned: &Planned) -> AttachRow {
    let symbol = match &planned.target {
        Some(target) => match &target.module {
            Some(module) => format!("{} [{module}]", target.symbol),
            None => target.symbol.clone(),
        },
        None => planned.point.name.to_owned(),
    };
    AttachRow {
        symbol,
        side: match planned.side {
            Side::Enter => "entry",
            Side::Return => "return",
        },
        level: planned.point.level,
        mechanism: planned
            .mechanism
            .map_or("none", plan::Mechanism::name)
            .to_owned(),
        status: match planned.status {
            Status::Planned => RowStatus::Probed,
            Status::NotNeeded => RowStatus::NotNeeded,
            Status::OtherLevel => RowStatus::OtherLevel,
            Status::Replaced => RowStatus::Replaced,
            Status::Lost => RowStatus::Lost,
        },
        reason: planned.reason.clone(),
        instead: planned.used_instead.as_ref().map(instead),
        lost: planned.lost.clone(),
    }
}

fn instead(instead: &Instead) -> String {
    match instead {
        Instead::Entries(ids) => {
            let names = ids
                .iter()
                .filter_map(|id| ENTRY_POINTS.get(usize::from(*id)));
            names.map(|entry| entry.name).collect::<Vec<_>>().join(", ")
        }
        Instead::ContentionEnd => "the lock's entry, and the end of contention".into(),
        Instead::OwnerWord => {
            "the lock's entry, and its owner word at the task's next event".into()
        }
        Instead::OtherSide(Side::Enter) => "the function's entry".into(),
        Instead::OtherSide(Side::Return) => "the function's return".into(),
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

fn shows(facts: &Facts, allowed: &Allowed, plan: &Plan, offsets: &Offsets) -> Vec<Shown> {
    // Some of what a role needs is enough to show it; what is lost of it has a row of its own.
    let probed = |role: &dyn Fn(&Planned) -> bool, why: &str| -> Result<(), String> {
        let wanted =
            |planned: &&Planned| !matches!(planned.status, Status::NotNeeded) && role(planned);
        let mut reason = why.to_owned();
        for planned in plan.points.iter().filter(wanted) {
            match planned.status {
                Status::Planned => return Ok(()),
                _ => reason.clone_from(&planned.reason),
            }
        }
        Err(reason)
    };
    let known = |fields: &[Field]| -> Result<(), String> {
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
    let none = "no such point on this kernel";
    let flag = known(&[Field::MdevKvmBusy]).and_then(|()| probed(&queues, none));
    let work = known(&[Field::QueueResetWork]).and_then(|()| probed(&works, none));
    let stats = if facts.settings.bpf_stats_enabled == Some(1) {
        Ok(())
    } else {
        allowed.get(Mechanism::RunTimeStats).map_err(str::to_owned)
    };
    let own = [Field::MatrixDevLock, Field::MatrixDevMdevsLock];
    vec![
        Shown::new("entry points: calls and arguments", probed(&entries, none)),
        Shown::new(
            "entry points: latencies and returned values",
            probed(&returns, none),
        ),
        Shown::new("the driver's own locks", known(&own)),
        Shown::new("kvm->lock", known(&[Field::KvmLock])),
        Shown::new("vcpu->mutex", known(&[Field::KvmVcpuMutex])),
        Shown::new("pqap_hook_rwsem", known(&[Field::KvmPqapHookRwsem])),
        Shown::new("contended waits (level 1)", probed(&contention, none)),
        Shown::new(
            "every acquisition and hold (level 2)",
            probed(&acquired, none),
        ),
        Shown::new("the open-coded lock kvm_busy", flag),
        Shown::new("work items that verify queue resets", work),
        Shown::new("owners, from lock words", known(&[Field::MutexOwner])),
        Shown::new("what the eBPF programs cost", stats),
    ]
}
