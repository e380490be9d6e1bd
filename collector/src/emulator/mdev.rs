//! The core of mediated devices (`drivers/vfio/mdev`): creating and removing them by UUID.

use super::machine::Machine;
use super::objects::{MdevDevice, Presence};
use super::points::{Writer, vfio_ap as driver};
use super::vfio_core::vfio_unregister_group_dev;

/// `MAX_ZDEV_ENTRIES_EXT` of vfio_ap: mdevs that can exist, as the driver says.
pub const MAX_INSTANCES: u32 = 65_536;

/// The mdevs, in slot order.
pub fn devices(machine: &Machine) -> Vec<&'static MdevDevice> {
    let slots = machine.slots.iter().copied();
    slots
        .filter(|slot| matches!(slot.presence(), Presence::Present | Presence::Going))
        .collect()
}

/// `available_instances` of the type.
pub fn available_instances(machine: &Machine) -> u32 {
    MAX_INSTANCES - devices(machine).len() as u32
}

/// UUID of the mdev that a guest has from the start.
pub fn guest_uuid(guest: u32) -> String {
    format!("a9e10000-0000-4000-8000-{guest:012x}")
}

/// `uuid_parse`, with the text's final newline: the UUID in lower case.
pub fn parse_uuid(text: &[u8]) -> Option<String> {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    let well_formed = text.len() == 36
        && text.iter().enumerate().all(|(n, byte)| {
            if matches!(n, 8 | 13 | 18 | 23) {
                *byte == b'-'
            } else {
                byte.is_ascii_hexdigit()
            }
        });
    let text = std::str::from_utf8(text).ok().filter(|_| well_formed)?;
    Some(text.to_ascii_lowercase())
}

/// `create_store`: 0, `-EEXIST`, `-ENOMEM` when all slots are taken (a limit of the emulation), or what the driver says.
pub fn create(machine: &'static Machine, uuid: &str, writer: &Writer) -> i32 {
    let device = {
        let _slots = machine.slots_lock();
        let taken = |slot: &MdevDevice| slot.presence() != Presence::Absent;
        let slots = || machine.slots.iter().copied();
        if slots().any(|slot| taken(slot) && slot.uuid() == uuid) {
            return -libc::EEXIST;
        }
        // A guest's own mdev, made anew, is the guest's again.
        let free = || slots().filter(|slot| !taken(slot));
        let own = free().find(|slot| slot.guest.is_some_and(|guest| guest_uuid(guest) == uuid));
        let Some(device) = own.or_else(|| free().find(|slot| slot.guest.is_none())) else {
            return -libc::ENOMEM;
        };
        device.change_presence(Presence::Absent, Presence::Coming);
        device.set_uuid(uuid);
        device
    };
    let ret = if machine.generation.has_open_device {
        driver::vfio_ap_mdev_probe(device, 0, 0, 0, writer.pid(), &writer.comm)
    } else {
        driver::vfio_ap_mdev_create(0, device, 0, 0, writer.pid(), &writer.comm)
    };
    let next = if ret == 0 {
        Presence::Present
    } else {
        Presence::Absent
    };
    device.change_presence(Presence::Coming, next);
    ret
}

/// `remove_store`: 0, or `-ENODEV` if somebody else removes it. Waits until nobody has the device open.
pub fn remove(machine: &'static Machine, device: &'static MdevDevice, writer: &Writer) -> i32 {
    if !device.change_presence(Presence::Present, Presence::Going) {
        return -libc::ENODEV;
    }
    if !machine.generation.has_open_device {
        // Later the driver waits itself.
        vfio_unregister_group_dev(machine, device);
    }
    // The core only logs an error of the driver's.
    driver::vfio_ap_mdev_remove(device, 0, 0, 0, writer.pid(), &writer.comm);
    device.dev.driver_data.set(None);
    device.change_presence(Presence::Going, Presence::Absent);
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_are_parsed() {
        let uuid = guest_uuid(3);
        assert_eq!(parse_uuid(uuid.as_bytes()), Some(uuid.clone()));
        let upper = format!("{}\n", uuid.to_ascii_uppercase());
        assert_eq!(parse_uuid(upper.as_bytes()), Some(uuid.clone()));
        for bad in [
            "",
            "\n",
            &uuid[1..],
            &format!("{uuid}0"),
            &uuid.replace('-', "0"),
        ] {
            assert_eq!(parse_uuid(bad.as_bytes()), None, "{bad:?}");
        }
    }
}
