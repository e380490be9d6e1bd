//! The sysfs attributes of an mdev: which there are in a generation, with which permissions, and the points behind them.

use super::Generation;
use super::sysfs::Page;
use crate::emulator::objects::MdevDevice;
use crate::emulator::points::{Writer, vfio_ap as driver};

/// Reads an attribute into a page: its length, or an error.
pub type ShowAttribute = fn(&'static MdevDevice, &mut Page, &Writer) -> i64;
/// Writes to an attribute: the number of bytes taken, or an error.
pub type StoreAttribute = fn(&'static MdevDevice, &Page, usize, &Writer) -> i64;

/// An attribute.
#[derive(Debug)]
pub struct Attribute {
    /// File name.
    pub name: &'static str,
    /// Permissions.
    pub mode: u16,
    /// Reads it.
    pub show: Option<ShowAttribute>,
    /// Writes it.
    pub store: Option<StoreAttribute>,
}

macro_rules! write_only {
    ($name:literal, $store:ident) => {
        Attribute {
            name: $name,
            mode: 0o200,
            show: None,
            store: Some(|device, page, count, writer| {
                driver::$store(&device.dev, 0, page, count, writer.pid(), &writer.comm)
            }),
        }
    };
}

macro_rules! read_only {
    ($name:literal, $show:ident) => {
        Attribute {
            name: $name,
            mode: 0o444,
            show: Some(|device, page, writer| {
                driver::$show(&device.dev, 0, page, 0, writer.pid(), &writer.comm)
            }),
            store: None,
        }
    };
}

static ALL: [Attribute; 8] = [
    write_only!("assign_adapter", assign_adapter_store),
    write_only!("unassign_adapter", unassign_adapter_store),
    write_only!("assign_domain", assign_domain_store),
    write_only!("unassign_domain", unassign_domain_store),
    write_only!("assign_control_domain", assign_control_domain_store),
    write_only!("unassign_control_domain", unassign_control_domain_store),
    read_only!("control_domains", control_domains_show),
    read_only!("matrix", matrix_show),
];

static GUEST_MATRIX: Attribute = read_only!("guest_matrix", guest_matrix_show);

static AP_CONFIG: Attribute = Attribute {
    name: "ap_config",
    mode: 0o644,
    show: Some(|device, page, writer| {
        driver::ap_config_show(&device.dev, 0, page, 0, writer.pid(), &writer.comm)
    }),
    store: Some(|device, page, count, writer| {
        driver::ap_config_store(&device.dev, 0, page, count, writer.pid(), &writer.comm)
    }),
};

/// The attributes that an mdev of this generation has.
pub fn of(generation: &Generation) -> Vec<&'static Attribute> {
    let mut attributes: Vec<&'static Attribute> = ALL.iter().collect();
    if generation.has_hot_plug {
        attributes.push(&GUEST_MATRIX);
    }
    if generation.has_ap_config {
        attributes.push(&AP_CONFIG);
    }
    attributes
}
