//! The draft of 25 June 2021, never merged: `kvm_busy` removed, the lock windows moved around.
//!
//! Withdrawing a guest from an mdev that has none returns with `matrix_dev->lock` held: the unlock is inside the branch
//! that is not taken. Whoever wants the lock next waits for ever; the owner is a task that has long gone on. While the
//! masks are cleared, `matrix_mdev->kvm` is used without a lock. Otherwise as [`v5_13`].

use std::sync::atomic::Ordering;

use super::group::vfio_unregister_notifier;
use super::{Generation, NOTIFY_DONE, NOTIFY_OK, VFIO_GROUP_NOTIFY_SET_KVM, matrix, v5_10, v5_13};
use crate::emulator::kvm::{kvm_get_kvm, kvm_put_kvm};
use crate::emulator::machine::Machine;
use crate::emulator::objects::{ApMatrixMdev, Kvm, MdevDevice, NotifierBlock};
use crate::emulator::points::kernel::{down_write, mutex_lock, mutex_unlock, up_write};
use crate::emulator::points::kvm::{kvm_arch_crypto_clear_masks, kvm_arch_crypto_set_masks};
use crate::emulator::points::vfio_ap::vfio_ap_mdev_reset_queues;

/// The functions of this generation.
pub const GENERATION: Generation = Generation {
    name: "rfc-2021-06",
    about: "draft: no kvm_busy; withdrawing a guest twice returns with the mutex held",
    has_kvm_busy: false,
    has_hook_rwsem: true,
    leaks_lock: true,
    refuses_change: v5_10::guest_uses_it,
    handle_pqap: v5_10::handle_pqap,
    group_notifier: vfio_ap_mdev_group_notifier,
    release: vfio_ap_mdev_release,
    ioctl: v5_10::vfio_ap_mdev_ioctl,
    ..v5_13::GENERATION
};

/// Entered without a lock. 0, or `-EPERM` if another mdev has the guest.
fn vfio_ap_mdev_set_kvm(
    machine: &Machine,
    matrix_mdev: &'static ApMatrixMdev,
    kvm: &'static Kvm,
) -> i32 {
    if kvm.crypto.crycbd.load(Ordering::Relaxed) != 0 {
        mutex_lock(&machine.matrix_dev.lock);
        if matrix::kvm_is_taken(machine, matrix_mdev, kvm) {
            mutex_unlock(&machine.matrix_dev.lock);
            return -libc::EPERM;
        }
        kvm_get_kvm(kvm);
        matrix_mdev.kvm.set(Some(kvm));
        mutex_unlock(&machine.matrix_dev.lock);

        down_write(&kvm.crypto.pqap_hook_rwsem);
        kvm.crypto.pqap_hook.set(Some(&matrix_mdev.pqap_hook));
        up_write(&kvm.crypto.pqap_hook_rwsem);

        let matrix = &matrix_mdev.matrix;
        kvm_arch_crypto_set_masks(kvm, &matrix.apm, &matrix.aqm, &matrix.adm);
    }
    0
}

/// Entered without a lock. Without a guest it returns with the driver's lock held.
fn vfio_ap_mdev_unset_kvm(machine: &Machine, matrix_mdev: &'static ApMatrixMdev) {
    mutex_lock(&machine.matrix_dev.lock);
    let kvm = matrix_mdev.kvm.get();
    if let Some(kvm) = kvm.filter(|kvm| kvm.crypto.crycbd.load(Ordering::Relaxed) != 0) {
        mutex_unlock(&machine.matrix_dev.lock);

        down_write(&kvm.crypto.pqap_hook_rwsem);
        kvm.crypto.pqap_hook.set(None);
        up_write(&kvm.crypto.pqap_hook_rwsem);

        kvm_arch_crypto_clear_masks(kvm);

        mutex_lock(&machine.matrix_dev.lock);
        vfio_ap_mdev_reset_queues(matrix_mdev);
        kvm_put_kvm(kvm);
        matrix_mdev.kvm.set(None);
        mutex_unlock(&machine.matrix_dev.lock);
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
