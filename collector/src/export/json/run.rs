//! The members of the document that describe the run: where it came from, when, what was lost, what it cost.

use jiff::Timestamp;
use serde::Serialize;

use super::Origin;
use crate::model::{self, Model, query};

/// Where the document comes from. Empty texts and numbers that do not apply are absent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Source {
    /// `kernel`, `emulator`, `recording` or `remote`.
    pub kind: String,
    /// The driver that was measured is the emulated one, not a real one.
    pub emulated: bool,
    /// `ebpf` or `in-process`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub probe: String,
    /// Driver generation, for example `v5.13`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub generation: String,
    /// Scenario of the emulated driver.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub scenario: String,
    /// Its seed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Its number of guests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guests: Option<u32>,
    /// Its number of vCPUs of each guest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vcpus: Option<u32>,
    /// Its process id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Release of the running kernel.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kernel_release: String,
    /// Machine.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub arch: String,
    /// Why times are not those of hardware.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub timing: String,
    /// Why this source and this probe.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// What is attached: 0 nothing, 1 entry points and contended waits, 2 every acquisition and release.
    pub level: u32,
    /// Why the generation is what it is said to be (a kernel).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<String>,
    /// What is not measured, and why (a kernel).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub losses: Vec<String>,
    /// What no probe sees (a kernel).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub blind_spots: Vec<String>,
    /// How the run ended: `finished`, `stuck`, `source died`, `interrupted`, `detached`, `driver unloaded`; absent while it
    /// goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<String>,
    /// Version of apscope that measured.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub version: String,
}

impl Source {
    pub(super) fn of(model: &Model, origin: Origin) -> Self {
        let meta = model.meta.clone().unwrap_or_default();
        let emulated = query::emulated(model);
        Self {
            kind: match origin {
                Origin::Live => meta.source,
                Origin::Recording if meta.source == "stacks" => meta.source,
                Origin::Recording => "recording".to_owned(),
            },
            emulated,
            probe: meta.probe,
            generation: meta.generation,
            scenario: meta.scenario,
            seed: emulated.then_some(meta.seed),
            guests: emulated.then_some(meta.guests),
            vcpus: emulated.then_some(meta.vcpus),
            pid: (meta.pid != 0).then_some(meta.pid),
            kernel_release: meta.kernel_release,
            arch: meta.arch,
            timing: meta.timing,
            reason: meta.reason,
            level: meta.level,
            evidence: meta.evidence,
            losses: meta.losses,
            blind_spots: meta.blind_spots,
            ended: model.end.as_ref().map(|end| end.how.clone()),
            version: meta.version,
        }
    }
}

/// What time the document covers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Interval {
    /// Start of the run, of a kernel's when everything was attached, RFC 3339.
    pub start: String,
    /// Last frame, RFC 3339.
    pub end: String,
    /// From start to end, by a monotonic clock.
    pub duration_ns: u64,
    /// Where frames of the run are missing: from when on spans, stacks, messages and writes are whole, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail_start: Option<String>,
    /// Frames of the run whose increments are in no count, because the file does not have them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing_frames: Option<u64>,
}

impl Interval {
    pub(super) fn of(model: &Model) -> Self {
        let start = model.meta.as_ref().map_or(0, |meta| {
            let before = meta.measured_from_ns.saturating_sub(meta.start_ns);
            meta.start_unix_ns.saturating_add(before)
        });
        Self {
            start: rfc3339(start),
            end: rfc3339(model.last.at_unix_ns),
            duration_ns: query::elapsed_ns(model),
            detail_start: model
                .detail_from
                .as_ref()
                .map(|tick| rfc3339(tick.at_unix_ns)),
            missing_frames: Some(model.loss.missing_frames).filter(|missing| *missing > 0),
        }
    }
}

/// Nanoseconds since 1970 UTC as RFC 3339.
pub fn rfc3339(unix_ns: u64) -> String {
    // u64 nanoseconds end in the year 2554, inside jiff's range.
    Timestamp::from_nanosecond(i128::from(unix_ns))
        .map_or_else(|_| String::new(), |t| t.to_string())
}

/// Spans. `emitted` is `received` plus `dropped`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Events {
    /// Spans that the probes were to write.
    pub emitted: u64,
    /// Spans that arrived.
    pub received: u64,
    /// Spans that found no room in the ring.
    pub dropped: u64,
    /// By program and CPU.
    pub by_program: Vec<ProgramEvents>,
}

/// Spans of one program on one CPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProgramEvents {
    /// Program.
    pub name: String,
    /// CPU.
    pub cpu: u32,
    /// Spans that were to be written.
    pub emitted: u64,
    /// Spans that found no room.
    pub dropped: u64,
}

impl Events {
    pub(super) fn of(loss: &model::Loss) -> Self {
        Self {
            emitted: loss.emitted(),
            received: loss.received,
            dropped: loss.dropped(),
            by_program: loss
                .programs
                .iter()
                .map(|((name, cpu), &(emitted, dropped))| ProgramEvents {
                    name: name.clone(),
                    cpu: *cpu,
                    emitted,
                    dropped,
                })
                .collect(),
        }
    }
}

/// What measuring cost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Overhead {
    /// By program.
    pub programs: Vec<Program>,
    /// CPU time of the collector.
    pub collector_cpu_ns: u64,
    /// Most bytes that ever waited in the ring.
    pub ring_bytes_max: u64,
}

/// Cost of one program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Program {
    /// Program.
    pub name: String,
    /// Times it ran; absent unless the kernel counts them (`kernel.bpf_stats_enabled`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runs: Option<u64>,
    /// Time it ran; absent unless the kernel measures it (`kernel.bpf_stats_enabled`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_time_ns: Option<u64>,
    /// Invocations that the kernel skipped.
    pub missed: u64,
}

impl Overhead {
    pub(super) fn of(overhead: &model::Overhead) -> Self {
        let counted = overhead.counts_runs();
        Self {
            programs: overhead
                .programs
                .iter()
                .map(|(name, cost)| Program {
                    name: name.clone(),
                    runs: counted.then_some(cost.runs),
                    run_time_ns: counted.then_some(cost.run_time_ns),
                    missed: cost.missed,
                })
                .collect(),
            collector_cpu_ns: overhead.collector_cpu_ns,
            ring_bytes_max: overhead.ring_bytes_max,
        }
    }
}

/// A function that is probed, or could not be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AttachPoint {
    /// Kernel symbol.
    pub symbol: String,
    /// `uprobe-nop5`, `uprobe`, `hook`, ..., or `none`.
    pub mechanism: String,
    /// Why.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

impl AttachPoint {
    pub(super) fn all(model: &Model) -> Vec<Self> {
        model
            .meta
            .iter()
            .flat_map(|meta| &meta.attach)
            .map(|point| Self {
                symbol: point.symbol.clone(),
                mechanism: point.mechanism.clone(),
                reason: point.reason.clone(),
            })
            .collect()
    }
}
