//! What speaks against a mechanism, by what the files of a machine say.
//!
//! It explains an error number of the kernel, and stands in for trying where the machine is not this one.

use super::Facts;
use super::allowed::Mechanism;
use super::kernel::Lockdown;
use super::privileges::Capability;

/// Why a mechanism cannot be used; `None` where nothing speaks against it.
pub fn against(facts: &Facts, mechanism: Mechanism) -> Option<String> {
    let reasons = [
        missing_capability(facts, mechanism),
        locked_down(facts, mechanism),
        too_old(facts, mechanism),
        not_there(facts, mechanism),
    ];
    let reasons: Vec<String> = reasons.into_iter().flatten().collect();
    (!reasons.is_empty()).then(|| reasons.join("; "))
}

/// Capabilities that a mechanism needs. Until Linux 5.8, when CAP_BPF and CAP_PERFMON were split off, both were part of
/// CAP_SYS_ADMIN.
fn needed(mechanism: Mechanism) -> &'static [Capability] {
    match mechanism {
        Mechanism::MappedMaps | Mechanism::RingBuffer => &[Capability::Bpf],
        Mechanism::RunTimeStats => &[Capability::SysAdmin],
        Mechanism::KretprobePool => &[Capability::Perfmon],
        _ => &[Capability::Bpf, Capability::Perfmon],
    }
}

fn missing_capability(facts: &Facts, mechanism: Mechanism) -> Option<String> {
    let privileges = &facts.privileges;
    if !privileges.initial_user_namespace {
        return Some("capabilities of a user namespace do not count here".into());
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
    Some(format!("{} missing", missing.join(" and ")))
}

/// kernel/trace/trace_kprobe.c, trace_uprobe.c, bpf_trace.c and fs/tracefs/inode.c ask security_locked_down():
/// LOCKDOWN_KPROBES, LOCKDOWN_BPF_READ_KERNEL and LOCKDOWN_TRACEFS are refused under confidentiality alone;
/// perf_event_open(2) asks LOCKDOWN_PERF for register samples only. What integrity refuses, apscope does not do.
fn locked_down(facts: &Facts, mechanism: Mechanism) -> Option<String> {
    if facts.kernel.lockdown != Lockdown::Confidentiality {
        return None;
    }
    let refused = matches!(
        mechanism,
        Mechanism::ReadKernel | Mechanism::Kprobe | Mechanism::Kretprobe | Mechanism::KretprobePool
    );
    refused.then(|| "refused by the lockdown level confidentiality".into())
}

/// Releases from which on the kernel has a mechanism. They are used where it cannot be tried.
fn too_old(facts: &Facts, mechanism: Mechanism) -> Option<String> {
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
        | Mechanism::KretprobePool
        | Mechanism::Uprobe => (4, 17),
    };
    if facts.kernel.at_least(major, minor) {
        return None;
    }
    Some(format!(
        "comes with Linux {major}.{minor} on this architecture, this is {}",
        facts.kernel.release
    ))
}

fn not_there(facts: &Facts, mechanism: Mechanism) -> Option<String> {
    let tracing = &facts.tracing;
    let reason = match mechanism {
        Mechanism::BtfTracepoint | Mechanism::Fentry | Mechanism::Fexit if !facts.driver.btf => {
            "no type information of the kernel (/sys/kernel/btf/vmlinux)"
        }
        Mechanism::Fentry | Mechanism::Fexit if facts.settings.bpf_jit_enable == Some(0) => {
            "net.core.bpf_jit_enable is 0: there are no trampolines without the JIT"
        }
        Mechanism::Kprobe | Mechanism::Kretprobe if tracing.kprobe_pmu.is_none() => {
            "the kernel has no kprobe event source (CONFIG_KPROBE_EVENTS)"
        }
        Mechanism::Uprobe if tracing.uprobe_pmu.is_none() => {
            "the kernel has no uprobe event source (CONFIG_UPROBE_EVENTS)"
        }
        Mechanism::AttachCookie if tracing.uprobe_pmu.is_none() && tracing.kprobe_pmu.is_none() => {
            "the kernel has neither a kprobe nor a uprobe event source"
        }
        Mechanism::KretprobePool => match &tracing.tracefs {
            None => "tracefs is not mounted",
            Some(tracefs) if !tracefs.readable => "this process cannot read tracefs",
            Some(tracefs) if !tracefs.kprobe_events => {
                "tracefs has no kprobe_events (CONFIG_KPROBE_EVENTS)"
            }
            Some(tracefs) if !tracefs.kprobe_events_writable => {
                "this process cannot write kprobe_events"
            }
            Some(_) => return None,
        },
        _ => return None,
    };
    Some(reason.into())
}
