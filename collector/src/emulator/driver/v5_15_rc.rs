//! The state between two adjacent commits of the v5.15 series: the open-coded lock and the hook's rwsem together.
//!
//! 1e753732bda6 gave KVM's hook pointer an rwsem, which KVM read-holds across the driver's handler. The handler still
//! waits for `kvm_busy`, and whoever has set the flag takes the rwsem for writing: two threads are enough for a
//! deadlock, of which lockdep sees only rwsem → matrix_dev->lock. Otherwise as [`v5_13`].

use std::sync::atomic::Ordering;

use super::group::vfio_unregister_notifier;
use super::v5_13::{wait_until_kvm_is_not_busy, wake_up_waiters};
use super::{
    Generation, NOTIFY_DONE, NOTIFY_OK, VFIO_GROUP_NOTIFY_SET_KVM, VfioCore, matrix, v5_13, v5_15,
};
use crate::emulator::kvm::{kvm_get_kvm, kvm_put_kvm};
use crate::emulator::machine::Machine;
use crate::emulator::objects::{ApMatrixMdev, Kvm, MdevDevice, NotifierBlock};
use crate::emulator::points::kernel::{down_write, mutex_lock, mutex_unlock, up_write};
use crate::emulator::points::kvm::{kvm_arch_crypto_clear_masks, kvm_arch_crypto_set_masks};
use crate::emulator::points::vfio_ap::vfio_ap_mdev_reset_queues;

/// The functions of this generation.
pub const GENERATION: Generation = Generation {
    name: "v5.15-rc",
    about: "kvm_busy and the hook's rwsem together, between two commits: two threads can deadlock",
    has_hook_rwsem: true,
    has_open_device: true,
    vfio_core: VfioCore::DevSet,
    group_notifier: vfio_ap_mdev_group_notifier,
    release: vfio_ap_mdev_close_device,
    create: v5_15::vfio_ap_mdev_probe,
    remove: vfio_ap_mdev_remove,
    ..v5_13::GENERATION
};

/// Entered with the driver's lock held, dropped around the mask update.
fn vfio_ap_mdev_set_kvm(
    machine: &Machine,
    matrix_mdev: &'static ApMatrixMdev,
    kvm: &'static Kvm,
) -> i32 {
    if kvm.crypto.crycbd.load(Ordering::Relaxed) != 0 {
        if matrix::kvm_is_taken(machine, matrix_mdev, kvm) {
            return -libc::EPERM;
        }
        kvm_get_kvm(kvm);
        matrix_mdev.set_kvm_busy();
        mutex_unlock(&machine.matrix_dev.lock);

        down_write(&kvm.crypto.pqap_hook_rwsem);
        kvm.crypto.pqap_hook.set(Some(&matrix_mdev.pqap_hook));
        up_write(&kvm.crypto.pqap_hook_rwsem);

        let matrix = &matrix_mdev.matrix;
        kvm_arch_crypto_set_masks(kvm, &matrix.apm, &matrix.aqm, &matrix.adm);
        mutex_lock(&machine.matrix_dev.lock);
        matrix_mdev.kvm.set(Some(kvm));
        matrix_mdev.clear_kvm_busy();
        wake_up_waiters(machine, matrix_mdev);
    }
    0
}

/// Entered with the driver's lock held, dropped around the mask update.
fn vfio_ap_mdev_unset_kvm(machine: &Machine, matrix_mdev: &'static ApMatrixMdev) {
    wait_until_kvm_is_not_busy(machine, matrix_mdev);
    if let Some(kvm) = matrix_mdev.kvm.get() {
        matrix_mdev.set_kvm_busy();
        mutex_unlock(&machine.matrix_dev.lock);

        if kvm.crypto.crycbd.load(Ordering::Relaxed) != 0 {
            down_write(&kvm.crypto.pqap_hook_rwsem);
            kvm.crypto.pqap_hook.set(None);
            up_write(&kvm.crypto.pqap_hook_rwsem);

            kvm_arch_crypto_clear_masks(kvm);
        }

        mutex_lock(&machine.matrix_dev.lock);
        vfio_ap_mdev_reset_queues(matrix_mdev);
        kvm_put_kvm(kvm);
        matrix_mdev.kvm.set(None);
        matrix_mdev.clear_kvm_busy();
        wake_up_waiters(machine, matrix_mdev);
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
    let mut notify_rc = NOTIFY_OK;
    mutex_lock(&machine.matrix_dev.lock);
    match data {
        None => vfio_ap_mdev_unset_kvm(machine, matrix_mdev),
        Some(kvm) => {
            if vfio_ap_mdev_set_kvm(machine, matrix_mdev, kvm) != 0 {
                notify_rc = NOTIFY_DONE;
            }
        }
    }
    mutex_unlock(&machine.matrix_dev.lock);
    notify_rc
}

fn vfio_ap_mdev_close_device(machine: &'static Machine, vdev: &'static MdevDevice) {
    let Some(matrix_mdev) = vdev.dev.driver_data.get() else {
        return;
    };
    mutex_lock(&machine.matrix_dev.lock);
    vfio_ap_mdev_unset_kvm(machine, matrix_mdev);
    mutex_unlock(&machine.matrix_dev.lock);
    vfio_unregister_notifier(&vdev.group, &matrix_mdev.group_notifier);
}

/// Waits for the last descriptor to be closed, then as v5.13.
fn vfio_ap_mdev_remove(machine: &'static Machine, mdev: &'static MdevDevice) -> i32 {
    crate::emulator::vfio_core::vfio_unregister_group_dev(machine, mdev);
    v5_13::vfio_ap_mdev_remove(machine, mdev)
}
