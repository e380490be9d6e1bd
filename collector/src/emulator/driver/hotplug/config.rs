//! `ap_config_store` (6.10): the whole matrix in one write, so that nothing is seen in between.

use crate::emulator::machine::Machine;
use crate::emulator::objects::{ApMatrix, ApMatrixMdev, Bitmap, Device};
use crate::emulator::points::kernel::{mutex_lock, mutex_unlock};

use super::locks::get_update_locks_for_mdev;
use super::stores::vfio_ap_mdev_validate_masks;
use super::{
    filter_and_update, hot_unplug_adapters, hot_unplug_domains, link_adapter, link_domain,
};
use crate::emulator::driver::sysfs::Page;

/// Three masks, separated by commas. `None` if it is something else.
fn parse(text: &[u8]) -> Option<ApMatrix> {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    let mut masks = text.split(|byte| *byte == b',');
    // A mask without digits is one without bits.
    let mut next = || Bitmap::ap_hex2bitmap(masks.next()?);
    Some(ApMatrix {
        apm: next()?,
        aqm: next()?,
        adm: next()?,
        ..ApMatrix::default()
    })
}

/// A number beyond the machine's largest.
fn overflows(map: &Bitmap, max: u64) -> bool {
    map.iter().any(|bit| u64::from(bit) > max)
}

/// `ap_config_store`.
pub fn ap_config_store(
    machine: &'static Machine,
    dev: &'static Device,
    buf: &Page,
    count: usize,
) -> i64 {
    let Some(matrix_mdev) = dev.driver_data.get() else {
        return -i64::from(libc::ENODEV);
    };
    mutex_lock(&machine.ap_bus.mutex);
    let locks = get_update_locks_for_mdev(machine, Some(matrix_mdev));
    let ret = match parse(buf.text(count)) {
        None => -libc::EINVAL,
        Some(new) => apply(machine, matrix_mdev, &new),
    };
    locks.release(machine);
    mutex_unlock(&machine.ap_bus.mutex);
    if ret == 0 { count as i64 } else { ret.into() }
}

fn apply(machine: &'static Machine, matrix_mdev: &'static ApMatrixMdev, new: &ApMatrix) -> i32 {
    let matrix = &matrix_mdev.matrix;
    let old = ApMatrix::default();
    old.copy_from(matrix);

    // Validated in place, and undone if it is not valid.
    matrix.copy_from(new);
    let mut ret = vfio_ap_mdev_validate_masks(machine, matrix_mdev);
    if ret == 0
        && (overflows(&new.apm, matrix.apm_max)
            || overflows(&new.aqm, matrix.aqm_max)
            || overflows(&new.adm, matrix.adm_max))
    {
        ret = -libc::ENODEV;
    }
    matrix.copy_from(&old);
    if ret != 0 {
        return ret;
    }
    let (added, removed) = (ApMatrix::default(), ApMatrix::default());
    for (a, r, new, old) in [
        (&added.apm, &removed.apm, &new.apm, &old.apm),
        (&added.aqm, &removed.aqm, &new.aqm, &old.aqm),
    ] {
        a.set_andnot(new, old);
        r.set_andnot(old, new);
    }
    // With the old matrix, to find what is linked.
    hot_unplug_adapters(machine, matrix_mdev, &removed.apm);
    hot_unplug_domains(machine, matrix_mdev, &removed.aqm);
    // With the new one, to link what has come.
    matrix.copy_from(new);
    for apid in added.apm.iter() {
        link_adapter(machine, matrix_mdev, apid);
    }
    for apqi in added.aqm.iter() {
        link_domain(machine, matrix_mdev, apqi);
    }
    filter_and_update(machine, matrix_mdev, true);
    0
}
