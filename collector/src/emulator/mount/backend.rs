//! What the tree shows, and where its writes go: the driver, or in tests something simpler.
//!
//! The tree knows names, numbers and modes; what a file says and what a write does is asked here. Listing functions are
//! called on the file system's own thread and must not take a lock of the driver; the others may block as long as the
//! driver does.

pub use crate::emulator::points::Writer;

/// A mediated device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mdev {
    /// Identifies this device and no other, before and after; below 2^47. A device that is created again with the same
    /// UUID has another.
    pub id: u64,
    /// `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx`, in lower case.
    pub uuid: String,
}

/// An attribute file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct File {
    /// Name.
    pub name: &'static str,
    /// Permission bits.
    pub mode: u16,
}

/// One of the bus's two masks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mask {
    /// `apmask`.
    Adapters,
    /// `aqmask`.
    Domains,
}

/// Negative errno of a function of the driver, as the kernel's functions return it.
pub type Negative = i64;

/// The driver behind the tree.
pub trait Backend: Send + Sync + 'static {
    /// Called once by each thread that will call [`Backend::show`], [`Backend::store`] and the like.
    fn enter(&self);

    /// The mediated devices.
    fn mdevs(&self) -> Vec<Mdev>;

    /// The mediated device with this UUID.
    fn mdev(&self, uuid: &str) -> Option<Mdev> {
        self.mdevs().into_iter().find(|m| m.uuid == uuid)
    }

    /// A device with this number exists.
    fn exists(&self, mdev: u64) -> bool {
        self.mdevs().iter().any(|m| m.id == mdev)
    }

    /// Somebody removes the device; it can no longer be used.
    fn is_going(&self, _mdev: u64) -> bool {
        false
    }

    /// Attribute files of a mediated device, `remove` not among them; at most 200, always the same.
    fn attributes(&self) -> &[File];

    /// Calls an attribute's show function. The attribute is the place in [`Backend::attributes`].
    fn show(&self, mdev: u64, attribute: usize, reader: &Writer) -> Result<Vec<u8>, Negative>;

    /// Calls an attribute's store function; what it returned.
    fn store(&self, mdev: u64, attribute: usize, bytes: &[u8], writer: &Writer) -> i64;

    /// `mdev_device_create`: 0 or a negative errno. The UUID is well-formed and in lower case.
    fn create(&self, uuid: &str, writer: &Writer) -> i32;

    /// `mdev_device_remove`: 0 or a negative errno.
    fn remove(&self, mdev: u64, writer: &Writer) -> i32;

    /// How many devices can still be created.
    fn available_instances(&self) -> u32;

    /// `apmask_show`, `aqmask_show`.
    fn show_mask(&self, mask: Mask, reader: &Writer) -> Result<Vec<u8>, Negative>;

    /// `apmask_store`, `aqmask_store`.
    fn store_mask(&self, mask: Mask, bytes: &[u8], writer: &Writer) -> i64;

    /// Numbers of the adapters that the bus has, ascending.
    fn cards(&self) -> Vec<u8>;

    /// APQNs of the queues that the bus has, ascending.
    fn queues(&self) -> Vec<u16>;

    /// The bus has this queue.
    fn has_queue(&self, apqn: u16) -> bool {
        self.queues().contains(&apqn)
    }

    /// Driver that a queue is bound to, if there is such a queue and it is bound: one of [`super::node::DRIVERS`].
    fn driver_of(&self, apqn: u16) -> Option<&'static str>;

    /// Queues bound to vfio_ap have the attribute `status`.
    fn has_status(&self) -> bool;

    /// `status_show`.
    fn show_status(&self, apqn: u16, reader: &Writer) -> Result<Vec<u8>, Negative>;
}
