//! Queue reset up to v6.5, with a bounded wait. Runs with the driver's lock held.

use std::sync::atomic::Ordering;

use crate::emulator::hardware::{
    AP_RESPONSE_CHECKSTOPPED, AP_RESPONSE_DECONFIGURED, AP_RESPONSE_NORMAL,
    AP_RESPONSE_Q_NOT_AVAIL, AP_RESPONSE_RESET_IN_PROGRESS, mkqid,
};
use crate::emulator::machine::Machine;
use crate::emulator::objects::{ApMatrixMdev, VfioApQueue};
use crate::emulator::points::kernel::msleep;

use super::irq::vfio_ap_free_aqic_resources;

/// `vfio_ap_mdev_reset_queue`: zeroizes a queue and waits, for at most two polls, until it shows. 0, `-EBUSY` or
/// `-EIO`.
pub(super) fn vfio_ap_mdev_reset_queue(
    machine: &Machine,
    queue: &VfioApQueue,
    mut retry: u32,
) -> i32 {
    let (mut status, ret) = loop {
        let status = machine.hardware.ap_zapq(queue.apqn);
        queue
            .reset_rc
            .store(status.response_code, Ordering::Relaxed);
        match status.response_code {
            AP_RESPONSE_NORMAL => break (status, 0),
            AP_RESPONSE_RESET_IN_PROGRESS if retry > 0 => {
                retry -= 1;
                msleep(20);
            }
            AP_RESPONSE_RESET_IN_PROGRESS => break (status, -libc::EBUSY),
            AP_RESPONSE_Q_NOT_AVAIL | AP_RESPONSE_DECONFIGURED | AP_RESPONSE_CHECKSTOPPED => {
                vfio_ap_free_aqic_resources(queue);
                return -libc::EBUSY;
            }
            _ => return -libc::EIO,
        }
    };
    for _ in 0..2 {
        if status.queue_empty && !status.irq_enabled {
            break;
        }
        msleep(20);
        status = machine.hardware.ap_tapq(queue.apqn);
    }
    vfio_ap_free_aqic_resources(queue);
    ret
}

fn reset_each<'a>(machine: &Machine, queues: impl Iterator<Item = &'a VfioApQueue>) -> i32 {
    let mut rc = 0;
    for queue in queues {
        let ret = vfio_ap_mdev_reset_queue(machine, queue, 1);
        if ret != 0 {
            rc = ret;
        }
    }
    rc
}

/// `vfio_ap_mdev_reset_queues` up to v5.19: resets every queue of the matrix that is bound to the driver, the failed
/// ones notwithstanding; the last error.
pub(super) fn vfio_ap_mdev_reset_queues(
    machine: &'static Machine,
    matrix_mdev: &'static ApMatrixMdev,
) -> i32 {
    let matrix = &matrix_mdev.matrix;
    let queues = matrix.apm.iter().flat_map(|adapter| {
        let queue = move |domain| machine.ap_bus.bound(mkqid(adapter, domain));
        matrix.aqm.iter().filter_map(queue)
    });
    reset_each(machine, queues)
}

/// `vfio_ap_mdev_reset_queues` of v6.0: those linked to the mdev.
pub(super) fn vfio_ap_mdev_reset_linked_queues(
    machine: &'static Machine,
    matrix_mdev: &'static ApMatrixMdev,
) -> i32 {
    reset_each(machine, matrix_mdev.queues().into_iter())
}

/// The same for a list of queues.
pub(super) fn vfio_ap_mdev_reset_qlist(
    machine: &'static Machine,
    queues: &[&'static VfioApQueue],
) -> i32 {
    reset_each(machine, queues.iter().copied())
}
