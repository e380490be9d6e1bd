//! The kernel as a source: the real driver, or any lock that a person names.
//!
//! [`start`] finds out what the machine has and allows, makes the attach plan, loads what reads memory, and adopts the locks
//! that are there; [`run`] reads some frames of memory alone, attaches (`attaching.rs`), and then reads a frame a tick, like
//! the emulator's source. Nothing is pinned, and everything goes with the process.

mod adopted;
mod attaching;
mod comings;
mod deadline;
mod driver;
mod fixed;
mod governor;
mod guard;
mod jobs;
mod kprobes;
mod loading;
mod messages;
mod objects;
mod programs;
mod run;
mod sample;
mod tables;
pub(in crate::source) mod verify;
pub(in crate::source) mod words;

use aya::Ebpf;
use probe_ebpf::abi::{Config, InstanceInfo, gate};
use probe_ebpf::names::ENTRY_POINTS;

use super::SourceError;
use super::budget::Sizes;
use super::ebpf::{EbpfRing, ProbeError, object};
use super::instances::Instances;
use super::log_lines::LogLines;
use super::reader::{self, Kind, Reader};
use super::snapshot::Snapshot;
use super::tasks::{Of, Tasks};
use crate::attach::generation::Detected;
use crate::attach::plan::Plan;
use crate::frame;
use crate::options::{GivenLock, KernelOptions, RunOptions};
use crate::survey::{GivenTypes, Survey};
use adopted::Adopted;
use attaching::Pending;
use fixed::Given;
use governor::Governor;
use objects::Names;
pub(super) use run::KernelSource;
use words::{Kernel, Memory as _};

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

/// What is said of stacks where the kernel hides addresses.
pub(crate) const HIDDEN_ADDRESSES: &str =
    "symbol addresses hidden: stacks have numbers instead of names";
/// Why a lock's address is refused.
pub(crate) const NO_MEMORY: &str = "the kernel has no memory at";
/// What to do then.
pub(crate) const ADDRESS_HINT: &str = "the address of a mutex or rwsem since this boot: the event lock:contention_begin of tracefs shows those of locks that \
     tasks wait for (lock_addr)";

/// Locks at whose address nothing can be read: those of another boot, and addresses of programs.
fn no_memory<'a>(memory: &Kernel, locks: &'a [GivenLock]) -> impl Iterator<Item = &'a GivenLock> {
    locks
        .iter()
        .filter(|lock| memory.u64(lock.address).is_none())
}

/// As [`no_memory`], on this machine, for whoever measures nothing; none where that cannot be found out.
pub(crate) fn unreadable(locks: &[GivenLock]) -> Vec<GivenLock> {
    /// Nothing is written to it.
    const RING_BYTES: u32 = 1 << 16;
    if locks.is_empty() {
        return Vec::new();
    }
    let found = Sizes::for_kernel(1, &KernelOptions::default(), RING_BYTES)
        .ok()
        .and_then(|sizes| object::load(&Config::EMPTY, &sizes).ok())
        .and_then(|ebpf| within_deadline(ebpf, "what reads kernel memory", Kernel::new).ok())
        .and_then(|(ebpf, memory)| {
            let found = no_memory(&memory.ok()?, locks).cloned().collect();
            // Its maps were needed until now.
            drop(ebpf);
            Some(found)
        });
    found.unwrap_or_default()
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

/// Starts measuring this machine's kernel: everything up to what its memory says, with nothing attached yet. `reason`: why
/// this source.
pub(super) fn start(options: &RunOptions, reason: &str) -> Result<KernelSource, SourceError> {
    let kernel = &options.kernel;
    let survey = Survey::untried(kernel).map_err(|e| {
        let (what, cause) = e.what_and_cause();
        failed(&what, cause, GivenTypes::HINT)
    })?;
    target(&survey, kernel)?;
    load(survey, options, reason)
}

/// Loads what reads the kernel's memory, and prepares everything else for what a plan attaches later.
fn load(survey: Survey, options: &RunOptions, reason: &str) -> Result<KernelSource, SourceError> {
    let kernel = &options.kernel;
    let log = LogLines::default();
    let cpus = super::choose::possible_cpus();
    let Survey {
        tables,
        offsets,
        plan,
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
    if let Some(lock) = no_memory(&memory, &kernel.locks).next() {
        return Err(failed(
            &format!("the lock {} cannot be read", lock.name),
            format!("{NO_MEMORY} {:#x}", lock.address),
            ADDRESS_HINT,
        ));
    }
    let has_flag = tables::has_flag(offsets);
    let matrix_dev = fixed::matrix_dev(&memory, plan);
    let fixed = fixed::locks(&memory, offsets, plan, kernel, matrix_dev, has_flag);
    let given = Given::all(&fixed, kernel);
    let instances = fixed::instances(&fixed, &given);
    object::add_locks(&mut ebpf, &fixed::table(&fixed, &instances))
        .map_err(|e| probe_failed(&e))?;
    let symbol = |module: Option<&str>, name: &str| {
        let symbols = symbols?;
        let function = symbols.exact(module, name).map(|found| found.symbol);
        let found = function.or_else(|| symbols.data(module, name))?;
        Some(found.address)
    };
    let vm_list = symbol(Some("kvm"), "vm_list");
    if let Some(matrix_dev) = matrix_dev {
        let known = vm_list.and_then(|list| objects::all_guests(&memory, offsets, list));
        for (lock, tgid) in objects::guests_now(&memory, offsets, matrix_dev, known.as_deref()) {
            object::adopt(&mut ebpf, &lock, tgid, reader::monotonic_ns())
                .map_err(|e| probe_failed(&e))?;
        }
    }
    object::set_entry_info(&mut ebpf, &tables::entry_info(plan, offsets))
        .map_err(|e| probe_failed(&e))?;
    object::set_entry_at(&mut ebpf, &entry_addresses(plan)).map_err(|e| probe_failed(&e))?;
    object::set_gate(&mut ebpf, gate::LEVEL, 0).map_err(|e| probe_failed(&e))?;
    let shared = object::map_memory(&ebpf, &sizes).map_err(|e| probe_failed(&e))?;
    let info = object::view::<InstanceInfo>(&ebpf, "INSTANCE_INFO", sizes.instances as usize)
        .map_err(|e| probe_failed(&e))?;
    let ring = EbpfRing {
        ring: object::take_ring(&mut ebpf).map_err(|e| probe_failed(&e))?,
        size: sizes.ring_bytes,
    };
    let mut reader = Reader::new(shared, sizes.shards, &instances);
    reader.tasks_end();
    let mdevs = matrix_dev.map(|matrix_dev| objects::mdevs(&memory, offsets, matrix_dev));
    for mdev in mdevs.into_iter().flatten() {
        reader.subjects.at(Kind::Mdev, mdev, reader::monotonic_ns());
    }
    for (slot, series) in given.iter().flat_map(Given::series) {
        reader.add_instance(slot, slot, series);
    }
    // Before anything is attached: what is loaded afterwards is another one.
    let module = driver::Module::at(std::path::Path::new("/sys/module/vfio_ap"));
    let places = verify::Places::new(offsets);
    let tasks = Tasks::new(Of::Kernel, true);
    let snapshot = Snapshot::new(offsets, symbol, tasks.ids_are_ours());
    let meta = frame::Meta {
        attaching: kernel.level > 0,
        reads_queues: places.is_some() && snapshot.sees_waits(),
        ..meta(plan, &instances, reason, &config, kernel)
    };
    let driver = !plan.generation.candidates.is_empty();
    let watched = fixed::watched(&fixed, &instances, &given);
    let mut source = KernelSource {
        names: Names::default(),
        memory,
        info,
        adopted: Adopted::new(sizes.instances - sizes.adopted, sizes.instances),
        ended: std::collections::VecDeque::new(),
        given,
        used: std::collections::HashSet::new(),
        watched,
        places,
        matrix_dev,
        vm_list,
        missing: Vec::new(),
        leaving: std::collections::HashSet::new(),
        full: false,
        verifier: verify::Verifier::default(),
        snapshot,
        tasks,
        forgotten: Vec::new(),
        governor: Governor::new(kernel.max_overhead, cpus),
        attached: attaching::Attachment::default(),
        level: 0,
        stacks_over: 0,
        detaches_at: None,
        messages: driver
            .then(|| messages::Messages::open(std::path::Path::new("/dev/kmsg")).ok())
            .flatten(),
        module: if driver { module } else { None },
        driver_locks: fixed
            .iter()
            .filter(|lock| objects::is_drivers(lock.class))
            .map(|lock| lock.address)
            .collect(),
        driver_entries: driver_entries(plan),
        generation: plan.generation.clone(),
        edges: Vec::new(),
        edges_complete: true,
        hook_write_locked: 0,
        next_second: 0,
        last_frame_ns: reader::monotonic_ns(),
        ebpf: Some(ebpf),
        pending: None,
        offsets: offsets.clone(),
        ring,
        log,
        meta,
        meta_changed: true,
        next_matrices_ns: 0,
        reader,
    };
    source.pending = Some(Box::new(Pending {
        survey,
        options: options.clone(),
        reason: reason.to_owned(),
        cpus,
        refused: None,
    }));
    Ok(source)
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

/// Those of the driver's entry points among [`entry_addresses`].
fn driver_entries(plan: &Plan) -> Vec<u64> {
    let all = entry_addresses(plan).into_iter();
    let of_driver = all.filter(|(_, id)| {
        ENTRY_POINTS
            .get(usize::from(*id))
            .is_some_and(|entry| entry.module == "vfio_ap")
    });
    of_driver.map(|(address, _)| address).collect()
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

/// Why times are not those of hardware, given the text of `/proc/sysinfo` (arch/s390/kernel/sysinfo.c); empty where they
/// are. Only an emulated machine calls itself QEMU (`handle_stsi`, target/s390x/tcg/misc_helper.c): under KVM it has the
/// manufacturer of the real one.
fn timing(sysinfo: &str) -> &'static str {
    let manufacturer = sysinfo
        .lines()
        .find_map(|line| line.strip_prefix("Manufacturer:"));
    if manufacturer.is_some_and(|name| name.trim() == "QEMU") {
        "QEMU emulates the CPUs"
    } else {
        ""
    }
}

/// Describes a run to which nothing is attached yet.
fn meta(
    plan: &Plan,
    instances: &Instances,
    reason: &str,
    config: &probe_ebpf::abi::Config,
    options: &KernelOptions,
) -> frame::Meta {
    let mut entries: Vec<u32> = plan
        .attached()
        .filter_map(|planned| match planned.point.role {
            crate::attach::points::Role::Entry(id) => Some(u32::from(id)),
            _ => None,
        })
        .collect();
    entries.sort_unstable();
    entries.dedup();
    frame::Meta {
        source: "kernel".into(),
        probe: "ebpf".into(),
        generation: plan.generation.candidates.names().join("|"),
        kernel_release: std::fs::read_to_string("/proc/sys/kernel/osrelease")
            .unwrap_or_default()
            .trim()
            .to_owned(),
        arch: std::env::consts::ARCH.into(),
        timing: timing(&std::fs::read_to_string("/proc/sysinfo").unwrap_or_default()).into(),
        reason: reason.into(),
        start_ns: reader::monotonic_ns(),
        start_unix_ns: reader::unix_ns(),
        instances: instances.all.clone(),
        series: instances.series(),
        entries,
        version: env!("CARGO_PKG_VERSION").into(),
        contended_by: if config.tentative != 0 && config.contention_events == 0 {
            "owner word"
        } else {
            "slow path"
        }
        .into(),
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
    use super::timing;

    #[test]
    fn only_an_emulated_machine_is_made_by_qemu() {
        let text = |manufacturer: &str| {
            format!(
                "Manufacturer:         {manufacturer}            \nType:                 8561\n"
            )
        };
        assert_eq!(timing(&text("QEMU")), "QEMU emulates the CPUs");
        let guest = "VM00 Name:            QEMU\nVM00 Control Program: KVM/Linux       \n";
        assert_eq!(timing(&(text("IBM") + guest)), "");
        assert_eq!(timing(""), "");
    }
}
