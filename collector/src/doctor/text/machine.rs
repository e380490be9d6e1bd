//! What the machine is and what it allows, on the page.

use super::page::{Mark, Page};
use crate::doctor::{Kind, Report};
use crate::machine::{Basis, Capability, Facts, Lockdown, Others};
use crate::source::confine;

pub fn write(page: &mut Page, report: &Report) {
    machine(page, &report.machine);
    privileges(page, report);
    features(page, report);
}

fn machine(page: &mut Page, facts: &Facts) {
    page.heading("machine");
    if !facts.is_live() {
        page.row("files below", &facts.root.display().to_string());
    }
    let kernel = &facts.kernel;
    let or_unknown = |text: &str| if text.is_empty() { "unknown" } else { text }.to_owned();
    page.row("kernel", &or_unknown(&kernel.release));
    page.row("architecture", &or_unknown(&kernel.arch));
    if let Some(id) = &kernel.build_id {
        page.row("build id", id);
    }
    page.row(
        "lockdown",
        &match kernel.lockdown {
            Lockdown::Confidentiality => {
                "confidentiality: no kprobes, no kernel memory, no tracefs".to_owned()
            }
            Lockdown::Integrity => "integrity: refuses nothing that apscope does".to_owned(),
            Lockdown::None => "none".to_owned(),
        },
    );
    let mut kinds = Vec::new();
    if kernel.realtime {
        kinds.push("PREEMPT_RT: mutexes have no owner word");
    }
    if kernel.lockdep {
        kinds.push("lockdep: mutex_lock is mutex_lock_nested, times are longer");
    }
    if !kinds.is_empty() {
        page.row("kind", &kinds.join("; "));
    }
    page.row(
        "other collectors",
        &match &facts.others {
            Others::None => "none".to_owned(),
            Others::Attached { kernel, emulated } => {
                format!("{kernel} on this kernel, {emulated} on emulated drivers")
            }
            Others::Unknown(why) => format!("unknown: {why}"),
        },
    );
    for file in &facts.unreadable {
        page.row("not readable", &format!("{}: {}", file.path, file.reason));
    }
}

fn privileges(page: &mut Page, report: &Report) {
    page.heading("privileges");
    let facts = &report.machine;
    let privileges = &facts.privileges;
    let user = match privileges.uid {
        0 => "0 (root)".to_owned(),
        u32::MAX => "unknown".to_owned(),
        uid => uid.to_string(),
    };
    page.row("user", &user);
    if !privileges.initial_user_namespace {
        page.row(
            "user namespace",
            "not the initial one: capabilities do not count for tracing",
        );
    }
    for capability in Capability::ALL {
        let needed = match capability {
            Capability::Bpf | Capability::Perfmon | Capability::SysAdmin | Capability::Syslog => {
                true
            }
            Capability::DacReadSearch | Capability::DacOverride => privileges.uid != 0,
            Capability::SysPtrace => false,
            Capability::SysResource => !facts.kernel.at_least(5, 11),
        };
        let (mark, note) = match (privileges.has(capability), needed) {
            (true, _) => (Mark::Yes, ""),
            (false, true) => (Mark::No, "missing, "),
            (false, false) => (Mark::Plain, "not held, not needed here: "),
        };
        page.marked(
            mark,
            capability.name(),
            &format!("{note}for {}", capability.purpose()),
        );
    }
    if let Some(bytes) = privileges.memlock_bytes {
        page.row("locked memory", &format!("at most {} KiB", bytes >> 10));
    }
    let kept: &[Capability] = match report.source.kind {
        Kind::Kernel => &confine::KERNEL,
        Kind::Emulator => &confine::EMULATOR,
    };
    let kept = kept.iter().filter(|one| privileges.has(**one));
    let kept: Vec<&str> = kept.map(|one| one.name()).collect();
    let kept = if kept.is_empty() {
        "nothing".to_owned()
    } else {
        kept.join(", ")
    };
    page.row(
        "serve",
        &format!("once attached, what reads keeps {kept}; what talks to clients keeps nothing"),
    );
}

fn features(page: &mut Page, report: &Report) {
    let facts = &report.machine;
    page.heading(match report.allowed.basis {
        Basis::Probed => "kernel features (each was tried)",
        Basis::Recorded => "kernel features (as recorded on the machine)",
        Basis::Concluded => "kernel features (not probed: concluded from files)",
    });
    for (mechanism, answer) in report.allowed.iter() {
        match answer {
            Ok(()) => page.marked(Mark::Yes, mechanism.name(), ""),
            Err(why) => page.marked(Mark::No, mechanism.name(), why),
        }
    }
    let tracing = &facts.tracing;
    match &tracing.tracefs {
        None => page.marked(Mark::No, "tracefs", "not mounted"),
        Some(tracefs) if !tracefs.readable => {
            page.marked(
                Mark::No,
                "tracefs",
                &format!("{} is not readable", tracefs.path),
            );
        }
        Some(tracefs) => page.marked(Mark::Yes, "tracefs", &tracefs.path),
    }
    let there = |there: bool| if there { Mark::Yes } else { Mark::No };
    page.marked(
        there(facts.driver.btf),
        "type information",
        if facts.driver.btf {
            "/sys/kernel/btf/vmlinux"
        } else {
            "no /sys/kernel/btf/vmlinux"
        },
    );
    match tracing.addresses {
        Some(true) => page.marked(Mark::Yes, "symbol addresses", "/proc/kallsyms"),
        Some(false) => page.marked(Mark::No, "symbol addresses", "/proc/kallsyms has zeros"),
        None => page.marked(Mark::No, "symbol addresses", "no /proc/kallsyms"),
    }
    let settings = &facts.settings;
    for (name, value, meaning) in [
        (
            "perf_event_paranoid",
            settings.perf_event_paranoid,
            paranoid(facts),
        ),
        ("kptr_restrict", settings.kptr_restrict, restricted(facts)),
        (
            "unprivileged_bpf_disabled",
            settings.unprivileged_bpf_disabled,
            "",
        ),
        (
            "bpf_jit_enable",
            settings.bpf_jit_enable,
            if settings.bpf_jit_enable == Some(0) {
                "programs are interpreted: several times the cost"
            } else {
                ""
            },
        ),
        ("bpf_stats_enabled", settings.bpf_stats_enabled, ""),
        (
            "ftrace_enabled",
            settings.ftrace_enabled,
            if settings.ftrace_enabled == Some(0) {
                "no fentry and no kprobe at a function's entry fires"
            } else {
                ""
            },
        ),
    ] {
        if let Some(value) = value {
            let meaning = if meaning.is_empty() {
                String::new()
            } else {
                format!(": {meaning}")
            };
            page.row(name, &format!("{value}{meaning}"));
        }
    }
}

/// What the setting means to this process. Mainline knows -1 to 2; 3 and 4 are patches of Debian, Ubuntu and Android,
/// which keep unprivileged processes from perf_event_open(2) altogether.
fn paranoid(facts: &Facts) -> &'static str {
    match facts.settings.perf_event_paranoid {
        Some(..=2) | None => "",
        Some(_) if facts.privileges.has(Capability::SysAdmin) => "does not bind this process",
        Some(_) if facts.privileges.has(Capability::Perfmon) => {
            "does not bind this process; some distributions' kernels ask for CAP_SYS_ADMIN"
        }
        Some(_) => "no event can be opened without CAP_PERFMON",
    }
}

fn restricted(facts: &Facts) -> &'static str {
    match facts.settings.kptr_restrict {
        Some(1) => "addresses need CAP_SYSLOG",
        Some(2..) => "nobody sees addresses",
        _ => "",
    }
}
