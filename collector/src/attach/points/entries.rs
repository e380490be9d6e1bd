//! Points that are entry points.

use probe_ebpf::names::{ENTRY_POINTS, entry_id};

use super::{
    ALL, AP_CONFIG, BEFORE_HOT_PLUG, DEVICE_OPS, Filter, HOT_PLUG, KVM, KVM_S390_PV_COMMAND, Kind,
    MDEV_OPS, NOTIFIER, Name, PQAP, Point, RESET_WORK, Role, VFIO_AP, kvm, name, vfio_ap,
};
use crate::attach::generation::Generations;

const fn entry(
    id: u8,
    generations: Generations,
    names: &'static [Name],
    arguments: &'static str,
    lost: &'static str,
) -> Point {
    Point {
        name: ENTRY_POINTS[id as usize].name,
        kind: Kind::Function,
        role: Role::Entry(id),
        level: 1,
        generations,
        names,
        arguments,
        lost,
        instead: &[],
        expected: true,
    }
}

const STORE: &str = "1 struct device * (driver_data is the mdev), 3 text written, 4 its length; returns the length or -errno";
const SHOW: &str =
    "1 struct device * (driver_data is the mdev), 3 page to be filled; returns the length";
const QUEUE: &str = "1 struct ap_device * inside a struct ap_queue";

/// Entry points.
pub(super) const ENTRIES: &[Point] = &[
    entry(
        entry_id::HANDLE_PQAP,
        ALL,
        vfio_ap!["handle_pqap"],
        "1 struct kvm_vcpu *; returns 0 or -EOPNOTSUPP",
        "PQAP in the driver: counts, latencies, response codes, and which mdev a guest uses",
    )
    .or(&[entry_id::KVM_HANDLE_PQAP]),
    entry(
        entry_id::GROUP_NOTIFIER,
        NOTIFIER,
        vfio_ap!["vfio_ap_mdev_group_notifier"],
        "1 struct notifier_block * inside the mdev, 2 action, 3 struct kvm * or NULL; returns NOTIFY_*",
        "when a guest is bound to an mdev and when it is taken away",
    )
    .or(&[
        entry_id::OPEN_DEVICE,
        entry_id::CLOSE_DEVICE,
        entry_id::SET_MASKS,
        entry_id::CLEAR_MASKS,
    ]),
    entry(
        entry_id::OPEN,
        MDEV_OPS,
        vfio_ap!["vfio_ap_mdev_open"],
        "1 struct mdev_device *; returns 0 or -errno",
        "when a device is opened",
    ),
    entry(
        entry_id::RELEASE,
        MDEV_OPS,
        vfio_ap!["vfio_ap_mdev_release"],
        "1 struct mdev_device *",
        "when a device is closed, which takes the guest away",
    )
    .or(&[entry_id::CLEAR_MASKS]),
    entry(
        entry_id::OPEN_DEVICE,
        DEVICE_OPS,
        vfio_ap!["vfio_ap_mdev_open_device"],
        "1 struct vfio_device *, the first member of the mdev; returns 0 or -errno",
        "when a device is opened; since v5.19 also when a guest is bound",
    )
    .or(&[entry_id::GROUP_NOTIFIER, entry_id::SET_MASKS]),
    entry(
        entry_id::CLOSE_DEVICE,
        DEVICE_OPS,
        vfio_ap!["vfio_ap_mdev_close_device"],
        "1 struct vfio_device *, the first member of the mdev",
        "when a device is closed, which takes the guest away",
    )
    .or(&[entry_id::GROUP_NOTIFIER, entry_id::CLEAR_MASKS]),
    entry(
        entry_id::IOCTL,
        ALL,
        vfio_ap!["vfio_ap_mdev_ioctl"],
        "1 struct vfio_device * (until v5.14 struct mdev_device *), 2 command; returns 0 or -errno",
        "RESET ioctls: who resets all queues of an mdev",
    ),
    entry(
        entry_id::ASSIGN_ADAPTER,
        ALL,
        vfio_ap!["assign_adapter_store"],
        STORE,
        "writes to assign_adapter",
    ),
    entry(
        entry_id::UNASSIGN_ADAPTER,
        ALL,
        vfio_ap!["unassign_adapter_store"],
        STORE,
        "writes to unassign_adapter",
    ),
    entry(
        entry_id::ASSIGN_DOMAIN,
        ALL,
        vfio_ap!["assign_domain_store"],
        STORE,
        "writes to assign_domain",
    ),
    entry(
        entry_id::UNASSIGN_DOMAIN,
        ALL,
        vfio_ap!["unassign_domain_store"],
        STORE,
        "writes to unassign_domain",
    ),
    entry(
        entry_id::ASSIGN_CONTROL_DOMAIN,
        ALL,
        vfio_ap!["assign_control_domain_store"],
        STORE,
        "writes to assign_control_domain",
    ),
    entry(
        entry_id::UNASSIGN_CONTROL_DOMAIN,
        ALL,
        vfio_ap!["unassign_control_domain_store"],
        STORE,
        "writes to unassign_control_domain",
    ),
    entry(
        entry_id::AP_CONFIG_STORE,
        AP_CONFIG,
        vfio_ap!["ap_config_store"],
        STORE,
        "writes to ap_config",
    )
    .rare(),
    entry(
        entry_id::MATRIX_SHOW,
        ALL,
        vfio_ap!["matrix_show"],
        SHOW,
        "reads of matrix",
    ),
    entry(
        entry_id::CONTROL_DOMAINS_SHOW,
        ALL,
        vfio_ap!["control_domains_show"],
        SHOW,
        "reads of control_domains",
    ),
    entry(
        entry_id::GUEST_MATRIX_SHOW,
        HOT_PLUG,
        vfio_ap!["guest_matrix_show"],
        SHOW,
        "reads of guest_matrix",
    ),
    entry(
        entry_id::AP_CONFIG_SHOW,
        AP_CONFIG,
        vfio_ap!["ap_config_show"],
        SHOW,
        "reads of ap_config",
    )
    .rare(),
    entry(
        entry_id::STATUS_SHOW,
        HOT_PLUG,
        vfio_ap!["status_show"],
        "1 struct device * of a queue, 3 page to be filled; returns the length",
        "reads of a queue's status",
    ),
    entry(
        entry_id::KVM_HANDLE_PQAP,
        ALL,
        &[
            name("handle_pqap", KVM),
            Name {
                filter: Filter::Instruction(PQAP),
                note: "handle_pqap is inlined: calls are those whose instruction is B2AF",
                ..name("kvm_s390_handle_b2", KVM)
            },
        ],
        "1 struct kvm_vcpu *; returns 0 or -EOPNOTSUPP",
        "PQAP in KVM: function codes that KVM answers itself, and the hook's rwsem on the way",
    )
    .or(&[entry_id::HANDLE_PQAP]),
    entry(
        entry_id::KVM_VCPU_IOCTL,
        ALL,
        kvm!["kvm_vcpu_ioctl"],
        "1 struct file * (private_data is the vCPU), 2 command; returns 0 or -errno",
        "which threads are vCPUs, vcpu->mutex, and when a vCPU runs",
    )
    .or(&[entry_id::KVM_HANDLE_PQAP, entry_id::HANDLE_PQAP]),
    entry(
        entry_id::KVM_S390_HANDLE_PV,
        ALL,
        &[
            name("kvm_s390_handle_pv", KVM),
            // Inlined in v5.10, which has kvm->lock around it.
            Name {
                filter: Filter::VmIoctl(KVM_S390_PV_COMMAND),
                note: "kvm_s390_handle_pv is inlined: calls are those with KVM_S390_PV_COMMAND",
                ..name("kvm_arch_vm_ioctl", KVM)
            },
        ],
        "1 struct kvm *, 2 struct kvm_pv_cmd *; returns 0 or -errno",
        "conversions of guests to protected virtualisation (Secure Execution)",
    ),
    entry(
        entry_id::SET_MASKS,
        ALL,
        kvm!["kvm_arch_crypto_set_masks"],
        "1 struct kvm *, 2 to 4 masks",
        "when a guest is given adapters and domains",
    ),
    entry(
        entry_id::CLEAR_MASKS,
        ALL,
        kvm!["kvm_arch_crypto_clear_masks"],
        "1 struct kvm *",
        "when a guest loses its adapters and domains",
    ),
    entry(
        entry_id::KVM_VFIO_SET_ATTR,
        ALL,
        kvm!["kvm_vfio_set_attr"],
        "1 struct kvm_device *, 2 struct kvm_device_attr *; returns 0 or -errno",
        "when a vfio group is given to a guest, and kv->lock",
    ),
    entry(
        entry_id::QUEUE_DEV_PROBE,
        BEFORE_HOT_PLUG,
        vfio_ap!["vfio_ap_queue_dev_probe"],
        QUEUE,
        "when a queue comes to the driver",
    ),
    entry(
        entry_id::QUEUE_DEV_REMOVE,
        BEFORE_HOT_PLUG,
        vfio_ap!["vfio_ap_queue_dev_remove"],
        QUEUE,
        "when a queue goes from the driver, with its reset",
    ),
    entry(
        entry_id::PROBE_QUEUE,
        HOT_PLUG,
        vfio_ap!["vfio_ap_mdev_probe_queue"],
        QUEUE,
        "when a queue comes to the driver",
    ),
    entry(
        entry_id::REMOVE_QUEUE,
        HOT_PLUG,
        vfio_ap!["vfio_ap_mdev_remove_queue"],
        QUEUE,
        "when a queue goes from the driver, with its reset",
    ),
    entry(
        entry_id::CREATE,
        MDEV_OPS,
        vfio_ap!["vfio_ap_mdev_create"],
        "1 struct kobject *, 2 struct mdev_device *; returns 0 or -errno",
        "when an mdev is created",
    ),
    entry(
        entry_id::PROBE,
        DEVICE_OPS,
        vfio_ap!["vfio_ap_mdev_probe"],
        "1 struct mdev_device *; returns 0 or -errno",
        "when an mdev is created",
    ),
    entry(
        entry_id::REMOVE,
        ALL,
        vfio_ap!["vfio_ap_mdev_remove"],
        "1 struct mdev_device *; until v5.14 returns 0 or -EBUSY",
        "when an mdev is removed",
    ),
    entry(
        entry_id::REQUEST,
        RESET_WORK,
        vfio_ap!["vfio_ap_mdev_request"],
        "1 struct vfio_device *, 2 how often it was asked",
        "when user space is asked to close a device that is to be removed",
    )
    .rare(),
    entry(
        entry_id::DMA_UNMAP,
        HOT_PLUG,
        vfio_ap!["vfio_ap_mdev_dma_unmap"],
        "1 struct vfio_device *, 2 address, 3 length",
        "when a guest's memory is unmapped under a queue's interrupt",
    ),
    entry(
        entry_id::IOMMU_NOTIFIER,
        BEFORE_HOT_PLUG,
        vfio_ap!["vfio_ap_mdev_iommu_notifier"],
        "1 struct notifier_block * inside the mdev, 2 action; returns NOTIFY_*",
        "when a guest's memory is unmapped under a queue's interrupt",
    ),
    entry(
        entry_id::RESOURCE_IN_USE,
        HOT_PLUG,
        vfio_ap!["vfio_ap_mdev_resource_in_use"],
        "1 adapter mask, 2 domain mask; returns 0 or -EADDRINUSE",
        "when a change of apmask or aqmask is checked by the driver",
    ),
    entry(
        entry_id::ON_CFG_CHANGED,
        HOT_PLUG,
        vfio_ap!["vfio_ap_on_cfg_changed"],
        "1 and 2 new and old struct ap_config_info *",
        "when the host's configuration of adapters changes",
    ),
    entry(
        entry_id::ON_SCAN_COMPLETE,
        HOT_PLUG,
        vfio_ap!["vfio_ap_on_scan_complete"],
        "1 and 2 new and old struct ap_config_info *",
        "when the AP bus has scanned after a change",
    ),
    entry(
        entry_id::RESET_QUEUES,
        ALL,
        vfio_ap!["vfio_ap_mdev_reset_queues"],
        "1 struct ap_matrix_mdev * (6.0 to 6.7 a struct ap_queue_table *, until v5.14 a struct mdev_device *); returns 0 or -errno",
        "how long the queues of an mdev take to reset, with locks held",
    ),
    entry(
        entry_id::APQ_RESET_CHECK,
        RESET_WORK,
        vfio_ap!["apq_reset_check"],
        "1 struct work_struct * inside the queue",
        "how long one queue takes to reset",
    ),
    entry(
        entry_id::APMASK_STORE,
        ALL,
        AP_BUS_APMASK,
        "2 text written, 3 its length; returns the length or -errno",
        "writes to the AP bus's apmask",
    ),
    entry(
        entry_id::AQMASK_STORE,
        ALL,
        AP_BUS_AQMASK,
        "2 text written, 3 its length; returns the length or -errno",
        "writes to the AP bus's aqmask",
    ),
];

/// The AP bus is built in, except where it was made a module (`ap`), or stands beside the built-in one as a stand-in
/// without hardware (`aplab`); then that is the bus that vfio_ap is bound to.
const AP_BUS_APMASK: &[Name] = &[
    name("apmask_store", Some("aplab")),
    name("apmask_store", Some("ap")),
    name("apmask_store", None),
];
const AP_BUS_AQMASK: &[Name] = &[
    name("aqmask_store", Some("aplab")),
    name("aqmask_store", Some("ap")),
    name("aqmask_store", None),
];
