//! The eBPF programs: loaded, sized, attached to an emulated driver, and read.

mod error;

use std::collections::BTreeMap;
use std::io;
use std::num::NonZeroU32;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::Ordering;

use aya::maps::{Array, HashMap, Map, MapData, RingBuf, Stack};
use aya::programs::uprobe::{UProbeAttachLocation, UProbeAttachPoint, UProbeLink, UProbeScope};
use aya::programs::{ProgramError, UProbe};
use aya::{Ebpf, EbpfLoader};
use probe_ebpf::abi::{
    self, Config, EntryInfo, LockInfo, MAX_CPUS, MAX_ENTRY_POINTS, MAX_SERIES, PROGRAM_NAMES,
    PROGRAMS, Span,
};

use super::budget::Sizes;
use super::instances::Instances;
use super::memory::{Mapping, Memory, Shared, View};
use super::reader::{ProgramRuns, SpanRing};
use super::tables;
use crate::attach;
use crate::emulator::protocol::Hello;
use crate::frame::AttachPoint;

pub use error::ProbeError;
use error::{chain, missing_capabilities, why_refused};

#[cfg(target_arch = "x86_64")]
const OBJECT: &[u8] =
    aya::include_bytes_aligned!("../../../../probe-ebpf/objects/apscope-probes-x86_64.o");
#[cfg(target_arch = "aarch64")]
const OBJECT: &[u8] =
    aya::include_bytes_aligned!("../../../../probe-ebpf/objects/apscope-probes-aarch64.o");
#[cfg(target_arch = "s390x")]
const OBJECT: &[u8] =
    aya::include_bytes_aligned!("../../../../probe-ebpf/objects/apscope-probes-s390x.o");
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "s390x")))]
const OBJECT: &[u8] = &[];

/// Whether there are programs for this architecture.
pub(crate) fn has_object() -> bool {
    !OBJECT.is_empty()
}

/// Loaded and attached programs. Dropping it detaches them.
pub struct Probes {
    ebpf: Ebpf,
    ring: Option<RingBuf<MapData>>,
    ring_bytes: u32,
    /// Attached while they are here.
    _links: Vec<UProbeLink>,
    /// What was attached where.
    pub attach: Vec<AttachPoint>,
}

/// A value's bytes, for maps whose types live in a crate that knows nothing of aya.
fn bytes_of<T: Copy, const N: usize>(value: &T) -> [u8; N] {
    const { assert!(size_of::<T>() == N) };
    // SAFETY: the sizes are equal; the types passed here (LockInfo, EntryInfo, Config) have no padding, which the
    // ABI's assertions on every offset show.
    unsafe { std::mem::transmute_copy(value) }
}

impl Probes {
    /// Loads the programs, fills the maps and attaches to every probe point of the emulator.
    pub fn attach(
        hello: &Hello,
        instances: &Instances,
        sizes: &Sizes,
    ) -> Result<(Self, Memory), ProbeError> {
        if !has_object() {
            return Err(ProbeError::NoObject);
        }
        let missing = missing_capabilities();
        if !missing.is_empty() {
            return Err(ProbeError::NotPermitted { missing });
        }
        check_version()?;
        let config: [u8; size_of::<Config>()] = bytes_of(&tables::config(hello, sizes));
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
            .map_max_entries("EDGE_SLOTS", sizes.edges)
            .map_max_entries("FREE_EDGES", sizes.edges)
            .map_max_entries("EDGES", sizes.edges)
            .map_max_entries("SPANS", sizes.ring_bytes)
            .load(OBJECT)
            .map_err(|e| ProbeError::Load(chain(&e)))?;
        fill(&mut ebpf, hello, instances, sizes)?;
        let memory = map_memory(&ebpf, sizes)?;
        super::leave::ATTACHED.store(true, Ordering::Relaxed);
        let (attach, links) = attach_all(&mut ebpf, hello)?;
        open_gate(&mut ebpf)?;
        let ring = take(&mut ebpf, "SPANS")?;
        let ring = RingBuf::try_from(ring).map_err(|e| ProbeError::Map {
            map: "SPANS",
            reason: chain(&e),
        })?;
        Ok((
            Self {
                ebpf,
                ring: Some(ring),
                ring_bytes: sizes.ring_bytes,
                _links: links,
                attach,
            },
            memory,
        ))
    }

    /// The span ring; once.
    pub fn take_ring(&mut self) -> Option<EbpfRing> {
        self.ring.take().map(|ring| EbpfRing {
            ring,
            size: self.ring_bytes,
        })
    }

    /// The loaded object, for the logger.
    pub fn ebpf_mut(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// What each program has cost, and how many of its invocations the kernel skipped, since the start.
    pub fn runs(&self) -> BTreeMap<&'static str, ProgramRuns> {
        let mut all = BTreeMap::new();
        for name in PROGRAM_NAMES {
            let Some(program) = self.ebpf.program(name) else {
                continue;
            };
            let Ok(fd) = program.fd() else { continue };
            if let Ok(runs) = program_runs(fd.as_fd()) {
                all.insert(name, runs);
            }
        }
        all
    }
}

/// `BPF_OBJ_GET_INFO_BY_FD`; aya reads the same structure but has no accessor for `recursion_misses`.
fn program_runs(fd: BorrowedFd<'_>) -> io::Result<ProgramRuns> {
    use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_prog_info};
    // SAFETY: both are plain data for which all zeroes is valid.
    let (mut info, mut attr): (bpf_prog_info, bpf_attr) =
        unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    attr.info.bpf_fd = fd.as_raw_fd() as u32;
    attr.info.info_len = size_of::<bpf_prog_info>() as u32;
    attr.info.info = &raw mut info as u64;
    // SAFETY: the kernel writes at most `info_len` bytes to `info`, which outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            bpf_cmd::BPF_OBJ_GET_INFO_BY_FD,
            &raw mut attr,
            size_of::<bpf_attr>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(ProgramRuns {
        runs: info.run_cnt,
        run_time_ns: info.run_time_ns,
        missed: info.recursion_misses,
    })
}

/// The object says for which version of the ABI it was built: its global `ABI_VERSION`.
fn check_version() -> Result<(), ProbeError> {
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

fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, ProbeError> {
    ebpf.take_map(name).ok_or(ProbeError::Missing(name))
}

/// Writes what the programs only read, and the free slots.
fn fill(
    ebpf: &mut Ebpf,
    hello: &Hello,
    instances: &Instances,
    sizes: &Sizes,
) -> Result<(), ProbeError> {
    let failed = |map: &'static str| {
        move |e: aya::maps::MapError| ProbeError::Map {
            map,
            reason: chain(&e),
        }
    };
    let map = ebpf.map_mut("LOCKS").ok_or(ProbeError::Missing("LOCKS"))?;
    let mut locks: HashMap<_, u64, [u8; size_of::<LockInfo>()]> =
        HashMap::try_from(map).map_err(failed("LOCKS"))?;
    for (address, info) in tables::addresses(hello, instances) {
        locks
            .insert(address, bytes_of(&info), 0)
            .map_err(failed("LOCKS"))?;
    }
    let map = ebpf
        .map_mut("ENTRY_INFO")
        .ok_or(ProbeError::Missing("ENTRY_INFO"))?;
    let mut entries: Array<_, [u8; size_of::<EntryInfo>()]> =
        Array::try_from(map).map_err(failed("ENTRY_INFO"))?;
    for (id, info) in attach::entry_info(tables::has_flag(hello), attach::Writer::Arguments)
        .iter()
        .enumerate()
    {
        entries
            .set(id as u32, bytes_of(info), 0)
            .map_err(failed("ENTRY_INFO"))?;
    }
    for (name, slots) in [("FREE_TASKS", sizes.tasks), ("FREE_EDGES", sizes.edges)] {
        let map = ebpf.map_mut(name).ok_or(ProbeError::Missing(name))?;
        let mut free: Stack<_, u32> = Stack::try_from(map).map_err(failed(name))?;
        // The lowest slot on top, so that the slots in use stay together.
        for slot in (0..slots).rev() {
            free.push(slot, 0).map_err(failed(name))?;
        }
    }
    Ok(())
}

/// Lets the programs work: all are attached.
fn open_gate(ebpf: &mut Ebpf) -> Result<(), ProbeError> {
    let failed = |e: aya::maps::MapError| ProbeError::Map {
        map: "GATE",
        reason: chain(&e),
    };
    let map = ebpf.map_mut("GATE").ok_or(ProbeError::Missing("GATE"))?;
    let mut gate: Array<_, u64> = Array::try_from(map).map_err(failed)?;
    gate.set(0, 1, 0).map_err(failed)
}

fn map_memory(ebpf: &Ebpf, sizes: &Sizes) -> Result<Memory, ProbeError> {
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
fn view<T: Shared>(ebpf: &Ebpf, name: &'static str, len: usize) -> Result<View<T>, ProbeError> {
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

/// The kernel replaces a uprobe on a 5-byte nop by a call: x86-64, from Linux 6.18 on.
pub(crate) fn replaces_nops(release: &str) -> bool {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|n| n.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    cfg!(target_arch = "x86_64") && version >= (6, 18)
}

/// Attaches every program to every point it belongs to.
fn attach_all(
    ebpf: &mut Ebpf,
    hello: &Hello,
) -> Result<(Vec<AttachPoint>, Vec<UProbeLink>), ProbeError> {
    let pid = NonZeroU32::new(hello.pid).ok_or(ProbeError::Missing("emulator pid"))?;
    // The path the kernel resolves even if the file has been replaced since the emulator was started.
    let executable = format!("/proc/{pid}/exe");
    for name in PROGRAM_NAMES {
        let program = ebpf.program_mut(name).ok_or(ProbeError::Missing(name))?;
        let program: &mut UProbe = program.try_into().map_err(|_| ProbeError::Missing(name))?;
        program
            .load()
            .map_err(|e| ProbeError::Load(format!("{name}: {}", chain(&e))))?;
    }
    let optimised =
        replaces_nops(&std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default());
    let (mut attached, mut links) = (Vec::new(), Vec::new());
    for point in &hello.points {
        let hooks = attach::hooks(&point.module, &point.symbol);
        for hook in &hooks {
            let name = PROGRAM_NAMES[hook.program as usize];
            let program = ebpf.program_mut(name).ok_or(ProbeError::Missing(name))?;
            let program: &mut UProbe = program.try_into().map_err(|_| ProbeError::Missing(name))?;
            let place = UProbeAttachPoint {
                location: UProbeAttachLocation::AbsoluteOffset(point.file_offset),
                cookie: Some(u64::from(hook.cookie)),
            };
            let failed = |e: ProgramError| ProbeError::Attach {
                symbol: format!("{} [{}]", point.symbol, point.module),
                reason: match why_refused(&e) {
                    Some(why) => format!("{}: {why}", chain(&e)),
                    None => chain(&e),
                },
            };
            let link = program
                .attach(place, &executable, UProbeScope::OneProcess(pid))
                .map_err(failed)?;
            links.push(program.take_link(link).map_err(failed)?);
        }
        if !hooks.is_empty() {
            attached.push(AttachPoint {
                symbol: format!("{} [{}]", point.symbol, point.module),
                mechanism: if point.nop5 && optimised {
                    "uprobe-nop5"
                } else {
                    "uprobe"
                }
                .into(),
                reason: if point.nop5 && !optimised {
                    "a breakpoint: Linux replaces uprobes on a nop by calls from 6.18 on"
                } else {
                    ""
                }
                .into(),
            });
        }
    }
    Ok((attached, links))
}

/// The span ring as a map.
pub struct EbpfRing {
    ring: RingBuf<MapData>,
    size: u32,
}

impl SpanRing for EbpfRing {
    fn drain(&mut self, sink: &mut dyn FnMut(&Span)) -> u64 {
        let mut bytes = 0;
        // At most one round: the programs go on meanwhile.
        while bytes < u64::from(self.size)
            && let Some(item) = self.ring.next()
        {
            bytes += item.len() as u64 + 8;
            if item.len() == size_of::<Span>() {
                // SAFETY: the item has the size of a `Span`, which is plain integers; it may be unaligned.
                let span = unsafe { item.as_ptr().cast::<Span>().read_unaligned() };
                sink(&span);
            }
        }
        bytes
    }

    fn size(&self) -> u64 {
        u64::from(self.size)
    }

    fn wake_fd(&self) -> Option<std::os::fd::OwnedFd> {
        self.ring.as_fd().try_clone_to_owned().ok()
    }
}

#[cfg(test)]
mod tests;
