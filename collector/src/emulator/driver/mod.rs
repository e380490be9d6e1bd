//! The emulated `vfio_ap` driver.
//!
//! Functions have the kernel's names and the kernel's lock sequences. What generations share is in [`irq`], [`reset`],
//! [`matrix`], [`sysfs`], [`group`], [`queue_dev`] and, for those that plug queues into running guests, in [`hotplug`]
//! and [`reset_work`]. Each generation has a small file that ends in its table of functions, a [`Generation`], written
//! as the difference to its neighbour.

pub mod attributes;
pub mod dispatch;
pub mod group;
pub mod hotplug;
pub mod irq;
pub mod matrix;
pub mod queue_dev;
pub mod reset;
pub mod reset_work;
pub mod rfc_2021_06;
pub mod rfc_2021_07;
pub mod sysfs;
pub mod v5_10;
pub mod v5_11;
pub mod v5_13;
pub mod v5_15;
pub mod v5_15_rc;
pub mod v5_19;
pub mod v6_0;
pub mod v6_6;
pub mod v7_3;

use probe_ebpf::names::entry_id;

use super::machine::Machine;
use super::objects::{
    ApDevice, ApMatrix, ApMatrixMdev, Bitmap, Device, Kvm, KvmVcpu, MdevDevice, NotifierBlock,
};
use super::points::vfio_ap::DmaUnmap;
use sysfs::Page;

/// A store function of a matrix attribute.
pub type Store = fn(&'static Machine, &'static Device, &Page, usize) -> i64;
/// A show function of a matrix attribute.
pub type Show = fn(&'static Machine, &'static Device, &mut Page) -> i64;

/// Which locks VFIO core takes around the opening and closing of a device, outermost first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VfioCore {
    /// None (up to v5.14).
    Unlocked,
    /// `dev_set->lock` (v5.15).
    DevSet,
    /// `dev_set->lock`, then the group's rwsem for reading (v5.19).
    DevSetGroupRwsem,
    /// `dev_set->lock`, then `group_lock` (v6.0).
    DevSetGroupLock,
    /// `group_lock`, then `dev_set->lock` (v6.6 and later).
    GroupLockDevSet,
}

/// A generation of the driver, with the parts of KVM and VFIO around it that changed with it.
#[derive(Debug, Clone, Copy)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each says independently whether the generation has a lock, a function or a fault"
)]
pub struct Generation {
    /// Kernel release, or the name of a draft.
    pub name: &'static str,
    /// What distinguishes it.
    pub about: &'static str,
    /// It has the open-coded lock.
    pub has_kvm_busy: bool,
    /// KVM's hook pointer is guarded by an rwsem, read-held across the hook.
    pub has_hook_rwsem: bool,
    /// The guest is announced through the group's notifier chain.
    pub has_group_notifier: bool,
    /// `kvm_arch_crypto_set_masks` and `_clear_masks` take `kvm->lock`; otherwise their caller holds it.
    pub masks_take_kvm_lock: bool,
    /// Its open and close functions are called `open_device` and `close_device`, that of creation `probe`.
    pub has_open_device: bool,
    /// Queues are plugged into running guests: `guests_lock` and `mdevs_lock` instead of the one lock.
    pub has_hot_plug: bool,
    /// A reset is verified by a work item per queue.
    pub has_reset_work: bool,
    /// Queues have a `status` attribute.
    pub has_status: bool,
    /// Mdevs have an `ap_config` attribute, and user space can be asked to close the device.
    pub has_ap_config: bool,
    /// The AP bus's mutex is called `ap_attr_mutex`.
    pub has_ap_attr_mutex: bool,
    /// It has the fixes of 2026: the hook's rwsem inside the chain of update locks, guests_lock around every list of
    /// mdevs, a guest tested for before its lock is taken.
    pub has_2026_fixes: bool,
    /// `kvm_s390_handle_pv` takes `kvm->lock` itself.
    pub pv_takes_kvm_lock: bool,
    /// Fault: what the guest gets as the status of AQIC is the upper half of its own register 1.
    pub aqic_status_is_input: bool,
    /// Fault: withdrawing a guest from an mdev that has none returns with the driver's lock held.
    pub leaks_lock: bool,
    /// VFIO core's locks.
    pub vfio_core: VfioCore,
    /// A store function refuses with `-EBUSY`.
    pub refuses_change: fn(&ApMatrixMdev) -> bool,
    /// `handle_pqap` of vfio_ap.
    pub handle_pqap: fn(&'static Machine, &'static KvmVcpu) -> i32,
    /// `vfio_ap_mdev_group_notifier`.
    pub group_notifier:
        fn(&'static Machine, &'static NotifierBlock, u64, Option<&'static Kvm>) -> i32,
    /// `vfio_ap_mdev_iommu_notifier`.
    pub iommu_notifier: fn(&'static Machine, &'static NotifierBlock, u64, &DmaUnmap) -> i32,
    /// `vfio_ap_mdev_dma_unmap`.
    pub dma_unmap: fn(&'static Machine, &'static MdevDevice, u64, u64),
    /// `vfio_ap_mdev_open` or `vfio_ap_mdev_open_device`.
    pub open: fn(&'static Machine, &'static MdevDevice) -> i32,
    /// `vfio_ap_mdev_release` or `vfio_ap_mdev_close_device`.
    pub release: fn(&'static Machine, &'static MdevDevice),
    /// `vfio_ap_mdev_ioctl`.
    pub ioctl: fn(&'static Machine, &'static MdevDevice, u32, u64) -> i64,
    /// `vfio_ap_mdev_request`.
    pub request: fn(&'static Machine, &'static MdevDevice, u32),
    /// `vfio_ap_mdev_create` or `vfio_ap_mdev_probe`.
    pub create: fn(&'static Machine, &'static MdevDevice) -> i32,
    /// `vfio_ap_mdev_remove`.
    pub remove: fn(&'static Machine, &'static MdevDevice) -> i32,
    /// `vfio_ap_queue_dev_probe` or `vfio_ap_mdev_probe_queue`.
    pub queue_probe: fn(&'static Machine, &'static ApDevice) -> i32,
    /// `vfio_ap_queue_dev_remove` or `vfio_ap_mdev_remove_queue`.
    pub queue_remove: fn(&'static Machine, &'static ApDevice),
    /// `vfio_ap_mdev_reset_queues`.
    pub reset_queues: fn(&'static Machine, &'static ApMatrixMdev) -> i32,
    /// `vfio_ap_mdev_resource_in_use`.
    pub in_use: fn(&'static Machine, &Bitmap, &Bitmap) -> i32,
    /// `vfio_ap_on_cfg_changed`: the new configuration and the one before.
    pub cfg_changed: fn(&'static Machine, &ApMatrix, &ApMatrix),
    /// `vfio_ap_on_scan_complete`.
    pub scan_complete: fn(&'static Machine),
    /// `assign_adapter_store`.
    pub assign_adapter_store: Store,
    /// `unassign_adapter_store`.
    pub unassign_adapter_store: Store,
    /// `assign_domain_store`.
    pub assign_domain_store: Store,
    /// `unassign_domain_store`.
    pub unassign_domain_store: Store,
    /// `assign_control_domain_store`.
    pub assign_control_domain_store: Store,
    /// `unassign_control_domain_store`.
    pub unassign_control_domain_store: Store,
    /// `ap_config_store`.
    pub ap_config_store: Store,
    /// `matrix_show`.
    pub matrix_show: Show,
    /// `control_domains_show`.
    pub control_domains_show: Show,
    /// `guest_matrix_show`.
    pub guest_matrix_show: Show,
    /// `ap_config_show`.
    pub ap_config_show: Show,
    /// `status_show` of a queue.
    pub status_show: fn(&'static Machine, &'static ApDevice, &mut Page) -> i64,
}

/// All generations, in the order of their history.
pub static GENERATIONS: [Generation; 11] = [
    v5_10::GENERATION,
    v5_11::GENERATION,
    v5_13::GENERATION,
    v5_15_rc::GENERATION,
    rfc_2021_06::GENERATION,
    rfc_2021_07::GENERATION,
    v5_15::GENERATION,
    v5_19::GENERATION,
    v6_0::GENERATION,
    v6_6::GENERATION,
    v7_3::GENERATION,
];

/// The generation with this name.
pub fn generation(name: &str) -> Option<&'static Generation> {
    GENERATIONS.iter().find(|g| g.name == name)
}

impl Generation {
    /// Ids of the entry points that this generation has.
    pub fn entry_points(&self) -> Vec<u8> {
        (1..probe_ebpf::names::ENTRY_POINTS.len() as u8)
            .filter(|id| match *id {
                entry_id::GROUP_NOTIFIER => self.has_group_notifier,
                entry_id::OPEN | entry_id::RELEASE | entry_id::CREATE => !self.has_open_device,
                entry_id::OPEN_DEVICE | entry_id::CLOSE_DEVICE | entry_id::PROBE => {
                    self.has_open_device
                }
                entry_id::QUEUE_DEV_PROBE
                | entry_id::QUEUE_DEV_REMOVE
                | entry_id::IOMMU_NOTIFIER => !self.has_hot_plug,
                entry_id::PROBE_QUEUE
                | entry_id::REMOVE_QUEUE
                | entry_id::DMA_UNMAP
                | entry_id::GUEST_MATRIX_SHOW
                | entry_id::RESOURCE_IN_USE
                | entry_id::ON_CFG_CHANGED
                | entry_id::ON_SCAN_COMPLETE => self.has_hot_plug,
                entry_id::APQ_RESET_CHECK => self.has_reset_work,
                entry_id::AP_CONFIG_SHOW | entry_id::AP_CONFIG_STORE | entry_id::REQUEST => {
                    self.has_ap_config
                }
                entry_id::STATUS_SHOW => self.has_status,
                _ => true,
            })
            .collect()
    }
}

/// What stands in a [`Generation`] for a function that it does not have. Nothing calls these.
pub(super) mod absent {
    use super::{
        ApDevice, ApMatrix, Bitmap, Device, Kvm, Machine, MdevDevice, NOTIFY_DONE, NotifierBlock,
        Page,
    };

    const EOPNOTSUPP: i64 = -(libc::EOPNOTSUPP as i64);

    pub fn store(_: &'static Machine, _: &'static Device, _: &Page, _: usize) -> i64 {
        EOPNOTSUPP
    }

    pub fn show(_: &'static Machine, _: &'static Device, _: &mut Page) -> i64 {
        EOPNOTSUPP
    }

    pub fn status_show(_: &'static Machine, _: &'static ApDevice, _: &mut Page) -> i64 {
        EOPNOTSUPP
    }

    pub fn request(_: &'static Machine, _: &'static MdevDevice, _: u32) {}

    pub fn dma_unmap(_: &'static Machine, _: &'static MdevDevice, _: u64, _: u64) {}

    pub fn in_use(_: &'static Machine, _: &Bitmap, _: &Bitmap) -> i32 {
        0
    }

    pub fn cfg_changed(_: &'static Machine, _: &ApMatrix, _: &ApMatrix) {}

    pub fn scan_complete(_: &'static Machine) {}

    pub fn group_notifier(
        _: &'static Machine,
        _: &'static NotifierBlock,
        _: u64,
        _: Option<&'static Kvm>,
    ) -> i32 {
        NOTIFY_DONE
    }
}

/// `VFIO_GROUP_NOTIFY_SET_KVM`.
pub const VFIO_GROUP_NOTIFY_SET_KVM: u64 = 1;
/// `VFIO_IOMMU_NOTIFY_DMA_UNMAP`.
pub const VFIO_IOMMU_NOTIFY_DMA_UNMAP: u64 = 1;
/// The event was of no interest, or failed.
pub const NOTIFY_DONE: i32 = 0;
/// The event was handled.
pub const NOTIFY_OK: i32 = 1;
/// `VFIO_DEVICE_GET_INFO`.
pub const VFIO_DEVICE_GET_INFO: u32 = 0x3b6b;
/// `VFIO_DEVICE_GET_IRQ_INFO`.
pub const VFIO_DEVICE_GET_IRQ_INFO: u32 = 0x3b6d;
/// `VFIO_DEVICE_SET_IRQS`.
pub const VFIO_DEVICE_SET_IRQS: u32 = 0x3b6e;
/// `VFIO_DEVICE_RESET`.
pub const VFIO_DEVICE_RESET: u32 = 0x3b6f;
