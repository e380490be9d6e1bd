//! The attach plan over recordings of kernels with the genuine driver: 5.10 (stable 5.10.223, no types of modules), 6.1
//! (6.1.176), 6.12 (6.12.107) and 7.2 (7.2.13), and over variants of them in which something is missing.
//!
//! The recordings were reduced by `attach::btf::reduce`. Offsets were checked with pahole on the whole recordings.

#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use apscope_collector::attach::functions::FilterFunctions;
use apscope_collector::attach::generation::{Edge, Observed};
use apscope_collector::attach::offsets::{BuildIds, Field, OffsetSource, Offsets, Types};
use apscope_collector::attach::plan::{
    Allowed, Forced, Instead, Machine, Mechanism, Named, Plan, Planned, Status, Tracepoints,
};
use apscope_collector::attach::points::{Role, Side};
use apscope_collector::attach::symbols::Symbols;
use probe_ebpf::abi::Mode;
use probe_ebpf::names::{ENTRY_POINTS, class_id, entry_id};

/// A recorded kernel, which a test may change before it plans.
struct Kernel {
    kallsyms: String,
    functions: Option<String>,
    tracepoints: Option<String>,
    types: Types,
    ids: BuildIds,
    allowed: Allowed,
    level: u8,
    forced: Option<Forced>,
}

fn fixture(kernel: &str, name: &str) -> Option<Vec<u8>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/kernels");
    let path = folder.join(kernel).join(name);
    if let Ok(plain) = fs::read(&path) {
        return Some(plain);
    }
    let packed = fs::read(path.with_file_name(format!("{name}.zst"))).ok()?;
    Some(zstd::decode_all(&packed[..]).unwrap())
}

/// What s390 allows: it has trampolines since v6.3.
fn allowed(kernel: &str) -> Allowed {
    let mut allowed = Allowed::everything();
    if kernel.starts_with("5.10") || kernel == "6.1" {
        allowed.fentry = Err("no trampolines on this architecture".to_owned());
        allowed.fexit.clone_from(&allowed.fentry);
    }
    allowed
}

impl Kernel {
    fn recorded(name: &str) -> Self {
        let text = |file| String::from_utf8(fixture(name, file).unwrap()).unwrap();
        let mut types = Types::default();
        if let Some(vmlinux) = fixture(name, "btf-vmlinux") {
            types.add_vmlinux(vmlinux);
        }
        for module in ["kvm", "vfio_ap", "mdev", "vfio", "ap", "aplab"] {
            if let Some(data) = fixture(name, &format!("btf-{module}")) {
                types.add_module(module, data);
            }
        }
        assert_eq!(types.failed, [], "{name}");
        let mut ids = BuildIds::default();
        assert!(ids.add("vmlinux", &fixture(name, "notes").unwrap()));
        for module in ["kvm", "vfio_ap"] {
            assert!(ids.add(
                module,
                &fixture(name, &format!("build-id-{module}")).unwrap()
            ));
        }
        Self {
            kallsyms: text("kallsyms"),
            functions: Some(text("available_filter_functions")),
            tracepoints: Some(text("available_events")),
            types,
            ids,
            allowed: allowed(name),
            level: 2,
            forced: None,
        }
    }

    fn offsets(&self) -> Offsets {
        Offsets::resolve(&self.types, &self.ids)
    }

    fn plan(&self) -> Plan {
        let symbols = Symbols::parse(self.kallsyms.as_bytes()).unwrap();
        let functions = self
            .functions
            .as_ref()
            .map(|text| FilterFunctions::parse(text.as_bytes()).unwrap());
        let tracepoints = self
            .tracepoints
            .as_ref()
            .map(|text| Tracepoints::parse(text.as_bytes()).unwrap());
        Plan::new(&Machine {
            symbols: &symbols,
            functions: functions.as_ref(),
            tracepoints: tracepoints.as_ref(),
            types: &self.types,
            offsets: &self.offsets(),
            allowed: &self.allowed,
            level: self.level,
            forced: self.forced,
            named: Named::default(),
        })
    }

    /// Removes a function from all lists.
    fn without(mut self, symbol: &str, module: &str) -> Self {
        let word = if module.is_empty() {
            symbol.to_owned()
        } else {
            format!("{symbol}\t[{module}]")
        };
        let before = self.kallsyms.len();
        self.kallsyms = keep(&self.kallsyms, |line| !line.ends_with(&format!(" {word}")));
        assert!(self.kallsyms.len() < before, "{word} is not there at all");
        self
    }

    /// Gives a function of a module another name.
    fn renamed(mut self, symbol: &str, module: &str, new: &str) -> Self {
        let (old_symbol, new_symbol) = (
            format!(" {symbol}\t[{module}]"),
            format!(" {new}\t[{module}]"),
        );
        assert!(self.kallsyms.contains(&old_symbol));
        self.kallsyms = self.kallsyms.replace(&old_symbol, &new_symbol);
        let functions = self.functions.take().unwrap();
        let (old, new) = (
            format!("\n{symbol} [{module}]\n"),
            format!("\n{new} [{module}]\n"),
        );
        assert!(functions.contains(&old));
        self.functions = Some(functions.replace(&old, &new));
        self
    }

    fn without_contention(mut self) -> Self {
        let events = self.tracepoints.take().unwrap();
        self.tracepoints = Some(keep(&events, |line| !line.contains("contention")));
        self.kallsyms = keep(&self.kallsyms, |line| !line.contains("contention"));
        self
    }
}

fn keep(text: &str, mut keep: impl FnMut(&str) -> bool) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| keep(line)).collect();
    lines.join("\n") + "\n"
}

fn sides<'a>(plan: &'a Plan, name: &'a str) -> Vec<&'a Planned> {
    let all: Vec<&Planned> = plan.of(name).collect();
    assert!(!all.is_empty(), "no point {name}");
    all
}

fn side<'a>(plan: &'a Plan, name: &'a str, side: Side) -> &'a Planned {
    let all = sides(plan, name);
    all.into_iter()
        .find(|planned| planned.side == side)
        .unwrap()
}

/// The plan as text.
fn describe(plan: &Plan) -> String {
    let mut out = String::new();
    let generation = &plan.generation;
    writeln!(out, "generation {}", generation.candidates).unwrap();
    for evidence in &generation.evidence {
        writeln!(out, "  {}", evidence.fact).unwrap();
    }
    for open in &generation.open {
        writeln!(out, "  open: {open}").unwrap();
    }
    assert_eq!(generation.contradictions, []);
    for planned in &plan.points {
        let how = planned.mechanism.map_or("-", Mechanism::name);
        let target = planned.target.as_ref().map_or_else(String::new, |target| {
            let module = target.module.as_deref().unwrap_or("vmlinux");
            let unique = if target.unique { "" } else { ", not unique" };
            format!(" {} [{module}]{unique}", target.symbol)
        });
        writeln!(
            out,
            "{:?} {:?} {}: {how}{target}",
            planned.status, planned.side, planned.point.name
        )
        .unwrap();
        let first = format!("{how} is the first choice");
        if planned.reason != first && planned.status != Status::NotNeeded {
            writeln!(out, "  {}", planned.reason).unwrap();
        }
        if let Some(instead) = &planned.used_instead {
            writeln!(out, "  instead: {}", instead_name(instead)).unwrap();
        }
    }
    for variable in &plan.variables {
        writeln!(
            out,
            "variable {}: {:?}",
            variable.variable.name, variable.found
        )
        .unwrap();
    }
    for loss in &plan.losses {
        writeln!(out, "lost without {}: {}", loss.names.join(", "), loss.lost).unwrap();
    }
    for spot in &plan.blind_spots {
        writeln!(out, "blind spot {}", spot.id).unwrap();
    }
    out
}

fn instead_name(instead: &Instead) -> String {
    match instead {
        Instead::Entries(ids) => ids
            .iter()
            .map(|id| ENTRY_POINTS[usize::from(*id)].name)
            .collect::<Vec<_>>()
            .join(", "),
        other => format!("{other:?}"),
    }
}

#[test]
fn plans_of_the_recorded_kernels() {
    for kernel in ["5.10", "6.1", "6.12", "7.2"] {
        let plan = Kernel::recorded(kernel).plan();
        insta::assert_snapshot!(format!("plan_{kernel}"), describe(&plan));
    }
}

#[test]
fn generations_are_known_by_symbols_and_members() {
    for (kernel, expected) in [
        ("5.10", "v5.10|v5.11"),
        ("5.10-lockdep", "v5.10|v5.11"),
        ("6.1", "v6.0|v7.3"),
        ("6.12", "v6.6|v7.3"),
        ("7.2", "v6.6|v7.3"),
    ] {
        let plan = Kernel::recorded(kernel).plan();
        assert_eq!(plan.generation.candidates.to_string(), expected, "{kernel}");
        assert!(!plan.generation.open.is_empty(), "{kernel}");
    }
}

#[test]
fn offsets_are_those_that_pahole_and_disassembly_show() {
    use Field as F;
    let expected: [(&str, &[(Field, u32)]); 4] = [
        (
            "5.10",
            &[
                (F::MatrixDevLock, 592),
                (F::MatrixDevSize, 632),
                (F::MdevGroupNotifier, 136),
                (F::MdevKvm, 184),
                (F::MdevPqapHook, 192),
                (F::KvmLock, 2128),
                (F::KvmVcpuMutex, 96),
                (F::KvmRunGprs, 328),
                (F::MdevDeviceUuid, 448),
                // From vmlinux' types.
                (F::TaskPid, 1360),
                (F::TaskTgid, 1364),
                (F::TaskComm, 1784),
                (F::FilePrivateData, 192),
                (F::DeviceDriverData, 120),
                (F::ApQueueQid, 504),
            ],
        ),
        (
            "6.1",
            &[
                (F::MatrixDevMdevsLock, 592),
                (F::MatrixDevGuestsLock, 632),
                (F::MatrixDevMdevList, 576),
                (F::MatrixDevSize, 848),
                (F::MdevNode, 608),
                (F::MdevMatrix, 624),
                (F::MdevKvm, 864),
                (F::MdevPqapHook, 872),
                (F::MdevMdev, 880),
                (F::MdevVdev, 0),
                (F::KvmVcpuKvm, 0),
                (F::KvmVcpuId, 36),
                (F::KvmVcpuMutex, 72),
                (F::KvmVcpuRun, 104),
                (F::KvmLock, 2336),
                (F::KvmVcpuArray, 2240),
                (F::KvmOnlineVcpus, 2304),
                (F::KvmUserspacePid, 11200),
                (F::KvmPqapHookRwsem, 2608 + 5120 + 8),
                (F::KvmPqapHook, 2608 + 5120 + 48),
                (F::KvmRunGprs, 328),
                (F::VfioDeviceKvm, 72),
                (F::VfioDeviceGroup, 32),
                (F::VfioGroupLock, 664),
                (F::MdevDeviceUuid, 448),
                (F::ApQueueQid, 492),
                (F::MutexSize, 32),
                (F::TaskComm, 2032),
            ],
        ),
        (
            "6.12",
            &[
                (F::MatrixDevMdevsLock, 608),
                (F::MatrixDevGuestsLock, 648),
                (F::MdevNode, 776),
                (F::MdevMatrix, 792),
                (F::MdevKvm, 1032),
                (F::MdevPqapHook, 1040),
                (F::MdevMdev, 1048),
                (F::QueueMatrixMdev, 0),
                (F::QueueApqn, 16),
                (F::QueueResetWork, 64),
                (F::KvmVcpuRun, 104),
                (F::KvmLock, 2336),
                (F::KvmPqapHookRwsem, 2608 + 5128 + 8),
                (F::KvmRunGprs, 328),
                (F::SieBlockIpa, 86),
                (F::SieBlockIcptcode, 80),
                (F::VfioDeviceKvm, 104),
                (F::VfioDeviceGroup, 32),
                (F::VfioGroupLock, 680),
                (F::MdevDeviceDev, 0),
                (F::MdevDeviceUuid, 464),
                (F::KvmVfioLock, 16),
                (F::KvmDevicePrivate, 16),
                (F::DeviceDriverData, 120),
                (F::MutexOwner, 0),
                (F::RwsemOwner, 8),
                (F::ApQueueQid, 508),
                (F::TaskComm, 2016),
            ],
        ),
        (
            "7.2",
            &[
                (F::MatrixDevMdevsLock, 608),
                (F::MatrixDevGuestsLock, 640),
                (F::MdevNode, 792),
                (F::MdevKvm, 1048),
                (F::MdevPqapHook, 1056),
                (F::KvmVcpuRun, 96),
                (F::KvmLock, 2320),
                (F::KvmPqapHookRwsem, 2632 + 5080 + 8),
                (F::KvmPqapHook, 2632 + 5080 + 40),
                (F::MutexSize, 24),
                (F::MutexWaiters, 16),
                (F::VfioDeviceGroup, 32),
                (F::VfioGroupLock, 672),
                (F::TaskComm, 2088),
            ],
        ),
    ];
    for (kernel, fields) in expected {
        let offsets = Kernel::recorded(kernel).offsets();
        for (field, offset) in fields {
            let source = offsets.source(*field);
            assert_eq!(
                offsets.get(*field),
                Some(*offset),
                "{kernel} {field:?}: {source:?}"
            );
        }
    }
}

#[test]
fn absent_is_not_missing() {
    let offsets = Kernel::recorded("6.12").offsets();
    for field in [Field::MatrixDevLock, Field::MdevKvmBusy, Field::KvmVcpus] {
        assert_eq!(offsets.has(field), Some(false), "{field:?}");
        assert_eq!(offsets.get(field), None);
    }
    let OffsetSource::Btf { file, path } = offsets.source(Field::MutexWaiters) else {
        panic!("no waiters");
    };
    assert_eq!((file.as_str(), *path), ("vmlinux", "wait_list"));
    let OffsetSource::Btf { path, .. } = Kernel::recorded("7.2")
        .offsets()
        .source(Field::MutexWaiters)
        .clone()
    else {
        panic!("no waiters");
    };
    assert_eq!(path, "first_waiter");
    let mut bare = Kernel::recorded("6.12");
    bare.types = Types::default();
    let offsets = bare.offsets();
    let OffsetSource::Missing { why } = offsets.source(Field::KvmLock) else {
        panic!("a layout without its key");
    };
    assert!(
        why.contains("no types") && why.contains("5c70bc8d33aa"),
        "{why}"
    );
}

#[test]
fn without_types_of_vfio_the_lock_of_a_group_is_a_loss() {
    for kernel in ["6.1", "7.2"] {
        let mut kernel = Kernel::recorded(kernel);
        let lost = |kernel: &Kernel| {
            let losses = kernel.plan().losses;
            let group = losses
                .into_iter()
                .filter(|loss| loss.lost == "the lock of a vfio group");
            group.flat_map(|loss| loss.names).collect::<Vec<_>>()
        };
        assert!(lost(&kernel).is_empty());
        assert_eq!(kernel.offsets().has(Field::VfioGroupRwsem), Some(false));
        kernel.types.modules.remove("vfio");
        kernel.types.modules.remove("vfio_ap");
        assert_eq!(
            lost(&kernel),
            ["vfio_device.group", "vfio_group.group_lock"]
        );
    }
    assert!(
        Kernel::recorded("5.10")
            .plan()
            .losses
            .iter()
            .all(|loss| loss.lost != "the lock of a vfio group"),
        "there is none"
    );
}

#[test]
fn a_known_layout_is_used_for_its_build_id_alone() {
    let mut kernel = Kernel::recorded("5.10");
    assert!(matches!(
        kernel.offsets().source(Field::KvmLock),
        OffsetSource::Layout { key } if key.contains("5.10.223")
    ));
    let mut notes = fixture("5.10", "build-id-kvm").unwrap();
    *notes.last_mut().unwrap() ^= 1;
    assert!(kernel.ids.add("kvm", &notes));
    let offsets = kernel.offsets();
    assert_eq!(offsets.has(Field::KvmLock), None);
    assert_eq!(offsets.get(Field::MatrixDevLock), Some(592));
    let losses = kernel.plan().losses;
    assert!(losses.iter().any(|loss| loss.names[0] == "kvm.lock"));
}

#[test]
fn lockdep_has_other_functions_and_offsets() {
    let kernel = Kernel::recorded("5.10-lockdep");
    let plan = kernel.plan();
    let enter = side(&plan, "mutex_lock", Side::Enter);
    assert_eq!(enter.target.as_ref().unwrap().symbol, "mutex_lock_nested");
    assert_eq!(enter.mechanism, Some(Mechanism::Kprobe));
    let killable = side(&plan, "mutex_lock_killable", Side::Enter);
    assert_eq!(
        killable.target.as_ref().unwrap().symbol,
        "mutex_lock_killable_nested"
    );
    let offsets = kernel.offsets();
    for (field, offset) in [
        (Field::MatrixDevLock, 1016),
        (Field::KvmLock, 2320),
        (Field::FilePrivateData, 456),
        (Field::MutexSize, 160),
        (Field::MutexOwner, 0),
        (Field::TaskPid, 1360),
    ] {
        assert_eq!(offsets.get(field), Some(offset), "{field:?}");
    }
    // What no module's instruction shows stays missing, and is named.
    assert_eq!(offsets.has(Field::TaskComm), None);
    assert!(
        plan.losses
            .iter()
            .any(|loss| loss.names[0] == "task_struct.comm")
    );
}

#[test]
fn acquisitions_are_seen_by_the_best_that_is_there() {
    // fexit and contention: the return alone.
    let full = Kernel::recorded("6.12").plan();
    assert_eq!(
        side(&full, "mutex_lock", Side::Return).mechanism,
        Some(Mechanism::Fexit)
    );
    assert_eq!(
        side(&full, "mutex_lock", Side::Enter).status,
        Status::NotNeeded
    );
    // fexit without contention: both sides.
    let plan = Kernel::recorded("6.12").without_contention().plan();
    assert_eq!(
        side(&plan, "mutex_lock", Side::Return).mechanism,
        Some(Mechanism::Fexit)
    );
    assert_eq!(
        side(&plan, "mutex_lock", Side::Enter).mechanism,
        Some(Mechanism::Fentry)
    );
    assert!(
        plan.losses
            .iter()
            .any(|loss| loss.names[0] == "contention_begin")
    );
    // No trampolines: the entry, and the end of contention. Never a return probe on a lock that blocks.
    let no_trampolines = |mut kernel: Kernel| {
        kernel.allowed.fentry = Err("no trampoline".to_owned());
        kernel.allowed.fexit = Err("no trampoline".to_owned());
        kernel
    };
    let plan = no_trampolines(Kernel::recorded("6.12")).plan();
    let acquired = side(&plan, "mutex_lock", Side::Return);
    assert_eq!(acquired.status, Status::Replaced);
    assert_eq!(acquired.used_instead, Some(Instead::ContentionEnd));
    assert_eq!(
        side(&plan, "mutex_lock", Side::Enter).mechanism,
        Some(Mechanism::Kprobe)
    );
    // A trylock never blocks. A mutex's word says whether it succeeded, an rwsem's does not.
    let tried = side(&plan, "mutex_trylock", Side::Return);
    assert_eq!(tried.status, Status::Replaced);
    assert_eq!(tried.used_instead, Some(Instead::OwnerWord));
    for name in ["down_read_trylock", "down_write_trylock"] {
        let (enter, end) = (
            side(&plan, name, Side::Enter),
            side(&plan, name, Side::Return),
        );
        assert_eq!(enter.mechanism, Some(Mechanism::Kprobe), "{name}");
        assert_eq!(end.mechanism, Some(Mechanism::Kretprobe), "{name}");
    }
    // Neither: the owner word.
    let plan = no_trampolines(Kernel::recorded("6.12").without_contention()).plan();
    let acquired = side(&plan, "mutex_lock", Side::Return);
    assert_eq!(acquired.used_instead, Some(Instead::OwnerWord));
    for kernel in ["5.10", "5.10-lockdep", "6.1", "6.12", "7.2"] {
        let plan = no_trampolines(Kernel::recorded(kernel)).plan();
        for planned in plan.attached() {
            let blocks = planned.point.name.starts_with("mutex_lock")
                || planned.point.name.starts_with("down_")
                    && !planned.point.name.ends_with("trylock");
            assert!(
                !blocks || planned.mechanism != Some(Mechanism::Kretprobe),
                "{planned:?}"
            );
        }
    }
}

#[test]
fn a_trampoline_is_for_vmlinux_only() {
    for kernel in ["5.10", "6.1", "6.12", "7.2"] {
        for planned in Kernel::recorded(kernel).plan().attached() {
            let module = planned.target.as_ref().unwrap().module.is_some();
            let trampoline = matches!(
                planned.mechanism,
                Some(Mechanism::Fentry | Mechanism::Fexit)
            );
            assert!(!(module && trampoline), "{planned:?}");
        }
    }
}

#[test]
fn mechanisms_can_be_forced() {
    let mut kernel = Kernel::recorded("6.12");
    kernel.forced = Some(Forced::Kprobe);
    let plan = kernel.plan();
    assert_eq!(
        side(&plan, "mutex_unlock", Side::Enter).mechanism,
        Some(Mechanism::Kprobe)
    );
    assert_eq!(
        side(&plan, "mutex_lock", Side::Return).used_instead,
        Some(Instead::ContentionEnd)
    );
    kernel.forced = Some(Forced::RawTracepoint);
    let plan = kernel.plan();
    assert_eq!(
        side(&plan, "contention_begin", Side::Enter).mechanism,
        Some(Mechanism::RawTracepoint)
    );
    kernel.forced = Some(Forced::Fentry);
    kernel.allowed.fentry = Err("not compiled in".to_owned());
    let plan = kernel.plan();
    let unlock = side(&plan, "mutex_unlock", Side::Enter);
    assert_eq!((unlock.status, unlock.mechanism), (Status::Lost, None));
    assert!(unlock.reason.contains("not compiled in"));
    assert_eq!(
        side(&plan, "handle_pqap", Side::Enter).mechanism,
        Some(Mechanism::Kprobe)
    );
}

#[test]
fn kvm_is_probed_where_its_handler_was_inlined_into() {
    let kernel = Kernel::recorded("6.12");
    let plan = kernel.plan();
    let enter = side(&plan, "handle_pqap [kvm]", Side::Enter);
    assert_eq!(enter.target.as_ref().unwrap().symbol, "kvm_s390_handle_b2");
    assert!(enter.reason.contains("B2AF"), "{}", enter.reason);
    // vfio_ap's function of the same name is another point.
    let driver = side(&plan, "handle_pqap", Side::Enter);
    assert_eq!(
        driver.target.as_ref().unwrap().module.as_deref(),
        Some("vfio_ap")
    );
    // Without the instruction it would count every B2 instruction.
    let mut blind = kernel;
    blind.types = Types::default();
    let plan = blind.plan();
    let enter = side(&plan, "handle_pqap [kvm]", Side::Enter);
    assert_eq!(enter.status, Status::Replaced);
    assert_eq!(
        enter.used_instead,
        Some(Instead::Entries(vec![entry_id::HANDLE_PQAP]))
    );
}

#[test]
fn a_function_that_is_not_unique_needs_an_address_or_its_module() {
    let mut kernel = Kernel::recorded("6.1");
    let bus = |plan: &Plan| {
        let planned = side(plan, "apmask_store", Side::Enter);
        planned.target.clone().unwrap()
    };
    let target = bus(&kernel.plan());
    assert_eq!(target.module.as_deref(), Some("aplab"));
    assert!(!target.unique && target.address.is_some());
    // Hidden addresses: a module's function is still placed by module and name.
    let zero = "0".repeat(16);
    let hidden: Vec<String> = kernel
        .kallsyms
        .lines()
        .map(|line| format!("{zero}{}", &line[16..]))
        .collect();
    kernel.kallsyms = hidden.join("\n") + "\n";
    let plan = kernel.plan();
    assert_eq!(bus(&plan).address, None);
    assert_eq!(
        side(&plan, "apmask_store", Side::Enter).status,
        Status::Planned
    );
    assert!(
        plan.variables
            .iter()
            .all(|variable| variable.address.is_none())
    );
    assert!(
        plan.losses
            .iter()
            .any(|loss| loss.names[0] == "matrix_dev" && loss.reason.contains("kptr_restrict"))
    );
}

#[test]
fn clones_by_the_compiler_are_used_for_counting_alone() {
    let plan = Kernel::recorded("6.12")
        .renamed(
            "vfio_ap_mdev_close_device",
            "vfio_ap",
            "vfio_ap_mdev_close_device.isra.0",
        )
        .plan();
    let enter = side(&plan, "vfio_ap_mdev_close_device", Side::Enter);
    assert_eq!(enter.status, Status::Planned);
    let target = enter.target.as_ref().unwrap();
    assert!(
        target
            .suffix_note
            .as_ref()
            .unwrap()
            .contains("values instead of pointers")
    );
    assert_ne!(
        target.arguments,
        apscope_collector::attach::plan::Arguments::AsInSource
    );
    // Where the argument is all that counts, a clone is refused.
    let plan = Kernel::recorded("6.12")
        .renamed(
            "kvm_arch_destroy_vm",
            "kvm",
            "kvm_arch_destroy_vm.constprop.0",
        )
        .plan();
    let gone = side(&plan, "kvm_arch_destroy_vm", Side::Enter);
    assert_eq!(gone.status, Status::Lost);
    assert!(gone.reason.contains("clone"), "{}", gone.reason);
}

#[test]
fn what_is_missing_is_replaced_in_the_order_of_the_table() {
    // On 5.10 the notifier binds guests; without its symbol, what remains is the setting of masks.
    let kernel = Kernel::recorded("5.10").without("vfio_ap_mdev_release", "vfio_ap");
    let plan = kernel.plan();
    let release = side(&plan, "vfio_ap_mdev_release", Side::Enter);
    assert_eq!(
        release.used_instead,
        Some(Instead::Entries(vec![entry_id::CLEAR_MASKS]))
    );
    assert!(
        plan.losses
            .iter()
            .any(|loss| loss.names[0] == "vfio_ap_mdev_release")
    );
    let plan = Kernel::recorded("6.12")
        .without("vfio_ap_mdev_open_device", "vfio_ap")
        .plan();
    // Then the symbol says v5.10 or older, which everything else contradicts.
    assert!(!plan.generation.contradictions.is_empty());
    assert_eq!(plan.generation.candidates.to_string(), "v6.6|v7.3");
    assert_eq!(
        side(&plan, "vfio_ap_mdev_open_device", Side::Enter).used_instead,
        Some(Instead::Entries(vec![entry_id::SET_MASKS]))
    );
}

#[test]
fn without_the_driver_nothing_is_planned() {
    let mut kernel = Kernel::recorded("6.12");
    kernel.kallsyms = keep(&kernel.kallsyms, |line| !line.ends_with("[vfio_ap]"));
    let plan = kernel.plan();
    assert!(plan.generation.candidates.is_empty());
    // Any lock can still be measured that a person names.
    for planned in &plan.points {
        let of_any_lock = matches!(planned.point.role, Role::Lock(_) | Role::Contention(_));
        if !of_any_lock {
            assert_eq!(planned.status, Status::NotNeeded, "{planned:?}");
            assert_eq!(planned.reason, "the driver is not there");
        }
    }
    assert!(plan.attached().count() > 0);
    // Without kvm, the driver's own functions remain.
    let mut kernel = Kernel::recorded("6.12");
    kernel.kallsyms = keep(&kernel.kallsyms, |line| !line.ends_with("[kvm]"));
    let plan = kernel.plan();
    assert_eq!(
        side(&plan, "handle_pqap", Side::Enter).status,
        Status::Planned
    );
    let lost = side(&plan, "kvm_arch_crypto_set_masks", Side::Enter);
    assert_eq!(lost.status, Status::Lost);
    assert_eq!(lost.reason, "the module kvm is not loaded");
}

#[test]
fn functions_that_ftrace_cannot_patch_are_refused() {
    let mut kernel = Kernel::recorded("6.12");
    let functions = kernel.functions.take().unwrap();
    kernel.functions = Some(keep(&functions, |line| {
        line != "assign_adapter_store [vfio_ap]"
    }));
    let plan = kernel.plan();
    let refused = side(&plan, "assign_adapter_store", Side::Enter);
    assert_eq!(refused.status, Status::Lost);
    assert!(refused.reason.contains("--allow-stop-machine"));
    kernel.allowed.stop_machine = true;
    let plan = kernel.plan();
    assert_eq!(
        side(&plan, "assign_adapter_store", Side::Enter).mechanism,
        Some(Mechanism::Kprobe)
    );
    // Without tracefs nothing is known, but trampolines are the kernel's own check.
    kernel.allowed.stop_machine = false;
    kernel.functions = None;
    kernel.tracepoints = None;
    let plan = kernel.plan();
    assert!(
        side(&plan, "assign_adapter_store", Side::Enter)
            .reason
            .contains("without tracefs")
    );
    assert_eq!(
        side(&plan, "mutex_unlock", Side::Enter).mechanism,
        Some(Mechanism::Fentry)
    );
    assert_eq!(
        side(&plan, "contention_end", Side::Enter).status,
        Status::Planned
    );
}

#[test]
fn levels_attach_what_belongs_to_them() {
    let mut kernel = Kernel::recorded("6.12");
    for (level, locks, entries) in [(0, false, false), (1, false, true), (2, true, true)] {
        kernel.level = level;
        let plan = kernel.plan();
        let any = |wanted: fn(&Role) -> bool| plan.attached().any(|p| wanted(&p.point.role));
        assert_eq!(
            any(|role| matches!(role, Role::Lock(_))),
            locks,
            "level {level}"
        );
        assert_eq!(
            any(|role| matches!(role, Role::Entry(_))),
            entries,
            "level {level}"
        );
        // What waits for a higher level is no loss of the machine.
        assert!(plan.losses.iter().all(|loss| loss.names[0] != "mutex_lock"));
    }
}

#[test]
fn wait_queues_are_probed_only_for_the_flag() {
    // Symbols of v5.13 are those of v5.10; without types and without a known layout both stay.
    let mut kernel = Kernel::recorded("5.10");
    kernel.ids = BuildIds::default();
    let plan = kernel.plan();
    let candidates = plan.generation.candidates.to_string();
    assert!(
        candidates.contains("v5.13") && candidates.contains("v5.10"),
        "{candidates}"
    );
    assert!(
        plan.generation
            .open
            .iter()
            .any(|open| open.contains("kvm_busy"))
    );
    assert_eq!(
        side(&plan, "prepare_to_wait_event", Side::Enter).status,
        Status::Planned
    );
    let plan = Kernel::recorded("5.10").plan();
    assert_eq!(
        side(&plan, "prepare_to_wait_event", Side::Enter).status,
        Status::NotNeeded
    );
}

#[test]
fn the_observed_order_narrows_the_generation() {
    let edge = |held, acquired, acquired_in| Edge {
        held,
        acquired,
        acquired_in,
    };
    let mutex = |class| (class, Mode::Exclusive);
    let narrowed = |kernel: &str, edges: &[Edge], written| {
        let mut generation = Kernel::recorded(kernel).plan().generation;
        generation.narrow(&Observed {
            edges,
            complete: true,
            hook_write_locked: written,
        });
        assert_eq!(generation.contradictions, []);
        generation.candidates.to_string()
    };
    let hook = (class_id::PQAP_HOOK_RWSEM, Mode::Write);
    let inside = edge(mutex(class_id::KVM_LOCK), hook, entry_id::OPEN_DEVICE);
    assert_eq!(narrowed("6.12", &[inside], 1), "v7.3");
    assert_eq!(narrowed("6.12", &[], 1), "v6.6");
    assert_eq!(narrowed("6.12", &[], 0), "v6.6|v7.3");
    assert_eq!(narrowed("6.1", &[], 3), "v6.0");
    let masks = |entry| {
        edge(
            mutex(class_id::MATRIX_DEV_LOCK),
            mutex(class_id::KVM_LOCK),
            entry,
        )
    };
    assert_eq!(
        narrowed("5.10", &[masks(entry_id::CLEAR_MASKS)], 0),
        "v5.10|v5.11"
    );
    assert_eq!(narrowed("5.10", &[masks(entry_id::SET_MASKS)], 0), "v5.11");
    // An order that no candidate has is told, and changes nothing.
    let mut generation = Kernel::recorded("6.12").plan().generation;
    generation.narrow(&Observed {
        edges: &[masks(entry_id::CLEAR_MASKS)],
        complete: false,
        hook_write_locked: 1,
    });
    assert_eq!(generation.candidates.to_string(), "v6.6|v7.3");
    assert_eq!(generation.contradictions.len(), 1);
}

#[test]
fn blind_spots_belong_to_generations() {
    let ids = |kernel: &str| {
        let plan = Kernel::recorded(kernel).plan();
        plan.blind_spots
            .iter()
            .map(|spot| spot.id)
            .collect::<Vec<_>>()
    };
    assert!(ids("5.10").contains(&"aqic-status"));
    assert!(!ids("6.12").contains(&"aqic-status"));
    assert!(ids("6.12").contains(&"sie") && ids("6.12").contains(&"aqic-only"));
}

/// Edges and hook writes of one table of lock sequences, which the emulated driver is checked against too.
fn edges_of(text: &str) -> (Vec<Edge>, u64) {
    let class = |name: &str| {
        let position = probe_ebpf::names::CLASSES.iter().position(|class| {
            let known = class.name;
            known == name
        });
        position.map(|id| id as u8)
    };
    let (mut edges, mut written) = (Vec::new(), 0);
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((label, steps)) = line.split_once(": ") else {
            continue;
        };
        let acquired_in = match label {
            "open with a guest" | "kvm_vfio_set_attr add" => entry_id::SET_MASKS,
            label if label.starts_with("status_show") => entry_id::STATUS_SHOW,
            _ => entry_id::CLEAR_MASKS,
        };
        let mut held: Vec<(u8, Mode)> = Vec::new();
        // Names of locks have spaces, steps end with a bracket.
        for step in steps.split_inclusive(')') {
            let mut step = step.trim();
            while let Some(rest) = step.strip_prefix("kvm_busy=") {
                let busy = (class_id::KVM_BUSY, Mode::Exclusive);
                if rest.starts_with('1') {
                    held.push(busy);
                } else {
                    held.retain(|lock| *lock != busy);
                }
                step = rest[1..].trim();
            }
            let Some((what, name)) = step.trim_end_matches(')').split_once('(') else {
                continue;
            };
            let (mode, releases) = match what {
                "L" | "F" => (Mode::Exclusive, false),
                "R" => (Mode::Read, false),
                "W" => (Mode::Write, false),
                "U" => (Mode::Exclusive, true),
                "UR" => (Mode::Read, true),
                "UW" => (Mode::Write, true),
                _ => continue,
            };
            // Work items have their queue's number behind them.
            let name = name.split('[').next().unwrap();
            let Some(id) = class(name) else { continue };
            let lock = (id, mode);
            if releases {
                held.retain(|held| *held != lock);
                continue;
            }
            written += u64::from(lock == (class_id::PQAP_HOOK_RWSEM, Mode::Write));
            edges.extend(held.iter().map(|held| Edge {
                held: *held,
                acquired: lock,
                acquired_in,
            }));
            if what != "F" {
                held.push(lock);
            }
        }
    }
    (edges, written)
}

#[test]
fn the_order_of_each_generation_leaves_that_generation() {
    use apscope_collector::attach::generation::{Detected, Generation, Generations};
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/emulator/sequences");
    for generation in Generation::ALL {
        let name = generation.name();
        let text = fs::read_to_string(folder.join(format!("{name}.txt"))).unwrap();
        let (edges, written) = edges_of(&text);
        assert!(edges.len() > 3, "{name}: {}", edges.len());
        let mut detected = Detected {
            candidates: Generations::ALL,
            evidence: Vec::new(),
            contradictions: Vec::new(),
            open: Vec::new(),
        };
        detected.narrow(&Observed {
            edges: &edges,
            complete: true,
            hook_write_locked: written,
        });
        assert_eq!(detected.contradictions, [], "{name}");
        assert!(detected.candidates.has(generation), "{name}: {detected:?}");
        let expected = match name {
            "v5.10" => "v5.10|v5.11",
            "v5.13" => "v5.13|v5.15-rc",
            "v5.15" | "v5.19" => "v5.15|v5.19",
            "v6.0" => "v6.0|v6.6",
            // Nothing in its order is its own.
            "rfc-2021-06" => continue,
            other => other,
        };
        assert_eq!(detected.candidates.to_string(), expected, "{name}");
    }
}
