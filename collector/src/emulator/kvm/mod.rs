//! KVM's part: vCPUs and their intercepts, the guest's crypto masks, protected virtualisation, the kvm-vfio device.
//!
//! Kernel sources: `virt/kvm/kvm_main.c`, `virt/kvm/vfio.c`, `arch/s390/kvm/{kvm-s390,priv,pv}.c`. What differs between
//! driver generations is asked of the machine's generation.

pub mod crypto;
pub mod intercept;
pub mod pv;
pub mod run;
pub mod sie;
pub mod vfio;

use std::sync::atomic::Ordering;

use super::objects::Kvm;

/// Takes a reference on the VM.
pub fn kvm_get_kvm(kvm: &Kvm) {
    kvm.users_count.fetch_add(1, Ordering::Relaxed);
}

/// Drops a reference. The machine holds one itself, so this is never the last.
pub fn kvm_put_kvm(kvm: &Kvm) {
    kvm.users_count.fetch_sub(1, Ordering::Relaxed);
}
