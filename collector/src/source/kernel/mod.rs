//! The kernel as a source: the real driver, or any lock that a person names.
//!
//! [`start`] finds out what the machine has and allows, makes the attach plan, loads the programs that it needs, adopts
//! the locks that are there and attaches; [`run`] then reads a frame a tick, like the emulator's source. Nothing is
//! pinned, and everything goes with the process.

mod adopted;
mod comings;
mod deadline;
mod driver;
mod fixed;
mod governor;
mod guard;
mod jobs;
mod kprobes;
mod messages;
mod objects;
mod programs;
mod run;
mod sample;
mod tables;
mod verify;
mod words;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use aya::Ebpf;
use probe_ebpf::abi::{InstanceInfo, gate};

use super::SourceError;
use super::budget::Sizes;
use super::ebpf::{EbpfRing, Heartbeat, ProbeError, object, sys};
use super::instances::Instances;
use super::log_lines::LogLines;
use super::reader::{self, Reader};
use super::stacks::{Stacks, Whose};
use super::tasks::{Of, Tasks};
use crate::attach::generation::Detected;
use crate::attach::plan::Plan;
use crate::frame;
use crate::machine::{Allowed, Facts, Others};
use crate::options::{KernelOptions, RunOptions};
use crate::survey::{GivenTypes, Survey};
use adopted::Adopted;
use fixed::Given;
use governor::Governor;
use objects::Names;
use programs::Attached;
pub(super) use run::KernelSource;
use words::Kernel;

#[expect(
    clippy::needless_pass_by_value,
    reason = "callers have an error or a text of their own to give"
)]
fn failed(what: &str, cause: impl ToString, hint: &str) -> SourceError {
    SourceError {
        what: what.into(),
        cause: cause.to_string(),
        hint: hint.into(),
    }
}

const STALLED_HINT: &str = "something that loading programs needs is stuck: `apscope record --level 0` needs the least, and \
                            /proc/PID/stack of this process says where it waits";

fn probe_failed(error: &ProbeError) -> SourceError {
    failed(
        "cannot measure the kernel",
        error,
        "run `apscope doctor`, which says what is missing and for what",
    )
}

/// The facts that the generation was concluded from.
fn facts(generation: &Detected) -> Vec<String> {
    let evidence = generation.evidence.iter();
    evidence.map(|evidence| evidence.fact.clone()).collect()
}

/// Whether this machine has something for this source to measure: the driver, or locks that were named.
fn target(survey: &Survey, options: &KernelOptions) -> Result<(), SourceError> {
    if survey.has_driver() || !options.locks.is_empty() {
        return Ok(());
    }
    Err(failed(
        "there is no vfio_ap driver in this kernel",
        "the module vfio_ap is not loaded",
        "modprobe vfio_ap; or name a lock with --lock, or use --source emulator",
    ))
}

/// Starts measuring this machine's kernel. `reason`: why this source.
pub(super) fn start(options: &RunOptions, reason: &str) -> Result<KernelSource, SourceError> {
    let kernel = &options.kernel;
    let facts = Facts::read(std::path::Path::new("/"));
    let allowed = Allowed::probe(&facts);
    let survey = Survey::new(facts, allowed, kernel).map_err(|e| {
        let (what, cause) = e.what_and_cause();
        failed(&what, cause, GivenTypes::HINT)
    })?;
    target(&survey, kernel)?;
    let log = LogLines::default();
    let cpus = super::choose::possible_cpus();
    let Survey {
        tables,
        offsets,
        plan,
        facts,
        ..
    } = &survey;
    let sizes = Sizes::for_kernel(cpus, kernel, options.ring_bytes).map_err(|e| {
        failed(
            "the maps would take too much memory",
            e,
            "report this machine's number of CPUs",
        )
    })?;
    let symbols = tables.symbols.as_ref().ok();
    let config = tables::config(plan, offsets, symbols, &sizes);
    let mut ebpf = object::load(&config, &sizes).map_err(|e| probe_failed(&e))?;
    let (back, memory) = within_deadline(ebpf, "what reads kernel memory", Kernel::new)?;
    ebpf = back;
    let memory = memory.map_err(|e| probe_failed(&e))?;
    let has_flag = tables::has_flag(offsets);
    let matrix_dev = fixed::matrix_dev(&memory, plan);
    let fixed = fixed::locks(&memory, offsets, plan, kernel, matrix_dev, has_flag);
    let given = Given::all(&fixed, kernel);
    let instances = fixed::instances(&fixed, &given);
    let mut level = kernel.level;
    let tracefs: Option<PathBuf> = facts
        .tracing
        .tracefs
        .as_ref()
        .map(|tracefs| PathBuf::from(&tracefs.path));
    let (mut notes, mut warnings) = (Vec::new(), Vec::new());
    let mut others_said = None;
    if let Some((severity, others)) = other_collectors(&facts.others) {
        log.push(severity, &others);
        others_said = (severity == "warn").then_some(others);
    }
    let stats = sys::enable_run_time_stats();
    let measured = stats.is_ok() || facts.settings.bpf_stats_enabled == Some(1);
    if let Err(e) = &stats
        && !measured
    {
        warnings.push(format!(
            "run times of programs are not measured ({e}), so nothing keeps them to --max-overhead: CAP_SYS_ADMIN is \
             needed, or sysctl kernel.bpf_stats_enabled=1"
        ));
    }
    let mut refused = None;
    if level == 2 {
        let (back, counting) = within_deadline(ebpf, "the sampling program", sample::load)?;
        ebpf = back;
        let sampled = counting
            .map_err(|e| e.to_string())
            .and_then(|counting| counting.expected(plan, tracefs.as_deref(), cpus));
        match judge(sampled, measured, kernel.max_overhead)? {
            Judged::Known(note) => notes.push(note),
            Judged::Governed(warning) => warnings.push(warning),
            Judged::Refused(why) => {
                level = 1;
                refused = Some(why);
            }
        }
    }
    object::add_locks(&mut ebpf, &fixed::table(&fixed, &instances))
        .map_err(|e| probe_failed(&e))?;
    if let Some(matrix_dev) = matrix_dev {
        for (lock, tgid) in objects::guests_now(&memory, offsets, matrix_dev) {
            object::adopt(&mut ebpf, &lock, tgid, reader::monotonic_ns())
                .map_err(|e| probe_failed(&e))?;
        }
    }
    object::set_entry_info(&mut ebpf, &tables::entry_info(plan, offsets))
        .map_err(|e| probe_failed(&e))?;
    object::set_entry_at(&mut ebpf, &entry_addresses(plan)).map_err(|e| probe_failed(&e))?;
    let set = |ebpf: &mut Ebpf, word, value| {
        object::set_gate(ebpf, word, value).map_err(|e| probe_failed(&e))
    };
    set(&mut ebpf, gate::LEVEL, u64::from(level))?;
    let over = kernel
        .stacks_over
        .map_or(0, |over| u64::try_from(over.as_nanos()).unwrap_or(u64::MAX));
    set(&mut ebpf, gate::STACKS_OVER, over)?;
    let shared = object::map_memory(&ebpf, &sizes).map_err(|e| probe_failed(&e))?;
    let info = object::view::<InstanceInfo>(&ebpf, "INSTANCE_INFO", sizes.instances as usize)
        .map_err(|e| probe_failed(&e))?;
    // Before anything is attached: what is loaded afterwards is another one.
    let module = driver::Module::at(std::path::Path::new("/sys/module/vfio_ap"));
    let (back, loaded) = programs::load_all(ebpf, plan)
        .map_err(|e| failed("cannot measure the kernel", e, STALLED_HINT))?;
    ebpf = back;
    let over_level = refused.as_deref().unwrap_or_default();
    let attached = programs::attach(loaded, plan, tracefs, level, over_level);
    if attached.level < kernel.level {
        level = attached.level;
        set(&mut ebpf, gate::LEVEL, u64::from(level))?;
        let why = attached
            .stalled
            .clone()
            .or(refused)
            .or_else(|| jobs::why_not_level_2(plan))
            .unwrap_or_else(|| "nothing of it could be attached".to_owned());
        log.push("warn", &format!("level {level} was reached: {why}"));
    }
    if level > 0 && attached.points.iter().all(|p| p.mechanism == "none") {
        return Err(nothing_attached(&attached));
    }
    let (back, heartbeat) = within_deadline(ebpf, "the heartbeat", Heartbeat::start)?;
    ebpf = back;
    let heartbeat = heartbeat.map_err(|e| probe_failed(&e))?;
    let ring = EbpfRing {
        ring: object::take_ring(&mut ebpf).map_err(|e| probe_failed(&e))?,
        size: sizes.ring_bytes,
    };
    for note in &notes {
        log.push("info", note);
    }
    for note in warnings.iter().chain(&attached.notes) {
        log.push("warn", note);
    }
    let logger = log.attach(&mut ebpf).ok().map(Box::new);
    let mut reader = Reader::new(shared, sizes.shards, &instances);
    reader.tasks_end();
    for (slot, series) in given.iter().flat_map(Given::series) {
        reader.add_instance(slot, slot, series);
    }
    if level < 2 {
        reader.ignore_holds();
    }
    if over != 0 {
        reader.read_stacks(Stacks::new(&mut ebpf, Whose::Kernel).map_err(|e| probe_failed(&e))?);
    }
    notes.extend(others_said);
    let meta = meta(
        &survey, &instances, &attached, reason, &notes, level, &config, kernel,
    );
    let places = verify::Places::new(&survey.offsets);
    let driver = !survey.plan.generation.candidates.is_empty();
    let watched = fixed::watched(&fixed, &instances, &given);
    Ok(KernelSource {
        names: Names::default(),
        offsets: survey.offsets,
        memory,
        info,
        adopted: Adopted::new(sizes.instances - sizes.adopted, sizes.instances),
        ended: std::collections::VecDeque::new(),
        given,
        used: std::collections::HashSet::new(),
        watched,
        places,
        verifier: verify::Verifier::default(),
        tasks: Tasks::new(Of::Kernel, true),
        forgotten: Vec::new(),
        governor: Governor::new(kernel.max_overhead, cpus),
        programs: attached.programs.clone(),
        misses: attached.misses(),
        attached: Arc::new(Mutex::new(Some(attached))),
        level,
        stacks_over: over,
        detaches_at: Instant::now().checked_add(kernel.attached_for),
        messages: driver
            .then(|| messages::Messages::open(std::path::Path::new("/dev/kmsg")).ok())
            .flatten(),
        module: if driver { module } else { None },
        driver_locks: fixed
            .iter()
            .filter(|lock| objects::is_drivers(lock.class))
            .map(|lock| lock.address)
            .collect(),
        generation: survey.plan.generation,
        edges: Vec::new(),
        edges_complete: true,
        hook_write_locked: 0,
        next_second: 0,
        last_frame_ns: reader::monotonic_ns(),
        ebpf,
        heartbeat: Some(heartbeat),
        _stats: stats.ok(),
        logger,
        ring,
        log,
        meta,
        meta_changed: true,
        reader,
    })
}

/// Does something with the programs on a thread that may be given up, together with them.
fn within_deadline<T: Send + 'static>(
    mut ebpf: Ebpf,
    what: &str,
    work: impl FnOnce(&mut Ebpf) -> T + Send + 'static,
) -> Result<(Ebpf, T), SourceError> {
    deadline::within("load", deadline::LOAD, move || {
        let result = work(&mut ebpf);
        (ebpf, result)
    })
    .map_err(|why| {
        let cause = format!("loading {what} {why}");
        failed("cannot measure the kernel", cause, STALLED_HINT)
    })
}

/// What the sample says of level 2.
#[derive(Debug, PartialEq)]
enum Judged {
    /// Its cost is known, and allowed.
    Known(String),
    /// Its cost is not known, but will be measured, and kept to the limit.
    Governed(String),
    /// Nobody would know what it costs.
    Refused(String),
}

/// Whether level 2 may be attached. `measured`: the programs' run times are.
fn judge(
    sampled: Result<sample::Expected, String>,
    measured: bool,
    max_overhead: f64,
) -> Result<Judged, SourceError> {
    match sampled {
        Ok(expected) if expected.share * 100.0 > max_overhead => Err(failed(
            "level 2 would cost too much",
            format!(
                "{}, and --max-overhead is {max_overhead} %",
                expected.text()
            ),
            "--level 1, which measures contended waits only; or a larger --max-overhead",
        )),
        Ok(expected) => Ok(Judged::Known(expected.text())),
        Err(why) if !measured && max_overhead < 100.0 => Ok(Judged::Refused(format!(
            "what level 2 costs can neither be sampled ({why}) nor be measured while it runs; --max-overhead 100 takes \
             it all the same"
        ))),
        Err(why) => Ok(Judged::Governed(format!(
            "the cost of level 2 could not be sampled: {why}"
        ))),
    }
}

/// What is said of other collectors on this kernel, and how loud.
fn other_collectors(others: &Others) -> Option<(&'static str, String)> {
    match others {
        Others::Attached { kernel: 0, .. } | Others::None => None,
        Others::Attached { kernel, .. } => Some((
            "warn",
            format!(
                "{kernel} more collector(s) measure this kernel: what is probed twice costs twice"
            ),
        )),
        Others::Unknown(why) => Some((
            "info",
            format!("whether another collector measures this kernel is not known: {why}"),
        )),
    }
}

fn nothing_attached(attached: &Attached) -> SourceError {
    let reasons: std::collections::BTreeSet<&str> = attached
        .points
        .iter()
        .map(|point| point.reason.as_str())
        .filter(|reason| !reason.is_empty())
        .take(4)
        .collect();
    failed(
        "nothing could be attached to the kernel",
        reasons.into_iter().collect::<Vec<_>>().join("; "),
        "run `apscope doctor`, which lists every point with its reason",
    )
}

/// Addresses at which a program sees the calls of entry points. On s390x a kprobe on a function's first instruction,
/// which ftrace has made a branch of six bytes, may be told that address or the one behind it.
fn entry_addresses(plan: &Plan) -> Vec<(u64, u8)> {
    const BEHIND: [u64; 4] = [0, 1, 5, 6];
    plan.attached()
        .filter_map(|planned| {
            let crate::attach::points::Role::Entry(id) = planned.point.role else {
                return None;
            };
            Some((planned.target.as_ref()?.address?, id))
        })
        .flat_map(|(address, id)| BEHIND.map(|behind| (address + behind, id)))
        .collect()
}

#[expect(
    clippy::too_many_arguments,
    reason = "everything that is known of a run, described once"
)]
fn meta(
    survey: &Survey,
    instances: &Instances,
    attached: &Attached,
    reason: &str,
    notes: &[String],
    level: u8,
    config: &probe_ebpf::abi::Config,
    options: &KernelOptions,
) -> frame::Meta {
    let plan = &survey.plan;
    let mut entries: Vec<u32> = plan
        .attached()
        .filter_map(|planned| match planned.point.role {
            crate::attach::points::Role::Entry(id) => Some(u32::from(id)),
            _ => None,
        })
        .collect();
    entries.sort_unstable();
    entries.dedup();
    let names = plan.generation.candidates.names();
    let reason = std::iter::once(reason.to_owned())
        .chain(notes.iter().cloned())
        .collect::<Vec<_>>()
        .join("; ");
    frame::Meta {
        source: "kernel".into(),
        probe: "ebpf".into(),
        generation: names.join("|"),
        kernel_release: std::fs::read_to_string("/proc/sys/kernel/osrelease")
            .unwrap_or_default()
            .trim()
            .to_owned(),
        arch: std::env::consts::ARCH.into(),
        reason,
        start_ns: reader::monotonic_ns(),
        start_unix_ns: reader::unix_ns(),
        instances: instances.all.clone(),
        attach: attached.points.clone(),
        series: instances.series(),
        entries,
        version: env!("CARGO_PKG_VERSION").into(),
        contended_by: if config.tentative != 0 && config.contention_events == 0 {
            "owner word"
        } else {
            "slow path"
        }
        .into(),
        level: u32::from(level),
        evidence: facts(&plan.generation),
        losses: if plan.generation.candidates.is_empty() && !options.locks.is_empty() {
            Vec::new()
        } else {
            plan.losses
                .iter()
                .map(|loss| format!("{}: {} ({})", loss.names.join(", "), loss.lost, loss.reason))
                .collect()
        },
        blind_spots: plan
            .blind_spots
            .iter()
            .map(|spot| spot.text.to_owned())
            .collect(),
        ..frame::Meta::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn level_2_is_refused_where_nobody_would_know_what_it_costs() {
        let no_sample = || Err("tracefs is not mounted".to_owned());
        let judged = |measured, most| judge(no_sample(), measured, most).unwrap();
        assert!(matches!(judged(false, 1.0), Judged::Refused(why) if why.contains("tracefs")));
        assert!(matches!(judged(true, 1.0), Judged::Governed(_)));
        assert!(matches!(judged(false, 100.0), Judged::Governed(_)));
    }
}
