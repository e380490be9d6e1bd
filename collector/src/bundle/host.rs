//! What a machine says besides the measurement. Nothing here opens a file whose read takes a lock of the driver or the mm
//! lock of a process; what may block all the same runs with a deadline ([`super::job`]).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::Clocks;
use crate::source::reader::{boottime_ns, monotonic_ns, unix_ns};

/// Records of the kernel's log that are read.
const MAX_RECORDS: usize = 200_000;
/// A record is no longer (`PRINTK_MESSAGE_MAX`, kernel/printk/internal.h, v6.3 and later; `CONSOLE_EXT_LOG_MAX` before).
const MAX_RECORD: usize = 8192;
/// Bytes of hung-task reports that are kept: the last ones.
const MAX_REPORTS: usize = 4 << 20;
/// Records of one report.
const MAX_REPORT: usize = 120;
/// Bytes of a stack that are read.
const MAX_STACK: u64 = 16 << 10;
/// Tasks whose stack is read.
const MAX_TASKS: usize = 512;
/// Bytes of a setting that are read.
const MAX_SETTING: u64 = 4096;
/// Bytes of types that are read: a kernel's are some 5 MB.
const MAX_TYPES: u64 = 64 << 20;

/// Settings that say how a kernel can be traced, and what it does when something hangs. None of them has a name in it.
const SYSCTLS: [&str; 24] = [
    "kernel/arch",
    "kernel/bpf_stats_enabled",
    "kernel/dmesg_restrict",
    "kernel/ftrace_enabled",
    "kernel/hung_task_all_cpu_backtrace",
    "kernel/hung_task_check_count",
    "kernel/hung_task_check_interval_secs",
    "kernel/hung_task_detect_count",
    "kernel/hung_task_panic",
    "kernel/hung_task_timeout_secs",
    "kernel/hung_task_warnings",
    "kernel/kptr_restrict",
    "kernel/osrelease",
    "kernel/ostype",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/panic_on_warn",
    "kernel/perf_event_paranoid",
    "kernel/softlockup_panic",
    "kernel/sysrq",
    "kernel/tainted",
    "kernel/unprivileged_bpf_disabled",
    "kernel/version",
    "net/core/bpf_jit_enable",
];

/// Modules whose build ids are taken, besides the kernel.
const MODULES: [&str; 9] = [
    "ap",
    "kvm",
    "mdev",
    "pkey",
    "vfio",
    "vfio_ap",
    "vfio_iommu_type1",
    "vfio_mdev",
    "zcrypt",
];

/// Reads all clocks, one after the other.
pub fn clocks() -> Clocks {
    let monotonic_ns = monotonic_ns();
    let (boottime_ns, unix_ns) = (boottime_ns(), unix_ns());
    Clocks {
        monotonic_ns,
        boottime_ns,
        unix_ns,
        within_ns: self::monotonic_ns().saturating_sub(monotonic_ns),
    }
}

/// Name of the host: `uname -n`.
pub fn name() -> String {
    let name = read("/proc/sys/kernel/hostname", MAX_SETTING).unwrap_or_default();
    String::from_utf8_lossy(&name).trim().to_owned()
}

/// The settings that there are.
///
/// # Errors
///
/// There are none.
pub fn sysctls() -> Result<BTreeMap<String, String>, String> {
    let mut all = BTreeMap::new();
    for name in SYSCTLS {
        if let Ok(value) = read(format!("/proc/sys/{name}"), MAX_SETTING) {
            let value = String::from_utf8_lossy(&value).trim().to_owned();
            all.insert(name.to_owned(), value);
        }
    }
    if all.is_empty() {
        return Err("/proc/sys/kernel cannot be read".into());
    }
    Ok(all)
}

/// What tells one build of a kernel or module from another.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Build {
    /// The linker's build id, in hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build_id: Option<String>,
    /// SHA-256 of its types (BTF), which have no build id of their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub btf_sha256: Option<String>,
    /// Bytes of its types.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub btf_bytes: Option<usize>,
}

/// Builds of the kernel and of the modules that matter, as far as they are loaded.
///
/// # Errors
///
/// There is none.
pub fn builds() -> Result<BTreeMap<String, Build>, String> {
    let mut all = BTreeMap::new();
    let mut add = |name: &str, notes: &str, types: &str| {
        let build_id = read(notes, MAX_SETTING).ok().and_then(|n| build_id(&n));
        let btf = read(format!("/sys/kernel/btf/{types}"), MAX_TYPES).ok();
        if build_id.is_some() || btf.is_some() {
            let build = Build {
                build_id,
                btf_sha256: btf.as_ref().map(|btf| hex(&Sha256::digest(btf))),
                btf_bytes: btf.as_ref().map(Vec::len),
            };
            all.insert(name.to_owned(), build);
        }
    };
    add("kernel", "/sys/kernel/notes", "vmlinux");
    for module in MODULES {
        let notes = format!("/sys/module/{module}/notes/.note.gnu.build-id");
        add(module, &notes, module);
    }
    if all.is_empty() {
        return Err("neither /sys/kernel/notes nor /sys/kernel/btf can be read".into());
    }
    Ok(all)
}

/// The build id in ELF notes (`NT_GNU_BUILD_ID`, 3, of `GNU`), in the machine's byte order.
fn build_id(mut notes: &[u8]) -> Option<String> {
    let word = |bytes: &[u8], at: usize| -> Option<usize> {
        let bytes = bytes.get(at..at + 4)?.try_into().ok()?;
        Some(u32::from_ne_bytes(bytes) as usize)
    };
    loop {
        let (name, length, kind) = (word(notes, 0)?, word(notes, 4)?, word(notes, 8)?);
        let start = name.checked_next_multiple_of(4)?.checked_add(12)?;
        let end = start.checked_add(length)?;
        let content = notes.get(start..end)?;
        if kind == 3 && notes.get(12..16) == Some(b"GNU\0") {
            return Some(hex(content));
        }
        notes = notes.get(end.checked_next_multiple_of(4)?..)?;
    }
}

/// Kernel stacks of these tasks (process, thread), as text that `diagnose --from` reads.
///
/// Reading one waits for the `exec_update_lock` of its process, which is no lock of the driver, but may be held for long.
///
/// # Errors
///
/// None can be read.
pub fn stacks(tasks: &[(u32, u32)]) -> Result<String, String> {
    let mut text = String::new();
    let mut failed = None;
    for (pid, tid) in tasks.iter().take(MAX_TASKS) {
        let path = format!("/proc/{pid}/task/{tid}/stack");
        match read(&path, MAX_STACK) {
            Ok(stack) => {
                // Writing to a String cannot fail.
                let _ = writeln!(text, "==> {path} <==\n{}", String::from_utf8_lossy(&stack));
            }
            Err(error) => failed = Some(error),
        }
    }
    match failed {
        _ if tasks.is_empty() => Err("no task holds, waits or is in a call".into()),
        Some(error) if text.is_empty() => Err(format!("no stack can be read: {error}")),
        _ => Ok(text),
    }
}

/// The reports of the hung-task detector in the kernel's log, with their stacks and without registers.
///
/// # Errors
///
/// The log cannot be read, or has none.
pub fn hung_tasks() -> Result<String, String> {
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open("/dev/kmsg")
        .map_err(|error| format!("/dev/kmsg cannot be read: {error}"))?;
    let mut reports = Reports::default();
    let mut record = [0_u8; MAX_RECORD];
    for _ in 0..MAX_RECORDS {
        match file.read(&mut record) {
            Ok(0) => break,
            Ok(length) => reports.add(&String::from_utf8_lossy(&record[..length])),
            // Records were overwritten before they were read: the next read goes on behind them.
            Err(e) if e.raw_os_error() == Some(libc::EPIPE) => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            // Nothing more for now.
            Err(_) => break,
        }
    }
    if reports.text.is_empty() {
        return Err("the kernel's log has no report of the hung-task detector".into());
    }
    Ok(reports.text)
}

/// Hung-task reports, record by record.
#[derive(Default)]
struct Reports {
    text: String,
    /// Records of the report that goes on, which may still come.
    left: usize,
}

impl Reports {
    /// Looks at a record of /dev/kmsg: `3,812,1234567,-;INFO: task ...`, with the time in microseconds.
    fn add(&mut self, record: &str) {
        let Some((head, text)) = record.lines().next().unwrap_or("").split_once(';') else {
            return;
        };
        if text.contains("blocked for more than") {
            self.left = MAX_REPORT;
        } else if self.left == 0 || !belongs(text) {
            return;
        }
        self.left -= 1;
        let at_us: u64 = head
            .split(',')
            .nth(2)
            .and_then(|t| t.parse().ok())
            .unwrap_or(0);
        // Writing to a String cannot fail.
        let _ = writeln!(
            self.text,
            "[{:5}.{:06}] {text}",
            at_us / 1_000_000,
            at_us % 1_000_000
        );
        if self.text.len() > MAX_REPORTS {
            let half = self.text.len() - MAX_REPORTS / 2;
            let cut = self.text[..half].rfind('\n').map_or(half, |at| at + 1);
            self.text.drain(..cut);
        }
    }
}

/// Lines of a report: the task, its stack, and whom the kernel blames. Registers are none of them, whatever is in them.
fn belongs(text: &str) -> bool {
    let line = text.trim_start();
    [
        "INFO: task",
        "task:",
        "Call Trace",
        "Workqueue:",
        "Not tainted",
        "Tainted:",
        "\"echo 0",
    ]
    .iter()
    .any(|start| line.starts_with(start))
        || (line.contains("+0x") && line.contains("/0x") && !line.starts_with("RIP"))
        || line.contains("is blocked on a")
}

fn read(path: impl AsRef<Path>, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_have_stacks_and_no_registers() {
        let mut reports = Reports::default();
        for record in [
            "6,1,1000000,-;usb 1-1: new device",
            "3,2,2000000,-;INFO: task qemu:72 blocked for more than 10 seconds.",
            "3,3,2000001,-;      Not tainted 5.10.223 #1",
            "6,4,2000002,-;task:qemu state:D stack: 0 pid: 72",
            "6,5,2000003,-;Call Trace:",
            "6,6,2000004,-; [<00000000a>] __schedule+0x2a/0x8c0 ",
            "6,7,2000005,-;RIP: 0033:0x7f00deadbeef",
            "6,8,2000006,-;RAX: ffffffffffffffda RBX: 0000000000000001",
            "6,9,2000007,-;eth0: link is up",
        ] {
            reports.add(record);
        }
        assert_eq!(reports.text.lines().count(), 5, "{}", reports.text);
        assert!(
            reports
                .text
                .starts_with("[    2.000000] INFO: task qemu:72 blocked")
        );
        assert!(!reports.text.contains("RAX") && !reports.text.contains("eth0"));
    }

    #[test]
    fn a_build_id_is_found_among_notes() {
        let mut notes = Vec::new();
        for (name, kind, content) in [
            (*b"Xen\0", 6_u32, &[1_u8, 2][..]),
            (*b"GNU\0", 3, &[0xab; 20]),
        ] {
            for word in [4, content.len() as u32, kind] {
                notes.extend(word.to_ne_bytes());
            }
            notes.extend(name);
            notes.extend(content);
            notes.resize(notes.len().next_multiple_of(4), 0);
        }
        assert_eq!(build_id(&notes), Some("ab".repeat(20)));
        for cut in 0..notes.len() {
            assert_eq!(build_id(&notes[..cut]), None);
        }
    }
}
