//! What speaks against a mechanism, by what the files of a machine say.
//!
//! It explains an error number of the kernel, and stands in for trying where the machine is not this one.

use super::Facts;
use super::allowed::Mechanism;
use super::kernel::Lockdown;
use super::privileges::Capability;

/// Something that speaks against a mechanism.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    /// What it is.
    pub reason: String,
    /// What to do about it.
    pub remedy: String,
}

impl Obstacle {
    fn new(reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            remedy: remedy.into(),
        }
    }
}

/// Everything that speaks against a mechanism; empty where nothing does.
pub fn against(facts: &Facts, mechanism: Mechanism) -> Vec<Obstacle> {
    let obstacles = [
        missing_capability(facts, mechanism),
        locked_down(facts, mechanism),
        too_old(facts, mechanism),
        not_there(facts, mechanism),
    ];
    obstacles.into_iter().flatten().collect()
}

/// The reasons of obstacles in a line; `None` where there are none.
pub(super) fn in_words(obstacles: &[Obstacle]) -> Option<String> {
    let reasons: Vec<&str> = obstacles.iter().map(|o| o.reason.as_str()).collect();
    (!reasons.is_empty()).then(|| reasons.join("; "))
}

/// Capabilities that a mechanism needs. Until Linux 5.8, when CAP_BPF and CAP_PERFMON were split off, both were part of
/// CAP_SYS_ADMIN.
fn needed(mechanism: Mechanism) -> &'static [Capability] {
    match mechanism {
        Mechanism::MappedMaps | Mechanism::RingBuffer => &[Capability::Bpf],
        Mechanism::RunTimeStats => &[Capability::SysAdmin],
        Mechanism::ProbeEvents => &[Capability::Perfmon],
        _ => &[Capability::Bpf, Capability::Perfmon],
    }
}

/// What is said where a uprobe is refused to a process without it. perf_uprobe_event_init() asks for CAP_SYS_ADMIN, and
/// no longer for CAP_PERFMON, from Linux 6.16 on and in stable kernels of that time: a probe in the middle of an
/// instruction destroys the program.
pub const UPROBES_NEED_ADMIN: &str = "CAP_SYS_ADMIN missing, which uprobes need from Linux 6.16 on";

fn missing_capability(facts: &Facts, mechanism: Mechanism) -> Option<Obstacle> {
    let privileges = &facts.privileges;
    if !privileges.initial_user_namespace {
        return Some(Obstacle::new(
            "capabilities of a user namespace do not count here",
            "run outside of the container's user namespace",
        ));
    }
    let uprobe = matches!(mechanism, Mechanism::Uprobe)
        || mechanism == Mechanism::AttachCookie && facts.tracing.kprobe_pmu.is_none();
    if uprobe && facts.kernel.at_least(6, 16) && !privileges.has(Capability::SysAdmin) {
        let others = [Capability::Bpf, Capability::Perfmon];
        let others = others.into_iter().filter(|c| !privileges.has(*c));
        let others: Vec<&str> = others.map(Capability::name).collect();
        let (reason, all) = match others.join(", ") {
            none if none.is_empty() => (UPROBES_NEED_ADMIN.to_owned(), none),
            some => (format!("{some}, {UPROBES_NEED_ADMIN}"), format!("{some}, ")),
        };
        let remedy = format!("run as root, or with {all}CAP_SYS_ADMIN");
        return Some(Obstacle::new(reason, remedy));
    }
    let split = facts.kernel.at_least(5, 8);
    let mut missing: Vec<&str> = Vec::new();
    for capability in needed(mechanism) {
        let asked = if split {
            *capability
        } else {
            Capability::SysAdmin
        };
        if !privileges.has(asked) && !missing.contains(&asked.name()) {
            missing.push(asked.name());
        }
    }
    if missing.is_empty() {
        return None;
    }
    let missing = missing.join(" and ");
    Some(Obstacle::new(
        format!("{missing} missing"),
        format!("run as root, or with {missing}"),
    ))
}

/// kernel/trace/trace_kprobe.c, trace_uprobe.c, bpf_trace.c and fs/tracefs/inode.c ask security_locked_down():
/// LOCKDOWN_KPROBES, LOCKDOWN_BPF_READ_KERNEL and LOCKDOWN_TRACEFS are refused under confidentiality alone;
/// perf_event_open(2) asks LOCKDOWN_PERF for register samples only. What integrity refuses, apscope does not do.
fn locked_down(facts: &Facts, mechanism: Mechanism) -> Option<Obstacle> {
    if facts.kernel.lockdown != Lockdown::Confidentiality {
        return None;
    }
    let refused = matches!(
        mechanism,
        Mechanism::ReadKernel | Mechanism::Kprobe | Mechanism::Kretprobe | Mechanism::ProbeEvents
    );
    refused.then(|| {
        Obstacle::new(
            "refused by the lockdown level confidentiality",
            "boot with lockdown=integrity, or without secure boot",
        )
    })
}

/// Releases from which on the kernel has a mechanism. They are used where it cannot be tried.
fn too_old(facts: &Facts, mechanism: Mechanism) -> Option<Obstacle> {
    let (major, minor) = match mechanism {
        Mechanism::MappedMaps | Mechanism::BtfTracepoint | Mechanism::ReadKernel => (5, 5),
        Mechanism::RingBuffer | Mechanism::RunTimeStats => (5, 8),
        Mechanism::TestRun => (5, 10),
        Mechanism::AttachCookie => (5, 15),
        // arch_prepare_bpf_trampoline().
        Mechanism::Fentry | Mechanism::Fexit => match facts.kernel.arch.as_str() {
            "s390x" => (6, 3),
            "aarch64" => (6, 0),
            _ => (5, 5),
        },
        Mechanism::RawTracepoint
        | Mechanism::Kprobe
        | Mechanism::Kretprobe
        | Mechanism::ProbeEvents
        | Mechanism::Uprobe => (4, 17),
    };
    if facts.kernel.at_least(major, minor) {
        return None;
    }
    Some(Obstacle::new(
        format!(
            "comes with Linux {major}.{minor} on this architecture, this is {}",
            facts.kernel.release
        ),
        format!("a kernel from {major}.{minor} on"),
    ))
}

fn not_there(facts: &Facts, mechanism: Mechanism) -> Option<Obstacle> {
    let tracing = &facts.tracing;
    let (reason, remedy) = match mechanism {
        Mechanism::BtfTracepoint | Mechanism::Fentry | Mechanism::Fexit if !facts.driver.btf => (
            "no type information of the kernel (/sys/kernel/btf/vmlinux)",
            "a kernel built with CONFIG_DEBUG_INFO_BTF",
        ),
        Mechanism::Fentry | Mechanism::Fexit if facts.settings.bpf_jit_enable == Some(0) => (
            "net.core.bpf_jit_enable is 0: there are no trampolines without the JIT",
            "sysctl net.core.bpf_jit_enable=1",
        ),
        Mechanism::Kprobe | Mechanism::Kretprobe if tracing.kprobe_pmu.is_none() => (
            "the kernel has no kprobe event source",
            "a kernel built with CONFIG_KPROBE_EVENTS",
        ),
        Mechanism::Uprobe if tracing.uprobe_pmu.is_none() => (
            "the kernel has no uprobe event source",
            "a kernel built with CONFIG_UPROBE_EVENTS",
        ),
        Mechanism::AttachCookie if tracing.uprobe_pmu.is_none() && tracing.kprobe_pmu.is_none() => {
            (
                "the kernel has no uprobe event source; the kernel has no kprobe event source",
                "a kernel built with CONFIG_UPROBE_EVENTS",
            )
        }
        Mechanism::ProbeEvents => match &tracing.tracefs {
            None => (
                "tracefs is not mounted",
                "mount -t tracefs tracefs /sys/kernel/tracing",
            ),
            Some(tracefs) if !tracefs.readable => (
                "this process cannot read tracefs",
                "run as root, or with CAP_DAC_READ_SEARCH and CAP_DAC_OVERRIDE",
            ),
            Some(tracefs) if !tracefs.kprobe_events => (
                "tracefs has no kprobe_events",
                "a kernel built with CONFIG_KPROBE_EVENTS",
            ),
            Some(tracefs) if !tracefs.kprobe_events_writable => (
                "this process cannot write kprobe_events",
                "run as root, or with CAP_DAC_OVERRIDE",
            ),
            Some(_) => return None,
        },
        _ => return None,
    };
    Some(Obstacle::new(reason, remedy))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Facts;
    use super::*;

    /// A machine without any file, as root of a recent kernel.
    fn facts() -> Facts {
        let mut facts = Facts::read(Path::new("/nonexistent"));
        facts.kernel.release = "6.12.0".into();
        facts.kernel.arch = "s390x".into();
        facts.privileges.effective = u64::MAX;
        facts.privileges.uid = 0;
        facts.driver.btf = true;
        facts.tracing.kprobe_pmu = Some(6);
        facts.tracing.uprobe_pmu = Some(7);
        facts
    }

    fn reasons(facts: &Facts, mechanism: Mechanism) -> String {
        in_words(&against(facts, mechanism)).unwrap_or_default()
    }

    #[test]
    fn nothing_speaks_against_a_whole_machine() {
        let facts = facts();
        for mechanism in Mechanism::ALL {
            let expected = if mechanism == Mechanism::ProbeEvents {
                "tracefs is not mounted"
            } else {
                ""
            };
            assert_eq!(reasons(&facts, mechanism), expected, "{mechanism}");
        }
    }

    #[test]
    fn each_capability_is_missed_where_it_is_needed() {
        let mut facts = facts();
        // Without administration, which stands for the others.
        let without = |bits: &[u32]| {
            bits.iter()
                .fold(!(1 << 21), |all: u64, bit| all & !(1 << bit))
        };
        facts.privileges.effective = without(&[39]);
        assert_eq!(reasons(&facts, Mechanism::RingBuffer), "CAP_BPF missing");
        assert_eq!(reasons(&facts, Mechanism::Uprobe), "CAP_BPF missing");
        facts.privileges.effective = without(&[38]);
        assert_eq!(reasons(&facts, Mechanism::RingBuffer), "");
        assert_eq!(reasons(&facts, Mechanism::Kprobe), "CAP_PERFMON missing");
        facts.privileges.effective = without(&[]);
        assert_eq!(reasons(&facts, Mechanism::Kprobe), "");
        assert_eq!(
            reasons(&facts, Mechanism::RunTimeStats),
            "CAP_SYS_ADMIN missing"
        );
        // Before CAP_BPF there was CAP_SYS_ADMIN.
        facts.kernel.release = "5.4.0".into();
        assert!(reasons(&facts, Mechanism::Kprobe).starts_with("CAP_SYS_ADMIN missing"));
    }

    #[test]
    fn uprobes_came_to_need_administration() {
        let mut facts = facts();
        facts.privileges.effective = !(1 << 21);
        assert_eq!(reasons(&facts, Mechanism::Uprobe), "");
        facts.kernel.release = "6.18.44".into();
        assert_eq!(reasons(&facts, Mechanism::Uprobe), UPROBES_NEED_ADMIN);
        assert_eq!(reasons(&facts, Mechanism::Kprobe), "");
        facts.privileges.effective &= !(1 << 38);
        assert!(
            reasons(&facts, Mechanism::Uprobe).starts_with("CAP_PERFMON, CAP_SYS_ADMIN missing")
        );
    }

    #[test]
    fn only_confidentiality_refuses_what_is_done_here() {
        let mut facts = facts();
        facts.kernel.lockdown = Lockdown::Integrity;
        assert_eq!(reasons(&facts, Mechanism::Kprobe), "");
        facts.kernel.lockdown = Lockdown::Confidentiality;
        for mechanism in [Mechanism::Kprobe, Mechanism::ReadKernel] {
            assert!(reasons(&facts, mechanism).contains("confidentiality"));
        }
        assert_eq!(reasons(&facts, Mechanism::Uprobe), "");
    }

    #[test]
    fn trampolines_came_to_s390_late() {
        let mut facts = facts();
        facts.kernel.release = "6.1.176".into();
        assert!(reasons(&facts, Mechanism::Fexit).contains("6.3"));
        facts.kernel.arch = "x86_64".into();
        assert_eq!(reasons(&facts, Mechanism::Fexit), "");
        facts.driver.btf = false;
        assert!(reasons(&facts, Mechanism::Fexit).contains("type information"));
    }
}
