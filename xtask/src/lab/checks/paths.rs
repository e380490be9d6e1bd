//! What apscope opens on a guest that hangs, as strace sees it: nothing whose reading takes a lock that may be stuck.

use std::collections::BTreeSet;

use super::{Evidence, Findings};
use crate::failure::Failure;

/// Attributes of the driver, of its devices and of the AP bus take the locks that apscope looks at
/// (drivers/s390/crypto/vfio_ap_ops.c, ap_bus.c).
const FOLDERS: [&str; 4] = [
    "/sys/devices/vfio_ap/",
    "/sys/devices/ap/",
    "/sys/bus/ap/",
    "/sys/bus/mdev/",
];

/// Files of a process that take the lock of its address space, or its guard for credentials (fs/proc/base.c,
/// fs/proc/task_mmu.c).
const OF_PROCESSES: [&str; 12] = [
    "cmdline",
    "environ",
    "auxv",
    "maps",
    "smaps",
    "smaps_rollup",
    "numa_maps",
    "pagemap",
    "mem",
    "exe",
    "map_files",
    "clear_refs",
];

/// Judges the log of a diagnosis, where there is a strace for the guest.
pub fn judge(evidence: &Evidence, findings: &mut Findings) -> Result<(), Failure> {
    if !evidence.folder.join("strace").exists() {
        let given = evidence
            .folder
            .with_file_name("bin")
            .join("strace")
            .exists();
        findings.add(
            "paths that are opened",
            !given,
            if given {
                "strace has left no log"
            } else {
                "not looked at: there is no strace for the guest"
            },
        );
        return Ok(());
    }
    let log = evidence.text("strace")?;
    let opened = opened(&log);
    let own: BTreeSet<&str> = log
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    let wrong: Vec<String> = opened
        .iter()
        .filter(|path| takes_locks(path, &own))
        .map(|path| (*path).to_owned())
        .collect();
    let some = opened.contains("/proc/kallsyms");
    findings.none(
        "no path was opened whose reading takes a lock that may be stuck",
        format!("{} paths", opened.len()),
        &wrong,
    );
    findings.add(
        "and strace has seen what was opened",
        some,
        if some {
            "/proc/kallsyms is there"
        } else {
            "/proc/kallsyms is not there"
        },
    );
    Ok(())
}

/// Paths of `openat` and `open` that gave a descriptor.
fn opened(log: &str) -> BTreeSet<&str> {
    log.lines()
        .filter(|line| line.contains("open"))
        .filter_map(|line| {
            let (_, rest) = line.split_once('"')?;
            let (path, result) = rest.split_once('"')?;
            (!result.contains("= -1")).then_some(path)
        })
        .collect()
}

/// Whether reading it may wait. What a process reads of itself waits for nobody else.
fn takes_locks(path: &str, own: &BTreeSet<&str>) -> bool {
    if FOLDERS.iter().any(|folder| path.starts_with(folder)) {
        return true;
    }
    let Some(rest) = path.strip_prefix("/proc/") else {
        return false;
    };
    let mut parts = rest.split('/');
    let process = parts.next().unwrap_or_default();
    let of_others = process.bytes().all(|b| b.is_ascii_digit()) && !own.contains(process);
    of_others && parts.any(|part| OF_PROCESSES.contains(&part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_opened_counts() {
        let log = "495 openat(AT_FDCWD, \"/proc/kallsyms\", O_RDONLY|O_CLOEXEC) = 3\n\
            495 openat(AT_FDCWD, \"/sys/bus/ap/x\", O_RDONLY) = -1 ENOENT (No such file)\n\
            496 read(3, \"x\", 1) = 1\n";
        assert_eq!(opened(log), BTreeSet::from(["/proc/kallsyms"]));
    }

    #[test]
    fn attributes_of_the_driver_and_memory_of_others_may_be_stuck() {
        let own = BTreeSet::from(["495"]);
        for path in [
            "/sys/devices/vfio_ap/matrix/u/matrix",
            "/sys/bus/ap/ap_max_domain_id",
            "/proc/492/cmdline",
            "/proc/492/task/493/maps",
        ] {
            assert!(takes_locks(path, &own), "{path}");
        }
        for path in [
            "/proc/495/maps",
            "/proc/self/maps",
            "/proc/492/task/493/stack",
            "/proc/492/cgroup",
            "/sys/kernel/btf/vmlinux",
        ] {
            assert!(!takes_locks(path, &own), "{path}");
        }
    }
}
