//! The object: its bytes, loading it with maps of the right sizes, and filling these.

use std::os::fd::{AsFd as _, OwnedFd};

use aya::maps::{Array, HashMap, Map, MapData, RingBuf, Stack};
use aya::programs::Program;
use aya::{Ebpf, EbpfLoader};
use probe_ebpf::abi::{
    self, Adopted, Config, EntryInfo, InstanceInfo, LOCK_IS_WAIT_QUEUE, LockInfo, MAX_CPUS,
    MAX_ENTRY_POINTS, MAX_SERIES, PROGRAMS, SLOTS_PER_ADOPTED, Task,
};

use super::{ProbeError, chain, missing_capabilities};
use crate::source::budget::Sizes;
use crate::source::memory::{Mapping, Memory, Shared, View};

#[cfg(target_arch = "x86_64")]
pub(super) const OBJECT: &[u8] =
    aya::include_bytes_aligned!("../../../../probe-ebpf/objects/apscope-probes-x86_64.o");
#[cfg(target_arch = "aarch64")]
pub(super) const OBJECT: &[u8] =
    aya::include_bytes_aligned!("../../../../probe-ebpf/objects/apscope-probes-aarch64.o");
#[cfg(target_arch = "s390x")]
pub(super) const OBJECT: &[u8] =
    aya::include_bytes_aligned!("../../../../probe-ebpf/objects/apscope-probes-s390x.o");
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "s390x")))]
pub(super) const OBJECT: &[u8] = &[];

/// Whether there are programs for this architecture.
pub fn has_object() -> bool {
    !OBJECT.is_empty()
}

/// A value's bytes, for maps whose types live in a crate that knows nothing of aya.
pub fn bytes_of<T: Copy, const N: usize>(value: &T) -> [u8; N] {
    const { assert!(size_of::<T>() == N) };
    // SAFETY: the sizes are equal; the types passed here (LockInfo, EntryInfo, Config) have no padding, which the
    // ABI's assertions on every offset show.
    unsafe { std::mem::transmute_copy(value) }
}

/// Whether there is an object, and the right to load it.
pub(super) fn loadable() -> Result<(), ProbeError> {
    if !has_object() {
        return Err(ProbeError::NoObject);
    }
    let missing = missing_capabilities();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(ProbeError::NotPermitted { missing })
    }
}

/// Loads the object: maps are made, programs are not loaded yet.
pub fn load(config: &Config, sizes: &Sizes) -> Result<Ebpf, ProbeError> {
    loadable()?;
    check_version()?;
    let config: [u8; size_of::<Config>()] = bytes_of(config);
    let mut ebpf = EbpfLoader::new()
        .btf(None)
        .override_global("CONFIG", &config[..], true)
        .map_max_entries("LOCKS", sizes.locks)
        .map_max_entries("TASK_SLOTS", sizes.tasks)
        .map_max_entries("FREE_TASKS", sizes.tasks)
        .map_max_entries("TASKS", sizes.tasks)
        .map_max_entries("EXTREMES", sizes.tasks)
        .map_max_entries("SERIES", sizes.shards * MAX_SERIES as u32)
        .map_max_entries("ENTRIES", sizes.shards * MAX_ENTRY_POINTS as u32)
        .map_max_entries("INSTANCES", sizes.instances)
        .map_max_entries("INSTANCE_INFO", sizes.instances)
        .map_max_entries("FREE_INSTANCES", (sizes.adopted / SLOTS_PER_ADOPTED).max(1))
        .map_max_entries("ENTRY_AT", 4 * MAX_ENTRY_POINTS as u32)
        .map_max_entries("EDGE_SLOTS", sizes.edges)
        .map_max_entries("FREE_EDGES", sizes.edges)
        .map_max_entries("EDGES", sizes.edges)
        .map_max_entries("STACKS", sizes.stacks)
        .map_max_entries("SPANS", sizes.ring_bytes)
        .load(OBJECT)
        .map_err(|e| ProbeError::Load(chain(&e)))?;
    for (name, first, slots, step) in [
        ("FREE_TASKS", 0, sizes.tasks, 1),
        ("FREE_EDGES", 0, sizes.edges, 1),
        (
            "FREE_INSTANCES",
            sizes.instances - sizes.adopted,
            sizes.instances,
            SLOTS_PER_ADOPTED,
        ),
    ] {
        let map = ebpf.map_mut(name).ok_or(ProbeError::Missing(name))?;
        let mut free: Stack<_, u32> = Stack::try_from(map).map_err(failed(name))?;
        // The lowest slot on top, so that the slots in use stay together.
        for slot in (first..slots).step_by(step as usize).rev() {
            free.push(slot, 0).map_err(failed(name))?;
        }
    }
    Ok(ebpf)
}

fn failed(map: &'static str) -> impl Fn(aya::maps::MapError) -> ProbeError {
    move |e| ProbeError::Map {
        map,
        reason: chain(&e),
    }
}

/// The object says for which version of the ABI it was built: its global `ABI_VERSION`.
pub fn check_version() -> Result<(), ProbeError> {
    use object::{Object as _, ObjectSection as _, ObjectSymbol as _};
    let missing = ProbeError::Missing("ABI_VERSION");
    let file = object::File::parse(OBJECT).map_err(|e| ProbeError::Load(chain(&e)))?;
    let Some(symbol) = file.symbol_by_name("ABI_VERSION") else {
        return Err(missing);
    };
    let bytes = symbol
        .section_index()
        .and_then(|index| file.section_by_index(index).ok())
        .and_then(|section| section.data_range(symbol.address(), 4).ok().flatten())
        .and_then(|bytes| bytes.try_into().ok());
    let Some(bytes) = bytes else {
        return Err(missing);
    };
    let found = u32::from_ne_bytes(bytes);
    if found == abi::VERSION {
        Ok(())
    } else {
        Err(ProbeError::Version { found })
    }
}

/// Loads a program that needs no types, and returns a descriptor of its own.
pub fn load_program(ebpf: &mut Ebpf, name: &'static str) -> Result<OwnedFd, ProbeError> {
    let program = ebpf.program_mut(name).ok_or(ProbeError::Missing(name))?;
    load_untyped(program, name)
}

/// Loads a program that needs no types, and returns a descriptor of its own.
pub fn load_untyped(program: &mut Program, name: &'static str) -> Result<OwnedFd, ProbeError> {
    let failed = |reason: String| ProbeError::Load(format!("{name}: {reason}"));
    match program {
        Program::RawTracePoint(program) => program.load(),
        Program::KProbe(program) => program.load(),
        _ => return Err(failed("is of another type".into())),
    }
    .map_err(|e| failed(chain(&e)))?;
    let fd = program.fd().map_err(|e| failed(chain(&e)))?;
    fd.as_fd()
        .try_clone_to_owned()
        .map_err(|e| failed(e.to_string()))
}

/// A descriptor of its own for a program that is loaded already.
pub fn loaded_program(ebpf: &Ebpf, name: &str) -> Option<OwnedFd> {
    let fd = ebpf.program(name)?.fd().ok()?;
    fd.as_fd().try_clone_to_owned().ok()
}

/// The data of a map, through a descriptor of its own.
pub fn own_map(ebpf: &Ebpf, name: &'static str) -> Result<MapData, ProbeError> {
    let failed = |reason: String| ProbeError::Map { map: name, reason };
    let (Map::Array(data) | Map::PerCpuArray(data)) =
        ebpf.map(name).ok_or(ProbeError::Missing(name))?
    else {
        return Err(failed("is of another type".into()));
    };
    let fd = data.fd().as_fd().try_clone_to_owned();
    let fd = fd.map_err(|e| failed(e.to_string()))?;
    MapData::from_fd(fd).map_err(|e| failed(chain(&e)))
}

/// Adds locks to the table of traced addresses.
pub fn add_locks(ebpf: &mut Ebpf, all: &[(u64, LockInfo)]) -> Result<(), ProbeError> {
    let map = ebpf.map_mut("LOCKS").ok_or(ProbeError::Missing("LOCKS"))?;
    let mut locks: HashMap<_, u64, [u8; size_of::<LockInfo>()]> =
        HashMap::try_from(map).map_err(failed("LOCKS"))?;
    for (address, info) in all {
        locks
            .insert(address, bytes_of(info), 0)
            .map_err(failed("LOCKS"))?;
    }
    Ok(())
}

/// Gives the record of a thread that is gone to others. Nobody writes to it any more.
pub fn free_task(ebpf: &mut Ebpf, slot: u32, tid: u32) -> Result<(), ProbeError> {
    let map = ebpf
        .map_mut("TASK_SLOTS")
        .ok_or(ProbeError::Missing("TASK_SLOTS"))?;
    let mut slots: HashMap<_, u32, u32> = HashMap::try_from(map).map_err(failed("TASK_SLOTS"))?;
    if slots.get(&tid, 0).ok() != Some(slot) {
        return Ok(());
    }
    slots.remove(&tid).map_err(failed("TASK_SLOTS"))?;
    clear_task(ebpf, slot)
}

/// Gives the record of a thread that has ended with a lock in its hands to others: the program that saw it end has left
/// it as it was, and nobody finds it by its thread id any more.
pub fn free_ended_task(ebpf: &mut Ebpf, slot: u32, tid: u32) -> Result<(), ProbeError> {
    let map = ebpf
        .map_mut("TASK_SLOTS")
        .ok_or(ProbeError::Missing("TASK_SLOTS"))?;
    let mut slots: HashMap<_, u32, u32> = HashMap::try_from(map).map_err(failed("TASK_SLOTS"))?;
    // Its end was not seen; otherwise the id, if it is there, is another thread's.
    if slots.get(&tid, 0).ok() == Some(slot) {
        slots.remove(&tid).map_err(failed("TASK_SLOTS"))?;
    }
    clear_task(ebpf, slot)
}

/// Empties a record that nobody writes to, and makes its slot free.
fn clear_task(ebpf: &mut Ebpf, slot: u32) -> Result<(), ProbeError> {
    let map = ebpf.map_mut("TASKS").ok_or(ProbeError::Missing("TASKS"))?;
    let mut tasks: Array<_, [u8; size_of::<Task>()]> =
        Array::try_from(map).map_err(failed("TASKS"))?;
    tasks
        .set(slot, [0; size_of::<Task>()], 0)
        .map_err(failed("TASKS"))?;
    let map = ebpf
        .map_mut("FREE_TASKS")
        .ok_or(ProbeError::Missing("FREE_TASKS"))?;
    let mut free: Stack<_, u32> = Stack::try_from(map).map_err(failed("FREE_TASKS"))?;
    free.push(slot, 0).map_err(failed("FREE_TASKS"))
}

/// Adds a lock that was found to those that programs adopt. False if there is no room.
pub fn adopt(ebpf: &mut Ebpf, lock: &Adopted, tgid: u32, now_ns: u64) -> Result<bool, ProbeError> {
    let map = ebpf
        .map_mut("FREE_INSTANCES")
        .ok_or(ProbeError::Missing("FREE_INSTANCES"))?;
    let mut free: Stack<_, u32> = Stack::try_from(map).map_err(failed("FREE_INSTANCES"))?;
    let Ok(slot) = free.pop(0) else {
        return Ok(false);
    };
    let map = ebpf
        .map_mut("INSTANCE_INFO")
        .ok_or(ProbeError::Missing("INSTANCE_INFO"))?;
    let mut info: Array<_, [u64; size_of::<InstanceInfo>() / 8]> =
        Array::try_from(map).map_err(failed("INSTANCE_INFO"))?;
    // The fields of `InstanceInfo`, in order; the layout is asserted where it is defined.
    let words = [
        lock.address,
        u64::from(lock.class) | u64::from(lock.kind) << 8,
        lock.object,
        u64::from(lock.number),
        u64::from(tgid),
        now_ns,
        0,
        0,
    ];
    info.set(slot, words, 0).map_err(failed("INSTANCE_INFO"))?;
    let info = LockInfo {
        target: 0,
        instance: slot,
        class: lock.class,
        kind: lock.kind,
        flags: 0,
        reserved: 0,
    };
    add_locks(ebpf, &[(lock.address, info)])?;
    if lock.wait_queue != 0 {
        let queue = LockInfo {
            target: lock.address,
            flags: LOCK_IS_WAIT_QUEUE,
            ..info
        };
        add_locks(ebpf, &[(lock.wait_queue, queue)])?;
    }
    Ok(true)
}

/// Takes a lock out of the table of traced addresses.
pub fn forget_lock(ebpf: &mut Ebpf, address: u64) -> Result<(), ProbeError> {
    let map = ebpf.map_mut("LOCKS").ok_or(ProbeError::Missing("LOCKS"))?;
    let mut locks: HashMap<_, u64, [u8; size_of::<LockInfo>()]> =
        HashMap::try_from(map).map_err(failed("LOCKS"))?;
    match locks.remove(&address) {
        // A program was faster.
        Ok(()) | Err(aya::maps::MapError::KeyNotFound) => Ok(()),
        Err(e) => Err(failed("LOCKS")(e)),
    }
}

/// Takes an adopted lock out of the table, and says in its place that its object has ended.
pub fn end_instance(ebpf: &mut Ebpf, slot: u32, now_ns: u64) -> Result<(), ProbeError> {
    /// Place of `gone_ns` in `InstanceInfo`.
    const GONE: usize = std::mem::offset_of!(InstanceInfo, gone_ns) / 8;
    let map = ebpf
        .map_mut("INSTANCE_INFO")
        .ok_or(ProbeError::Missing("INSTANCE_INFO"))?;
    let mut info: Array<_, [u64; size_of::<InstanceInfo>() / 8]> =
        Array::try_from(map).map_err(failed("INSTANCE_INFO"))?;
    let mut words = info.get(&slot, 0).map_err(failed("INSTANCE_INFO"))?;
    words[GONE] = now_ns;
    info.set(slot, words, 0).map_err(failed("INSTANCE_INFO"))?;
    forget_lock(ebpf, words[0])
}

/// Gives the slot of a lock that has ended to others. Nobody finds it any more.
pub fn free_instance(ebpf: &mut Ebpf, slot: u32) -> Result<(), ProbeError> {
    let map = ebpf
        .map_mut("INSTANCE_INFO")
        .ok_or(ProbeError::Missing("INSTANCE_INFO"))?;
    let mut info: Array<_, [u64; size_of::<InstanceInfo>() / 8]> =
        Array::try_from(map).map_err(failed("INSTANCE_INFO"))?;
    info.set(slot, [0; size_of::<InstanceInfo>() / 8], 0)
        .map_err(failed("INSTANCE_INFO"))?;
    let map = ebpf
        .map_mut("FREE_INSTANCES")
        .ok_or(ProbeError::Missing("FREE_INSTANCES"))?;
    let mut free: Stack<_, u32> = Stack::try_from(map).map_err(failed("FREE_INSTANCES"))?;
    free.push(slot, 0).map_err(failed("FREE_INSTANCES"))
}

/// Writes the attach-time facts of all entry points.
pub fn set_entry_info(
    ebpf: &mut Ebpf,
    all: &[EntryInfo; MAX_ENTRY_POINTS],
) -> Result<(), ProbeError> {
    let map = ebpf
        .map_mut("ENTRY_INFO")
        .ok_or(ProbeError::Missing("ENTRY_INFO"))?;
    let mut entries: Array<_, [u8; size_of::<EntryInfo>()]> =
        Array::try_from(map).map_err(failed("ENTRY_INFO"))?;
    for (id, info) in all.iter().enumerate() {
        entries
            .set(id as u32, bytes_of(info), 0)
            .map_err(failed("ENTRY_INFO"))?;
    }
    Ok(())
}

/// Says at which addresses which entry points are probed.
pub fn set_entry_at(ebpf: &mut Ebpf, all: &[(u64, u8)]) -> Result<(), ProbeError> {
    let map = ebpf
        .map_mut("ENTRY_AT")
        .ok_or(ProbeError::Missing("ENTRY_AT"))?;
    let mut entries: HashMap<_, u64, u32> = HashMap::try_from(map).map_err(failed("ENTRY_AT"))?;
    for (address, id) in all {
        entries
            .insert(address, u32::from(*id), 0)
            .map_err(failed("ENTRY_AT"))?;
    }
    Ok(())
}

/// Entry points are not probed at these addresses any more.
pub fn forget_entries(ebpf: &mut Ebpf, addresses: &[u64]) -> Result<(), ProbeError> {
    let map = ebpf
        .map_mut("ENTRY_AT")
        .ok_or(ProbeError::Missing("ENTRY_AT"))?;
    let mut entries: HashMap<_, u64, u32> = HashMap::try_from(map).map_err(failed("ENTRY_AT"))?;
    for address in addresses {
        match entries.remove(address) {
            Ok(()) | Err(aya::maps::MapError::KeyNotFound) => {}
            Err(e) => return Err(failed("ENTRY_AT")(e)),
        }
    }
    Ok(())
}

/// Writes a word of the map `GATE`, see [`probe_ebpf::abi::gate`].
pub fn set_gate(ebpf: &mut Ebpf, word: u32, value: u64) -> Result<(), ProbeError> {
    let map = ebpf.map_mut("GATE").ok_or(ProbeError::Missing("GATE"))?;
    let mut gate: Array<_, u64> = Array::try_from(map).map_err(failed("GATE"))?;
    gate.set(word, value, 0).map_err(failed("GATE"))
}

/// Takes the span ring out of the object.
pub fn take_ring(ebpf: &mut Ebpf) -> Result<RingBuf<MapData>, ProbeError> {
    let map = ebpf.take_map("SPANS").ok_or(ProbeError::Missing("SPANS"))?;
    RingBuf::try_from(map).map_err(failed("SPANS"))
}

/// Maps everything that the programs write into this process.
pub fn map_memory(ebpf: &Ebpf, sizes: &Sizes) -> Result<Memory, ProbeError> {
    Ok(Memory {
        tasks: view(ebpf, "TASKS", sizes.tasks as usize)?,
        extremes: view(ebpf, "EXTREMES", sizes.tasks as usize)?,
        series: view(ebpf, "SERIES", sizes.shards as usize * MAX_SERIES)?,
        entries: view(ebpf, "ENTRIES", sizes.shards as usize * MAX_ENTRY_POINTS)?,
        instances: view(ebpf, "INSTANCES", sizes.instances as usize)?,
        by_entry: view(ebpf, "BY_ENTRY", MAX_SERIES * MAX_ENTRY_POINTS)?,
        pqap: view(ebpf, "PQAP", 2 * abi::PQAP_FUNCTIONS * abi::PQAP_RESPONSES)?,
        edges: view(ebpf, "EDGES", sizes.edges as usize)?,
        counters: view(ebpf, "COUNTERS", MAX_CPUS * PROGRAMS)?,
    })
}

/// Maps an array map into this process.
pub fn view<T: Shared>(ebpf: &Ebpf, name: &'static str, len: usize) -> Result<View<T>, ProbeError> {
    let Some(Map::Array(data)) = ebpf.map(name) else {
        return Err(ProbeError::Missing(name));
    };
    let length = (len * size_of::<T>()).next_multiple_of(page_size());
    let mapping =
        Mapping::new(data.fd().as_fd(), 0, length, false).map_err(|e| ProbeError::Map {
            map: name,
            reason: format!("mmap: {e}"),
        })?;
    View::new(&mapping, 0, len).ok_or(ProbeError::Map {
        map: name,
        reason: "too small".into(),
    })
}

/// Size of a page in bytes.
#[must_use]
pub fn page_size() -> usize {
    // SAFETY: no precondition.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}
