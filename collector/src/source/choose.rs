//! Which source a run gets, and why.
//!
//! Where a real driver could be (s390x, a vfio_ap module, an AP bus) nothing falls back to the emulator by itself.

use std::collections::BTreeMap;

use super::budget::{STACKS, Sizes};
use super::child::Emulator;
use super::ebpf::Probes;
use super::instances::Instances;
use super::kernel::{self, KernelSource};
use super::log_lines::LogLines;
use super::memory::Memory;
use super::named::Named;
use super::reader::{self, Reader, SpanRing};
use super::run::{Backend, Losses, Source};
use super::snapshot::emulated::Emulated;
use super::tasks::{Of, Tasks};
use super::{SourceError, measured_by_others};
use crate::emulator::protocol::{Hello, Reply, Request};
use crate::frame;
use crate::inprocess;
use crate::machine::real_host;
use crate::options::{ProbeChoice, RunOptions, SourceChoice};
use crate::survey::measures_kernel;
use probe_ebpf::names::ENTRY_POINTS;

/// A source that was started.
pub(super) enum Started {
    /// An emulated driver.
    Emulator(Box<Source>),
    /// The kernel.
    Kernel(Box<KernelSource>),
}

/// Starts what the options ask for.
pub(super) fn start(options: &RunOptions) -> Result<Started, SourceError> {
    let sign = real_host();
    let (real, reason) = measures_kernel(options, sign);
    if real {
        let source = kernel::start(options, reason).map_err(|e| match sign {
            Some(sign) if options.source == SourceChoice::Auto => SourceError {
                cause: format!("{} ({sign}, so nothing is emulated)", e.cause),
                ..e
            },
            _ => e,
        })?;
        return Ok(Started::Kernel(Box::new(source)));
    }
    start_emulator(options, reason).map(|source| Started::Emulator(Box::new(source)))
}

fn start_emulator(options: &RunOptions, reason: &str) -> Result<Source, SourceError> {
    let mut emulator = match options.pid {
        Some(pid) => Emulator::find(pid)?,
        None => Emulator::start(&options.emulator)?,
    };
    let hello = emulator.hello.clone();
    let instances = Instances::new(&hello);
    let mut sizes = sizes(&hello, &instances, options.ring_bytes)?;
    if options.kernel.stacks_over.is_some() {
        sizes.stacks = STACKS;
    }
    let (backend, probe_reason) = backend(options, &mut emulator, &instances, &sizes)?;
    let Measured {
        backend,
        memory,
        ring,
        attach,
        log,
    } = backend;
    let mut backend = backend;
    let mut probe_reason = probe_reason;
    if hello.collectors > 0 {
        let others = measured_by_others(hello.collectors, "this emulated driver");
        log.push("warn", &others);
        probe_reason = format!("{probe_reason}; {others}");
    }
    let mut reader = Reader::new(memory, sizes.shards, &instances);
    if let (Some(over), Backend::Ebpf { probes, .. }) = (options.kernel.stacks_over, &mut backend) {
        let over = u64::try_from(over.as_nanos()).unwrap_or(u64::MAX);
        match probes.take_stacks(over, hello.pid) {
            Ok(stacks) => reader.read_stacks(stacks),
            Err(e) => log.push("warn", &format!("no stacks: {e}")),
        }
    }
    let meta = meta(
        &hello,
        &instances,
        backend.name(),
        &format!("{reason}; {probe_reason}"),
        attach,
    );
    emulator.send(&Request::Go).map_err(|e| SourceError {
        what: "the emulated driver did not start".into(),
        cause: e.to_string(),
        hint: "try again".into(),
    })?;
    Ok(Source {
        stops_emulator: options.truth || emulator.is_ours(),
        emulator,
        tasks: Tasks::new(Of::Emulator, matches!(backend, Backend::Ebpf { .. })),
        backend,
        ring,
        log,
        meta,
        reader,
        named: Named::new(&hello),
        losses: Losses::default(),
        snapshot: options.pid.map(|_| Emulated::new(&hello, &instances)),
        next_messages_ns: 0,
    })
}

/// A backend that measures, before *go*.
struct Measured {
    backend: Backend,
    memory: Memory,
    ring: Box<dyn SpanRing + Send>,
    attach: Vec<frame::AttachPoint>,
    log: LogLines,
}

fn backend(
    options: &RunOptions,
    emulator: &mut Emulator,
    instances: &Instances,
    sizes: &Sizes,
) -> Result<(Measured, String), SourceError> {
    let log = LogLines::default();
    let why = if options.probe == ProbeChoice::InProcess {
        "measuring in process: asked for".to_owned()
    } else {
        match Probes::attach(&emulator.hello, instances, sizes) {
            Ok((probes, memory)) => {
                let measured = with_ebpf(probes, memory, log).map_err(|cause| SourceError {
                    what: "cannot read the eBPF maps".into(),
                    cause,
                    hint: "use --probe in-process".into(),
                })?;
                return Ok((measured, "eBPF permitted".into()));
            }
            Err(e) if options.probe == ProbeChoice::Ebpf && !emulator.is_gone() => {
                return Err(SourceError {
                    what: "cannot measure with eBPF".into(),
                    cause: e.to_string(),
                    hint: "run as root (CAP_BPF, CAP_PERFMON, and from Linux 6.16 on CAP_SYS_ADMIN), or use --probe \
                           in-process; `apscope doctor` says more"
                        .into(),
                });
            }
            Err(e) => {
                log.push("warn", &e.to_string());
                format!("{}; measuring in process", first_line(&e.to_string()))
            }
        }
    };
    if emulator.is_gone() {
        return Err(SourceError {
            what: "the emulated driver ended before it was measured".into(),
            cause: emulator.epitaph(),
            hint: "run `apscope emulate` alone to see whether it works".into(),
        });
    }
    let failed = |cause: String| SourceError {
        what: "cannot measure in process".into(),
        cause,
        hint: "run `apscope emulate` alone to see whether it works".into(),
    };
    emulator
        .send(&Request::MeasureInProcess {
            ring_bytes: options.ring_bytes,
        })
        .map_err(|e| failed(e.to_string()))?;
    let fd = match emulator.wait_reply() {
        Some(Reply::Memory { fd }) => fd,
        Some(Reply::Error { message }) => return Err(failed(message)),
        Some(_) => return Err(failed("unexpected answer".into())),
        None => return Err(failed(emulator.epitaph())),
    };
    let (memory, ring) =
        inprocess::open(emulator.hello.pid, fd, sizes).map_err(|e| failed(e.to_string()))?;
    let attach = hooks(&emulator.hello);
    let measured = Measured {
        backend: Backend::InProcess,
        memory,
        ring: Box::new(ring),
        attach,
        log,
    };
    Ok((measured, why))
}

fn with_ebpf(mut probes: Probes, memory: Memory, log: LogLines) -> Result<Measured, String> {
    let ring = probes.take_ring().ok_or("the span ring is gone")?;
    let attach = probes.attach.clone();
    // Without a logger the programs' messages are lost, and said to be; measuring goes on.
    let logger = match log.attach(probes.ebpf_mut()) {
        Ok(logger) => Some(Box::new(logger)),
        Err(e) => {
            log.push(
                "warn",
                &format!("messages of the eBPF programs cannot be read: {e}"),
            );
            None
        }
    };
    Ok(Measured {
        backend: Backend::Ebpf {
            probes: Box::new(probes),
            logger,
        },
        memory,
        ring: Box::new(ring),
        attach,
        log,
    })
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// What is measured when the probe points call hooks: the same points as with eBPF.
fn hooks(hello: &Hello) -> Vec<frame::AttachPoint> {
    let points = hello
        .points
        .iter()
        .filter(|p| !crate::attach::hooks(&p.module, &p.symbol).is_empty());
    points
        .map(|point| frame::AttachPoint {
            symbol: format!("{} [{}]", point.symbol, point.module),
            mechanism: "hook".into(),
            reason: "in process".into(),
        })
        .collect()
}

/// Sizes for an emulator. Both sides compute the same.
pub(crate) fn sizes(
    hello: &Hello,
    instances: &Instances,
    ring_bytes: u32,
) -> Result<Sizes, SourceError> {
    let cpus = possible_cpus();
    // Each guest has its vCPUs and some six more threads.
    let tasks = hello.guests * (hello.vcpus + 8) + hello.extra_threads + 32;
    let locks = hello.locks.len() * 2;
    Sizes::new(
        cpus,
        tasks,
        instances.all.len() as u32,
        locks as u32,
        ring_bytes,
    )
    .map_err(|e| SourceError {
        what: "too many guests to measure".into(),
        cause: e.to_string(),
        hint: "use fewer --guests or --vcpus".into(),
    })
}

/// CPUs this machine can ever have.
pub(super) fn possible_cpus() -> u32 {
    // SAFETY: no precondition.
    u32::try_from(unsafe { libc::sysconf(libc::_SC_NPROCESSORS_CONF) })
        .unwrap_or(1)
        .max(1)
}

fn meta(
    hello: &Hello,
    instances: &Instances,
    probe: &str,
    reason: &str,
    attach: Vec<frame::AttachPoint>,
) -> frame::Meta {
    let mut entries: Vec<u32> = hello
        .points
        .iter()
        .filter_map(|point| crate::attach::entry_point(&point.module, &point.symbol))
        .map(u32::from)
        .filter(|id| (*id as usize) < ENTRY_POINTS.len())
        .collect();
    entries.sort_unstable();
    entries.dedup();
    frame::Meta {
        source: "emulator".into(),
        probe: probe.into(),
        generation: hello.generation.clone(),
        scenario: hello.scenario.clone(),
        seed: hello.seed,
        pid: hello.pid,
        kernel_release: std::fs::read_to_string("/proc/sys/kernel/osrelease")
            .unwrap_or_default()
            .trim()
            .to_owned(),
        arch: std::env::consts::ARCH.into(),
        reason: reason.into(),
        start_ns: reader::monotonic_ns(),
        start_unix_ns: reader::unix_ns(),
        instances: instances.all.clone(),
        attach,
        series: instances.series(),
        entries,
        guests: hello.guests,
        vcpus: hello.vcpus,
        version: env!("CARGO_PKG_VERSION").into(),
        contended_by: "slow path".into(),
        level: 2,
        ..frame::Meta::default()
    }
}

impl Backend {
    /// What every program has cost so far; nothing in process.
    pub(super) fn runs(&self) -> BTreeMap<&'static str, reader::ProgramRuns> {
        match self {
            Self::Ebpf { probes, .. } => probes.runs(),
            Self::InProcess => BTreeMap::new(),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Ebpf { .. } => "ebpf",
            Self::InProcess => "in-process",
        }
    }
}
