//! The structures of the mediated device and of VFIO around it.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex as StdMutex, MutexGuard, PoisonError, RwLock};

use super::{ApMatrixMdev, Kvm, Link};
use crate::emulator::primitives::{Mutex, RwSemaphore};
use crate::emulator::protocol::UUID_LENGTH;

/// `struct device`, and its driver data.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Device {
    reserved: [u64; 15],
    /// The mdev that the device stands for; NULL while the driver has none for it.
    pub driver_data: Link<ApMatrixMdev>,
}

/// What becomes of a slot for an mdev.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Presence {
    /// There is no such device.
    Absent = 0,
    /// It is being created.
    Coming = 1,
    /// It can be used.
    Present = 2,
    /// It is being removed: it can no longer be opened.
    Going = 3,
}

/// `struct mdev_device` with the `struct vfio_device` of it. Argument of open, release and ioctl.
///
/// Devices are made in advance: creating one takes a slot, and probes know all locks from the start.
#[derive(Debug)]
#[repr(C)]
pub struct MdevDevice {
    /// The device behind the sysfs attributes.
    pub dev: Device,
    /// `device->dev_set->lock`: serialises the opening and closing of devices that belong together; this one is alone
    /// in its set.
    pub dev_set_lock: Mutex,
    /// The guest that VFIO core tells the driver of at open (`vdev->kvm`, v5.19 and later).
    pub vdev_kvm: Link<Kvm>,
    /// Its group.
    pub group: VfioGroup,
    /// Open descriptors.
    pub open_count: AtomicU32,
    /// The slot's memory for the driver's object.
    pub storage: &'static ApMatrixMdev,
    /// The guest that this slot is kept for.
    pub guest: Option<u32>,
    presence: AtomicU8,
    /// Devices that were in the slot before.
    serial: AtomicU32,
    uuid: StdMutex<String>,
    /// The same, for those that read this process's memory.
    uuid_text: [AtomicU64; UUID_WORDS],
}

/// Words that have room for a UUID as text.
const UUID_WORDS: usize = UUID_LENGTH.div_ceil(8);

/// `struct vfio_device`, argument of the same functions in later generations. Its driver data is where an
/// [`MdevDevice`] has it.
pub type VfioDevice = MdevDevice;

impl MdevDevice {
    /// A slot. Stays until the process ends.
    pub fn create(guest: Option<u32>, uuid: String) -> &'static Self {
        let device: &'static Self = Box::leak(Box::new(Self {
            dev: Device::default(),
            dev_set_lock: Mutex::default(),
            vdev_kvm: Link::default(),
            group: VfioGroup::default(),
            open_count: AtomicU32::new(0),
            storage: ApMatrixMdev::create(),
            guest,
            presence: AtomicU8::new(Presence::Absent as u8),
            serial: AtomicU32::new(0),
            uuid: StdMutex::new(uuid),
            uuid_text: [const { AtomicU64::new(0) }; UUID_WORDS],
        }));
        device.storage.device.set(Some(device));
        device
    }

    fn uuid_cell(&self) -> MutexGuard<'_, String> {
        self.uuid.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its UUID, in lower case.
    pub fn uuid(&self) -> String {
        self.uuid_cell().clone()
    }

    /// Gives the slot to a device with this UUID.
    pub fn set_uuid(&self, uuid: &str) {
        uuid.clone_into(&mut self.uuid_cell());
        for (word, bytes) in self.uuid_text.iter().zip(uuid.as_bytes().chunks(8)) {
            let mut padded = [0; 8];
            padded[..bytes.len()].copy_from_slice(bytes);
            word.store(u64::from_ne_bytes(padded), Ordering::SeqCst);
        }
        self.serial.fetch_add(1, Ordering::SeqCst);
    }

    /// Where [`MdevDevice::set_uuid`] has written the UUID as text.
    pub fn uuid_address(&self) -> u64 {
        std::ptr::from_ref(&self.uuid_text) as u64
    }

    /// Tells the devices apart that are in this slot one after the other.
    pub fn serial(&self) -> u32 {
        // As many bits as a number of a device has for it.
        self.serial.load(Ordering::SeqCst) & 0x7fff_ffff
    }

    /// What has become of it.
    pub fn presence(&self) -> Presence {
        match self.presence.load(Ordering::SeqCst) {
            0 => Presence::Absent,
            1 => Presence::Coming,
            2 => Presence::Present,
            _ => Presence::Going,
        }
    }

    /// Goes from one state to the next; false if it was in another.
    pub fn change_presence(&self, from: Presence, to: Presence) -> bool {
        self.presence
            .compare_exchange(from as u8, to as u8, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    }
}

/// `struct notifier_block`. The kernel finds the mdev around it by `container_of`; here it is a field.
#[derive(Debug, Default)]
#[repr(C)]
pub struct NotifierBlock {
    /// The mdev that contains the block.
    pub mdev: Link<ApMatrixMdev>,
}

/// `struct vfio_group`.
#[derive(Debug, Default)]
#[repr(C)]
pub struct VfioGroup {
    /// `blocking_notifier_head`: its rwsem.
    pub rwsem: RwSemaphore,
    /// Its chain, guarded by the rwsem.
    pub head: RwLock<Vec<&'static NotifierBlock>>,
    /// The guest set by the kvm-vfio device.
    pub kvm: Link<Kvm>,
    /// Guards `kvm` in v5.19.
    pub group_rwsem: RwSemaphore,
    /// Is around the opening and closing of a device from v6.0 on.
    pub group_lock: Mutex,
}
