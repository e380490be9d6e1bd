//! What can be measured of the emulated driver.

use super::{AttachRow, Chosen, Examined, Kind, Probe, Problem, RowStatus, Severity, Shown};
use crate::attach;
use crate::emulator::points;
use crate::machine::{Allowed, Basis, Facts, Mechanism, against};
use crate::options::{KernelOptions, ProbeChoice, RunOptions};
use crate::source::ebpf::{has_object, replaces_nops};

/// Mechanisms without which it is not measured over eBPF.
const NEEDED: [Mechanism; 5] = [
    Mechanism::MappedMaps,
    Mechanism::RingBuffer,
    Mechanism::Uprobe,
    Mechanism::AttachCookie,
    Mechanism::TestRun,
];

pub(super) fn examine(
    facts: &Facts,
    allowed: &Allowed,
    options: &RunOptions,
    reason: String,
) -> Examined {
    let mut problems = Vec::new();
    let in_process = options.probe == ProbeChoice::InProcess;
    // What a machine lacks for eBPF costs nothing where eBPF is not wanted.
    let severity = match options.probe {
        ProbeChoice::InProcess => Severity::Note,
        ProbeChoice::Auto => Severity::Degrades,
        ProbeChoice::Ebpf => Severity::Prevents,
    };
    for mechanism in NEEDED {
        if let Err(why) = allowed.get(mechanism) {
            problems.push(missing(facts, allowed, mechanism, why, severity));
        }
    }
    problems = merged(problems);
    if !has_object() {
        problems.push(Problem {
            severity,
            what: format!(
                "no eBPF programs for this architecture ({})",
                facts.kernel.arch
            ),
            lost: "the emulated driver over eBPF; in process it is measured all the same".into(),
            remedy: "x86_64, aarch64 or s390x".into(),
        });
    }
    let over_ebpf = problems.is_empty() && !in_process;
    let why_not = problems.first().map(|problem| problem.what.clone());
    if let Err(why) = allowed.get(Mechanism::RunTimeStats)
        && over_ebpf
        && facts.settings.bpf_stats_enabled != Some(1)
    {
        problems.push(missing(
            facts,
            allowed,
            Mechanism::RunTimeStats,
            why,
            Severity::Note,
        ));
    }
    problems.push(no_driver(facts));
    problems.extend(of_kernels(&options.kernel));
    let (probe, subject) = if over_ebpf {
        (Probe::Ebpf, "the emulated driver can be measured over eBPF")
    } else {
        (
            Probe::InProcess,
            "the emulated driver can be measured in process",
        )
    };
    let reason = match (&why_not, over_ebpf) {
        (_, true) => format!("{reason}; eBPF permitted"),
        (_, false) if in_process => format!("{reason}; measuring in process: asked for"),
        (Some(why), false) => format!("{reason}; {why}"),
        (None, false) => reason,
    };
    Examined {
        source: Chosen {
            kind: Kind::Emulator,
            probe,
            level: None,
            reason,
        },
        generation: None,
        attach: attach_rows(facts, over_ebpf),
        offsets: Vec::new(),
        shows: shows(facts, allowed, over_ebpf),
        blind_spots: blind_spots(over_ebpf),
        problems,
        subject: subject.to_owned(),
    }
}

/// A mechanism that is missing.
pub(super) fn missing(
    facts: &Facts,
    allowed: &Allowed,
    mechanism: Mechanism,
    why: &str,
    severity: Severity,
) -> Problem {
    let remedies: Vec<String> = against(facts, mechanism)
        .into_iter()
        .map(|o| o.remedy)
        .collect();
    let remedy = if !remedies.is_empty() {
        remedies.join("; ")
    } else if why.contains("CAP_SYS_ADMIN missing") {
        "run as root, or with CAP_SYS_ADMIN".into()
    } else if allowed.basis == Basis::Probed {
        "nothing in /proc and /sys forbids it: look for seccomp, a security module or the kernel's configuration".into()
    } else {
        "run `apscope doctor` on that machine for its own answer".into()
    };
    Problem {
        severity,
        what: format!("{mechanism}: {why}"),
        lost: mechanism.lost().into(),
        remedy,
    }
}

/// Makes one problem of those with one reason: `kprobes, kretprobes: CAP_PERFMON missing`.
pub(super) fn merged(problems: Vec<Problem>) -> Vec<Problem> {
    let mut all: Vec<Problem> = Vec::new();
    for problem in problems {
        let split = |text: &str| {
            let parts = text.split_once(": ");
            parts.map(|(name, why)| (name.to_owned(), why.to_owned()))
        };
        let same = |known: &&mut Problem| {
            let (one, other) = (split(&known.what), split(&problem.what));
            one.is_some_and(|(_, why)| other.is_some_and(|(_, other)| why == other))
                && known.severity == problem.severity
                && known.remedy == problem.remedy
        };
        match (all.iter_mut().find(same), split(&problem.what)) {
            (Some(known), Some((name, why))) => {
                let (names, _) = split(&known.what).unwrap_or_default();
                known.what = format!("{names}, {name}: {why}");
                known.lost = format!("{}; {}", known.lost, problem.lost);
            }
            _ => all.push(problem),
        }
    }
    all
}

/// Options of a kernel's measurement, which the emulated driver has no use for.
fn of_kernels(options: &KernelOptions) -> Option<Problem> {
    let given = [
        ("--btf", !options.btf.is_empty()),
        ("--lock", !options.locks.is_empty()),
        ("--mechanism", options.mechanism.is_some()),
    ];
    let names: Vec<&str> = given
        .into_iter()
        .filter_map(|(name, given)| given.then_some(name))
        .collect();
    (!names.is_empty()).then(|| Problem {
        severity: Severity::Note,
        what: format!("{} do not apply to the emulated driver", names.join(", ")).replacen(
            " do ",
            if names.len() == 1 { " does " } else { " do " },
            1,
        ),
        lost: "nothing: it names its locks and members itself, and uprobes or hooks measure it"
            .into(),
        remedy: "--source kernel, which they are for".into(),
    })
}

fn no_driver(facts: &Facts) -> Problem {
    let what = match facts.real_host() {
        None => "no kernel driver here: no s390x machine, no module vfio_ap, no AP bus".to_owned(),
        Some(sign) => format!("the real driver is left alone, although {sign}"),
    };
    Problem {
        severity: Severity::Note,
        what,
        lost: "measurements of a real driver; what is shown is EMULATED".into(),
        remedy: match facts.real_host() {
            None => "run apscope on the IBM Z host whose guests use vfio_ap",
            Some(_) => "without --source emulator",
        }
        .into(),
    }
}

fn attach_rows(facts: &Facts, over_ebpf: bool) -> Vec<AttachRow> {
    let nops = cfg!(target_arch = "x86_64") && replaces_nops(&facts.kernel.release);
    let mechanism = match (over_ebpf, nops) {
        (true, true) => "uprobe-nop5",
        (true, false) => "uprobe",
        (false, _) => "hook",
    };
    let mut rows = Vec::new();
    for point in points::all() {
        for hook in attach::hooks(point.module, point.symbol) {
            use probe_ebpf::abi::Program;
            let returns = matches!(hook.program, Program::Return | Program::FlushReturn);
            rows.push(AttachRow {
                symbol: format!("{} [{}]", point.symbol, point.module),
                side: if returns { "return" } else { "entry" },
                level: 2,
                mechanism: mechanism.into(),
                status: RowStatus::Probed,
                reason: String::new(),
                at_level_2: None,
                instead: None,
                lost: None,
            });
        }
    }
    rows
}

fn shows(facts: &Facts, allowed: &Allowed, over_ebpf: bool) -> Vec<Shown> {
    let stats = if !over_ebpf {
        Err("in process there are none".to_owned())
    } else if facts.settings.bpf_stats_enabled == Some(1) {
        Ok(())
    } else {
        allowed.get(Mechanism::RunTimeStats).map_err(str::to_owned)
    };
    let mut shows = Vec::new();
    for what in [
        "locks: acquisitions, contention, wait and hold times, by instance",
        "the open-coded lock kvm_busy, its holders and waiters",
        "who holds and who waits, live; lock-order edges",
        "entry points: calls, latencies, returned values, PQAP response codes",
    ] {
        shows.push(Shown::new(what, Ok(())));
    }
    shows.push(Shown::new("what the eBPF programs cost", stats));
    shows.push(Shown::new(
        "a real driver",
        Err("everything is EMULATED".into()),
    ));
    shows
}

fn blind_spots(over_ebpf: bool) -> Vec<String> {
    let mut spots = vec![
        "a test of a flag that finds it clear leaves no trace: its order edges are annotated, \
         from the list of entry points that test it"
            .to_owned(),
    ];
    if !over_ebpf {
        spots.push(
            "in process, times are the emulated driver's own clock reads, and no other process is \
             measured"
                .to_owned(),
        );
    }
    spots
}
