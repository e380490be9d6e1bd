//! What is probed, and what the probes are told: which program at which symbol, and the annotations of entry points.
//!
//! For the emulated driver, [`hooks`] and [`entry_info`] are all. For a kernel, what can be attached is found out first,
//! from its symbol table, its types and what it allows: [`plan::Plan`] says where each of [`points::POINTS`] is probed,
//! by which mechanism and why, and what is lost; [`programs`] which program that takes. All of that is computed from texts and bytes that somebody else has
//! read; nothing here opens a file or attaches a probe.

pub mod btf;
pub mod functions;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod generation;
pub mod layouts;
pub mod lines;
pub mod offsets;
pub mod plan;
pub mod points;
pub mod programs;
pub mod symbols;

use probe_ebpf::abi::{
    ENTRY_HAS_WRITER, ENTRY_PQAP, ENTRY_RETURNS_INT, ENTRY_RETURNS_NOTIFY, ENTRY_RETURNS_VOID,
    ENTRY_SETS_FLAG, ENTRY_TESTS_FLAG, ENTRY_TESTS_FLAG_IF_NO_DATA, EntryInfo, MAX_ENTRY_POINTS,
    Mode, Program, Resolve,
};
use probe_ebpf::names::{ENTRY_POINTS, ReturnKind, entry_id};

/// A program at a symbol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hook {
    /// The program.
    pub program: Program,
    /// What it is told: a mode, or an entry point id.
    pub cookie: u8,
}

/// Programs to attach to a probe point of the emulated driver; empty for points that only peers use
/// (`mutex_lock`, ...).
#[must_use]
pub fn hooks(module: &str, symbol: &str) -> Vec<Hook> {
    let lock = |program, mode: Mode| {
        vec![Hook {
            program,
            cookie: mode as u8,
        }]
    };
    match (module, symbol) {
        ("kernel", "lock_acquired") => lock(Program::Acquired, Mode::Exclusive),
        ("kernel", "lock_attempt_failed") => lock(Program::Failed, Mode::Exclusive),
        ("kernel", "mutex_unlock" | "workqueue_execute_end") => {
            lock(Program::Release, Mode::Exclusive)
        }
        ("kernel", "up_read") => lock(Program::Release, Mode::Read),
        ("kernel", "up_write") => lock(Program::Release, Mode::Write),
        ("kernel", "__mutex_lock_slowpath") => lock(Program::Contended, Mode::Exclusive),
        ("kernel", "rwsem_down_read_slowpath") => lock(Program::Contended, Mode::Read),
        ("kernel", "rwsem_down_write_slowpath") => lock(Program::Contended, Mode::Write),
        ("kernel", "prepare_to_wait_event") => lock(Program::WaitPrepare, Mode::Exclusive),
        ("kernel", "finish_wait") => lock(Program::WaitFinish, Mode::Exclusive),
        ("kernel", "__wake_up") => lock(Program::Wake, Mode::Exclusive),
        ("kernel", "workqueue_execute_start") => lock(Program::WorkStart, Mode::Exclusive),
        ("kernel", "flush_work") => vec![
            Hook {
                program: Program::FlushEnter,
                cookie: 0,
            },
            Hook {
                program: Program::FlushReturn,
                cookie: 0,
            },
        ],
        _ => match entry_point(module, symbol) {
            Some(id) => vec![
                Hook {
                    program: Program::Enter,
                    cookie: id,
                },
                Hook {
                    program: Program::Return,
                    cookie: id,
                },
            ],
            None => Vec::new(),
        },
    }
}

/// Id of the entry point with this symbol in this module.
#[must_use]
pub fn entry_point(module: &str, symbol: &str) -> Option<u8> {
    let position = ENTRY_POINTS
        .iter()
        .skip(1)
        .position(|e| e.module == module && e.symbol == symbol)?;
    u8::try_from(position + 1).ok()
}

/// Where it is said on whose behalf a sysfs attribute is accessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writer {
    /// The writer is the current task: a kernel.
    CurrentTask,
    /// The writer is named by arguments 5 and 6: the emulated driver, whose attributes a file system thread may access
    /// for another process.
    Arguments,
}

/// Attach-time facts of every entry point. `has_flag`: the generation has the open-coded lock `kvm_busy`.
#[must_use]
pub fn entry_info(has_flag: bool, writer: Writer) -> [EntryInfo; MAX_ENTRY_POINTS] {
    let mut table = [EntryInfo {
        flags: 0,
        resolve: Resolve::None as u8,
        reserved: [0; 6],
    }; MAX_ENTRY_POINTS];
    for (id, (entry, info)) in ENTRY_POINTS.iter().zip(&mut table).enumerate() {
        let id = id as u8;
        info.flags = match entry.returns {
            ReturnKind::Void => ENTRY_RETURNS_VOID,
            ReturnKind::Int => ENTRY_RETURNS_INT,
            ReturnKind::Long => 0,
            ReturnKind::Notify => ENTRY_RETURNS_NOTIFY | ENTRY_RETURNS_INT,
        };
        if entry.pqap {
            info.flags |= ENTRY_PQAP;
        }
        info.flags |= if has_flag { flag_annotation(id) } else { 0 };
        if writer == Writer::Arguments && reachable_from_sysfs(id) {
            info.flags |= ENTRY_HAS_WRITER;
        }
        info.resolve = resolve(id) as u8;
    }
    table
}

/// Entry points that an access to sysfs calls: attributes, and creating and removing an mdev.
fn reachable_from_sysfs(id: u8) -> bool {
    let symbol = ENTRY_POINTS
        .get(usize::from(id))
        .map_or("", |entry| entry.symbol);
    symbol.ends_with("_store")
        || symbol.ends_with("_show")
        || matches!(id, entry_id::CREATE | entry_id::PROBE | entry_id::REMOVE)
}

/// Which entry points set and which test `kvm_busy`, in v5.13 (vfio_ap_ops.c): set_kvm and unset_kvm run inside
/// the group notifier and inside release (close_device from v5.15-rc1 on); unset_kvm, handle_pqap and the RESET ioctl
/// wait for it.
const fn flag_annotation(id: u8) -> u8 {
    match id {
        entry_id::GROUP_NOTIFIER => ENTRY_SETS_FLAG | ENTRY_TESTS_FLAG_IF_NO_DATA,
        entry_id::RELEASE | entry_id::CLOSE_DEVICE => ENTRY_SETS_FLAG | ENTRY_TESTS_FLAG,
        entry_id::HANDLE_PQAP | entry_id::IOCTL => ENTRY_TESTS_FLAG,
        _ => 0,
    }
}

/// How the object of an entry point is found.
const fn resolve(id: u8) -> Resolve {
    match id {
        entry_id::GROUP_NOTIFIER => Resolve::Notifier,
        entry_id::OPEN
        | entry_id::RELEASE
        | entry_id::OPEN_DEVICE
        | entry_id::CLOSE_DEVICE
        | entry_id::PROBE
        | entry_id::REMOVE
        | entry_id::REQUEST
        | entry_id::DMA_UNMAP
        | entry_id::IOCTL => Resolve::MdevDevice,
        entry_id::CREATE => Resolve::NewMdev,
        entry_id::RESET_QUEUES => Resolve::Mdev,
        entry_id::QUEUE_DEV_PROBE
        | entry_id::QUEUE_DEV_REMOVE
        | entry_id::PROBE_QUEUE
        | entry_id::REMOVE_QUEUE => Resolve::ApDevice,
        entry_id::APMASK_STORE | entry_id::AQMASK_STORE => Resolve::BusText,
        entry_id::IOMMU_NOTIFIER => Resolve::Action,
        entry_id::ASSIGN_ADAPTER
        | entry_id::UNASSIGN_ADAPTER
        | entry_id::ASSIGN_DOMAIN
        | entry_id::UNASSIGN_DOMAIN
        | entry_id::ASSIGN_CONTROL_DOMAIN
        | entry_id::UNASSIGN_CONTROL_DOMAIN
        | entry_id::AP_CONFIG_STORE => Resolve::Device,
        entry_id::MATRIX_SHOW
        | entry_id::CONTROL_DOMAINS_SHOW
        | entry_id::GUEST_MATRIX_SHOW
        | entry_id::AP_CONFIG_SHOW => Resolve::Show,
        entry_id::HANDLE_PQAP | entry_id::KVM_HANDLE_PQAP => Resolve::Vcpu,
        entry_id::KVM_S390_HANDLE_PV | entry_id::SET_MASKS | entry_id::CLEAR_MASKS => Resolve::Kvm,
        entry_id::APQ_RESET_CHECK => Resolve::Work,
        entry_id::KVM_VCPU_IOCTL => Resolve::VcpuCall,
        entry_id::KVM_VFIO_SET_ATTR => Resolve::KvmDevice,
        _ => Resolve::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_pqap_handlers_are_told_apart() {
        assert_eq!(
            entry_point("vfio_ap", "handle_pqap"),
            Some(entry_id::HANDLE_PQAP)
        );
        assert_eq!(
            entry_point("kvm", "handle_pqap"),
            Some(entry_id::KVM_HANDLE_PQAP)
        );
        assert_eq!(entry_point("kvm", "assign_adapter_store"), None);
    }

    #[test]
    fn without_the_flag_nothing_is_annotated() {
        let annotations = ENTRY_SETS_FLAG | ENTRY_TESTS_FLAG | ENTRY_TESTS_FLAG_IF_NO_DATA;
        assert!(
            entry_info(false, Writer::Arguments)
                .iter()
                .all(|e| e.flags & annotations == 0)
        );
        let with = entry_info(true, Writer::Arguments);
        for id in [entry_id::RELEASE, entry_id::CLOSE_DEVICE] {
            assert_eq!(
                with[id as usize].flags & annotations,
                ENTRY_SETS_FLAG | ENTRY_TESTS_FLAG
            );
        }
        assert_eq!(
            with[entry_id::ASSIGN_ADAPTER as usize].flags & annotations,
            0
        );
    }

    #[test]
    fn what_sysfs_reaches_has_a_writer_in_the_emulated_driver_only() {
        let info = entry_info(true, Writer::Arguments);
        let with: Vec<&str> = ENTRY_POINTS
            .iter()
            .zip(&info)
            .filter(|(_, info)| info.flags & ENTRY_HAS_WRITER != 0)
            .map(|(entry, _)| entry.symbol)
            .collect();
        assert_eq!(
            with,
            [
                "assign_adapter_store",
                "unassign_adapter_store",
                "assign_domain_store",
                "unassign_domain_store",
                "assign_control_domain_store",
                "unassign_control_domain_store",
                "matrix_show",
                "control_domains_show",
                "vfio_ap_mdev_create",
                "vfio_ap_mdev_probe",
                "vfio_ap_mdev_remove",
                "guest_matrix_show",
                "ap_config_show",
                "ap_config_store",
                "status_show",
                "apmask_store",
                "aqmask_store",
            ]
        );
        let kernel = entry_info(true, Writer::CurrentTask);
        assert!(kernel.iter().all(|e| e.flags & ENTRY_HAS_WRITER == 0));
    }

    #[test]
    fn a_work_item_is_held_from_start_to_end_and_flushed_by_entry_and_return() {
        let programs = |symbol| {
            hooks("kernel", symbol)
                .iter()
                .map(|hook| hook.program)
                .collect::<Vec<_>>()
        };
        assert_eq!(programs("workqueue_execute_start"), [Program::WorkStart]);
        assert_eq!(programs("workqueue_execute_end"), [Program::Release]);
        assert_eq!(
            programs("flush_work"),
            [Program::FlushEnter, Program::FlushReturn]
        );
        assert_eq!(programs("msleep"), []);
    }

    #[test]
    fn objects_are_found_by_entry_point() {
        for (id, expected) in [
            (entry_id::REMOVE_QUEUE, Resolve::ApDevice),
            (entry_id::CREATE, Resolve::NewMdev),
            (entry_id::DMA_UNMAP, Resolve::MdevDevice),
            (entry_id::AP_CONFIG_SHOW, Resolve::Show),
            (entry_id::AP_CONFIG_STORE, Resolve::Device),
            (entry_id::AQMASK_STORE, Resolve::BusText),
            (entry_id::STATUS_SHOW, Resolve::None),
            (entry_id::IOMMU_NOTIFIER, Resolve::Action),
            (entry_id::RESET_QUEUES, Resolve::Mdev),
            (entry_id::APQ_RESET_CHECK, Resolve::Work),
            (entry_id::KVM_VCPU_IOCTL, Resolve::VcpuCall),
            (entry_id::KVM_VFIO_SET_ATTR, Resolve::KvmDevice),
        ] {
            assert_eq!(resolve(id), expected, "entry point {id}");
        }
    }
}
