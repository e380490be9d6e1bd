//! The driver's own structures, and the AP bus's queue device.

use std::sync::atomic::{
    AtomicBool, AtomicI32, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering,
};
use std::sync::{PoisonError, RwLock, RwLockWriteGuard};

use super::{ApMatrix, Bitmap, Device, Kvm, Link, MdevDevice, NotifierBlock};
use crate::emulator::primitives::task::{self, TaskStruct};
use crate::emulator::primitives::trace::{self, Event};
use crate::emulator::primitives::workqueue::WorkFunction;
use crate::emulator::primitives::{LockCounters, Mutex, RawSpinLock, WaitQueueHead, WorkStruct};

/// What `kvm->arch.crypto.pqap_hook` points to, inside the mdev (`container_of`, here a field).
#[derive(Debug, Default)]
#[repr(C)]
pub struct PqapHook {
    /// The mdev that contains the hook.
    pub mdev: Link<ApMatrixMdev>,
}

/// `struct ap_matrix_mdev`. Guarded by the driver's lock (`matrix_dev->lock`, later `mdevs_lock`).
#[derive(Debug, Default)]
#[repr(C)]
pub struct ApMatrixMdev {
    /// What is assigned.
    pub matrix: ApMatrix,
    /// What of it the guest has (v6.0 and later).
    pub shadow_apcb: ApMatrix,
    /// Called when a guest is bound.
    pub group_notifier: NotifierBlock,
    /// Called when guest memory is unmapped.
    pub iommu_notifier: NotifierBlock,
    /// The open-coded lock's flag: the kvm pointer is in flux.
    kvm_busy: AtomicBool,
    /// The open-coded lock's wait queue.
    pub wait_for_kvm: WaitQueueHead,
    /// The guest that uses it.
    pub kvm: Link<Kvm>,
    /// What KVM calls on PQAP.
    pub pqap_hook: PqapHook,
    /// The device around it.
    pub device: Link<MdevDevice>,
    /// `qtable`: queues linked to it, in the order of linking (v6.0 and later).
    qtable: RwLock<Vec<&'static VfioApQueue>>,
    /// Adapters added to the host's configuration that await the end of the bus scan (v6.0 and later).
    pub apm_add: Bitmap,
    /// Domains.
    pub aqm_add: Bitmap,
    /// Control domains.
    pub adm_add: Bitmap,
    /// `req_trigger`: an eventfd is set, and how often it was signalled (v6.6 and later).
    pub req_trigger: EventFd,
    /// `cfg_chg_trigger` (v7.3).
    pub cfg_chg_trigger: EventFd,
    truth_busy: LockCounters,
    /// Who has set the flag and not cleared it, for whoever explains a hang.
    busy_holders: RawSpinLock<Vec<&'static TaskStruct>>,
    /// Most of them at once.
    busy_holders_max: AtomicU32,
}

/// `struct eventfd_ctx *`: set or not, and signals so far.
#[derive(Debug, Default)]
#[repr(C)]
pub struct EventFd {
    /// User space has given one.
    pub is_set: AtomicBool,
    /// `eventfd_signal` calls.
    pub signals: AtomicU32,
}

impl EventFd {
    /// `eventfd_signal`, if there is one.
    pub fn signal(&self) {
        if self.is_set.load(Ordering::Relaxed) {
            self.signals.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl ApMatrixMdev {
    /// Where the flag is.
    pub const KVM_BUSY_OFFSET: u32 = std::mem::offset_of!(Self, kvm_busy) as u32;

    /// An mdev without assignments. Stays until the process ends.
    pub fn create() -> &'static Self {
        let mdev: &'static Self = Box::leak(Box::default());
        mdev.group_notifier.mdev.set(Some(mdev));
        mdev.iommu_notifier.mdev.set(Some(mdev));
        mdev.pqap_hook.mdev.set(Some(mdev));
        mdev
    }

    /// `kzalloc` and `vfio_ap_matrix_init`: the slot's memory is used for another device.
    pub fn reset(&self) {
        for matrix in [&self.matrix, &self.shadow_apcb] {
            matrix.clear_all();
        }
        for map in [&self.apm_add, &self.aqm_add, &self.adm_add] {
            map.clear_all();
        }
        self.kvm.set(None);
        self.kvm_busy.store(false, Ordering::Relaxed);
        self.req_trigger.is_set.store(false, Ordering::Relaxed);
        self.cfg_chg_trigger.is_set.store(false, Ordering::Relaxed);
        self.qtable_mut().clear();
    }

    fn qtable_mut(&self) -> RwLockWriteGuard<'_, Vec<&'static VfioApQueue>> {
        self.qtable.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The queues linked to it, as the kernel's hash table of 256 buckets is walked: by bucket, in each the newest
    /// first.
    pub fn queues(&self) -> Vec<&'static VfioApQueue> {
        let mut queues = self
            .qtable
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        queues.reverse();
        // hash_32(apqn, 8) of include/linux/hash.h.
        queues.sort_by_key(|queue| u32::from(queue.apqn).wrapping_mul(0x61c8_8647) >> 24);
        queues
    }

    /// The linked queue with this number.
    pub fn queue(&self, apqn: u16) -> Option<&'static VfioApQueue> {
        let qtable = self.qtable.read().unwrap_or_else(PoisonError::into_inner);
        qtable.iter().copied().find(|queue| queue.apqn == apqn)
    }

    /// `hash_add`, of a queue that is not linked.
    pub fn link(&self, queue: &'static VfioApQueue) {
        self.unlink(queue);
        self.qtable_mut().push(queue);
    }

    /// `hash_del`.
    pub fn unlink(&self, queue: &VfioApQueue) {
        self.qtable_mut()
            .retain(|other| !std::ptr::eq(*other, queue));
    }

    /// The flag.
    pub fn kvm_busy(&self) -> bool {
        self.kvm_busy.load(Ordering::Relaxed)
    }

    /// Sets the flag; the caller holds the guard and is about to drop it.
    pub fn set_kvm_busy(&self) {
        trace::note(Event::Flag(true, self.kvm_busy_address()));
        self.truth_busy.acquired();
        let mut holders = self.holders();
        holders.push(task::current());
        self.busy_holders_max
            .fetch_max(holders.len() as u32, Ordering::Relaxed);
        drop(holders);
        self.kvm_busy.store(true, Ordering::Relaxed);
    }

    /// Clears the flag; the caller holds the guard.
    pub fn clear_kvm_busy(&self) {
        trace::note(Event::Flag(false, self.kvm_busy_address()));
        self.truth_busy.released();
        let mut holders = self.holders();
        if let Some(place) = holders
            .iter()
            .position(|holder| std::ptr::eq(*holder, task::current()))
        {
            holders.swap_remove(place);
        }
        drop(holders);
        self.kvm_busy.store(false, Ordering::Relaxed);
    }

    fn holders(&self) -> std::sync::MutexGuard<'_, Vec<&'static TaskStruct>> {
        crate::emulator::primitives::raw_spin_lock(&self.busy_holders)
    }

    /// Addresses of the tasks that have set the flag and not cleared it.
    pub fn busy_holders(&self) -> Vec<u64> {
        self.holders().iter().map(|task| task.address()).collect()
    }

    /// Most tasks that had set the flag and not cleared it at the same time.
    pub fn busy_holders_max(&self) -> u32 {
        self.busy_holders_max.load(Ordering::Relaxed)
    }

    /// Address of the flag.
    pub fn kvm_busy_address(&self) -> u64 {
        std::ptr::from_ref(&self.kvm_busy) as u64
    }

    /// What was counted of the open-coded lock.
    pub fn truth_busy(&self) -> &LockCounters {
        &self.truth_busy
    }
}

/// `struct ap_matrix_dev`, of which there is one.
#[derive(Debug, Default)]
#[repr(C)]
pub struct ApMatrixDev {
    /// The device `/sys/devices/vfio_ap/matrix`.
    pub device: Device,
    /// Mdevs that can still be created (up to v5.19; later mdev core counts them).
    pub available_instances: AtomicI32,
    /// `ap_config_info` as the driver last saw it: adapters, domains and control domains of the host.
    pub info: ApMatrix,
    /// All mdevs. Which lock guards the kernel's list differs; the inner lock is Rust's and is held for a scan only.
    pub mdev_list: RwLock<Vec<&'static ApMatrixMdev>>,
    /// The driver's one lock, up to v5.19.
    pub lock: Mutex,
    /// The same under its later name.
    pub mdevs_lock: Mutex,
    /// Guards the use of `matrix_mdev->kvm` for plugging and unplugging, from v6.0 on.
    pub guests_lock: Mutex,
}

impl ApMatrixDev {
    /// The mdevs, of which each scan makes its own copy of the pointers: no Rust lock is held while code runs.
    pub fn mdevs(&self) -> Vec<&'static ApMatrixMdev> {
        self.mdev_list
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// `list_add`.
    pub fn list_add(&self, matrix_mdev: &'static ApMatrixMdev) {
        self.mdev_list
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .push(matrix_mdev);
    }

    /// `list_del`.
    pub fn list_del(&self, matrix_mdev: &ApMatrixMdev) {
        self.mdev_list
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|other| !std::ptr::eq(*other, matrix_mdev));
    }
}

/// No interruption subclass is registered.
pub const VFIO_AP_ISC_INVALID: u8 = 0xff;

/// `struct vfio_ap_queue`: a queue that is bound to the driver. Guarded by the driver's lock.
#[derive(Debug)]
#[repr(C)]
pub struct VfioApQueue {
    /// The mdev that uses it.
    pub matrix_mdev: Link<ApMatrixMdev>,
    /// Guest page of the notification indicator byte, pinned; 0 if none.
    pub saved_pfn: AtomicU64,
    /// Number.
    pub apqn: u16,
    /// Guest interruption subclass, or [`VFIO_AP_ISC_INVALID`].
    pub saved_isc: AtomicU8,
    /// Response code with which the last reset ended (v6.0 and later).
    pub reset_rc: AtomicU8,
    /// Verifies that a reset has completed (v6.6 and later).
    pub reset_work: WorkStruct,
}

/// Who a queue device is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Driver {
    /// Nobody: the device is not there, or between drivers.
    None = 0,
    /// A default driver of the host (zcrypt).
    Default = 1,
    /// vfio_ap.
    VfioAp = 2,
}

/// `struct ap_queue` with its `struct ap_device`: one queue on the AP bus. There is one for each queue that the
/// hardware can have; the device comes and goes.
#[derive(Debug)]
#[repr(C)]
pub struct ApDevice {
    /// APQN.
    pub qid: AtomicU16,
    reserved: [u16; 3],
    /// vfio_ap's driver data.
    pub drvdata: Link<VfioApQueue>,
    driver: AtomicU8,
    /// Memory for the driver's object.
    pub storage: VfioApQueue,
}

impl ApDevice {
    /// The device of a queue, unbound. Stays until the process ends.
    pub fn create(apqn: u16, reset_work: WorkFunction) -> &'static Self {
        Box::leak(Box::new(Self {
            qid: AtomicU16::new(apqn),
            reserved: [0; 3],
            drvdata: Link::default(),
            driver: AtomicU8::new(Driver::None as u8),
            storage: VfioApQueue {
                matrix_mdev: Link::default(),
                saved_pfn: AtomicU64::new(0),
                apqn,
                saved_isc: AtomicU8::new(VFIO_AP_ISC_INVALID),
                reset_rc: AtomicU8::new(0),
                reset_work: WorkStruct::new(reset_work, apqn.into()),
            },
        }))
    }

    /// APQN.
    pub fn apqn(&self) -> u16 {
        self.qid.load(Ordering::Relaxed)
    }

    /// Who it is bound to.
    pub fn driver(&self) -> Driver {
        match self.driver.load(Ordering::SeqCst) {
            1 => Driver::Default,
            2 => Driver::VfioAp,
            _ => Driver::None,
        }
    }

    /// Binds or unbinds it.
    pub fn set_driver(&self, driver: Driver) {
        self.driver.store(driver as u8, Ordering::SeqCst);
    }
}

impl VfioApQueue {
    /// `kzalloc`: the memory is used for a device that was bound anew.
    pub fn reset(&self) {
        self.matrix_mdev.set(None);
        self.saved_pfn.store(0, Ordering::Relaxed);
        self.saved_isc.store(VFIO_AP_ISC_INVALID, Ordering::Relaxed);
        self.reset_rc.store(0, Ordering::Relaxed);
    }
}
