//! The guest's view of adapters and domains: `kvm_arch_crypto_set_masks` and `kvm_arch_crypto_clear_masks`.

use crate::emulator::machine::Machine;
use crate::emulator::objects::{Bitmap, Kvm};
use crate::emulator::points::kernel::{mutex_lock, mutex_unlock};

/// Up to v5.14 `kvm->lock` is taken inside, later the caller holds it.
fn with_kvm_lock(machine: &Machine, kvm: &'static Kvm, f: impl FnOnce()) {
    if machine.generation.masks_take_kvm_lock {
        mutex_lock(&kvm.lock);
        f();
        mutex_unlock(&kvm.lock);
    } else {
        f();
    }
}

/// Changes the control block while no vCPU executes guest instructions.
fn with_vcpus_blocked(kvm: &Kvm, f: impl FnOnce()) {
    for vcpu in kvm.vcpus() {
        vcpu.sie_block.block();
    }
    f();
    for vcpu in kvm.vcpus() {
        vcpu.sie_block.unblock();
    }
}

/// Gives the guest these adapters, domains and control domains.
pub fn kvm_arch_crypto_set_masks(
    machine: &Machine,
    kvm: &'static Kvm,
    apm: &Bitmap,
    aqm: &Bitmap,
    adm: &Bitmap,
) {
    with_kvm_lock(machine, kvm, || {
        with_vcpus_blocked(kvm, || {
            kvm.crypto.apm.copy_from(apm);
            kvm.crypto.aqm.copy_from(aqm);
            kvm.crypto.adm.copy_from(adm);
        });
    });
}

/// Takes all of them away.
pub fn kvm_arch_crypto_clear_masks(machine: &Machine, kvm: &'static Kvm) {
    with_kvm_lock(machine, kvm, || {
        with_vcpus_blocked(kvm, || {
            kvm.crypto.apm.clear_all();
            kvm.crypto.aqm.clear_all();
            kvm.crypto.adm.clear_all();
        });
    });
}
