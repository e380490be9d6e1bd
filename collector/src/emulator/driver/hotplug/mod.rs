//! Queues plugged into and out of running guests, from v6.0 on.
//!
//! An mdev has what is assigned (`matrix`) and what of that the guest has (`shadow_apcb`): adapters of which a queue is
//! not bound to the driver are filtered out. [`locks`] has the order guests_lock → kvm->lock → mdevs_lock, [`stores`]
//! the sysfs attributes, [`config`] the attribute `ap_config`, [`queues`] binding and unbinding of queues, [`bus`] the
//! AP bus's callbacks, [`device`] what is done with the mdev itself.

pub mod bus;
pub mod config;
pub mod device;
pub mod locks;
pub mod queues;
pub mod stores;

use crate::emulator::hardware::mkqid;
use crate::emulator::machine::Machine;
use crate::emulator::objects::{ApMatrixMdev, Bitmap, VfioApQueue};
use crate::emulator::points::kvm::kvm_arch_crypto_set_masks;

use super::{reset, reset_work};

/// `vfio_ap_mdev_get_queue`: the queue, if it is linked to the mdev.
pub(super) fn vfio_ap_mdev_get_queue(
    matrix_mdev: &ApMatrixMdev,
    apqn: u16,
) -> Option<&'static VfioApQueue> {
    matrix_mdev.queue(apqn)
}

/// `vfio_ap_mdev_link_queue`.
fn vfio_ap_mdev_link_queue(matrix_mdev: &'static ApMatrixMdev, queue: &'static VfioApQueue) {
    queue.matrix_mdev.set(Some(matrix_mdev));
    matrix_mdev.link(queue);
}

/// `vfio_ap_unlink_queue_fr_mdev`.
fn vfio_ap_unlink_queue_fr_mdev(queue: &VfioApQueue) {
    if let Some(matrix_mdev) = queue.matrix_mdev.get() {
        matrix_mdev.unlink(queue);
        queue.matrix_mdev.set(None);
    }
}

/// `vfio_ap_mdev_link_adapter`: links what is bound to the driver.
fn link_adapter(machine: &Machine, matrix_mdev: &'static ApMatrixMdev, apid: u16) {
    for apqi in matrix_mdev.matrix.aqm.iter() {
        if let Some(queue) = machine.ap_bus.bound(mkqid(apid, apqi)) {
            vfio_ap_mdev_link_queue(matrix_mdev, queue);
        }
    }
}

/// `vfio_ap_mdev_link_domain`.
fn link_domain(machine: &Machine, matrix_mdev: &'static ApMatrixMdev, apqi: u16) {
    for apid in matrix_mdev.matrix.apm.iter() {
        if let Some(queue) = machine.ap_bus.bound(mkqid(apid, apqi)) {
            vfio_ap_mdev_link_queue(matrix_mdev, queue);
        }
    }
}

/// `vfio_ap_mdev_filter_matrix`: gives the guest what is assigned, in the host's configuration, and bound to the driver
/// with all queues of its adapter. True if that changes something; `filtered` gets the adapters that were left out.
fn vfio_ap_mdev_filter_matrix(
    machine: &Machine,
    matrix_mdev: &ApMatrixMdev,
    filtered: &Bitmap,
) -> bool {
    let shadow = &matrix_mdev.shadow_apcb;
    let (adapters, domains) = (shadow.apm.copy(), shadow.aqm.copy());
    filtered.clear_all();
    let info = &machine.matrix_dev.info;
    shadow.apm.set_and(&matrix_mdev.matrix.apm, &info.apm);
    shadow.aqm.set_and(&matrix_mdev.matrix.aqm, &info.aqm);
    for apid in shadow.apm.copy().iter() {
        let all = shadow.aqm.iter().all(|apqi| {
            vfio_ap_mdev_get_queue(matrix_mdev, mkqid(apid, apqi))
                .is_some_and(|queue| queue.reset_rc.load(std::sync::atomic::Ordering::Relaxed) == 0)
        });
        if !all {
            shadow.apm.clear(apid);
            // Only one that the guest had has to be reset.
            if adapters.test(apid) {
                filtered.set(apid);
            }
        }
    }
    !shadow.apm.is_equal(&adapters) || !shadow.aqm.is_equal(&domains)
}

/// `vfio_ap_mdev_filter_cdoms`: the same for control domains.
fn vfio_ap_mdev_filter_cdoms(machine: &Machine, matrix_mdev: &ApMatrixMdev) -> bool {
    let shadow = &matrix_mdev.shadow_apcb;
    let before = shadow.adm.copy();
    shadow
        .adm
        .set_and(&matrix_mdev.matrix.adm, &machine.matrix_dev.info.adm);
    !shadow.adm.is_equal(&before)
}

/// `vfio_ap_mdev_update_guest_apcb`: the guest, if there is one, gets what the shadow has.
fn vfio_ap_mdev_update_guest_apcb(matrix_mdev: &ApMatrixMdev) {
    if let Some(kvm) = matrix_mdev.kvm.get() {
        let shadow = &matrix_mdev.shadow_apcb;
        kvm_arch_crypto_set_masks(kvm, &shadow.apm, &shadow.aqm, &shadow.adm);
    }
}

/// Resets queues, the way of the generation.
fn reset_qlist(machine: &'static Machine, queues: &[&'static VfioApQueue]) {
    if machine.generation.has_reset_work {
        reset_work::vfio_ap_mdev_reset_qlist(machine, queues);
    } else {
        reset::vfio_ap_mdev_reset_qlist(machine, queues);
    }
}

/// `reset_queues_for_apids` (6.8 and later): of adapters that were filtered out of the guest's configuration.
fn reset_queues_for_apids(
    machine: &'static Machine,
    matrix_mdev: &'static ApMatrixMdev,
    apids: &Bitmap,
) {
    if apids.is_empty() || !machine.generation.has_reset_work {
        return;
    }
    let queues: Vec<_> = ascending(matrix_mdev)
        .into_iter()
        .filter(|queue| {
            apids.test(queue.apqn >> 8) && matrix_mdev.shadow_apcb.aqm.test(queue.apqn & 0xff)
        })
        .collect();
    reset_qlist(machine, &queues);
}

/// Filters the adapters and updates the guest if that changed something.
fn filter_and_update(
    machine: &'static Machine,
    matrix_mdev: &'static ApMatrixMdev,
    control_domains: bool,
) {
    let filtered = Bitmap::default();
    let mut changed = vfio_ap_mdev_filter_matrix(machine, matrix_mdev, &filtered);
    if control_domains {
        changed |= vfio_ap_mdev_filter_cdoms(machine, matrix_mdev);
    }
    if changed {
        vfio_ap_mdev_update_guest_apcb(matrix_mdev);
        reset_queues_for_apids(machine, matrix_mdev, &filtered);
    }
}

/// `vfio_ap_mdev_hot_unplug_adapters`: unlinks the queues of adapters that are no longer assigned, takes them from the
/// guest and resets those that it had.
fn hot_unplug_adapters(
    machine: &'static Machine,
    matrix_mdev: &'static ApMatrixMdev,
    apids: &Bitmap,
) {
    hot_unplug(
        machine,
        matrix_mdev,
        apids,
        &matrix_mdev.shadow_apcb.apm,
        |apqn| apids.test(apqn >> 8) && matrix_mdev.matrix.aqm.test(apqn & 0xff),
    );
}

/// `vfio_ap_mdev_hot_unplug_domains`: the same for domains.
fn hot_unplug_domains(
    machine: &'static Machine,
    matrix_mdev: &'static ApMatrixMdev,
    apqis: &Bitmap,
) {
    hot_unplug(
        machine,
        matrix_mdev,
        apqis,
        &matrix_mdev.shadow_apcb.aqm,
        |apqn| apqis.test(apqn & 0xff) && matrix_mdev.matrix.apm.test(apqn >> 8),
    );
}

/// Unplugs the bits `removed` of a map of the shadow, with the linked queues that `is_theirs`.
fn hot_unplug(
    machine: &'static Machine,
    matrix_mdev: &'static ApMatrixMdev,
    removed: &Bitmap,
    map: &Bitmap,
    is_theirs: impl Fn(u16) -> bool,
) {
    let mut queues = ascending(matrix_mdev);
    queues.retain(|queue| is_theirs(queue.apqn));
    for queue in &queues {
        matrix_mdev.unlink(queue);
    }
    let mut unplugged = queues.clone();
    unplugged.retain(|queue| matrix_mdev.shadow_apcb.has_queue(queue.apqn));
    if map.intersects(removed) {
        map.set_andnot(&map.copy(), removed);
        vfio_ap_mdev_update_guest_apcb(matrix_mdev);
    }
    reset_qlist(machine, &unplugged);
    // Only now: the reset frees what a queue has of the guest.
    for queue in queues {
        queue.matrix_mdev.set(None);
    }
}

/// The linked queues by number, as lists are made of them adapter by adapter.
fn ascending(matrix_mdev: &ApMatrixMdev) -> Vec<&'static VfioApQueue> {
    let mut queues = matrix_mdev.queues();
    queues.sort_by_key(|queue| queue.apqn);
    queues
}

/// The mdev that was built with the machine: links its queues and fills the shadow.
pub fn plug_initial(machine: &'static Machine, matrix_mdev: &'static ApMatrixMdev) {
    for apid in matrix_mdev.matrix.apm.iter() {
        link_adapter(machine, matrix_mdev, apid);
    }
    filter_and_update(machine, matrix_mdev, true);
}
