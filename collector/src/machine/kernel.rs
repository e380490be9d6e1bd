//! The kernel: its release, what its administrator has set, and what is built into it.

use std::fmt;

use serde::Serialize;

use super::files::Root;
use crate::attach::layouts::BuildId;

/// The kernel, as far as files tell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Kernel {
    /// `uname -r`; empty where it could not be read.
    pub release: String,
    /// `uname -m`; empty where nothing says it.
    pub arch: String,
    /// GNU build id, hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build_id: Option<String>,
    /// Locked down how far.
    pub lockdown: Lockdown,
    /// PREEMPT_RT: a mutex is an rt_mutex there, and has no owner word.
    pub realtime: bool,
    /// CPUs that there can ever be.
    pub possible_cpus: u32,
    /// lockdep is built in: mutex_lock() is then mutex_lock_nested().
    pub lockdep: bool,
}

/// How far the kernel is locked down (security/lockdown).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Lockdown {
    /// Not at all, or without that security module.
    None,
    /// User space may not change the kernel.
    Integrity,
    /// User space may not read the kernel's memory either: no kprobes, no bpf_probe_read_kernel(), no tracefs.
    Confidentiality,
}

impl fmt::Display for Lockdown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Integrity => "integrity",
            Self::Confidentiality => "confidentiality",
        })
    }
}

impl Kernel {
    pub(super) fn read(root: &mut Root) -> Self {
        let lockdown = root
            .text("sys/kernel/security/lockdown")
            .map_or(Lockdown::None, |text| match selected(&text) {
                "integrity" => Lockdown::Integrity,
                "confidentiality" => Lockdown::Confidentiality,
                _ => Lockdown::None,
            });
        Self {
            release: root.text("proc/sys/kernel/osrelease").unwrap_or_default(),
            arch: arch(root),
            build_id: root
                .bytes("sys/kernel/notes", 64 << 10)
                .and_then(|notes| BuildId::from_notes(&notes))
                .map(|id| id.to_string()),
            lockdown,
            realtime: root.number("sys/kernel/realtime") == Some(1),
            possible_cpus: root
                .text("sys/devices/system/cpu/possible")
                .and_then(|list| cpus(&list))
                .unwrap_or(1),
            lockdep: root.has("proc/lockdep_stats"),
        }
    }

    /// Whether the release is at least `major.minor`; a release that is not understood is new enough.
    pub fn at_least(&self, major: u32, minor: u32) -> bool {
        let mut numbers = self
            .release
            .split(|c: char| !c.is_ascii_digit())
            .map_while(|n| n.parse::<u32>().ok());
        match (numbers.next(), numbers.next()) {
            (Some(first), Some(second)) => (first, second) >= (major, minor),
            _ => true,
        }
    }
}

/// The word in brackets: `none [integrity] confidentiality`.
fn selected(text: &str) -> &str {
    let start = text.find('[').map_or(0, |at| at + 1);
    let rest = text.get(start..).unwrap_or_default();
    rest.split(']').next().unwrap_or_default()
}

/// CPUs in a list such as `0-3,7`.
fn cpus(list: &str) -> Option<u32> {
    let ranges = list.split(',').map(|range| {
        let (start, end) = range.split_once('-').unwrap_or((range, range));
        let (start, end) = (start.parse::<u32>().ok()?, end.parse::<u32>().ok()?);
        end.checked_sub(start)?.checked_add(1)
    });
    ranges.sum::<Option<u32>>().filter(|count| *count <= 65_536)
}

fn arch(root: &mut Root) -> String {
    // From Linux 6.1 on.
    if let Some(arch) = root.text("proc/sys/kernel/arch") {
        return arch;
    }
    if root.is_live() {
        return std::env::consts::ARCH.to_owned();
    }
    let cpus = root.text("proc/cpuinfo").unwrap_or_default();
    let vendor = cpus.lines().find(|line| line.starts_with("vendor_id"));
    match vendor
        .and_then(|line| line.split(':').nth(1))
        .map(str::trim)
    {
        Some("IBM/S390") => "s390x",
        Some("GenuineIntel" | "AuthenticAMD") => "x86_64",
        _ => "",
    }
    .to_owned()
}

/// Settings of the administrator; absent where the kernel has none such, or it could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Settings {
    /// kernel.perf_event_paranoid
    #[serde(skip_serializing_if = "Option::is_none")]
    pub perf_event_paranoid: Option<i64>,
    /// kernel.kptr_restrict
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kptr_restrict: Option<i64>,
    /// kernel.unprivileged_bpf_disabled
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unprivileged_bpf_disabled: Option<i64>,
    /// net.core.bpf_jit_enable
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bpf_jit_enable: Option<i64>,
    /// kernel.bpf_stats_enabled
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bpf_stats_enabled: Option<i64>,
    /// kernel.ftrace_enabled: 0 keeps every fentry and every kprobe at a function's entry from firing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ftrace_enabled: Option<i64>,
}

impl Settings {
    pub(super) fn read(root: &mut Root) -> Self {
        Self {
            perf_event_paranoid: root.number("proc/sys/kernel/perf_event_paranoid"),
            kptr_restrict: root.number("proc/sys/kernel/kptr_restrict"),
            unprivileged_bpf_disabled: root.number("proc/sys/kernel/unprivileged_bpf_disabled"),
            bpf_jit_enable: root.number("proc/sys/net/core/bpf_jit_enable"),
            bpf_stats_enabled: root.number("proc/sys/kernel/bpf_stats_enabled"),
            ftrace_enabled: root.number("proc/sys/kernel/ftrace_enabled"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_by_number() {
        let kernel = |release: &str| Kernel {
            release: release.into(),
            arch: String::new(),
            build_id: None,
            lockdown: Lockdown::None,
            realtime: false,
            possible_cpus: 1,
            lockdep: false,
        };
        assert!(!kernel("5.10.223-lab510").at_least(5, 11));
        assert!(kernel("5.10.223-lab510").at_least(5, 10));
        assert!(kernel("6.1.176").at_least(5, 11));
        assert!(kernel("").at_least(5, 11));
    }

    #[test]
    fn lists_of_cpus_are_counted() {
        assert_eq!(cpus("0-399"), Some(400));
        assert_eq!(cpus("0,2-3,7"), Some(4));
        assert_eq!(cpus(""), None);
        assert_eq!(cpus("3-0"), None);
        assert_eq!(cpus("0-4294967295"), None);
    }

    #[test]
    fn the_word_in_brackets_is_the_level() {
        assert_eq!(selected("none [integrity] confidentiality"), "integrity");
        assert_eq!(selected("[none] integrity confidentiality"), "none");
        assert_eq!(selected("["), "");
    }
}
