//! The emulated machine as what is behind the tree.

use super::backend::{Backend, File, Mask, Mdev, Negative, Writer};
use crate::emulator::driver::sysfs::Page;
use crate::emulator::machine::{self, Machine};
use crate::emulator::objects::MdevDevice;
use crate::emulator::points::vfio_ap;

/// The driver of a machine.
#[derive(Debug)]
pub struct Driver(&'static Machine);

const FILES: [File; 8] = [
    File {
        name: "assign_adapter",
        mode: 0o200,
    },
    File {
        name: "unassign_adapter",
        mode: 0o200,
    },
    File {
        name: "assign_domain",
        mode: 0o200,
    },
    File {
        name: "unassign_domain",
        mode: 0o200,
    },
    File {
        name: "assign_control_domain",
        mode: 0o200,
    },
    File {
        name: "unassign_control_domain",
        mode: 0o200,
    },
    File {
        name: "matrix",
        mode: 0o444,
    },
    File {
        name: "control_domains",
        mode: 0o444,
    },
];

impl Driver {
    /// The driver of this machine.
    pub fn new(machine: &'static Machine) -> Self {
        Self(machine)
    }

    /// The machine.
    #[cfg(any(test, feature = "fuzzing"))]
    pub fn machine(&self) -> &'static Machine {
        self.0
    }

    fn device(&self, id: u64) -> Option<&'static MdevDevice> {
        self.0
            .guests
            .iter()
            .map(|g| g.mdev_device)
            .find(|d| std::ptr::from_ref(*d) as u64 == id)
    }
}

impl Backend for Driver {
    fn enter(&self) {
        machine::enter(self.0);
    }
    fn mdevs(&self) -> Vec<Mdev> {
        self.0
            .guests
            .iter()
            .map(|g| Mdev {
                id: std::ptr::from_ref(g.mdev_device) as u64,
                uuid: format!("00000000-0000-0000-0000-{:012x}", g.number),
            })
            .collect()
    }
    fn attributes(&self) -> &[File] {
        &FILES
    }
    fn show(&self, mdev: u64, attribute: usize, _reader: &Writer) -> Result<Vec<u8>, Negative> {
        let d = self.device(mdev).ok_or(-19i64)?;
        let mut page = Page::new("");
        let n = if attribute == 6 {
            vfio_ap::matrix_show(&d.dev, 0, &mut page)
        } else {
            vfio_ap::control_domains_show(&d.dev, 0, &mut page)
        };
        usize::try_from(n)
            .map(|n| page.bytes(n).to_vec())
            .map_err(|_| n)
    }
    fn store(&self, mdev: u64, attribute: usize, bytes: &[u8], _writer: &Writer) -> i64 {
        let Some(d) = self.device(mdev) else {
            return -19;
        };
        let page = Page::new(&String::from_utf8_lossy(bytes));
        let f = [
            vfio_ap::assign_adapter_store,
            vfio_ap::unassign_adapter_store,
            vfio_ap::assign_domain_store,
            vfio_ap::unassign_domain_store,
            vfio_ap::assign_control_domain_store,
            vfio_ap::unassign_control_domain_store,
        ][attribute];
        f(&d.dev, 0, &page, bytes.len())
    }
    fn create(&self, _uuid: &str, _writer: &Writer) -> i32 {
        -1
    }
    fn remove(&self, _mdev: u64, _writer: &Writer) -> i32 {
        -1
    }
    fn available_instances(&self) -> u32 {
        65536
    }
    fn show_mask(&self, _mask: Mask, _reader: &Writer) -> Result<Vec<u8>, Negative> {
        Ok(Vec::new())
    }
    fn store_mask(&self, _mask: Mask, _bytes: &[u8], _writer: &Writer) -> i64 {
        -1
    }
    fn cards(&self) -> Vec<u8> {
        let mut cards: Vec<u8> = self.0.queues.keys().map(|q| (q >> 8) as u8).collect();
        cards.dedup();
        cards
    }
    fn queues(&self) -> Vec<u16> {
        self.0.queues.keys().copied().collect()
    }
    fn driver_of(&self, _apqn: u16) -> Option<&'static str> {
        Some("vfio_ap")
    }
    fn has_status(&self) -> bool {
        false
    }
    fn show_status(&self, _apqn: u16, _reader: &Writer) -> Result<Vec<u8>, Negative> {
        Err(-19)
    }
}

impl Machine {
    /// TEMPORARY
    pub fn check_invariants(&self) -> Result<(), String> {
        Ok(())
    }
}
