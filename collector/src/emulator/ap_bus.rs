//! The AP bus (`drivers/s390/crypto/ap_bus.c`): which queues there are, which drivers they are for, and the scan that
//! finds out what the hardware has.
//!
//! `apmask` and `aqmask` say which adapters and domains are for the host's own drivers: a queue is, if both its bits
//! are set; otherwise it is vfio_ap's. [`mask_store`] changes a mask, [`ap_scan_bus`] follows the hardware.

use std::collections::BTreeMap;
use std::sync::Mutex as StdMutex;

use super::machine::Machine;
use super::objects::{ApDevice, ApMatrix, Bitmap, Driver, VfioApQueue};
use super::points::kernel::{mutex_lock, mutex_unlock};
use super::points::vfio_ap as driver;
use super::primitives::Mutex;

/// The bus.
#[derive(Debug)]
pub struct ApBus {
    /// `ap_perms_mutex`, later `ap_attr_mutex`.
    pub mutex: Mutex,
    /// `ap_perms.apm` and `.aqm`, guarded by `mutex`; the control domains are not used.
    pub perms: ApMatrix,
    /// A device for each queue that the hardware can have, by APQN.
    pub devices: BTreeMap<u16, &'static ApDevice>,
    /// What the hardware has configured, for the next scan to find.
    pub configured: ApMatrix,
    /// What the last scan found.
    pub found: ApMatrix,
    /// Scans run one at a time, on the bus's work item.
    scan: StdMutex<()>,
}

/// Which of the two masks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mask {
    /// `apmask`.
    Adapters,
    /// `aqmask`.
    Domains,
}

impl ApBus {
    /// A bus with these devices, of a machine on which everything is configured.
    pub fn new(devices: BTreeMap<u16, &'static ApDevice>) -> Self {
        Self {
            mutex: Mutex::default(),
            perms: ApMatrix::default(),
            devices,
            configured: ApMatrix::default(),
            found: ApMatrix::default(),
            scan: StdMutex::new(()),
        }
    }

    /// The queue, if it is bound to vfio_ap.
    pub fn bound(&self, apqn: u16) -> Option<&'static VfioApQueue> {
        self.devices.get(&apqn)?.drvdata.get()
    }

    /// The queues bound to vfio_ap, ascending.
    pub fn bound_queues(&self) -> impl Iterator<Item = &'static VfioApQueue> + '_ {
        self.devices
            .values()
            .filter_map(|device| device.drvdata.get())
    }

    /// `ap_apqn_in_matrix_owned_by_def_drv`: one of the queues is for the host's own drivers.
    pub fn owned_by_default_driver(&self, apm: &Bitmap, aqm: &Bitmap) -> bool {
        apm.intersects(&self.perms.apm) && aqm.intersects(&self.perms.aqm)
    }

    /// A mask.
    pub fn mask(&self, mask: Mask) -> &Bitmap {
        match mask {
            Mask::Adapters => &self.perms.apm,
            Mask::Domains => &self.perms.aqm,
        }
    }

    /// Adapters that the last scan found, ascending.
    pub fn cards(&self) -> Vec<u16> {
        let mut cards: Vec<u16> = self.queues().into_iter().map(|apqn| apqn >> 8).collect();
        cards.dedup();
        cards
    }

    /// Queues that the last scan found, ascending.
    pub fn queues(&self) -> Vec<u16> {
        let devices = self.devices.iter();
        devices
            .filter(|(_, device)| device.driver() != Driver::None)
            .map(|(apqn, _)| *apqn)
            .collect()
    }

    /// Who shall have this queue: nobody if it is not configured.
    fn wanted(&self, apqn: u16) -> Driver {
        if !self.found.has_queue(apqn) {
            Driver::None
        } else if self.perms.has_queue(apqn) {
            Driver::Default
        } else {
            Driver::VfioAp
        }
    }
}

/// `apmask_show`, `aqmask_show`.
pub fn mask_text(machine: &Machine, mask: Mask) -> String {
    format!("{}\n", machine.ap_bus.mask(mask).hex())
}

/// `apmask_store`, `aqmask_store`: a mask (`0x…`), or changes to it (`+5,-0x10-0x1f`). The number of bytes, `-EINVAL`, or
/// `-EBUSY` if the host asks for queues that a guest may have (v6.0 and later).
pub fn mask_store(machine: &'static Machine, mask: Mask, text: &[u8]) -> i64 {
    let bus = &machine.ap_bus;
    mutex_lock(&bus.mutex);
    let ret = match parse_mask(text, bus.mask(mask)) {
        Some(new) => commit(machine, mask, &new),
        None => Err(-libc::EINVAL),
    };
    mutex_unlock(&bus.mutex);
    match ret {
        Err(error) => error.into(),
        Ok(changed) => {
            if changed {
                bus_revise_bindings(machine);
            }
            text.len() as i64
        }
    }
}

/// `apmask_commit`: asks the driver before the host gets new queues. Whether the mask changed.
fn commit(machine: &'static Machine, mask: Mask, new: &Bitmap) -> Result<bool, i32> {
    let bus = &machine.ap_bus;
    let current = bus.mask(mask);
    if new.is_equal(current) {
        return Ok(false);
    }
    let reserved = Bitmap::default();
    if reserved.set_andnot(new, current) && machine.generation.has_hot_plug {
        let in_use = match mask {
            Mask::Adapters => driver::vfio_ap_mdev_resource_in_use(new, &bus.perms.aqm),
            Mask::Domains => driver::vfio_ap_mdev_resource_in_use(&bus.perms.apm, new),
        };
        if in_use != 0 {
            return Err(-libc::EBUSY);
        }
    }
    current.copy_from(new);
    Ok(true)
}

/// `ap_parse_bitmap_str`.
fn parse_mask(text: &[u8], current: &Bitmap) -> Option<Bitmap> {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    let text = text.split(|byte| *byte == 0).next()?;
    if !matches!(text.first(), Some(b'+' | b'-')) {
        return Bitmap::ap_hex2bitmap(text);
    }
    let new = current.copy();
    for change in text.split(|byte| *byte == b',') {
        let (set, range) = match change.split_first()? {
            (b'+', range) => (true, range),
            (b'-', range) => (false, range),
            _ => return None,
        };
        let range = std::str::from_utf8(range).ok()?;
        let (low, high) = range.split_once('-').unwrap_or((range, range));
        let (low, high) = (bit(low)?, bit(high)?);
        if low > high {
            return None;
        }
        for bit in low..=high {
            if set {
                new.set(bit);
            } else {
                new.clear(bit);
            }
        }
    }
    Some(new)
}

/// A bit number, decimal or `0x…`.
fn bit(text: &str) -> Option<u16> {
    let value = match text.strip_prefix("0x") {
        Some(digits) => u16::from_str_radix(digits, 16),
        None => text.parse(),
    };
    value.ok().filter(|bit| *bit < Bitmap::BITS)
}

/// `ap_bus_revise_bindings`: queues that changed hands are unbound and bound, one after the other.
fn bus_revise_bindings(machine: &'static Machine) {
    for device in machine.ap_bus.devices.values() {
        rebind(machine, device);
    }
}

/// Binds a queue to whom it is for.
fn rebind(machine: &'static Machine, device: &'static ApDevice) {
    let wanted = machine.ap_bus.wanted(device.apqn());
    let is = device.driver();
    if is == wanted {
        return;
    }
    if is == Driver::VfioAp {
        unbind_from_vfio_ap(machine, device);
    }
    device.set_driver(wanted);
    if wanted == Driver::VfioAp {
        bind_to_vfio_ap(machine, device);
    }
}

/// The driver core calls the driver's probe function.
pub fn bind_to_vfio_ap(machine: &Machine, device: &'static ApDevice) {
    if machine.generation.has_hot_plug {
        driver::vfio_ap_mdev_probe_queue(device);
    } else {
        driver::vfio_ap_queue_dev_probe(device);
    }
}

/// The driver core calls the driver's remove function.
pub fn unbind_from_vfio_ap(machine: &Machine, device: &'static ApDevice) {
    if machine.generation.has_hot_plug {
        driver::vfio_ap_mdev_remove_queue(device);
    } else {
        driver::vfio_ap_queue_dev_remove(device);
    }
}

/// `ap_scan_bus`: takes over what the hardware has configured. From v6.0 on the driver is told before and after the
/// queues come and go.
pub fn ap_scan_bus(machine: &'static Machine) {
    let bus = &machine.ap_bus;
    let _scan = bus
        .scan
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let (cur, prev) = (ApMatrix::default(), ApMatrix::default());
    cur.copy_from(&bus.configured);
    prev.copy_from(&bus.found);
    let changed = !(cur.apm.is_equal(&prev.apm)
        && cur.aqm.is_equal(&prev.aqm)
        && cur.adm.is_equal(&prev.adm));
    let tell = machine.generation.has_hot_plug;
    if changed && tell {
        driver::vfio_ap_on_cfg_changed(&cur, &prev);
    }
    bus.found.copy_from(&cur);
    for device in bus.devices.values() {
        rebind(machine, device);
    }
    if changed && tell {
        driver::vfio_ap_on_scan_complete(&cur, &prev);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_parsed_as_the_bus_does() {
        let current = Bitmap::default();
        current.set(3);
        let parse = |text: &str| {
            parse_mask(text.as_bytes(), &current).map(|map| map.iter().collect::<Vec<_>>())
        };
        assert_eq!(parse("0x81\n"), Some(vec![0, 7]));
        assert_eq!(parse("81"), Some(vec![0, 7]));
        assert_eq!(parse("+5,-3"), Some(vec![5]));
        assert_eq!(parse("+0x10-0x12"), Some(vec![3, 16, 17, 18]));
        for bad in ["+", "+256", "+5-4", "5,6", "+5,6", "0xg", "+-", "+5,"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
