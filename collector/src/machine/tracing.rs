//! What the kernel's own tracing offers: tracefs, the dynamic event sources, symbol addresses.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde::Serialize;

use super::files::Root;

/// Tracing, as far as files tell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tracing {
    /// tracefs, where it is mounted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracefs: Option<Tracefs>,
    /// Number of the kprobe event source; absent where the kernel has none (CONFIG_KPROBE_EVENTS).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kprobe_pmu: Option<u32>,
    /// Number of the uprobe event source; absent where the kernel has none (CONFIG_UPROBE_EVENTS).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uprobe_pmu: Option<u32>,
    /// /proc/kallsyms shows addresses, and not zeros; absent where it is not there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub addresses: Option<bool>,
}

/// A mounted tracefs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a file that is there or not"
)]
pub struct Tracefs {
    /// Where, absolute on the machine.
    pub path: String,
    /// This process can list it.
    pub readable: bool,
    /// `kprobe_events` is there: CONFIG_KPROBE_EVENTS.
    pub kprobe_events: bool,
    /// This process can write `kprobe_events`: return probes with a pool of their own size.
    pub kprobe_events_writable: bool,
    /// `available_filter_functions` is there: CONFIG_DYNAMIC_FTRACE.
    pub filter_functions: bool,
    /// The tracepoints `lock:contention_begin` and `contention_end` are there: from Linux 5.19 on.
    pub contention: bool,
}

impl Tracing {
    pub(super) fn read(root: &mut Root) -> Self {
        Self {
            tracefs: mounted(root).map(|path| Tracefs::read(root, &path)),
            kprobe_pmu: pmu(root, "kprobe"),
            uprobe_pmu: pmu(root, "uprobe"),
            addresses: addresses(root),
        }
    }
}

impl Tracefs {
    fn read(root: &Root, path: &str) -> Self {
        let events = format!("{path}/kprobe_events");
        Self {
            readable: std::fs::read_dir(root.path(path)).is_ok(),
            kprobe_events: root.has(&events),
            kprobe_events_writable: writable(&root.path(&events)),
            filter_functions: root.has(&format!("{path}/available_filter_functions")),
            contention: root.has(&format!("{path}/events/lock/contention_begin")),
            path: format!("/{path}"),
        }
    }
}

/// Where tracefs is mounted, relative to the root. The mounts say so; in a copy without them, what lies there.
fn mounted(root: &mut Root) -> Option<String> {
    let usual = ["sys/kernel/tracing", "sys/kernel/debug/tracing"];
    let Some(mounts) = root.text("proc/self/mountinfo") else {
        let there = usual.iter().find(|path| {
            root.has(&format!("{path}/available_events"))
                || root.has(&format!("{path}/kprobe_events"))
        });
        return there.map(|path| (*path).to_owned());
    };
    let mut found: Vec<&str> = mounts
        .lines()
        .filter_map(|line| {
            let (mount, kind) = line.split_once(" - ")?;
            let is_tracefs = kind.split(' ').next() == Some("tracefs");
            let place = mount.split(' ').nth(4)?.strip_prefix('/')?;
            is_tracefs.then_some(place)
        })
        .collect();
    // Of several, a usual one: the others are not read from.
    found.sort_by_key(|path| {
        usual
            .iter()
            .position(|usual| usual == path)
            .unwrap_or(usual.len())
    });
    found.first().map(|path| (*path).to_owned())
}

fn pmu(root: &mut Root, name: &str) -> Option<u32> {
    let number = root.number(&format!("sys/bus/event_source/devices/{name}/type"))?;
    u32::try_from(number).ok()
}

/// Whether the first symbols have addresses. The very first may be 0 in truth: per-CPU offsets.
fn addresses(root: &mut Root) -> Option<bool> {
    let start = root.start("proc/kallsyms", 64 << 10)?;
    let text = String::from_utf8_lossy(&start);
    let mut shown = text
        .lines()
        .filter_map(|line| line.split(' ').next())
        .map(|address| address.bytes().any(|digit| digit != b'0'));
    shown.next()?;
    Some(shown.any(|shown| shown))
}

fn writable(path: &Path) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else {
        return false;
    };
    // SAFETY: the path is a C string that outlives the call.
    unsafe { libc::faccessat(libc::AT_FDCWD, path.as_ptr(), libc::W_OK, libc::AT_EACCESS) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(path: &str, text: &str) -> (tempfile::TempDir, Root) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
        let root = Root::new(folder.path());
        (folder, root)
    }

    #[test]
    fn tracefs_is_where_the_mounts_say() {
        let mounts = "30 23 0:26 / /sys rw shared:7 - sysfs sysfs rw\n\
            34 30 0:12 / /srv/t rw shared:13 - tracefs tracefs rw\n\
            35 30 0:12 / /sys/kernel/tracing rw shared:13 - tracefs tracefs rw\n";
        let (_folder, mut root) = with("proc/self/mountinfo", mounts);
        assert_eq!(mounted(&mut root).as_deref(), Some("sys/kernel/tracing"));
        let (folder, mut root) = with(
            "proc/self/mountinfo",
            "30 23 0:26 / /sys rw - sysfs sysfs rw\n",
        );
        std::fs::create_dir_all(folder.path().join("sys/kernel/tracing/available_events")).unwrap();
        assert_eq!(mounted(&mut root), None);
    }

    #[test]
    fn zeros_are_no_addresses() {
        let (_folder, mut root) = with("proc/kallsyms", "00000000 A a\n00000000 T b\n");
        assert_eq!(addresses(&mut root), Some(false));
        let (_folder, mut root) = with("proc/kallsyms", "00000000 A a\n000003ffe0100000 T b\n");
        assert_eq!(addresses(&mut root), Some(true));
        let (_folder, mut root) = with("proc/cpuinfo", "");
        assert_eq!(addresses(&mut root), None);
    }
}
