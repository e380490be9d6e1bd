//! The matrix attributes from v6.0 on: a running guest's matrix can be changed.
//!
//! Assigning an adapter or a domain takes the AP bus's mutex first, so that the host cannot take queues back meanwhile.

use crate::emulator::machine::Machine;
use crate::emulator::objects::{ApMatrixMdev, Bitmap, Device};
use crate::emulator::points::kernel::{mutex_lock, mutex_unlock};

use super::locks::get_update_locks_for_mdev;
use super::{
    filter_and_update, hot_unplug_adapters, hot_unplug_domains, link_adapter, link_domain,
    vfio_ap_mdev_filter_cdoms, vfio_ap_mdev_update_guest_apcb,
};
use crate::emulator::driver::matrix::vfio_ap_mdev_verify_no_sharing;
use crate::emulator::driver::sysfs::{self, Page};

/// `vfio_ap_mdev_validate_masks`: `-EADDRNOTAVAIL` if a queue is the host's, `-EADDRINUSE` if it is another mdev's.
pub(super) fn vfio_ap_mdev_validate_masks(machine: &Machine, matrix_mdev: &ApMatrixMdev) -> i32 {
    let matrix = &matrix_mdev.matrix;
    if machine
        .ap_bus
        .owned_by_default_driver(&matrix.apm, &matrix.aqm)
    {
        return -libc::EADDRNOTAVAIL;
    }
    vfio_ap_mdev_verify_no_sharing(machine, Some(matrix_mdev), &matrix.apm, &matrix.aqm)
}

/// Parses with the update locks held, and changes the matrix. An error, or 0.
fn store(
    machine: &'static Machine,
    dev: &'static Device,
    buf: &Page,
    count: usize,
    max: impl FnOnce(&ApMatrixMdev) -> u64,
    change: impl FnOnce(&'static ApMatrixMdev, u16) -> i32,
) -> i64 {
    let Some(matrix_mdev) = dev.driver_data.get() else {
        return -i64::from(libc::ENODEV);
    };
    let locks = get_update_locks_for_mdev(machine, Some(matrix_mdev));
    let ret = match sysfs::number(buf, count, max(matrix_mdev)) {
        Err(ret) => ret,
        Ok(number) => match change(matrix_mdev, number) {
            0 => count as i64,
            ret => ret.into(),
        },
    };
    locks.release(machine);
    ret
}

/// Sets a bit if that is valid, then links and plugs.
fn assign(
    machine: &'static Machine,
    m: &'static ApMatrixMdev,
    map: &Bitmap,
    number: u16,
    link: fn(&Machine, &'static ApMatrixMdev, u16),
) -> i32 {
    if map.test(number) {
        return 0;
    }
    map.set(number);
    let ret = vfio_ap_mdev_validate_masks(machine, m);
    if ret != 0 {
        map.clear(number);
        return ret;
    }
    link(machine, m, number);
    filter_and_update(machine, m, false);
    0
}

/// `assign_adapter_store`.
pub fn assign_adapter_store(
    machine: &'static Machine,
    dev: &'static Device,
    buf: &Page,
    count: usize,
) -> i64 {
    mutex_lock(&machine.ap_bus.mutex);
    let ret = store(
        machine,
        dev,
        buf,
        count,
        |m| m.matrix.apm_max,
        |m, apid| assign(machine, m, &m.matrix.apm, apid, link_adapter),
    );
    mutex_unlock(&machine.ap_bus.mutex);
    ret
}

/// `unassign_adapter_store`.
pub fn unassign_adapter_store(
    machine: &'static Machine,
    dev: &'static Device,
    buf: &Page,
    count: usize,
) -> i64 {
    store(
        machine,
        dev,
        buf,
        count,
        |m| m.matrix.apm_max,
        |m, apid| {
            if m.matrix.apm.test(apid) {
                m.matrix.apm.clear(apid);
                hot_unplug_adapters(machine, m, &Bitmap::only(apid));
            }
            0
        },
    )
}

/// `assign_domain_store`.
pub fn assign_domain_store(
    machine: &'static Machine,
    dev: &'static Device,
    buf: &Page,
    count: usize,
) -> i64 {
    mutex_lock(&machine.ap_bus.mutex);
    let ret = store(
        machine,
        dev,
        buf,
        count,
        |m| m.matrix.aqm_max,
        |m, apqi| assign(machine, m, &m.matrix.aqm, apqi, link_domain),
    );
    mutex_unlock(&machine.ap_bus.mutex);
    ret
}

/// `unassign_domain_store`.
pub fn unassign_domain_store(
    machine: &'static Machine,
    dev: &'static Device,
    buf: &Page,
    count: usize,
) -> i64 {
    store(
        machine,
        dev,
        buf,
        count,
        |m| m.matrix.aqm_max,
        |m, apqi| {
            if m.matrix.aqm.test(apqi) {
                m.matrix.aqm.clear(apqi);
                hot_unplug_domains(machine, m, &Bitmap::only(apqi));
            }
            0
        },
    )
}

/// `assign_control_domain_store`.
pub fn assign_control_domain_store(
    machine: &'static Machine,
    dev: &'static Device,
    buf: &Page,
    count: usize,
) -> i64 {
    store(
        machine,
        dev,
        buf,
        count,
        |m| m.matrix.adm_max,
        |m, id| {
            if !m.matrix.adm.test(id) {
                m.matrix.adm.set(id);
                if vfio_ap_mdev_filter_cdoms(machine, m) {
                    vfio_ap_mdev_update_guest_apcb(m);
                }
            }
            0
        },
    )
}

/// `unassign_control_domain_store`.
pub fn unassign_control_domain_store(
    machine: &'static Machine,
    dev: &'static Device,
    buf: &Page,
    count: usize,
) -> i64 {
    store(
        machine,
        dev,
        buf,
        count,
        |m| m.matrix.adm_max,
        |m, id| {
            m.matrix.adm.clear(id);
            if m.shadow_apcb.adm.test(id) {
                m.shadow_apcb.adm.clear(id);
                vfio_ap_mdev_update_guest_apcb(m);
            }
            0
        },
    )
}

/// The frame of the show functions: mdevs_lock alone.
fn show(
    machine: &'static Machine,
    dev: &'static Device,
    buf: &mut Page,
    text: impl FnOnce(&ApMatrixMdev) -> String,
) -> i64 {
    let Some(matrix_mdev) = dev.driver_data.get() else {
        return -i64::from(libc::ENODEV);
    };
    mutex_lock(&machine.matrix_dev.mdevs_lock);
    let text = text(matrix_mdev);
    mutex_unlock(&machine.matrix_dev.mdevs_lock);
    buf.fill(&text)
}

/// `matrix_show`.
pub fn matrix_show(machine: &'static Machine, dev: &'static Device, buf: &mut Page) -> i64 {
    show(machine, dev, buf, |m| sysfs::matrix_text(&m.matrix))
}

/// `guest_matrix_show`: what the guest has.
pub fn guest_matrix_show(machine: &'static Machine, dev: &'static Device, buf: &mut Page) -> i64 {
    show(machine, dev, buf, |m| sysfs::matrix_text(&m.shadow_apcb))
}

/// `control_domains_show`.
pub fn control_domains_show(
    machine: &'static Machine,
    dev: &'static Device,
    buf: &mut Page,
) -> i64 {
    show(machine, dev, buf, |m| {
        sysfs::control_domains_text(&m.matrix)
    })
}

/// `ap_config_show`: the three masks. No lock.
pub fn ap_config_show(_: &'static Machine, dev: &'static Device, buf: &mut Page) -> i64 {
    let Some(matrix_mdev) = dev.driver_data.get() else {
        return -i64::from(libc::ENODEV);
    };
    let m = &matrix_mdev.matrix;
    buf.fill(&format!(
        "{},{},{}\n",
        m.apm.hex(),
        m.aqm.hex(),
        m.adm.hex()
    ))
}
