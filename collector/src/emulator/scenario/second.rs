//! The scenario `two-mdevs`: a guest that has an mdev is given a second one, which the driver refuses.
//!
//! The second mdev has a queue of its own, and nothing else against it: the driver allows a guest one mdev. What a refusal
//! leaves behind is what differs between generations.

use crate::emulator::actors::{Actor, ActorSpec};
use crate::emulator::driver::attributes;
use crate::emulator::kvm::vfio::{KVM_DEV_VFIO_GROUP_ADD, KVM_DEV_VFIO_GROUP_DEL};
use crate::emulator::layout;
use crate::emulator::machine::{Guest, Machine};
use crate::emulator::mdev;
use crate::emulator::objects::MdevDevice;
use crate::emulator::points::Writer;
use crate::emulator::vfio_core;

use super::administrator::{self, Access};
use super::cast::Cast;
use super::{roles, steady};

/// UUID of the second mdev.
const UUID: &str = "a9e20000-0000-4000-8000-000000000000";

/// Guest 0: its vCPUs, and `notify`, which starts it, plugs the second mdev in and out, and stops it. The others are
/// those of `steady`.
pub fn actors(machine: &'static Machine) -> Vec<ActorSpec> {
    let mut cast = Cast::default();
    let Some((first, rest)) = machine.guests.split_first() else {
        return Vec::new();
    };
    steady::vcpus(&mut cast, machine, first);
    cast.add("notify", first.number, move |actor| {
        if let Some(device) = create(machine, first) {
            plug_both(actor, machine, first, device);
        }
    });
    for guest in rest {
        steady::guest_actors(&mut cast, machine, guest);
    }
    cast.specs()
}

/// Creates the second mdev and assigns a queue to it that the driver has and no mdev.
fn create(machine: &'static Machine, guest: &Guest) -> Option<&'static MdevDevice> {
    mdev::create(machine, UUID, &Writer::SELF);
    let mut devices = mdev::devices(machine).into_iter();
    let device = devices.find(|device| device.uuid() == UUID)?;
    let attributes = attributes::of(machine.generation);
    let adapter = layout::first_adapter(guest.number) + 2;
    let domain = layout::first_domain(guest.number);
    for (name, number) in [("assign_adapter", adapter), ("assign_domain", domain)] {
        let text = Some(format!("{number}\n"));
        administrator::perform(&attributes, device, &Access { name, text });
    }
    Some(device)
}

/// The order of group and device varies for both, as in `steady`.
fn plug_both(
    actor: &mut Actor,
    machine: &'static Machine,
    guest: &'static Guest,
    second: &'static MdevDevice,
) {
    while !actor.is_stopping() {
        let [replay, release_first, second_replay, second_first] =
            [(); 4].map(|()| actor.rng.percent(50));
        actor.note(|| {
            format!("replay={replay},{second_replay} release_first={release_first},{second_first}")
        });
        actor.begin("guest start");
        roles::plug(machine, guest, replay);
        actor.pause_ms(10, 40);
        actor.begin("second mdev in");
        let group_first = second_replay || !machine.generation.has_group_notifier;
        if group_first {
            roles::set_group_of(guest, second, KVM_DEV_VFIO_GROUP_ADD);
        }
        let opened = vfio_core::device_open(machine, second) == 0;
        if !group_first {
            roles::set_group_of(guest, second, KVM_DEV_VFIO_GROUP_ADD);
        }
        actor.pause_ms(10, 40);
        actor.begin("second mdev out");
        if opened && second_first {
            vfio_core::device_close(machine, second);
        }
        roles::set_group_of(guest, second, KVM_DEV_VFIO_GROUP_DEL);
        if opened && !second_first {
            vfio_core::device_close(machine, second);
        }
        actor.pause_ms(5, 20);
        actor.begin("guest stop");
        roles::unplug_carefully(machine, guest, release_first);
        actor.pause_ms(5, 20);
    }
}
