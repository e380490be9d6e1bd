//! Queues bound to and unbound from the driver, from v6.0 on.

use crate::emulator::machine::Machine;
use crate::emulator::objects::{ApDevice, ApMatrixMdev, Bitmap};
use crate::emulator::points::kernel::{flush_work, mutex_lock, mutex_unlock};

use super::locks::{get_update_locks_by_apqn, get_update_locks_for_queue};
use super::{
    filter_and_update, reset_queues_for_apids, vfio_ap_mdev_link_queue,
    vfio_ap_mdev_update_guest_apcb, vfio_ap_unlink_queue_fr_mdev,
};
use crate::emulator::driver::sysfs::Page;
use crate::emulator::driver::{reset, reset_work};

/// `vfio_ap_mdev_probe_queue`: links the queue to the mdev that it is assigned to, and plugs it in.
pub fn vfio_ap_mdev_probe_queue(machine: &'static Machine, apdev: &'static ApDevice) -> i32 {
    let queue = &apdev.storage;
    queue.reset();
    let (locks, matrix_mdev) = get_update_locks_by_apqn(machine, apdev.apqn());
    if let Some(matrix_mdev) = matrix_mdev {
        vfio_ap_mdev_link_queue(matrix_mdev, queue);
        // Adapters or domains that are being added are plugged in when the bus has been scanned (6.8).
        let pending = machine.generation.has_reset_work
            && !(matrix_mdev.apm_add.is_empty() && matrix_mdev.aqm_add.is_empty());
        if !pending {
            filter_and_update(machine, matrix_mdev, false);
        }
    }
    apdev.drvdata.set(Some(queue));
    locks.release(machine);
    0
}

/// `vfio_ap_mdev_remove_queue`: a single queue cannot be unplugged, so the adapter is.
pub fn vfio_ap_mdev_remove_queue(machine: &'static Machine, apdev: &'static ApDevice) {
    let Some(queue) = apdev.drvdata.get() else {
        return;
    };
    let (locks, matrix_mdev) = get_update_locks_for_queue(machine, queue);
    let unplugged = matrix_mdev.is_some_and(|matrix_mdev| unplug(machine, matrix_mdev, queue.apqn));
    if machine.generation.has_reset_work {
        // The adapter's queues were reset with it. One that the host no longer has cannot be.
        let info = &machine.matrix_dev.info;
        if !unplugged && info.has_queue(queue.apqn) {
            reset_work::vfio_ap_mdev_reset_queue(machine, queue);
            flush_work(&queue.reset_work);
        }
        vfio_ap_unlink_queue_fr_mdev(queue);
    } else {
        vfio_ap_unlink_queue_fr_mdev(queue);
        queue.matrix_mdev.set(matrix_mdev);
        reset::vfio_ap_mdev_reset_queue(machine, queue, 1);
        queue.matrix_mdev.set(None);
    }
    apdev.drvdata.set(None);
    locks.release(machine);
}

/// Takes the adapter from the guest, if the guest has the queue.
fn unplug(machine: &'static Machine, matrix_mdev: &'static ApMatrixMdev, apqn: u16) -> bool {
    let shadow = &matrix_mdev.shadow_apcb;
    if !shadow.has_queue(apqn) {
        return false;
    }
    let apid = apqn >> 8;
    shadow.apm.clear(apid);
    vfio_ap_mdev_update_guest_apcb(matrix_mdev);
    reset_queues_for_apids(machine, matrix_mdev, &Bitmap::only(apid));
    true
}

/// `status_show` of a queue, in mdevs_lock; from v7.3 on in guests_lock too.
pub fn status_show(machine: &'static Machine, apdev: &'static ApDevice, buf: &mut Page) -> i64 {
    let guests = machine.generation.has_2026_fixes;
    if guests {
        mutex_lock(&machine.matrix_dev.guests_lock);
    }
    mutex_lock(&machine.matrix_dev.mdevs_lock);
    let matrix_mdev = machine
        .matrix_dev
        .mdevs()
        .into_iter()
        .find(|m| m.matrix.has_queue(apdev.apqn()));
    let text = match matrix_mdev {
        Some(m) if m.kvm.get().is_some() && m.shadow_apcb.has_queue(apdev.apqn()) => "in use\n",
        Some(_) => "assigned\n",
        None => "unassigned\n",
    };
    mutex_unlock(&machine.matrix_dev.mdevs_lock);
    if guests {
        mutex_unlock(&machine.matrix_dev.guests_lock);
    }
    buf.fill(text)
}
