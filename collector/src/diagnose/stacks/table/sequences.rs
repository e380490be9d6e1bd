//! The evidence table: which locks are held where, for each generation.
//!
//! From the kernel's sources (drivers/s390/crypto/vfio_ap_ops.c and vfio_ap_drv.c, arch/s390/kvm, drivers/vfio) of the
//! release named in each rule, and for drafts from the mails. Steps are in the order of the source, and a test compares
//! them with the emulated driver's written sequences.

mod binding;
mod hot_plug;
mod one_lock;

use probe_ebpf::names::class_id::{
    AP_ATTR_MUTEX, AP_PERMS_MUTEX, DEV_SET_LOCK, GROUP_LOCK, GROUP_NOTIFIER_RWSEM, GROUP_RWSEM,
    GUESTS_LOCK, KV_LOCK, KVM_BUSY, KVM_LOCK, MATRIX_DEV_LOCK, MDEVS_LOCK, PQAP_HOOK_RWSEM,
    RESET_WORK, VCPU_MUTEX,
};

use super::steps::{
    FLUSH, POLL, STAY, Sequence, call, driver, held, held_if, held_read, kvm, mutex, mutex_if,
    others, read, unlock, wait_flag, write,
};
use crate::attach::generation::Generation::{
    Rfc2021_06, Rfc2021_07, V5_10, V5_11, V5_13, V5_15, V5_15Rc, V5_19, V6_0, V6_6, V7_3,
};
use crate::attach::generation::Generations;

const ALL: Generations = Generations::ALL;
/// One lock for all of the driver.
const ONE_LOCK: Generations = Generations::range(V5_10, V5_19);
/// Two locks and the guest's.
const HOT_PLUG: Generations = Generations::range(V6_0, V7_3);
const WORK: Generations = Generations::of(&[V6_6, V7_3]);
const BUSY: Generations = Generations::of(&[V5_13, V5_15Rc]);
const DRAFTS: Generations = Generations::of(&[Rfc2021_06, Rfc2021_07]);
const G5_10: Generations = Generations::of(&[V5_10]);
const G5_11: Generations = Generations::of(&[V5_11]);
const G5_13: Generations = Generations::of(&[V5_13]);
const G5_15RC: Generations = Generations::of(&[V5_15Rc]);
const DRAFT_6: Generations = Generations::of(&[Rfc2021_06]);
const DRAFT_7: Generations = Generations::of(&[Rfc2021_07]);
const G5_15: Generations = Generations::of(&[V5_15]);
const G5_19: Generations = Generations::of(&[V5_19]);
const G6_0: Generations = Generations::of(&[V6_0]);
const G6_6: Generations = Generations::of(&[V6_6]);
const BEFORE_7_3: Generations = Generations::of(&[V6_0, V6_6]);
const G7_3: Generations = Generations::of(&[V7_3]);

/// Resets, and what sleeps in them.
const RESETS: &[&str] = &[
    "vfio_ap_mdev_reset_queue",
    "vfio_ap_mdev_reset_queues",
    "vfio_ap_mdev_reset_qlist",
    "reset_queues_for_apids",
    "reset_queues_for_apid",
];
/// Take kvm->lock themselves until v5.14, and are exported by kvm: never inlined into the driver.
const MASKS: &[&str] = &["kvm_arch_crypto_set_masks", "kvm_arch_crypto_clear_masks"];
const UNSET: &[&str] = &["vfio_ap_mdev_unset_kvm"];
/// Static inline functions that take several locks (v6.0).
const UPDATE: &[&str] = &[
    "get_update_locks_for_kvm",
    "get_update_locks_for_mdev",
    "get_update_locks_by_apqn",
    "get_update_locks_for_queue",
];
const REGISTER: &[&str] = &["vfio_register_notifier", "blocking_notifier_chain_register"];
const UNREGISTER: &[&str] = &[
    "vfio_unregister_notifier",
    "blocking_notifier_chain_unregister",
];
const UNREGISTER_DEVICE: &[&str] = &["vfio_unregister_group_dev"];
const NOTIFIER: &[&str] = &["vfio_ap_mdev_group_notifier"];
const OPEN_CLOSE: &[&str] = &["vfio_ap_mdev_open_device", "vfio_ap_mdev_close_device"];
const TO_PV: &[&str] = &["kvm_s390_cpus_to_pv", "kvm_s390_cpus_from_pv"];
const PV_CPU: &[&str] = &["kvm_s390_pv_create_cpu", "kvm_s390_pv_destroy_cpu"];
const VCPU_IOCTLS: &[&str] = &["kvm_arch_vcpu_ioctl_run", "kvm_arch_vcpu_ioctl"];
const BEFORE_VCPU_MUTEX: &[&str] = &["kvm_arch_vcpu_async_ioctl"];
const SET_FILE: &[&str] = &["vfio_file_set_kvm"];
const STORES: &[&str] = &[
    "assign_adapter_store",
    "unassign_adapter_store",
    "assign_domain_store",
    "unassign_domain_store",
    "assign_control_domain_store",
    "unassign_control_domain_store",
];
const UNRESERVED_STORES: &[&str] = &[
    "unassign_adapter_store",
    "unassign_domain_store",
    "assign_control_domain_store",
    "unassign_control_domain_store",
];
const RESERVED_STORES: &[&str] = &[
    "assign_adapter_store",
    "assign_domain_store",
    "ap_config_store",
];
const SHOWS: &[&str] = &["matrix_show", "control_domains_show"];
const QUEUES: &[&str] = &["vfio_ap_mdev_probe_queue", "vfio_ap_mdev_remove_queue"];
const SCANS: &[&str] = &["vfio_ap_on_cfg_changed", "vfio_ap_on_scan_complete"];
const PQAP: &[&str] = &["handle_pqap"];
const OPEN: &[&str] = &["vfio_ap_mdev_open_device"];
const CLOSE: &[&str] = &["vfio_ap_mdev_close_device"];

/// All rules. Several of one function and generation are alternatives.
pub(super) const TABLE: &[&[Sequence]] =
    &[CALLERS, one_lock::RULES, binding::RULES, hot_plug::RULES];

const CALLERS: &[Sequence] = &[
    kvm(&["kvm_vcpu_ioctl"], ALL, "kvm_vcpu_ioctl() holds vcpu->mutex for the whole ioctl", &[
        STAY.always_within(BEFORE_VCPU_MUTEX),
        mutex(VCPU_MUTEX),
        STAY.always_within(VCPU_IOCTLS),
        call(&["kvm_s390_handle_b2", "handle_pqap [kvm]", "handle_pqap"]),
    ]),
    // Other b2 instructions take the address space's rwsem in inlined handlers, so a down_read() here may be for that.
    kvm(&["kvm_s390_handle_b2"], Generations::range(V5_15Rc, V7_3),
        "kvm_s390_handle_b2() holds pqap_hook_rwsem for reading across the driver's handler (v5.15, priv.c)", &[
        read(PQAP_HOOK_RWSEM),
        call(PQAP),
    ]).unsure().with_others(),
    kvm(&["handle_pqap [kvm]"], Generations::range(V5_15Rc, V7_3),
        "kvm's handle_pqap() holds pqap_hook_rwsem for reading across the driver's handler (v5.15, priv.c)", &[
        read(PQAP_HOOK_RWSEM),
        call(PQAP),
    ]),
    kvm(&["kvm_arch_vm_ioctl"], ALL,
        "kvm_arch_vm_ioctl() takes kvm->lock in many ioctls, and for KVM_S390_PV_COMMAND each vcpu->mutex inside of it (v5.10, kvm-s390.c)", &[
        mutex(KVM_LOCK),
        mutex(VCPU_MUTEX).within(TO_PV),
        STAY.always_within(PV_CPU),
    ]).unsure(),
    kvm(&["kvm_s390_handle_pv"], ALL,
        "kvm_s390_handle_pv() takes kvm->lock, and each vcpu->mutex inside of it (6.12, kvm-s390.c)", &[
        mutex(KVM_LOCK),
        mutex(VCPU_MUTEX).within(TO_PV),
        STAY.always_within(PV_CPU),
    ]),
    kvm(&["kvm_vm_ioctl"], ALL, "kvm_vm_ioctl() takes kvm->lock in some ioctls (kvm_main.c)", &[mutex(KVM_LOCK)]).unsure(),
    kvm(&["kvm_device_release"], G6_0,
        "kvm_device_release() holds kvm->lock over kvm_vfio_release(), which takes the group's lock (6.2, vfio.c)", &[
        mutex(KVM_LOCK),
        mutex(GROUP_LOCK).always_within(SET_FILE),
        STAY.always_within(&["kvm_vfio_release"]),
    ]),
    kvm(&["kvm_device_release"], WORK, "kvm_device_release() holds kvm->lock over kvm_vfio_release() (kvm_main.c)", &[
        mutex(KVM_LOCK),
        STAY.always_within(&["kvm_vfio_release"]),
    ]),
    // kv->lock is dropped before the chain is called on add, and held over it on del.
    kvm(&["kvm_vfio_set_attr"], Generations::range(V5_10, V5_15), "kvm_vfio_set_attr() calls the notifier chain (v5.10, vfio.c)", &[
        mutex(KV_LOCK),
        unlock(KV_LOCK),
        held_if(KV_LOCK),
        call(&["blocking_notifier_call_chain", "vfio_ap_mdev_group_notifier"]),
    ]),
    kvm(&["kvm_vfio_set_attr"], G5_19, "kvm_vfio_set_attr() sets the group's kvm under its rwsem (v5.19, vfio.c)", &[
        mutex(KV_LOCK),
        unlock(KV_LOCK),
        held_if(KV_LOCK),
        write(GROUP_RWSEM).always_within(SET_FILE),
    ]),
    kvm(&["kvm_vfio_set_attr"], G6_0, "kvm_vfio_set_attr() sets the group's kvm under its lock (6.1, vfio.c)", &[
        mutex(KV_LOCK),
        mutex(GROUP_LOCK).always_within(SET_FILE),
    ]),
    kvm(&["kvm_vfio_set_attr"], WORK, "kvm_vfio_set_attr() takes kv->lock (6.12, vfio.c)", &[mutex(KV_LOCK)]),
    others(&["blocking_notifier_call_chain"], Generations::range(V5_10, V5_15),
        "the group's notifier chain holds its rwsem for reading (v5.10, notifier.c)", &[
        read(GROUP_NOTIFIER_RWSEM),
        call(NOTIFIER),
    ]).of_own_guest().with_others(),
    others(&["vfio_device_fops_release"], Generations::of(&[V5_15Rc, V5_15]), "closing holds dev_set->lock (v5.15, vfio.c)", &[
        mutex(DEV_SET_LOCK),
        call(CLOSE),
    ]).of_own_guest().with_others(),
    others(&["vfio_df_group_open", "vfio_df_group_close"], WORK, "group_lock, then dev_set->lock (6.12, group.c)", &[
        mutex(GROUP_LOCK),
        mutex(DEV_SET_LOCK),
        call(OPEN_CLOSE),
    ]).of_own_guest().unsure(),
    others(&["apmask_store", "aqmask_store"], Generations::range(V5_10, V6_6), "the AP bus's masks are changed under ap_perms_mutex (ap_bus.c)", &[
        mutex(AP_PERMS_MUTEX),
        call(&["vfio_ap_mdev_resource_in_use"]),
    ]),
    others(&["apmask_store", "aqmask_store"], G7_3, "the AP bus's masks are changed under ap_attr_mutex (7.2, ap_bus.c)", &[
        mutex(AP_ATTR_MUTEX),
        call(&["vfio_ap_mdev_resource_in_use"]),
    ]),
];
