//! Why eBPF cannot be used.

use aya::programs::ProgramError;
use probe_ebpf::abi;

use crate::machine::UPROBES_NEED_ADMIN;

/// Why eBPF cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// No object for this machine.
    #[error("no eBPF object for this architecture ({})", std::env::consts::ARCH)]
    NoObject,
    /// The process may not use eBPF.
    #[error("eBPF not permitted: {missing} missing")]
    NotPermitted {
        /// Names of the capabilities.
        missing: String,
    },
    /// The object was built for another version of the ABI.
    #[error(
        "the eBPF object has ABI version {found}, this program {}",
        abi::VERSION
    )]
    Version {
        /// The object's version.
        found: u32,
    },
    /// The kernel refused the object.
    #[error("eBPF load failed: {0}")]
    Load(String),
    /// A map or program that must be there is not.
    #[error("the eBPF object has no {0}")]
    Missing(&'static str),
    /// A program could not be attached.
    #[error("attaching {symbol}: {reason}")]
    Attach {
        /// The probe point.
        symbol: String,
        /// The kernel's answer.
        reason: String,
    },
    /// A map could not be read or written.
    #[error("map {map}: {reason}")]
    Map {
        /// The map.
        map: &'static str,
        /// The kernel's answer.
        reason: String,
    },
}

/// Error text with its causes: aya's outermost messages say little.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    // A verifier log is thousands of lines; its end says what was refused.
    let lines: Vec<&str> = text.lines().collect();
    if lines.len() > 12 {
        lines[lines.len() - 12..].join("\n")
    } else {
        text
    }
}

const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// What a refused uprobe is about, where that is known; it follows the kernel's answer.
pub fn why_refused(error: &ProgramError) -> Option<&'static str> {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    let mut denied = false;
    while let Some(inner) = cause {
        denied |= inner
            .downcast_ref::<std::io::Error>()
            .is_some_and(|e| e.raw_os_error() == Some(libc::EACCES));
        cause = inner.source();
    }
    (denied && effective() & (1 << CAP_SYS_ADMIN) == 0).then_some(UPROBES_NEED_ADMIN)
}

/// Effective capabilities of this process; all where they cannot be read, so that the kernel decides.
fn effective() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(u64::MAX)
}

/// Capabilities that eBPF tracing needs and this process lacks; empty if it has them.
pub fn missing_capabilities() -> String {
    let effective = effective();
    let has = |bit: u32| effective & (1 << bit) != 0 || effective & (1 << CAP_SYS_ADMIN) != 0;
    let mut missing = Vec::new();
    if !has(CAP_BPF) {
        missing.push("CAP_BPF");
    }
    if !has(CAP_PERFMON) {
        missing.push("CAP_PERFMON");
    }
    missing.join(" and ")
}
