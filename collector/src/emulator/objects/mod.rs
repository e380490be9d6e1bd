//! The driver's, VFIO's and KVM's structures, as far as the emulated code uses them.
//!
//! `#[repr(C)]`, because probes read them by offset ([`offsets`]). Fields that several threads touch are atomics; which
//! emulated lock guards them is said at each. All objects stay until the process ends, like the pointers to them.

mod ap;
mod bitmap;
mod kvm;
mod vfio;

use std::mem::offset_of;
use std::sync::atomic::{AtomicPtr, Ordering};

pub use ap::{
    ApDevice, ApMatrixDev, ApMatrixMdev, Driver, PqapHook, VFIO_AP_ISC_INVALID, VfioApQueue,
};
pub use bitmap::{ApMatrix, Bitmap};
#[cfg(test)]
pub use kvm::CRYCB_FORMAT2;
pub use kvm::{Kvm, KvmDevice, KvmDeviceAttr, KvmRun, KvmVcpu};
pub use vfio::{Device, MdevDevice, NotifierBlock, Presence, VfioDevice, VfioGroup};

use super::protocol::Offsets;

/// A pointer in a structure: NULL, or an object that stays.
#[derive(Debug)]
#[repr(transparent)]
pub struct Link<T: 'static>(AtomicPtr<T>);

impl<T> Default for Link<T> {
    fn default() -> Self {
        Self(AtomicPtr::new(std::ptr::null_mut()))
    }
}

impl<T: Sync> Link<T> {
    /// A pointer to `target`.
    pub fn to(target: &'static T) -> Self {
        let link = Self::default();
        link.set(Some(target));
        link
    }

    /// Reads the pointer.
    pub fn get(&self) -> Option<&'static T> {
        // SAFETY: only `set` stores here, and it stores NULL or a reference with static lifetime.
        unsafe { self.0.load(Ordering::Acquire).as_ref() }
    }

    /// Writes the pointer.
    pub fn set(&self, target: Option<&'static T>) {
        let pointer = target.map_or(std::ptr::null(), std::ptr::from_ref);
        self.0.store(pointer.cast_mut(), Ordering::Release);
    }

    /// Both are NULL, or both point to the same object.
    pub fn is(&self, target: Option<&'static T>) -> bool {
        match (self.get(), target) {
            (Some(a), Some(b)) => std::ptr::eq(a, b),
            (None, None) => true,
            _ => false,
        }
    }
}

/// Where probes, and who reads the memory, find fields. `has_shadow`: guests have their own matrix (v6.0 and later).
pub fn offsets(has_shadow: bool) -> Offsets {
    Offsets {
        mdev_flag: ApMatrixMdev::KVM_BUSY_OFFSET,
        mdev_notifier: offset_of!(ApMatrixMdev, group_notifier) as u32,
        mdev_hook: offset_of!(ApMatrixMdev, pqap_hook) as u32,
        device_driver_data: offset_of!(Device, driver_data) as u32,
        mdev_device_driver_data: offset_of!(MdevDevice, dev.driver_data) as u32,
        vcpu_kvm: offset_of!(KvmVcpu, kvm) as u32,
        vcpu_run: offset_of!(KvmVcpu, run) as u32,
        kvm_hook: offset_of!(Kvm, crypto.pqap_hook) as u32,
        run_gprs: offset_of!(KvmRun, gprs) as u32,
        ap_device_qid: offset_of!(ApDevice, qid) as u32,
        queue_reset_work: offset_of!(VfioApQueue, reset_work) as u32,
        queue_reset_rc: offset_of!(VfioApQueue, reset_rc) as u32,
        mdev_kvm: offset_of!(ApMatrixMdev, kvm) as u32,
        queue_mdev: offset_of!(VfioApQueue, matrix_mdev) as u32,
        ap_device_queue: offset_of!(ApDevice, drvdata) as u32,
        kvm_device_kvm: offset_of!(KvmDevice, kvm) as u32,
        mdev_matrix: offset_of!(ApMatrixMdev, matrix) as u32,
        mdev_shadow_apcb: has_shadow.then_some(offset_of!(ApMatrixMdev, shadow_apcb) as u32),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_offsets_reach_the_fields() {
        let kvm = Kvm::create(0, 1);
        let mdev = ApMatrixMdev::create();
        kvm.crypto.pqap_hook.set(Some(&mdev.pqap_hook));
        let at = |address: u64, offset: u32| {
            // SAFETY: every use below reads a pointer field of a live object.
            unsafe { *((address + u64::from(offset)) as *const u64) }
        };
        let o = offsets(true);
        let vcpu = kvm.vcpus()[0];
        let address = at(std::ptr::from_ref(vcpu) as u64, o.vcpu_kvm);
        assert_eq!(address, std::ptr::from_ref(kvm) as u64);
        let hook = at(address, o.kvm_hook);
        assert_eq!(
            hook - u64::from(o.mdev_hook),
            std::ptr::from_ref(mdev) as u64
        );
        vcpu.set_gpr(0, 77);
        let run = at(std::ptr::from_ref(vcpu) as u64, o.vcpu_run);
        assert_eq!(at(run, o.run_gprs), 77);
        assert_eq!(
            mdev.kvm_busy_address() - u64::from(o.mdev_flag),
            std::ptr::from_ref(mdev) as u64
        );
        mdev.kvm.set(Some(kvm));
        let kvm = std::ptr::from_ref(kvm) as u64;
        assert_eq!(at(std::ptr::from_ref(mdev) as u64, o.mdev_kvm), kvm);
    }
}
