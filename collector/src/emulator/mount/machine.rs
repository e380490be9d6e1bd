//! The emulated machine as what is behind the tree.

use super::backend::{Backend, File, Mask, Mdev, Negative, Writer};
use super::node::DRIVERS;
use crate::emulator::driver::attributes::{self, Attribute};
use crate::emulator::driver::sysfs::Page;
use crate::emulator::machine::{self, Machine};
use crate::emulator::objects::{self, MdevDevice, Presence};
use crate::emulator::points::kernel::{mutex_lock, mutex_unlock};
use crate::emulator::points::vfio_ap;
use crate::emulator::{ap_bus, mdev};

/// Bits of a device's number that are its slot.
const SLOT_BITS: u32 = 16;

/// The driver of a machine.
#[derive(Debug)]
pub struct Driver {
    machine: &'static Machine,
    attributes: Vec<&'static Attribute>,
    files: Vec<File>,
}

impl Driver {
    /// The driver of this machine.
    pub fn new(machine: &'static Machine) -> Self {
        let attributes = attributes::of(machine.generation);
        let files = attributes.iter().map(|attribute| File {
            name: attribute.name,
            mode: attribute.mode,
        });
        Self {
            machine,
            files: files.collect(),
            attributes,
        }
    }

    /// The machine.
    #[cfg(any(test, feature = "fuzzing"))]
    pub fn machine(&self) -> &'static Machine {
        self.machine
    }

    /// A slot is used again, the number is not: it has the slot's count of devices in it.
    fn number(slot: usize, device: &MdevDevice) -> u64 {
        u64::from(device.serial()) << SLOT_BITS | slot as u64
    }

    fn is_there(device: &MdevDevice) -> bool {
        matches!(device.presence(), Presence::Present | Presence::Going)
    }

    fn device(&self, mdev: u64) -> Option<&'static MdevDevice> {
        let slot = (mdev & ((1 << SLOT_BITS) - 1)) as usize;
        let device = *self.machine.slots.get(slot)?;
        (Self::is_there(device) && Self::number(slot, device) == mdev).then_some(device)
    }

    fn devices(&self) -> impl Iterator<Item = (u64, &'static MdevDevice)> {
        let slots = self.machine.slots.iter().copied().enumerate();
        slots
            .filter(|(_, device)| Self::is_there(device))
            .map(|(slot, device)| (Self::number(slot, device), device))
    }
}

/// What a show function has put into a page.
fn shown(page: &Page, length: i64) -> Result<Vec<u8>, Negative> {
    match usize::try_from(length) {
        Ok(length) => Ok(page.bytes(length).to_vec()),
        Err(_) => Err(length),
    }
}

fn bus_mask(mask: Mask) -> ap_bus::Mask {
    match mask {
        Mask::Adapters => ap_bus::Mask::Adapters,
        Mask::Domains => ap_bus::Mask::Domains,
    }
}

impl Backend for Driver {
    fn enter(&self) {
        machine::enter(self.machine);
    }

    fn mdevs(&self) -> Vec<Mdev> {
        self.devices()
            .map(|(id, device)| Mdev {
                id,
                uuid: device.uuid(),
            })
            .collect()
    }

    fn exists(&self, mdev: u64) -> bool {
        self.device(mdev).is_some()
    }

    fn is_going(&self, mdev: u64) -> bool {
        self.device(mdev)
            .is_some_and(|device| device.presence() == Presence::Going)
    }

    fn attributes(&self) -> &[File] {
        &self.files
    }

    fn show(&self, mdev: u64, attribute: usize, reader: &Writer) -> Result<Vec<u8>, Negative> {
        let device = self.device(mdev).ok_or(-i64::from(libc::ENODEV))?;
        let show = self.attributes.get(attribute).and_then(|a| a.show);
        // sysfs_kf_seq_show of an attribute that cannot be read.
        let show = show.ok_or(-i64::from(libc::EIO))?;
        let mut page = Page::new("");
        let length = show(device, &mut page, reader);
        shown(&page, length)
    }

    fn store(&self, mdev: u64, attribute: usize, bytes: &[u8], writer: &Writer) -> i64 {
        let Some(device) = self.device(mdev) else {
            return -i64::from(libc::ENODEV);
        };
        match self.attributes.get(attribute).and_then(|a| a.store) {
            Some(store) => store(device, &Page::from_bytes(bytes), bytes.len(), writer),
            None => -i64::from(libc::EIO),
        }
    }

    fn create(&self, uuid: &str, writer: &Writer) -> i32 {
        mdev::create(self.machine, uuid, writer)
    }

    fn remove(&self, mdev: u64, writer: &Writer) -> i32 {
        match self.device(mdev) {
            Some(device) => mdev::remove(self.machine, device, writer),
            None => -libc::ENODEV,
        }
    }

    fn available_instances(&self) -> u32 {
        mdev::available_instances(self.machine)
    }

    fn show_mask(&self, mask: Mask, _reader: &Writer) -> Result<Vec<u8>, Negative> {
        let lock = &self.machine.ap_bus.mutex;
        mutex_lock(lock);
        let text = ap_bus::mask_text(self.machine, bus_mask(mask));
        mutex_unlock(lock);
        Ok(text.into_bytes())
    }

    fn store_mask(&self, mask: Mask, bytes: &[u8], _writer: &Writer) -> i64 {
        ap_bus::mask_store(self.machine, bus_mask(mask), bytes)
    }

    fn cards(&self) -> Vec<u8> {
        let cards = self.machine.ap_bus.cards();
        cards.into_iter().map(|card| card as u8).collect()
    }

    fn queues(&self) -> Vec<u16> {
        self.machine.ap_bus.queues()
    }

    fn has_queue(&self, apqn: u16) -> bool {
        self.driver_of(apqn).is_some()
    }

    fn driver_of(&self, apqn: u16) -> Option<&'static str> {
        match self.machine.ap_bus.devices.get(&apqn)?.driver() {
            objects::Driver::None => None,
            objects::Driver::VfioAp => Some(DRIVERS[0]),
            objects::Driver::Default => Some(DRIVERS[1]),
        }
    }

    fn has_status(&self) -> bool {
        self.machine.generation.has_status
    }

    fn show_status(&self, apqn: u16, reader: &Writer) -> Result<Vec<u8>, Negative> {
        let device = self.machine.ap_bus.devices.get(&apqn);
        let device = device.ok_or(-i64::from(libc::ENODEV))?;
        let mut page = Page::new("");
        let length = vfio_ap::status_show(device, 0, &mut page, 0, reader.pid(), &reader.comm);
        shown(&page, length)
    }
}
