//! The eBPF programs: loaded, sized, attached to an emulated driver, and read.

mod error;
mod heartbeat;
pub(super) mod loading;
pub(super) mod object;
pub(super) mod sys;
pub mod verifier;

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::Ordering;

use aya::Ebpf;
use aya::maps::{MapData, RingBuf};
use aya::programs::uprobe::{UProbeAttachLocation, UProbeAttachPoint, UProbeLink, UProbeScope};
use aya::programs::{ProgramError, UProbe};
use probe_ebpf::abi::{Call, PROGRAM_NAMES, Span, UPROBE_PROGRAMS, gate};

use super::budget::Sizes;
use super::instances::Instances;
use super::memory::Memory;
use super::reader::{ProgramRuns, SpanRing};
use super::stacks::{Stacks, Whose};
use super::tables;
use crate::attach;
use crate::emulator::protocol::Hello;
use crate::frame::AttachPoint;

pub use error::ProbeError;
use error::why_refused;
pub(super) use error::{chain, missing_capabilities};
pub(super) use heartbeat::{Beat, Heartbeat};
pub(crate) use object::has_object;
pub use object::page_size;

/// Loaded and attached programs. Dropping it detaches them.
pub struct Probes {
    ebpf: Ebpf,
    ring: Option<RingBuf<MapData>>,
    ring_bytes: u32,
    /// Ends before the programs do.
    _heartbeat: Heartbeat,
    /// The kernel measures run times for as long as it is open.
    _stats: Option<OwnedFd>,
    /// Attached while they are here.
    _links: Vec<UProbeLink>,
    /// What was attached where.
    pub attach: Vec<AttachPoint>,
}

impl Probes {
    /// Loads the programs, fills the maps and attaches to every probe point of the emulator.
    pub fn attach(
        hello: &Hello,
        instances: &Instances,
        sizes: &Sizes,
    ) -> Result<(Self, Memory), ProbeError> {
        let mut ebpf = object::load(&tables::config(hello, sizes), sizes)?;
        fill(&mut ebpf, hello, instances)?;
        let memory = object::map_memory(&ebpf, sizes)?;
        super::leave::ATTACHED.store(true, Ordering::Relaxed);
        // Where it is not permitted, what programs cost is not known: the doctor says so.
        let stats = sys::enable_run_time_stats().ok();
        let (attach, links) = attach_all(&mut ebpf, hello)?;
        let heartbeat = Heartbeat::start(&mut ebpf)?;
        let ring = object::take_ring(&mut ebpf)?;
        Ok((
            Self {
                ebpf,
                ring: Some(ring),
                ring_bytes: sizes.ring_bytes,
                _heartbeat: heartbeat,
                _stats: stats,
                _links: links,
                attach,
            },
            memory,
        ))
    }

    /// Has stacks of waits and holds taken that last at least this many nanoseconds, and returns their reader.
    pub fn take_stacks(&mut self, over: u64, pid: u32) -> Result<Stacks, ProbeError> {
        object::set_gate(&mut self.ebpf, gate::STACKS_OVER, over)?;
        Stacks::new(&mut self.ebpf, Whose::Process(pid))
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
        sys::runs_of(&self.ebpf, &PROGRAM_NAMES[..UPROBE_PROGRAMS])
    }
}

/// Writes what the programs only read, and the free slots.
fn fill(ebpf: &mut Ebpf, hello: &Hello, instances: &Instances) -> Result<(), ProbeError> {
    object::add_locks(ebpf, &tables::addresses(hello, instances))?;
    object::set_entry_info(
        ebpf,
        &attach::entry_info(tables::has_flag(hello), attach::Writer::Arguments),
    )
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
    let names = &PROGRAM_NAMES[..UPROBE_PROGRAMS];
    let loaded = loading::side_by_side(ebpf, names, |name, program| {
        let program: &mut UProbe = program.try_into().map_err(|_| ProbeError::Missing(name))?;
        program
            .load()
            .map_err(|e| ProbeError::Load(format!("{name}: {}", chain(&e))))
    });
    loaded.into_iter().try_for_each(|(_, result)| result)?;
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
    pub(super) ring: RingBuf<MapData>,
    pub(super) size: u32,
}

impl SpanRing for EbpfRing {
    fn drain(&mut self, sink: &mut dyn FnMut(&Call)) -> u64 {
        let mut bytes = 0;
        // At most one round: the programs go on meanwhile.
        while bytes < u64::from(self.size)
            && let Some(item) = self.ring.next()
        {
            bytes += item.len() as u64 + 8;
            if item.len() == size_of::<Call>() {
                // SAFETY: the item has the size of a `Call`, which is plain integers; it may be unaligned.
                sink(&unsafe { item.as_ptr().cast::<Call>().read_unaligned() });
            } else if item.len() == size_of::<Span>() {
                // SAFETY: the item has the size of a `Span`, which is plain integers; it may be unaligned.
                let span = unsafe { item.as_ptr().cast::<Span>().read_unaligned() };
                sink(&Call::of(span));
            }
        }
        bytes
    }

    fn size(&self) -> u64 {
        u64::from(self.size)
    }

    fn wake_fd(&self) -> Option<OwnedFd> {
        self.ring.as_fd().try_clone_to_owned().ok()
    }
}

#[cfg(test)]
mod tests;
