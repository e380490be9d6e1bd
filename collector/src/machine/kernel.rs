//! The kernel: its release, what its administrator has set, and what is built into it.

use std::fmt;

use serde::Serialize;

use super::files::Root;

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
                .and_then(|notes| build_id(&notes)),
            lockdown,
            realtime: root.number("sys/kernel/realtime") == Some(1),
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

/// The GNU build id in ELF notes, hexadecimal. The notes may be of either byte order.
pub fn build_id(notes: &[u8]) -> Option<String> {
    const NT_GNU_BUILD_ID: u32 = 3;
    let swapped = |bytes: [u8; 4]| {
        let (little, big) = (u32::from_le_bytes(bytes), u32::from_be_bytes(bytes));
        // Sizes and types are small: of the two readings the smaller one is right.
        little.min(big)
    };
    let word =
        |at: usize| -> Option<u32> { Some(swapped(notes.get(at..at + 4)?.try_into().ok()?)) };
    let mut at = 0;
    while let (Some(name_size), Some(size), Some(kind)) = (word(at), word(at + 4), word(at + 8)) {
        let name_at = at + 12;
        let content_at = name_at + (name_size as usize).next_multiple_of(4);
        let end = content_at.checked_add(size as usize)?;
        let content = notes.get(content_at..end)?;
        let name = notes.get(name_at..name_at + name_size as usize)?;
        if kind == NT_GNU_BUILD_ID && name == b"GNU\0" && (8..=64).contains(&content.len()) {
            return Some(hex(content));
        }
        at = end.next_multiple_of(4);
    }
    None
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
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

    fn note(big: bool, name: &[u8], kind: u32, content: &[u8]) -> Vec<u8> {
        let word = |n: u32| {
            if big {
                n.to_be_bytes()
            } else {
                n.to_le_bytes()
            }
        };
        let mut bytes = Vec::new();
        for n in [name.len() as u32, content.len() as u32, kind] {
            bytes.extend(word(n));
        }
        for part in [name, content] {
            bytes.extend(part);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        bytes
    }

    #[test]
    fn the_build_id_is_found_among_other_notes_of_either_byte_order() {
        for big in [false, true] {
            let mut notes = note(big, b"Xen\0", 6, b"linux");
            notes.extend(note(big, b"GNU\0", 3, &[0xab; 20]));
            assert_eq!(build_id(&notes), Some("ab".repeat(20)), "{big}");
            assert_eq!(build_id(&notes[..notes.len() - 1]), None);
        }
        assert_eq!(build_id(&[]), None);
        assert_eq!(build_id(&[0xff; 64]), None);
    }

    #[test]
    fn releases_are_compared_by_number() {
        let kernel = |release: &str| Kernel {
            release: release.into(),
            arch: String::new(),
            build_id: None,
            lockdown: Lockdown::None,
            realtime: false,
            lockdep: false,
        };
        assert!(!kernel("5.10.223-lab510").at_least(5, 11));
        assert!(kernel("5.10.223-lab510").at_least(5, 10));
        assert!(kernel("6.1.176").at_least(5, 11));
        assert!(kernel("").at_least(5, 11));
    }

    #[test]
    fn the_word_in_brackets_is_the_level() {
        assert_eq!(selected("none [integrity] confidentiality"), "integrity");
        assert_eq!(selected("[none] integrity confidentiality"), "none");
        assert_eq!(selected("["), "");
    }
}
