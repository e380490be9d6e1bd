//! What is missing for measuring a kernel, how grave that is at the level asked for, and what to do about it.

use crate::attach::offsets::{Field, OffsetSource};
use crate::attach::plan::{Loss, Plan};
use crate::attach::points::Role;
use crate::doctor::emulated::missing;
use crate::doctor::{AttachRow, Problem, RowStatus, Severity};
use crate::machine::{Capability, Facts, Mechanism};
use crate::options::KernelOptions;
use crate::source::kernel::HIDDEN_ADDRESSES;
use crate::survey::Survey;

/// Mechanisms without which nothing is measured.
const NEEDED: [Mechanism; 4] = [
    Mechanism::MappedMaps,
    Mechanism::RingBuffer,
    Mechanism::ReadKernel,
    Mechanism::TestRun,
];

/// Whether the driver is there.
pub fn loaded(facts: &Facts) -> bool {
    facts.driver.module("vfio_ap").is_some()
}

/// Whether a run with these options probes functions: the driver's from level 1 on, lock functions at level 2.
fn probes_functions(facts: &Facts, options: &KernelOptions) -> bool {
    options.level == 2 || options.level == 1 && loaded(facts)
}

/// What makes the kernel show addresses.
fn show_addresses(facts: &Facts) -> String {
    match facts.settings.kptr_restrict {
        Some(2..) => "sysctl kernel.kptr_restrict=1, and root or CAP_SYSLOG".into(),
        _ => "run as root, or with CAP_SYSLOG".into(),
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
pub fn prerequisites(survey: &Survey, options: &KernelOptions) -> Vec<Problem> {
    let Survey {
        facts,
        tables,
        offsets,
        plan,
        ..
    } = survey;
    let mut problems = Vec::new();
    let driver = loaded(facts);
    if !driver && options.locks.is_empty() {
        let remedy = if facts.kernel.arch == "s390x" {
            "modprobe vfio_ap, on a kernel built with CONFIG_VFIO_AP; or --source emulator"
        } else {
            "run apscope on the IBM Z host whose guests use vfio_ap; or --source emulator, or --lock for any lock"
        };
        problems.push(problem(
            Severity::Prevents,
            "the module vfio_ap is not loaded",
            "everything: there is no driver to measure",
            remedy,
        ));
        return problems;
    }
    let functions = probes_functions(facts, options);
    if let Err(why) = &tables.symbols
        && (driver || functions)
    {
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
    if driver && types.iter().all(|field| offsets.get(*field).is_none()) {
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
    if driver && !survey.has_driver() {
        problems.push(problem(
            Severity::Prevents,
            "the driver's generation is none of those known",
            "everything: what its functions mean is not known",
            "a newer apscope",
        ));
    } else if driver && let Some(fact) = plan.generation.contradictions.first() {
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
    if facts.settings.ftrace_enabled == Some(0) && functions {
        problems.push(problem(
            Severity::Prevents,
            "kernel.ftrace_enabled is 0",
            "everything at functions: no fentry and no kprobe at a function's entry fires",
            "sysctl kernel.ftrace_enabled=1",
        ));
    }
    if facts.tracing.addresses == Some(false) && driver {
        let remedy = &show_addresses(facts);
        problems.push(problem(
            Severity::Degrades,
            "/proc/kallsyms shows zeros instead of addresses",
            "the driver's own locks until an entry point names an mdev; functions whose name is not unique; names in stacks",
            remedy,
        ));
    } else if facts.tracing.addresses == Some(false) {
        problems.push(problem(
            if options.stacks_over.is_some() {
                Severity::Degrades
            } else {
                Severity::Note
            },
            HIDDEN_ADDRESSES,
            "names of functions in the stacks of --stacks-over",
            &show_addresses(facts),
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
    if let Err(why) = &tables.functions
        && functions
    {
        let is_fatal = if any_entry(plan) || !driver {
            Severity::Degrades
        } else {
            Severity::Prevents
        };
        problems.push(problem(
            is_fatal,
            &format!("which functions ftrace can patch is not known: {why}"),
            "every probe at a function: placed by breakpoint, it might stop the machine",
            if facts.tracing.tracefs.is_none() && facts.privileges.reads_as_root() {
                "mount -t tracefs tracefs /sys/kernel/tracing"
            } else if facts.privileges.reads_as_root() {
                "look for the kernel's configuration (CONFIG_DYNAMIC_FTRACE), seccomp or a security module"
            } else {
                "run as root, or with CAP_DAC_READ_SEARCH, and with tracefs mounted"
            },
        ));
    }
    problems
}

/// What is not allowed, and matters to a run at this level.
pub fn mechanisms(survey: &Survey, options: &KernelOptions) -> Vec<Problem> {
    let Survey {
        facts,
        allowed,
        plan,
        ..
    } = survey;
    let (level, driver) = (options.level, loaded(facts));
    let has = |mechanism| allowed.has(mechanism);
    // At a level that does not use it, or where something else does the same, it is a note.
    let where_used = |used: bool| {
        if used {
            Severity::Degrades
        } else {
            Severity::Note
        }
    };
    let mut problems = Vec::new();
    for (mechanism, answer) in allowed.iter() {
        let Err(why) = answer else { continue };
        let severity = match mechanism {
            needed if NEEDED.contains(&needed) => Severity::Prevents,
            // The driver's functions are a module's, which only kprobes reach.
            Mechanism::Kprobe | Mechanism::ProbeEvents
                if driver && level > 0 && !any_entry(plan) =>
            {
                Severity::Prevents
            }
            Mechanism::Kprobe | Mechanism::ProbeEvents => {
                where_used(probes_functions(facts, options))
            }
            Mechanism::Kretprobe => where_used(driver && level > 0),
            Mechanism::Fentry => where_used(level == 2 && !has(Mechanism::Kprobe)),
            Mechanism::Fexit => where_used(level == 2),
            Mechanism::BtfTracepoint => where_used(level > 0 && !has(Mechanism::RawTracepoint)),
            Mechanism::RawTracepoint => where_used(level > 0),
            Mechanism::RunTimeStats => {
                where_used(level > 0 && facts.settings.bpf_stats_enabled != Some(1))
            }
            // Of use for the emulated driver.
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

/// The mechanism that was asked for is used nowhere.
pub fn without_effect(survey: &Survey, options: &KernelOptions) -> Option<Problem> {
    let forced = options.mechanism?;
    if options.level > 0 && survey.plan.uses(forced) {
        return None;
    }
    Some(problem(
        Severity::Note,
        &format!(
            "--mechanism {} has no effect: nothing that is probed at level {} can be by it",
            forced.name(),
            options.level
        ),
        "nothing",
        "leave out --mechanism",
    ))
}

/// What a level lacks altogether.
pub fn level_not_reached(rows: &[AttachRow], options: &KernelOptions) -> Option<Problem> {
    let probed = |level| {
        let mut rows = rows.iter();
        rows.any(|row| row.status == RowStatus::Probed && row.level >= level)
    };
    if options.level > 0 && !probed(1) {
        return Some(problem(
            Severity::Prevents,
            "nothing can be attached to this kernel",
            "everything that is counted and timed",
            "the reasons are at the attach points; --level 0 attaches nothing",
        ));
    }
    (options.level == 2 && !probed(2)).then(|| {
        problem(
            Severity::Degrades,
            "level 2 is not reached, because no lock function can be probed",
            "acquisitions and holds; contended waits are measured as at level 1",
            "the reasons are at the attach points",
        )
    })
}

/// Losses of the plan; those with one reason are one problem. A loss whose reason is a problem already adds to that.
///
/// `by_choice`: losses that are there for the mechanism that was asked for.
pub fn add_losses(problems: &mut Vec<Problem>, losses: &[Loss], by_choice: &[Loss]) {
    let mut grouped: Vec<(String, Vec<&str>, Vec<&str>, bool)> = Vec::new();
    for loss in losses {
        let chosen = by_choice.contains(loss);
        let words = loss.reason.split(' ');
        let own = |word: &str| loss.names.iter().any(|name| name == word);
        let words = words.map(|word| if own(word) { "it" } else { word });
        let reason = words.collect::<Vec<_>>().join(" ");
        let index = grouped.iter().position(|(known, ..)| *known == reason);
        let index = index.unwrap_or_else(|| {
            grouped.push((reason, Vec::new(), Vec::new(), true));
            grouped.len() - 1
        });
        let (_, names, lost, all_chosen) = &mut grouped[index];
        *all_chosen &= chosen;
        for name in &loss.names {
            if !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
        if !lost.contains(&loss.lost.as_str()) {
            lost.push(&loss.lost);
        }
    }
    for (reason, names, lost, chosen) in grouped {
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
                remedy: if chosen {
                    "leave out --mechanism".into()
                } else {
                    "nothing, on this kernel".into()
                },
            }),
        }
    }
}
