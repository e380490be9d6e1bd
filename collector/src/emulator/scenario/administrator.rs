//! What administrators do: read and write the sysfs attributes of an mdev.
//!
//! What one does next is drawn first and then done if the generation has such an attribute, so that the sequence of
//! decisions is the same for all generations.

use crate::emulator::actors::Actor;
use crate::emulator::driver::attributes::{self, Attribute};
use crate::emulator::driver::sysfs::Page;
use crate::emulator::layout;
use crate::emulator::machine::{Guest, Machine};
use crate::emulator::objects::{ApMatrix, Bitmap, MdevDevice};
use crate::emulator::points::Writer;
use crate::emulator::rng::Rng;

/// One access.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// Attribute.
    pub name: &'static str,
    /// What is written; `None` to read.
    pub text: Option<String>,
}

/// What the administrator does next: mostly sound changes inside the guest's cell that leave what it started with; now
/// and then a number too large, one that is none, a queue that is not bound, one of the neighbour's.
fn next_access(rng: &mut Rng, guest: u32) -> Access {
    match rng.below(22) {
        0..12 => next_store(rng, guest),
        12..14 => read("matrix"),
        14..16 => read("control_domains"),
        16..19 => read("guest_matrix"),
        19 => read("ap_config"),
        _ => Access {
            name: "ap_config",
            text: Some(next_config(rng, guest)),
        },
    }
}

fn read(name: &'static str) -> Access {
    Access { name, text: None }
}

fn next_store(rng: &mut Rng, guest: u32) -> Access {
    let (adapter, domain) = (layout::first_adapter(guest), layout::first_domain(guest));
    let kind = rng.below(6);
    let base = if kind < 2 { adapter } else { domain };
    let text = match rng.below(20) {
        0 => "256".to_string(),
        1 => "queue".to_string(),
        2 => "99999999999999999999".to_string(),
        // The first of the neighbouring cell; the other coordinate decides whose it is.
        3 if kind < 2 => format!("{:#04x}", (adapter + layout::CELL_ADAPTERS) % 256),
        3 => (domain + layout::CELL_DOMAINS).min(255).to_string(),
        // Not bound to the driver.
        4 if kind < 2 => (adapter + layout::BOUND_ADAPTERS).to_string(),
        4 => (domain + layout::BOUND_DOMAINS).to_string(),
        5..12 => format!("{:#04x}\n", base + 2),
        _ => format!("{}\n", base + 2),
    };
    let name = [
        "assign_adapter",
        "unassign_adapter",
        "assign_domain",
        "unassign_domain",
        "assign_control_domain",
        "unassign_control_domain",
    ][kind as usize];
    Access {
        name,
        text: Some(text),
    }
}

/// A whole matrix: what the guest started with, with or without one more adapter and domain; now and then text that is
/// none, or an adapter of the host's own drivers.
fn next_config(rng: &mut Rng, guest: u32) -> String {
    let matrix = ApMatrix::default();
    layout::assign_initial(guest, &matrix);
    match rng.below(10) {
        0 => return "0xzz,0x1,0x1\n".to_string(),
        1 => return format!("{}\n", matrix.apm.hex()),
        2 => matrix
            .apm
            .set(layout::first_adapter(guest) + layout::BOUND_ADAPTERS),
        _ => {
            if rng.percent(50) {
                matrix.apm.set(layout::first_adapter(guest) + 2);
            }
            if rng.percent(50) {
                matrix.aqm.set(layout::first_domain(guest) + 2);
                matrix.adm.set(layout::first_domain(guest) + 2);
            }
        }
    }
    let masks = [&matrix.apm, &matrix.aqm, &matrix.adm].map(Bitmap::hex);
    format!("{}\n", masks.join(","))
}

/// The administrator of a guest's mdev, who pauses between `low` and `high` milliseconds.
pub fn administer(
    actor: &mut Actor,
    machine: &'static Machine,
    guest: &'static Guest,
    low: u64,
    high: u64,
) {
    let attributes = attributes::of(machine.generation);
    while !actor.is_stopping() {
        let next = next_access(&mut actor.rng, guest.number);
        actor.note(|| format!("{next:?}"));
        actor.begin("sysfs access");
        perform(&attributes, guest.mdev_device, &next);
        actor.pause_ms(low, high);
    }
}

/// Does it, if there is such an attribute: what the attribute says, else 0.
pub fn perform(attributes: &[&Attribute], device: &'static MdevDevice, access: &Access) -> i64 {
    let Some(attribute) = attributes.iter().find(|a| a.name == access.name) else {
        return 0;
    };
    match (&access.text, attribute.store, attribute.show) {
        (Some(text), Some(store), _) => store(device, &Page::new(text), text.len(), &Writer::SELF),
        (None, _, Some(show)) => show(device, &mut Page::new(""), &Writer::SELF),
        _ => 0,
    }
}

/// Writes an attribute.
pub fn write(
    attributes: &[&Attribute],
    device: &'static MdevDevice,
    name: &'static str,
    text: String,
) -> i64 {
    let text = Some(text);
    perform(attributes, device, &Access { name, text })
}

/// Assigns what the guest starts with to its mdev, which was made anew.
pub fn assign_initial(attributes: &[&Attribute], device: &'static MdevDevice, guest: u32) {
    let (adapter, domain) = (layout::first_adapter(guest), layout::first_domain(guest));
    for n in 0..2 {
        for (name, number) in [
            ("assign_adapter", adapter),
            ("assign_domain", domain),
            ("assign_control_domain", domain),
        ] {
            write(attributes, device, name, format!("{}\n", number + n));
        }
    }
}
