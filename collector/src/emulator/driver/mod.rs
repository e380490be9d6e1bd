//! The emulated `vfio_ap` driver.
//!
//! Functions have the kernel's names and the kernel's lock sequences. What all generations share is in [`irq`],
//! [`reset`], [`matrix`], [`sysfs`] and [`group`]; what a generation does differently is in a file of its own
//! ([`v5_13`], [`v5_15`]), which ends in its table of functions, a [`Generation`].

pub mod dispatch;
pub mod group;
pub mod irq;
pub mod matrix;
pub mod reset;
pub mod sysfs;
pub mod v5_13;
pub mod v5_15;

use probe_ebpf::names::entry_id;

use super::machine::Machine;
use super::objects::{ApMatrixMdev, Device, Kvm, KvmVcpu, MdevDevice, NotifierBlock};
use sysfs::Page;

/// A store function of a matrix attribute.
pub type Store = fn(&'static Machine, &'static Device, &Page, usize) -> i64;
/// A show function of a matrix attribute.
pub type Show = fn(&'static Machine, &'static Device, &mut Page) -> i64;

/// A generation of the driver, with KVM's part of it.
#[derive(Debug)]
pub struct Generation {
    /// Kernel release.
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
    /// Its open and close functions are called `open_device` and `close_device`.
    pub has_open_device: bool,
    /// A store function refuses with `-EBUSY`; tested with the driver's lock held.
    pub refuses_change: fn(&ApMatrixMdev) -> bool,
    /// `handle_pqap` of vfio_ap.
    pub handle_pqap: fn(&'static Machine, &'static KvmVcpu) -> i32,
    /// `vfio_ap_mdev_group_notifier`.
    pub group_notifier:
        fn(&'static Machine, &'static NotifierBlock, u64, Option<&'static Kvm>) -> i32,
    /// `vfio_ap_mdev_open` or `vfio_ap_mdev_open_device`.
    pub open: fn(&'static Machine, &'static MdevDevice) -> i32,
    /// `vfio_ap_mdev_release` or `vfio_ap_mdev_close_device`.
    pub release: fn(&'static Machine, &'static MdevDevice),
    /// `vfio_ap_mdev_ioctl`.
    pub ioctl: fn(&'static Machine, &'static MdevDevice, u32, u64) -> i64,
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
    /// `matrix_show`.
    pub matrix_show: Show,
    /// `control_domains_show`.
    pub control_domains_show: Show,
}

/// All generations, oldest first.
pub static GENERATIONS: [&Generation; 2] = [&v5_13::GENERATION, &v5_15::GENERATION];

/// The generation with this name.
pub fn generation(name: &str) -> Option<&'static Generation> {
    GENERATIONS.into_iter().find(|g| g.name == name)
}

impl Generation {
    /// Ids of the entry points that this generation has.
    pub fn entry_points(&self) -> Vec<u8> {
        (1..probe_ebpf::names::ENTRY_POINTS.len() as u8)
            .filter(|id| match *id {
                entry_id::GROUP_NOTIFIER => self.has_group_notifier,
                entry_id::OPEN | entry_id::RELEASE => !self.has_open_device,
                entry_id::OPEN_DEVICE | entry_id::CLOSE_DEVICE => self.has_open_device,
                _ => true,
            })
            .collect()
    }
}

/// `VFIO_GROUP_NOTIFY_SET_KVM`.
pub const VFIO_GROUP_NOTIFY_SET_KVM: u64 = 1;
/// The event was of no interest, or failed.
pub const NOTIFY_DONE: i32 = 0;
/// The event was handled.
pub const NOTIFY_OK: i32 = 1;
/// `VFIO_DEVICE_GET_INFO`.
pub const VFIO_DEVICE_GET_INFO: u32 = 0x3b6b;
/// `VFIO_DEVICE_RESET`.
pub const VFIO_DEVICE_RESET: u32 = 0x3b6f;
