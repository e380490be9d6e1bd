//! v5.11 and v5.12: the masks are set *and* cleared with `matrix_dev->lock` held, by one function for the notifier and
//! for release. That closes the cycle lockdep reported: matrix_dev->lock → kvm->lock → vcpu->mutex → matrix_dev->lock.
//!
//! Otherwise as [`v5_10`]; the status of AQIC is taken to be right.

use std::sync::atomic::Ordering;

use super::group::vfio_unregister_notifier;
use super::{Generation, NOTIFY_DONE, NOTIFY_OK, VFIO_GROUP_NOTIFY_SET_KVM, matrix, v5_10};
use crate::emulator::kvm::{kvm_get_kvm, kvm_put_kvm};
use crate::emulator::machine::Machine;
use crate::emulator::objects::{ApMatrixMdev, Kvm, MdevDevice, NotifierBlock};
use crate::emulator::points::kernel::{mutex_lock, mutex_unlock};
use crate::emulator::points::kvm::{kvm_arch_crypto_clear_masks, kvm_arch_crypto_set_masks};
use crate::emulator::points::vfio_ap::vfio_ap_mdev_reset_queues;

/// The functions of this generation.
pub const GENERATION: Generation = Generation {
    name: "v5.11",
    about: "as v5.10, with the masks also set under the mutex: the lockdep report of 2021",
    aqic_status_is_input: false,
    group_notifier: vfio_ap_mdev_group_notifier,
    release: vfio_ap_mdev_release,
    ..v5_10::GENERATION
};

/// Entered with the driver's lock held. 0, or `-EPERM` if another mdev has the guest.
fn vfio_ap_mdev_set_kvm(
    machine: &Machine,
    matrix_mdev: &'static ApMatrixMdev,
    kvm: &'static Kvm,
) -> i32 {
    if matrix::kvm_is_taken(machine, matrix_mdev, kvm) {
        return -libc::EPERM;
    }
    matrix_mdev.kvm.set(Some(kvm));
    kvm_get_kvm(kvm);
    kvm.crypto.pqap_hook.set(Some(&matrix_mdev.pqap_hook));
    0
}

/// Entered with the driver's lock held.
fn vfio_ap_mdev_unset_kvm(matrix_mdev: &'static ApMatrixMdev) {
    if let Some(kvm) = matrix_mdev.kvm.get() {
        kvm_arch_crypto_clear_masks(kvm);
        kvm.crypto.pqap_hook.set(None);
        vfio_ap_mdev_reset_queues(matrix_mdev);
        kvm_put_kvm(kvm);
        matrix_mdev.kvm.set(None);
    }
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
    mutex_lock(&machine.matrix_dev.lock);
    let notify_rc = match data {
        None => {
            vfio_ap_mdev_unset_kvm(matrix_mdev);
            NOTIFY_OK
        }
        Some(kvm) if vfio_ap_mdev_set_kvm(machine, matrix_mdev, kvm) != 0 => NOTIFY_DONE,
        // If there is no CRYCB pointer, then we cannot copy the masks.
        Some(kvm) if kvm.crypto.crycbd.load(Ordering::Relaxed) == 0 => NOTIFY_DONE,
        Some(kvm) => {
            let matrix = &matrix_mdev.matrix;
            kvm_arch_crypto_set_masks(kvm, &matrix.apm, &matrix.aqm, &matrix.adm);
            NOTIFY_OK
        }
    };
    mutex_unlock(&machine.matrix_dev.lock);
    notify_rc
}

fn vfio_ap_mdev_release(machine: &'static Machine, mdev: &'static MdevDevice) {
    let Some(matrix_mdev) = mdev.dev.driver_data.get() else {
        return;
    };
    mutex_lock(&machine.matrix_dev.lock);
    vfio_ap_mdev_unset_kvm(matrix_mdev);
    mutex_unlock(&machine.matrix_dev.lock);
    vfio_unregister_notifier(&mdev.group, &matrix_mdev.group_notifier);
}
