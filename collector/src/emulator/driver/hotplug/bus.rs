//! The AP bus's callbacks, from v6.0 on: is a resource in use, the host's configuration changed, the bus was scanned.

use crate::emulator::machine::Machine;
use crate::emulator::objects::{ApMatrix, ApMatrixMdev, Bitmap};
use crate::emulator::points::kernel::{mutex_lock, mutex_unlock};

use super::{
    reset_queues_for_apids, vfio_ap_mdev_filter_cdoms, vfio_ap_mdev_filter_matrix,
    vfio_ap_mdev_update_guest_apcb,
};
use crate::emulator::driver::matrix::vfio_ap_mdev_verify_no_sharing;

/// `vfio_ap_mdev_resource_in_use`: `-EADDRINUSE` if an mdev has one of the queues. The bus holds its mutex.
pub fn vfio_ap_mdev_resource_in_use(machine: &'static Machine, apm: &Bitmap, aqm: &Bitmap) -> i32 {
    mutex_lock(&machine.matrix_dev.guests_lock);
    mutex_lock(&machine.matrix_dev.mdevs_lock);
    let ret = vfio_ap_mdev_verify_no_sharing(machine, None, apm, aqm);
    mutex_unlock(&machine.matrix_dev.mdevs_lock);
    mutex_unlock(&machine.matrix_dev.guests_lock);
    ret
}

/// The mdevs in the list's order: `list_add` puts the newest first.
fn newest_first(machine: &Machine) -> impl Iterator<Item = &'static ApMatrixMdev> + use<> {
    machine.matrix_dev.mdevs().into_iter().rev()
}

/// Runs `f` with the mdev's `kvm->lock`, then mdevs_lock. Up to v7.2 the kernel locks `kvm->lock` of an mdev without a
/// guest too, which is a NULL dereference; here that lock is left out.
fn with_locks(machine: &Machine, matrix_mdev: &ApMatrixMdev, f: impl FnOnce()) {
    let kvm = matrix_mdev.kvm.get();
    if let Some(kvm) = kvm {
        mutex_lock(&kvm.lock);
    }
    mutex_lock(&machine.matrix_dev.mdevs_lock);
    f();
    mutex_unlock(&machine.matrix_dev.mdevs_lock);
    if let Some(kvm) = kvm {
        mutex_unlock(&kvm.lock);
    }
}

/// `vfio_ap_mdev_cfg_remove`: takes what the host lost from the guests. Up to v7.2 what was found for one mdev counts
/// for those after it as well.
fn vfio_ap_mdev_cfg_remove(machine: &'static Machine, removed: &ApMatrix) {
    let mut do_remove = false;
    for matrix_mdev in newest_first(machine) {
        with_locks(machine, matrix_mdev, || {
            let matrix = &matrix_mdev.matrix;
            if machine.generation.has_2026_fixes {
                do_remove = false;
            }
            do_remove |= removed.apm.intersects(&matrix.apm)
                || removed.aqm.intersects(&matrix.aqm)
                || removed.adm.intersects(&matrix.adm);
            if do_remove {
                vfio_ap_mdev_hot_unplug_cfg(matrix_mdev, removed);
            }
        });
    }
}

/// `vfio_ap_mdev_hot_unplug_cfg`.
fn vfio_ap_mdev_hot_unplug_cfg(matrix_mdev: &ApMatrixMdev, removed: &ApMatrix) {
    let shadow = &matrix_mdev.shadow_apcb;
    let mut changed = false;
    for (map, removed) in [
        (&shadow.apm, &removed.apm),
        (&shadow.aqm, &removed.aqm),
        (&shadow.adm, &removed.adm),
    ] {
        if map.intersects(removed) {
            map.set_andnot(&map.copy(), removed);
            changed = true;
        }
    }
    if changed {
        vfio_ap_mdev_update_guest_apcb(matrix_mdev);
    }
}

/// `vfio_ap_mdev_cfg_add`: notes what has come, for the end of the bus scan. From v7.3 on in mdevs_lock.
fn vfio_ap_mdev_cfg_add(machine: &Machine, added: &ApMatrix) {
    for matrix_mdev in newest_first(machine) {
        let locked = machine.generation.has_2026_fixes;
        if locked {
            mutex_lock(&machine.matrix_dev.mdevs_lock);
        }
        let matrix = &matrix_mdev.matrix;
        matrix_mdev.apm_add.set_and(&matrix.apm, &added.apm);
        matrix_mdev.aqm_add.set_and(&matrix.aqm, &added.aqm);
        matrix_mdev.adm_add.set_and(&matrix.adm, &added.adm);
        if locked {
            mutex_unlock(&machine.matrix_dev.mdevs_lock);
        }
    }
}

/// What `a` has and `b` has not; `None` if there is nothing.
fn difference(a: &ApMatrix, b: &ApMatrix) -> Option<ApMatrix> {
    let result = ApMatrix::default();
    let mut any = result.apm.set_andnot(&a.apm, &b.apm);
    any |= result.aqm.set_andnot(&a.aqm, &b.aqm);
    any |= result.adm.set_andnot(&a.adm, &b.adm);
    any.then_some(result)
}

/// `vfio_ap_on_cfg_changed`.
pub fn vfio_ap_on_cfg_changed(machine: &'static Machine, cur: &ApMatrix, prev: &ApMatrix) {
    mutex_lock(&machine.matrix_dev.guests_lock);
    if let Some(removed) = difference(prev, cur) {
        vfio_ap_mdev_cfg_remove(machine, &removed);
    }
    if let Some(added) = difference(cur, prev) {
        vfio_ap_mdev_cfg_add(machine, &added);
    }
    machine.matrix_dev.info.copy_from(cur);
    mutex_unlock(&machine.matrix_dev.guests_lock);
}

fn nothing_pending(matrix_mdev: &ApMatrixMdev) -> bool {
    matrix_mdev.apm_add.is_empty()
        && matrix_mdev.aqm_add.is_empty()
        && matrix_mdev.adm_add.is_empty()
}

/// `vfio_ap_mdev_hot_plug_cfg`: plugs in what has come. Called with the mdev's locks.
fn vfio_ap_mdev_hot_plug_cfg(machine: &'static Machine, matrix_mdev: &'static ApMatrixMdev) {
    let matrix = &matrix_mdev.matrix;
    let filtered = Bitmap::default();
    let mut changed = false;
    if matrix.apm.intersects(&matrix_mdev.apm_add) || matrix.aqm.intersects(&matrix_mdev.aqm_add) {
        changed |= vfio_ap_mdev_filter_matrix(machine, matrix_mdev, &filtered);
    }
    if matrix.adm.intersects(&matrix_mdev.adm_add) {
        changed |= vfio_ap_mdev_filter_cdoms(machine, matrix_mdev);
    }
    if changed {
        vfio_ap_mdev_update_guest_apcb(matrix_mdev);
    }
    reset_queues_for_apids(machine, matrix_mdev, &filtered);
    for map in [
        &matrix_mdev.apm_add,
        &matrix_mdev.aqm_add,
        &matrix_mdev.adm_add,
    ] {
        map.clear_all();
    }
}

/// `vfio_ap_on_scan_complete`. Up to v7.2 the locks of an mdev are taken only if something is pending for it.
pub fn vfio_ap_on_scan_complete(machine: &'static Machine) {
    mutex_lock(&machine.matrix_dev.guests_lock);
    for matrix_mdev in newest_first(machine) {
        if !machine.generation.has_2026_fixes && nothing_pending(matrix_mdev) {
            continue;
        }
        with_locks(machine, matrix_mdev, || {
            if !nothing_pending(matrix_mdev) {
                vfio_ap_mdev_hot_plug_cfg(machine, matrix_mdev);
            }
        });
    }
    mutex_unlock(&machine.matrix_dev.guests_lock);
}
