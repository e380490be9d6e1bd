//! v5.15 to v5.18: locks instead of the open-coded one.
//!
//! Commit 1e753732bda6 gave KVM's hook pointer an rwsem, commit 86956e70761b removed `kvm_busy`: the driver takes
//! `kvm->lock` before `matrix_dev->lock`, and the functions that change the masks require it of their caller. The two
//! are released in the order they were taken. A failed `vfio_ap_mdev_set_kvm` leaves the hook set, as upstream did
//! until 2026; the notifier reads the kvm pointer without a lock. Otherwise as [`v5_15_rc`].

use std::sync::atomic::Ordering;

use super::group::{vfio_register_notifier, vfio_unregister_notifier};
use super::{
    Generation, NOTIFY_DONE, NOTIFY_OK, VFIO_GROUP_NOTIFY_SET_KVM, matrix, v5_10, v5_15_rc,
};
use crate::emulator::kvm::{kvm_get_kvm, kvm_put_kvm};
use crate::emulator::machine::Machine;
use crate::emulator::objects::{ApMatrixMdev, Kvm, MdevDevice, NotifierBlock, VfioDevice};
use crate::emulator::points::kernel::{down_write, mutex_lock, mutex_unlock, up_write};
use crate::emulator::points::kvm::{kvm_arch_crypto_clear_masks, kvm_arch_crypto_set_masks};
use crate::emulator::points::vfio_ap::vfio_ap_mdev_reset_queues;
use crate::emulator::vfio_core::vfio_unregister_group_dev;

/// The functions of this generation.
pub const GENERATION: Generation = Generation {
    name: "v5.15",
    about: "kvm->lock before the driver's mutex, an rwsem for the PQAP hook; no open-coded lock",
    has_kvm_busy: false,
    masks_take_kvm_lock: false,
    refuses_change: v5_10::guest_uses_it,
    handle_pqap: v5_10::handle_pqap,
    group_notifier: vfio_ap_mdev_group_notifier,
    open: vfio_ap_mdev_open_device,
    release: vfio_ap_mdev_close_device,
    ioctl: v5_10::vfio_ap_mdev_ioctl,
    create: vfio_ap_mdev_probe,
    remove: vfio_ap_mdev_remove,
    ..v5_15_rc::GENERATION
};

/// 0, or `-EPERM` if another mdev has the guest; the hook then stays set.
pub(super) fn vfio_ap_mdev_set_kvm(
    machine: &Machine,
    matrix_mdev: &'static ApMatrixMdev,
    kvm: &'static Kvm,
) -> i32 {
    if kvm.crypto.crycbd.load(Ordering::Relaxed) != 0 {
        down_write(&kvm.crypto.pqap_hook_rwsem);
        kvm.crypto.pqap_hook.set(Some(&matrix_mdev.pqap_hook));
        up_write(&kvm.crypto.pqap_hook_rwsem);

        mutex_lock(&kvm.lock);
        mutex_lock(&machine.matrix_dev.lock);
        if matrix::kvm_is_taken(machine, matrix_mdev, kvm) {
            mutex_unlock(&kvm.lock);
            mutex_unlock(&machine.matrix_dev.lock);
            return -libc::EPERM;
        }
        kvm_get_kvm(kvm);
        matrix_mdev.kvm.set(Some(kvm));
        let matrix = &matrix_mdev.matrix;
        kvm_arch_crypto_set_masks(kvm, &matrix.apm, &matrix.aqm, &matrix.adm);
        mutex_unlock(&kvm.lock);
        mutex_unlock(&machine.matrix_dev.lock);
    }
    0
}

/// `kvm` is the mdev's pointer, which the caller read without a lock.
pub(super) fn vfio_ap_mdev_unset_kvm(
    machine: &Machine,
    matrix_mdev: &'static ApMatrixMdev,
    kvm: Option<&'static Kvm>,
) {
    if let Some(kvm) = kvm.filter(|kvm| kvm.crypto.crycbd.load(Ordering::Relaxed) != 0) {
        down_write(&kvm.crypto.pqap_hook_rwsem);
        kvm.crypto.pqap_hook.set(None);
        up_write(&kvm.crypto.pqap_hook_rwsem);

        mutex_lock(&kvm.lock);
        mutex_lock(&machine.matrix_dev.lock);
        kvm_arch_crypto_clear_masks(kvm);
        vfio_ap_mdev_reset_queues(matrix_mdev);
        kvm_put_kvm(kvm);
        matrix_mdev.kvm.set(None);
        mutex_unlock(&kvm.lock);
        mutex_unlock(&machine.matrix_dev.lock);
    }
}

/// Runs without a lock of its own.
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
        None => vfio_ap_mdev_unset_kvm(machine, matrix_mdev, matrix_mdev.kvm.get()),
        Some(kvm) => {
            if vfio_ap_mdev_set_kvm(machine, matrix_mdev, kvm) != 0 {
                return NOTIFY_DONE;
            }
        }
    }
    NOTIFY_OK
}

/// Registers the group notifier, which may announce the guest at once, and the iommu notifier, whose chain is not
/// among the traced locks.
fn vfio_ap_mdev_open_device(_: &'static Machine, vdev: &'static VfioDevice) -> i32 {
    let Some(matrix_mdev) = vdev.dev.driver_data.get() else {
        return -libc::ENODEV;
    };
    vfio_register_notifier(&vdev.group, &matrix_mdev.group_notifier)
}

fn vfio_ap_mdev_close_device(machine: &'static Machine, vdev: &'static VfioDevice) {
    let Some(matrix_mdev) = vdev.dev.driver_data.get() else {
        return;
    };
    vfio_unregister_notifier(&vdev.group, &matrix_mdev.group_notifier);
    vfio_ap_mdev_unset_kvm(machine, matrix_mdev, matrix_mdev.kvm.get());
}

/// As `create` before, for a `struct vfio_device`.
pub(super) fn vfio_ap_mdev_probe(machine: &'static Machine, mdev: &'static MdevDevice) -> i32 {
    v5_10::vfio_ap_mdev_create(machine, mdev)
}

/// Waits for the last descriptor to be closed, without a lock; the lock is dropped before the rest is freed.
fn vfio_ap_mdev_remove(machine: &'static Machine, mdev: &'static MdevDevice) -> i32 {
    let Some(matrix_mdev) = mdev.dev.driver_data.get() else {
        return -libc::ENODEV;
    };
    vfio_unregister_group_dev(machine, mdev);
    mutex_lock(&machine.matrix_dev.lock);
    vfio_ap_mdev_reset_queues(matrix_mdev);
    machine.matrix_dev.list_del(matrix_mdev);
    mutex_unlock(&machine.matrix_dev.lock);
    mdev.dev.driver_data.set(None);
    machine
        .matrix_dev
        .available_instances
        .fetch_add(1, Ordering::Relaxed);
    0
}
