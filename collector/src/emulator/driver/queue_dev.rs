//! Queues bound to and unbound from the driver, up to v5.19 (`vfio_ap_drv.c`).

use crate::emulator::machine::Machine;
use crate::emulator::objects::ApDevice;
use crate::emulator::points::kernel::{mutex_lock, mutex_unlock};

use super::{reset, sysfs::Page};

/// `vfio_ap_queue_dev_probe`: no lock.
pub(super) fn vfio_ap_queue_dev_probe(_: &'static Machine, apdev: &'static ApDevice) -> i32 {
    apdev.storage.reset();
    apdev.drvdata.set(Some(&apdev.storage));
    0
}

/// `vfio_ap_queue_dev_probe` with the `status` attribute (v5.17), which may be read as soon as the driver data is set.
pub(super) fn vfio_ap_queue_dev_probe_locked(
    machine: &'static Machine,
    apdev: &'static ApDevice,
) -> i32 {
    mutex_lock(&machine.matrix_dev.lock);
    apdev.storage.reset();
    apdev.drvdata.set(Some(&apdev.storage));
    mutex_unlock(&machine.matrix_dev.lock);
    0
}

/// `vfio_ap_queue_dev_remove`.
pub(super) fn vfio_ap_queue_dev_remove(machine: &'static Machine, apdev: &'static ApDevice) {
    mutex_lock(&machine.matrix_dev.lock);
    if let Some(queue) = apdev.drvdata.get() {
        reset::vfio_ap_mdev_reset_queue(machine, queue, 1);
    }
    apdev.drvdata.set(None);
    mutex_unlock(&machine.matrix_dev.lock);
}

/// `status_show` of v5.17 to v5.19, in `vfio_ap_drv.c`.
pub(super) fn status_show(
    machine: &'static Machine,
    apdev: &'static ApDevice,
    buf: &mut Page,
) -> i64 {
    mutex_lock(&machine.matrix_dev.lock);
    let used_by = machine
        .matrix_dev
        .mdevs()
        .into_iter()
        .find(|m| m.matrix.has_queue(apdev.apqn()));
    let text = match used_by {
        Some(mdev) if mdev.kvm.get().is_some() => "in use\n",
        Some(_) => "assigned\n",
        None => "unassigned\n",
    };
    mutex_unlock(&machine.matrix_dev.lock);
    buf.fill(text)
}
