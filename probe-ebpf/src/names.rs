//! The one list of spellings: lock classes, modes and entry points, as they appear in every output.
//!
//! `docs/names.md` shows the same list and is checked against it by a test. An index here is an id in the ABI.

use crate::abi::{LockKind, Mode};

/// A lock class: all instances of one lock in the source code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Class {
    /// Spelling, for example `kvm->lock`.
    pub name: &'static str,
    /// What kind of lock it is.
    pub kind: LockKind,
    /// A hold that lasts is normal (`vcpu->mutex` is held for a whole KVM_RUN): left out of hold rankings.
    pub long_hold_is_normal: bool,
}

const fn class(name: &'static str, kind: LockKind) -> Class {
    Class {
        name,
        kind,
        long_hold_is_normal: false,
    }
}

/// Lock classes; the index is the class id.
pub const CLASSES: [Class; 17] = [
    class("matrix_dev->lock", LockKind::Mutex),
    class("matrix_dev->guests_lock", LockKind::Mutex),
    class("matrix_dev->mdevs_lock", LockKind::Mutex),
    class("kvm->lock", LockKind::Mutex),
    Class {
        name: "vcpu->mutex",
        kind: LockKind::Mutex,
        long_hold_is_normal: true,
    },
    class("pqap_hook_rwsem", LockKind::Rwsem),
    class("kvm_busy", LockKind::Flag),
    class("ap_perms_mutex", LockKind::Mutex),
    class("ap_attr_mutex", LockKind::Mutex),
    class("reset_work", LockKind::Work),
    class("kv->lock", LockKind::Mutex),
    class("group notifier rwsem", LockKind::Rwsem),
    class("dev_set->lock", LockKind::Mutex),
    class("group_lock", LockKind::Mutex),
    class("group_rwsem", LockKind::Rwsem),
    class("given lock", LockKind::Rwsem),
    class("given mutex", LockKind::Mutex),
];

/// Class ids by name, for code that must name one.
pub mod class_id {
    /// `matrix_dev->lock`.
    pub const MATRIX_DEV_LOCK: u8 = 0;
    /// `matrix_dev->guests_lock`.
    pub const GUESTS_LOCK: u8 = 1;
    /// `matrix_dev->mdevs_lock`.
    pub const MDEVS_LOCK: u8 = 2;
    /// `kvm->lock`.
    pub const KVM_LOCK: u8 = 3;
    /// `vcpu->mutex`.
    pub const VCPU_MUTEX: u8 = 4;
    /// `pqap_hook_rwsem`.
    pub const PQAP_HOOK_RWSEM: u8 = 5;
    /// `kvm_busy`.
    pub const KVM_BUSY: u8 = 6;
    /// `ap_perms_mutex` of the AP bus.
    pub const AP_PERMS_MUTEX: u8 = 7;
    /// `ap_attr_mutex`, its later name.
    pub const AP_ATTR_MUTEX: u8 = 8;
    /// A queue's `reset_work`: held while a worker executes it, waited for by `flush_work`.
    pub const RESET_WORK: u8 = 9;
    /// `kv->lock` of the kvm-vfio device.
    pub const KV_LOCK: u8 = 10;
    /// The rwsem inside `vfio_group->notifier`.
    pub const GROUP_NOTIFIER_RWSEM: u8 = 11;
    /// `device->dev_set->lock` of a vfio device.
    pub const DEV_SET_LOCK: u8 = 12;
    /// `vfio_group->group_lock`.
    pub const GROUP_LOCK: u8 = 13;
    /// `vfio_group->group_rwsem`, which `group_lock` was before.
    pub const GROUP_RWSEM: u8 = 14;
    /// Any lock of the kernel that a person gives the address of, as long as no mutex function is called on it.
    pub const GIVEN_LOCK: u8 = 15;
    /// The same, once a mutex function is called on it: see [`crate::abi::LockInfo::taken`].
    pub const GIVEN_MUTEX: u8 = 16;
}

/// Spelling of a mode.
#[must_use]
pub const fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Exclusive => "-",
        Mode::Read => "read",
        Mode::Write => "write",
    }
}

/// How a return value is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReturnKind {
    /// A void function: every return is `ok`.
    Void,
    /// A C `int`: the low 32 bits, sign-extended; negative is `-errno`.
    Int,
    /// A C `long` or `ssize_t`; negative is `-errno`.
    Long,
    /// `NOTIFY_DONE`, `NOTIFY_OK`, `NOTIFY_STOP` or `NOTIFY_BAD`.
    Notify,
}

/// An entry point: a function whose calls are counted and timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryPoint {
    /// Spelling in every output: the symbol, and ` [module]` where two modules have the symbol.
    pub name: &'static str,
    /// Kernel symbol.
    pub symbol: &'static str,
    /// Kernel module.
    pub module: &'static str,
    /// How its return value is read.
    pub returns: ReturnKind,
    /// Its PQAP response codes are counted too.
    pub pqap: bool,
}

const fn vfio_ap(name: &'static str, returns: ReturnKind) -> EntryPoint {
    EntryPoint {
        name,
        symbol: name,
        module: "vfio_ap",
        returns,
        pqap: false,
    }
}

const fn vmlinux(name: &'static str, returns: ReturnKind) -> EntryPoint {
    EntryPoint {
        name,
        symbol: name,
        module: "kernel",
        returns,
        pqap: false,
    }
}

const fn kvm(name: &'static str, returns: ReturnKind) -> EntryPoint {
    EntryPoint {
        name,
        symbol: name,
        module: "kvm",
        returns,
        pqap: false,
    }
}

/// Entry points; the index is the entry point id. Id 0 stands for "outside every traced function".
pub const ENTRY_POINTS: [EntryPoint; 43] = [
    EntryPoint {
        name: "-",
        symbol: "",
        module: "",
        returns: ReturnKind::Void,
        pqap: false,
    },
    EntryPoint {
        name: "handle_pqap",
        symbol: "handle_pqap",
        module: "vfio_ap",
        returns: ReturnKind::Int,
        pqap: true,
    },
    vfio_ap("vfio_ap_mdev_group_notifier", ReturnKind::Notify),
    vfio_ap("vfio_ap_mdev_open", ReturnKind::Int),
    vfio_ap("vfio_ap_mdev_release", ReturnKind::Void),
    vfio_ap("vfio_ap_mdev_open_device", ReturnKind::Int),
    vfio_ap("vfio_ap_mdev_close_device", ReturnKind::Void),
    vfio_ap("vfio_ap_mdev_ioctl", ReturnKind::Long),
    vfio_ap("assign_adapter_store", ReturnKind::Long),
    vfio_ap("unassign_adapter_store", ReturnKind::Long),
    vfio_ap("assign_domain_store", ReturnKind::Long),
    vfio_ap("unassign_domain_store", ReturnKind::Long),
    vfio_ap("assign_control_domain_store", ReturnKind::Long),
    vfio_ap("unassign_control_domain_store", ReturnKind::Long),
    vfio_ap("matrix_show", ReturnKind::Long),
    vfio_ap("control_domains_show", ReturnKind::Long),
    EntryPoint {
        name: "handle_pqap [kvm]",
        symbol: "handle_pqap",
        module: "kvm",
        returns: ReturnKind::Int,
        pqap: true,
    },
    kvm("kvm_vcpu_ioctl", ReturnKind::Long),
    kvm("kvm_s390_handle_pv", ReturnKind::Int),
    kvm("kvm_arch_crypto_set_masks", ReturnKind::Void),
    kvm("kvm_arch_crypto_clear_masks", ReturnKind::Void),
    kvm("kvm_vfio_set_attr", ReturnKind::Int),
    vfio_ap("vfio_ap_queue_dev_probe", ReturnKind::Int),
    vfio_ap("vfio_ap_queue_dev_remove", ReturnKind::Void),
    vfio_ap("vfio_ap_mdev_probe_queue", ReturnKind::Int),
    vfio_ap("vfio_ap_mdev_remove_queue", ReturnKind::Void),
    vfio_ap("vfio_ap_mdev_create", ReturnKind::Int),
    vfio_ap("vfio_ap_mdev_probe", ReturnKind::Int),
    vfio_ap("vfio_ap_mdev_remove", ReturnKind::Int),
    vfio_ap("vfio_ap_mdev_request", ReturnKind::Void),
    vfio_ap("vfio_ap_mdev_dma_unmap", ReturnKind::Void),
    vfio_ap("vfio_ap_mdev_iommu_notifier", ReturnKind::Notify),
    vfio_ap("guest_matrix_show", ReturnKind::Long),
    vfio_ap("ap_config_show", ReturnKind::Long),
    vfio_ap("ap_config_store", ReturnKind::Long),
    vfio_ap("status_show", ReturnKind::Long),
    vfio_ap("vfio_ap_mdev_resource_in_use", ReturnKind::Int),
    vfio_ap("vfio_ap_on_cfg_changed", ReturnKind::Void),
    vfio_ap("vfio_ap_on_scan_complete", ReturnKind::Void),
    vfio_ap("vfio_ap_mdev_reset_queues", ReturnKind::Int),
    vfio_ap("apq_reset_check", ReturnKind::Void),
    vmlinux("apmask_store", ReturnKind::Long),
    vmlinux("aqmask_store", ReturnKind::Long),
];

/// Entry point ids by name, for code that must name one.
pub mod entry_id {
    /// Outside every traced function.
    pub const NONE: u8 = 0;
    /// The driver's PQAP handler.
    pub const HANDLE_PQAP: u8 = 1;
    /// `vfio_ap_mdev_group_notifier`.
    pub const GROUP_NOTIFIER: u8 = 2;
    /// `vfio_ap_mdev_open`.
    pub const OPEN: u8 = 3;
    /// `vfio_ap_mdev_release`.
    pub const RELEASE: u8 = 4;
    /// `vfio_ap_mdev_open_device`.
    pub const OPEN_DEVICE: u8 = 5;
    /// `vfio_ap_mdev_close_device`.
    pub const CLOSE_DEVICE: u8 = 6;
    /// `vfio_ap_mdev_ioctl`.
    pub const IOCTL: u8 = 7;
    /// `assign_adapter_store`.
    pub const ASSIGN_ADAPTER: u8 = 8;
    /// `unassign_adapter_store`.
    pub const UNASSIGN_ADAPTER: u8 = 9;
    /// `assign_domain_store`.
    pub const ASSIGN_DOMAIN: u8 = 10;
    /// `unassign_domain_store`.
    pub const UNASSIGN_DOMAIN: u8 = 11;
    /// `assign_control_domain_store`.
    pub const ASSIGN_CONTROL_DOMAIN: u8 = 12;
    /// `unassign_control_domain_store`.
    pub const UNASSIGN_CONTROL_DOMAIN: u8 = 13;
    /// `matrix_show`.
    pub const MATRIX_SHOW: u8 = 14;
    /// `control_domains_show`.
    pub const CONTROL_DOMAINS_SHOW: u8 = 15;
    /// kvm's own `handle_pqap`.
    pub const KVM_HANDLE_PQAP: u8 = 16;
    /// `kvm_vcpu_ioctl`.
    pub const KVM_VCPU_IOCTL: u8 = 17;
    /// `kvm_s390_handle_pv`.
    pub const KVM_S390_HANDLE_PV: u8 = 18;
    /// `kvm_arch_crypto_set_masks`.
    pub const SET_MASKS: u8 = 19;
    /// `kvm_arch_crypto_clear_masks`.
    pub const CLEAR_MASKS: u8 = 20;
    /// `kvm_vfio_set_attr`.
    pub const KVM_VFIO_SET_ATTR: u8 = 21;
    /// `vfio_ap_queue_dev_probe`.
    pub const QUEUE_DEV_PROBE: u8 = 22;
    /// `vfio_ap_queue_dev_remove`.
    pub const QUEUE_DEV_REMOVE: u8 = 23;
    /// `vfio_ap_mdev_probe_queue`.
    pub const PROBE_QUEUE: u8 = 24;
    /// `vfio_ap_mdev_remove_queue`.
    pub const REMOVE_QUEUE: u8 = 25;
    /// `vfio_ap_mdev_create`.
    pub const CREATE: u8 = 26;
    /// `vfio_ap_mdev_probe`.
    pub const PROBE: u8 = 27;
    /// `vfio_ap_mdev_remove`.
    pub const REMOVE: u8 = 28;
    /// `vfio_ap_mdev_request`.
    pub const REQUEST: u8 = 29;
    /// `vfio_ap_mdev_dma_unmap`.
    pub const DMA_UNMAP: u8 = 30;
    /// `vfio_ap_mdev_iommu_notifier`.
    pub const IOMMU_NOTIFIER: u8 = 31;
    /// `guest_matrix_show`.
    pub const GUEST_MATRIX_SHOW: u8 = 32;
    /// `ap_config_show`.
    pub const AP_CONFIG_SHOW: u8 = 33;
    /// `ap_config_store`.
    pub const AP_CONFIG_STORE: u8 = 34;
    /// `status_show`.
    pub const STATUS_SHOW: u8 = 35;
    /// `vfio_ap_mdev_resource_in_use`.
    pub const RESOURCE_IN_USE: u8 = 36;
    /// `vfio_ap_on_cfg_changed`.
    pub const ON_CFG_CHANGED: u8 = 37;
    /// `vfio_ap_on_scan_complete`.
    pub const ON_SCAN_COMPLETE: u8 = 38;
    /// `vfio_ap_mdev_reset_queues`.
    pub const RESET_QUEUES: u8 = 39;
    /// `apq_reset_check`.
    pub const APQ_RESET_CHECK: u8 = 40;
    /// `apmask_store`.
    pub const APMASK_STORE: u8 = 41;
    /// `aqmask_store`.
    pub const AQMASK_STORE: u8 = 42;
}

/// Names of the PQAP function codes 0 to 8.
pub const PQAP_FUNCTIONS: [&str; 9] = [
    "TAPQ", "RAPQ", "ZAPQ", "AQIC", "QCI", "QACT", "6", "BAPQ", "AAPQ",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_match_the_tables() {
        assert_eq!(CLASSES[class_id::KVM_BUSY as usize].name, "kvm_busy");
        assert_eq!(
            CLASSES[class_id::PQAP_HOOK_RWSEM as usize].name,
            "pqap_hook_rwsem"
        );
        assert_eq!(CLASSES[class_id::VCPU_MUTEX as usize].name, "vcpu->mutex");
        assert_eq!(CLASSES[class_id::KV_LOCK as usize].name, "kv->lock");
        assert_eq!(
            CLASSES[class_id::GROUP_NOTIFIER_RWSEM as usize].name,
            "group notifier rwsem"
        );
        assert_eq!(
            ENTRY_POINTS[entry_id::IOCTL as usize].name,
            "vfio_ap_mdev_ioctl"
        );
        assert_eq!(
            ENTRY_POINTS[entry_id::ASSIGN_ADAPTER as usize].name,
            "assign_adapter_store"
        );
        assert_eq!(
            ENTRY_POINTS[entry_id::CONTROL_DOMAINS_SHOW as usize].name,
            "control_domains_show"
        );
        assert_eq!(
            ENTRY_POINTS[entry_id::KVM_HANDLE_PQAP as usize].name,
            "handle_pqap [kvm]"
        );
        assert_eq!(
            ENTRY_POINTS[entry_id::KVM_VFIO_SET_ATTR as usize].name,
            "kvm_vfio_set_attr"
        );
        assert_eq!(
            ENTRY_POINTS[entry_id::REMOVE as usize].name,
            "vfio_ap_mdev_remove"
        );
        assert_eq!(
            ENTRY_POINTS[entry_id::AQMASK_STORE as usize].name,
            "aqmask_store"
        );
        assert_eq!(CLASSES[class_id::GROUP_RWSEM as usize].name, "group_rwsem");
        assert_eq!(CLASSES[class_id::RESET_WORK as usize].name, "reset_work");
        assert_eq!(CLASSES[class_id::GIVEN_LOCK as usize].name, "given lock");
        assert_eq!(CLASSES[class_id::GIVEN_MUTEX as usize].name, "given mutex");
    }

    #[test]
    fn names_are_unique_and_fit_the_abi() {
        for (i, a) in CLASSES.iter().enumerate() {
            assert!(
                CLASSES[i + 1..].iter().all(|b| a.name != b.name),
                "{}",
                a.name
            );
        }
        for (i, a) in ENTRY_POINTS.iter().enumerate() {
            assert!(
                ENTRY_POINTS[i + 1..].iter().all(|b| a.name != b.name),
                "{}",
                a.name
            );
        }
        assert!(CLASSES.len() <= crate::abi::MAX_CLASSES);
        assert!(ENTRY_POINTS.len() <= crate::abi::MAX_ENTRY_POINTS);
    }
}
