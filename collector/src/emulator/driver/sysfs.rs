//! The mdev's matrix attributes: store and show functions up to v5.19, and the page that both have.

use std::fmt::Write as _;

use crate::emulator::machine::Machine;
use crate::emulator::objects::{ApMatrix, ApMatrixMdev, Device};
use crate::emulator::points::kernel::{mutex_lock, mutex_unlock};

use super::matrix::{self, Change};

/// The buffer of a store or show function: one page, NUL-terminated.
#[derive(Debug, Clone)]
#[repr(C)]
pub struct Page([u8; 4096]);

impl Page {
    /// A page with this text, cut if it does not fit.
    pub fn new(text: &str) -> Self {
        Self::from_bytes(text.as_bytes())
    }

    /// A page with these bytes, cut if they do not fit.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut page = Self([0; 4096]);
        let n = bytes.len().min(page.0.len() - 1);
        page.0[..n].copy_from_slice(&bytes[..n]);
        page
    }

    /// The first `count` bytes.
    pub fn bytes(&self, count: usize) -> &[u8] {
        &self.0[..count.min(self.0.len())]
    }

    /// The C string in it, of at most `count` bytes.
    pub fn text(&self, count: usize) -> &[u8] {
        let bytes = self.bytes(count);
        let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
        &bytes[..end]
    }

    /// Fills the page and returns the length of what is in it.
    pub fn fill(&mut self, text: &str) -> i64 {
        *self = Self::new(text);
        text.len().min(4095) as i64
    }
}

/// `kstrtoul(buf, 0, …)`: decimal, `0x…` or `0…`, with an optional final newline. `-EINVAL` or `-ERANGE`.
pub(super) fn kstrtoul(text: &[u8]) -> Result<u64, i64> {
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

/// A number written, if it is at most `max`. `-EINVAL`, `-ERANGE`, or `-ENODEV`.
pub(super) fn number(buf: &Page, count: usize, max: u64) -> Result<u16, i64> {
    let number = kstrtoul(buf.text(count))?;
    u16::try_from(number)
        .ok()
        .filter(|n| u64::from(*n) <= max)
        .ok_or(-i64::from(libc::ENODEV))
}

/// What a store function does: changes the matrix, with which largest number.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attribute {
    max: fn(&ApMatrix) -> u64,
    change: Change,
}

/// The frame of the store functions from v5.13 to v5.19: lock, refuse while a guest uses the mdev, parse, compare with
/// the maximum, change, unlock.
fn store_locked(
    machine: &'static Machine,
    dev: &'static Device,
    buf: &Page,
    count: usize,
    attribute: Attribute,
) -> i64 {
    let Some(matrix_mdev) = dev.driver_data.get() else {
        return -i64::from(libc::ENODEV);
    };
    mutex_lock(&machine.matrix_dev.lock);
    let ret = if (machine.generation.refuses_change)(matrix_mdev) {
        -i64::from(libc::EBUSY)
    } else {
        change(machine, matrix_mdev, buf, count, attribute, |f| f())
    };
    mutex_unlock(&machine.matrix_dev.lock);
    ret
}

/// The frame up to v5.12: the test for a guest, and everything else up to the change, runs without the lock.
fn store_testing_unlocked(
    machine: &'static Machine,
    dev: &'static Device,
    buf: &Page,
    count: usize,
    attribute: Attribute,
) -> i64 {
    let Some(matrix_mdev) = dev.driver_data.get() else {
        return -i64::from(libc::ENODEV);
    };
    if (machine.generation.refuses_change)(matrix_mdev) {
        return -i64::from(libc::EBUSY);
    }
    change(machine, matrix_mdev, buf, count, attribute, |f| {
        mutex_lock(&machine.matrix_dev.lock);
        let ret = f();
        mutex_unlock(&machine.matrix_dev.lock);
        ret
    })
}

fn change(
    machine: &'static Machine,
    matrix_mdev: &'static ApMatrixMdev,
    buf: &Page,
    count: usize,
    attribute: Attribute,
    around: impl FnOnce(&dyn Fn() -> i32) -> i32,
) -> i64 {
    match number(buf, count, (attribute.max)(&matrix_mdev.matrix)) {
        Err(ret) => ret,
        Ok(number) => match around(&|| (attribute.change)(machine, matrix_mdev, number)) {
            0 => count as i64,
            ret => ret.into(),
        },
    }
}

/// Six store functions around a frame.
macro_rules! stores {
    ($frame:ident: $($name:ident $max:ident $change:ident;)*) => {$(
        #[doc = concat!("`", stringify!($name), "`.")]
        pub fn $name(machine: &'static Machine, dev: &'static Device, buf: &Page, count: usize) -> i64 {
            let attribute = Attribute {
                max: |m| m.$max,
                change: matrix::$change,
            };
            super::$frame(machine, dev, buf, count, attribute)
        }
    )*};
    ($frame:ident) => {
        use super::{Attribute, Device, Machine, Page, matrix};

        stores! { $frame:
            assign_adapter_store apm_max assign_adapter;
            unassign_adapter_store apm_max unassign_adapter;
            assign_domain_store aqm_max assign_domain;
            unassign_domain_store aqm_max unassign_domain;
            assign_control_domain_store adm_max assign_control_domain;
            unassign_control_domain_store adm_max unassign_control_domain;
        }
    };
}

/// Stores that take the lock first.
pub(super) mod locked {
    stores!(store_locked);
}

/// Stores that test without the lock.
pub(super) mod testing_unlocked {
    stores!(store_testing_unlocked);
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
    buf.fill(&text)
}

/// Queues as `aa.dddd`, or adapters `aa.` or domains `.dddd` where there is nothing to cross them with.
pub(super) fn matrix_text(matrix: &ApMatrix) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    for apid in matrix.apm.iter() {
        if matrix.aqm.is_empty() {
            let _ = writeln!(text, "{apid:02x}.");
        }
        for apqi in matrix.aqm.iter() {
            let _ = writeln!(text, "{apid:02x}.{apqi:04x}");
        }
    }
    if matrix.apm.is_empty() {
        for apqi in matrix.aqm.iter() {
            let _ = writeln!(text, ".{apqi:04x}");
        }
    }
    text
}

/// One control domain a line.
pub(super) fn control_domains_text(matrix: &ApMatrix) -> String {
    let mut text = String::new();
    for id in matrix.adm.iter() {
        let _ = writeln!(text, "{id:04x}");
    }
    text
}

/// `matrix_show`.
pub(super) fn matrix_show(machine: &'static Machine, dev: &'static Device, buf: &mut Page) -> i64 {
    show(machine, dev, buf, |m| matrix_text(&m.matrix))
}

/// `control_domains_show`.
pub(super) fn control_domains_show(
    machine: &'static Machine,
    dev: &'static Device,
    buf: &mut Page,
) -> i64 {
    show(machine, dev, buf, |m| control_domains_text(&m.matrix))
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
