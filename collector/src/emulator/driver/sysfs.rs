//! The mdev's matrix attributes: six store functions, two show functions.
//!
//! From v5.13 on the stores take the driver's lock first and then ask the generation whether the mdev may be changed.

use std::fmt::Write as _;

use crate::emulator::machine::Machine;
use crate::emulator::objects::{ApMatrixMdev, Bitmap, Device};
use crate::emulator::points::kernel::{mutex_lock, mutex_unlock};

use super::matrix;

/// The buffer of a store or show function: one page, NUL-terminated.
#[derive(Debug, Clone)]
#[repr(C)]
pub struct Page([u8; 4096]);

impl Page {
    /// A page with this text, cut if it does not fit.
    pub fn new(text: &str) -> Self {
        let mut page = Self([0; 4096]);
        let n = text.len().min(page.0.len() - 1);
        page.0[..n].copy_from_slice(&text.as_bytes()[..n]);
        page
    }

    /// The first `count` bytes.
    pub fn bytes(&self, count: usize) -> &[u8] {
        &self.0[..count.min(self.0.len())]
    }
}

/// `kstrtoul(buf, 0, …)`: decimal, `0x…` or `0…`, with an optional final newline. `-EINVAL` or `-ERANGE`.
fn kstrtoul(text: &[u8]) -> Result<u64, i64> {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    let text = text.strip_prefix(b"+").unwrap_or(text);
    let (digits, radix) = match text {
        [b'0', b'x' | b'X', digits @ ..] if !digits.is_empty() => (digits, 16),
        [b'0', digits @ ..] if !digits.is_empty() => (digits, 8),
        digits => (digits, 10),
    };
    if digits.is_empty() {
        return Err(-i64::from(libc::EINVAL));
    }
    let mut value: u64 = 0;
    let mut overflow = false;
    for byte in digits {
        let Some(digit) = char::from(*byte).to_digit(radix) else {
            // Overflow is found before what follows the number is looked at.
            let error = if overflow { libc::ERANGE } else { libc::EINVAL };
            return Err(-i64::from(error));
        };
        match value
            .checked_mul(radix.into())
            .and_then(|v| v.checked_add(digit.into()))
        {
            Some(v) => value = v,
            None => overflow = true,
        }
    }
    if overflow {
        return Err(-i64::from(libc::ERANGE));
    }
    Ok(value)
}

/// The frame of all store functions: lock, refuse while a guest uses the mdev, parse, compare with the maximum, change,
/// unlock.
fn store(
    machine: &'static Machine,
    dev: &'static Device,
    buf: &Page,
    count: usize,
    max: fn(&ApMatrixMdev) -> u64,
    change: impl FnOnce(&'static ApMatrixMdev, u16) -> i32,
) -> i64 {
    let Some(matrix_mdev) = dev.driver_data.get() else {
        return -i64::from(libc::ENODEV);
    };
    mutex_lock(&machine.matrix_dev.lock);
    let ret = locked_store(machine, matrix_mdev, buf, count, max, change);
    mutex_unlock(&machine.matrix_dev.lock);
    ret
}

fn locked_store(
    machine: &'static Machine,
    matrix_mdev: &'static ApMatrixMdev,
    buf: &Page,
    count: usize,
    max: fn(&ApMatrixMdev) -> u64,
    change: impl FnOnce(&'static ApMatrixMdev, u16) -> i32,
) -> i64 {
    // The guest is running, or comes or goes: the matrix must not change.
    if (machine.generation.refuses_change)(matrix_mdev) {
        return -i64::from(libc::EBUSY);
    }
    let number = match kstrtoul(buf.bytes(count)) {
        Ok(number) => number,
        Err(ret) => return ret,
    };
    let Some(number) = u16::try_from(number)
        .ok()
        .filter(|n| u64::from(*n) <= max(matrix_mdev))
    else {
        return -i64::from(libc::ENODEV);
    };
    match change(matrix_mdev, number) {
        0 => count as i64,
        ret => ret.into(),
    }
}

/// Sets a bit unless another mdev has one of the queues.
fn assign(machine: &Machine, matrix_mdev: &ApMatrixMdev, map: &Bitmap, number: u16) -> i32 {
    map.set(number);
    let ret = matrix::vfio_ap_mdev_verify_no_sharing(machine, matrix_mdev);
    if ret != 0 {
        map.clear(number);
    }
    ret
}

/// `assign_adapter_store`.
pub(super) fn assign_adapter_store(
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
        |m, apid| match matrix::verify_queues_reserved_for_apid(machine, m, apid) {
            0 => assign(machine, m, &m.matrix.apm, apid),
            ret => ret,
        },
    )
}

/// `unassign_adapter_store`.
pub(super) fn unassign_adapter_store(
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
            m.matrix.apm.clear(apid);
            0
        },
    )
}

/// `assign_domain_store`.
pub(super) fn assign_domain_store(
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
        |m, apqi| match matrix::verify_queues_reserved_for_apqi(machine, m, apqi) {
            0 => assign(machine, m, &m.matrix.aqm, apqi),
            ret => ret,
        },
    )
}

/// `unassign_domain_store`.
pub(super) fn unassign_domain_store(
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
            m.matrix.aqm.clear(apqi);
            0
        },
    )
}

/// `assign_control_domain_store`.
pub(super) fn assign_control_domain_store(
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
            m.matrix.adm.set(id);
            0
        },
    )
}

/// `unassign_control_domain_store`.
pub(super) fn unassign_control_domain_store(
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
            0
        },
    )
}

/// The frame of the show functions: the text is made with the lock held.
fn show(
    machine: &'static Machine,
    dev: &'static Device,
    buf: &mut Page,
    text: impl FnOnce(&ApMatrixMdev) -> String,
) -> i64 {
    let Some(matrix_mdev) = dev.driver_data.get() else {
        return -i64::from(libc::ENODEV);
    };
    mutex_lock(&machine.matrix_dev.lock);
    let text = text(matrix_mdev);
    mutex_unlock(&machine.matrix_dev.lock);
    *buf = Page::new(&text);
    text.len().min(4095) as i64
}

/// `matrix_show`: queues as `aa.dddd`, or adapters `aa.` or domains `.dddd` where there is nothing to cross them with.
pub(super) fn matrix_show(machine: &'static Machine, dev: &'static Device, buf: &mut Page) -> i64 {
    show(machine, dev, buf, |m| {
        let mut text = String::new();
        // Writing to a string cannot fail.
        for apid in m.matrix.apm.iter() {
            if m.matrix.aqm.is_empty() {
                let _ = writeln!(text, "{apid:02x}.");
            }
            for apqi in m.matrix.aqm.iter() {
                let _ = writeln!(text, "{apid:02x}.{apqi:04x}");
            }
        }
        if m.matrix.apm.is_empty() {
            for apqi in m.matrix.aqm.iter() {
                let _ = writeln!(text, ".{apqi:04x}");
            }
        }
        text
    })
}

/// `control_domains_show`.
pub(super) fn control_domains_show(
    machine: &'static Machine,
    dev: &'static Device,
    buf: &mut Page,
) -> i64 {
    show(machine, dev, buf, |m| {
        let mut text = String::new();
        for id in m.matrix.adm.iter() {
            let _ = writeln!(text, "{id:04x}");
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_the_kernel_reads_them() {
        let einval = Err(-i64::from(libc::EINVAL));
        let erange = Err(-i64::from(libc::ERANGE));
        for (text, expected) in [
            ("5", Ok(5)),
            ("0x05\n", Ok(5)),
            ("010", Ok(8)),
            ("0", Ok(0)),
            ("+7", Ok(7)),
            ("256", Ok(256)),
            ("", einval),
            ("\n", einval),
            ("0x", einval),
            ("-1", einval),
            ("5 ", einval),
            ("08", einval),
            ("adapter", einval),
            ("18446744073709551615", Ok(u64::MAX)),
            ("18446744073709551616", erange),
            ("99999999999999999999x", erange),
        ] {
            assert_eq!(kstrtoul(text.as_bytes()), expected, "{text:?}");
        }
    }
}
