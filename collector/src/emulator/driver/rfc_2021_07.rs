//! The draft of 7 July 2021, never merged: the hook's rwsem is held for writing over everything.
//!
//! `matrix_dev->lock` is nested in it, and so is `kvm->lock` of the mask update: with a conversion to a protected guest
//! and a vCPU in PQAP, rwsem (write) → kvm->lock → vcpu->mutex → rwsem (read) is a cycle. A refused guest is released
//! with `up_read`, which ruins the rwsem for good. The driver's handler takes no lock of its own. Otherwise as
//! [`rfc_2021_06`].

use std::sync::atomic::Ordering;

use super::group::vfio_unregister_notifier;
use super::{
    Generation, NOTIFY_DONE, NOTIFY_OK, VFIO_GROUP_NOTIFY_SET_KVM, irq, matrix, rfc_2021_06,
};
use crate::emulator::hardware::{AP_RESPONSE_Q_NOT_AVAIL, ApQueueStatus};
use crate::emulator::kvm::{kvm_get_kvm, kvm_put_kvm};
use crate::emulator::machine::Machine;
use crate::emulator::objects::{ApMatrixMdev, Kvm, KvmVcpu, MdevDevice, NotifierBlock};
use crate::emulator::points::kernel::{down_write, mutex_lock, mutex_unlock, up_read, up_write};
use crate::emulator::points::kvm::{kvm_arch_crypto_clear_masks, kvm_arch_crypto_set_masks};
use crate::emulator::points::vfio_ap::vfio_ap_mdev_reset_queues;

/// The functions of this generation.
pub const GENERATION: Generation = Generation {
    name: "rfc-2021-07",
    about: "draft: the hook's rwsem held for writing over kvm->lock; a refusal releases it in the wrong mode",
    leaks_lock: false,
    handle_pqap,
    group_notifier: vfio_ap_mdev_group_notifier,
    release: vfio_ap_mdev_release,
    ..rfc_2021_06::GENERATION
};

/// Guarded by the rwsem alone, which KVM read-holds.
fn handle_pqap(machine: &'static Machine, vcpu: &'static KvmVcpu) -> i32 {
    if !vcpu.sie_block.has_aiv() {
        return -libc::EOPNOTSUPP;
    }
    let status = irq::hooked_mdev(vcpu).map_or_else(
        || ApQueueStatus::response(AP_RESPONSE_Q_NOT_AVAIL).word(),
        |matrix_mdev| irq::pqap_aqic(machine, matrix_mdev, vcpu),
    );
    irq::store_status(vcpu, status);
    0
}

/// Entered without a lock. 0, or `-EPERM` if another mdev has the guest.
fn vfio_ap_mdev_set_kvm(
    machine: &Machine,
    matrix_mdev: &'static ApMatrixMdev,
    kvm: &'static Kvm,
) -> i32 {
    if kvm.crypto.crycbd.load(Ordering::Relaxed) != 0 {
        down_write(&kvm.crypto.pqap_hook_rwsem);
        mutex_lock(&machine.matrix_dev.lock);
        if matrix::kvm_is_taken(machine, matrix_mdev, kvm) {
            // It is held for writing.
            up_read(&kvm.crypto.pqap_hook_rwsem);
            mutex_unlock(&machine.matrix_dev.lock);
            return -libc::EPERM;
        }
        kvm_get_kvm(kvm);
        matrix_mdev.kvm.set(Some(kvm));
        kvm.crypto.pqap_hook.set(Some(&matrix_mdev.pqap_hook));
        mutex_unlock(&machine.matrix_dev.lock);
        let matrix = &matrix_mdev.matrix;
        kvm_arch_crypto_set_masks(kvm, &matrix.apm, &matrix.aqm, &matrix.adm);
        up_write(&kvm.crypto.pqap_hook_rwsem);
    }
    0
}

/// Entered without a lock. The mutex is taken twice: for the test, and for the reset once the masks are cleared.
fn vfio_ap_mdev_unset_kvm(machine: &Machine, matrix_mdev: &'static ApMatrixMdev) {
    let Some(kvm) = matrix_mdev.kvm.get() else {
        return;
    };
    down_write(&kvm.crypto.pqap_hook_rwsem);
    mutex_lock(&machine.matrix_dev.lock);
    if kvm.crypto.crycbd.load(Ordering::Relaxed) == 0 {
        up_write(&kvm.crypto.pqap_hook_rwsem);
        mutex_unlock(&machine.matrix_dev.lock);
        return;
    }
    mutex_unlock(&machine.matrix_dev.lock);

    kvm_arch_crypto_clear_masks(kvm);

    mutex_lock(&machine.matrix_dev.lock);
    vfio_ap_mdev_reset_queues(matrix_mdev);
    kvm.crypto.pqap_hook.set(None);
    kvm_put_kvm(kvm);
    matrix_mdev.kvm.set(None);
    mutex_unlock(&machine.matrix_dev.lock);
    up_write(&kvm.crypto.pqap_hook_rwsem);
}

fn vfio_ap_mdev_group_notifier(
    machine: &'static Machine,
    nb: &'static NotifierBlock,
    action: u64,
    data: Option<&'static Kvm>,
) -> i32 {
    if action != VFIO_GROUP_NOTIFY_SET_KVM {
        return NOTIFY_OK;
    }
    let Some(matrix_mdev) = nb.mdev.get() else {
        return NOTIFY_DONE;
    };
    match data {
        None => vfio_ap_mdev_unset_kvm(machine, matrix_mdev),
        Some(kvm) => {
            if vfio_ap_mdev_set_kvm(machine, matrix_mdev, kvm) != 0 {
                return NOTIFY_DONE;
            }
        }
    }
    NOTIFY_OK
}

fn vfio_ap_mdev_release(machine: &'static Machine, mdev: &'static MdevDevice) {
    let Some(matrix_mdev) = mdev.dev.driver_data.get() else {
        return;
    };
    vfio_unregister_notifier(&mdev.group, &matrix_mdev.group_notifier);
    vfio_ap_mdev_unset_kvm(machine, matrix_mdev);
}
