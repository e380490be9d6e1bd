//! eBPF in tests: whether it is permitted, one test at a time, and which programs a process has loaded.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aya::programs::{ProgramError, loaded_programs};

/// Attaching and detaching uprobes takes seconds, so that tests that do it at once would measure each other.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The right to measure with a probe, until it is dropped.
pub struct Permit(Option<MutexGuard<'static, ()>>);

/// The right to use eBPF until it is dropped; `None` where it is not permitted, which is printed. With
/// `APSCOPE_REQUIRE_BPF` in the environment that is a failure.
pub fn permitted() -> Option<Permit> {
    if let Some(Err(ProgramError::SyscallError(error))) = loaded_programs().next()
        && error.io_error.kind() == ErrorKind::PermissionDenied
    {
        assert!(
            std::env::var_os("APSCOPE_REQUIRE_BPF").is_none(),
            "APSCOPE_REQUIRE_BPF is set, and eBPF is not permitted: {error}"
        );
        eprintln!("skipped: eBPF is not permitted ({error})");
        return None;
    }
    // A test that has failed leaves nothing that another one could stumble over.
    let guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    Some(Permit(Some(guard)))
}

/// The right to measure with this probe; in process it needs none.
pub fn permitted_with(probe: &str) -> Option<Permit> {
    match probe {
        "ebpf" => permitted(),
        _ => Some(Permit(None)),
    }
}

/// Ids of the eBPF maps that a process has open.
pub fn maps_of(pid: u32) -> BTreeSet<u32> {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fdinfo")) else {
        return BTreeSet::new();
    };
    descriptors
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.path()).ok())
        .filter_map(|text| {
            text.lines()
                .find_map(|line| line.strip_prefix("map_id:")?.trim().parse().ok())
        })
        .collect()
}

/// Names of the loaded programs of this machine that use any of these maps: pinned, attached, or only open.
pub fn programs_on(maps: &BTreeSet<u32>) -> Vec<String> {
    // A program that goes away between its id and its description is not loaded.
    loaded_programs()
        .flatten()
        .filter(|program| {
            let used = program.map_ids().ok().flatten().unwrap_or_default();
            used.iter().any(|id| maps.contains(id))
        })
        .map(|program| program.name_as_str().unwrap_or_default().to_owned())
        .collect()
}
