//! The scenarios `remove-in-use` and `churn`: mdevs that are removed while a guest has them open, and mdevs that come and
//! go all the time.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::emulator::actors::{Actor, ActorSpec};
use crate::emulator::driver::VFIO_DEVICE_SET_IRQS;
use crate::emulator::driver::attributes::{self, Attribute};
use crate::emulator::kvm::vfio::KVM_DEV_VFIO_GROUP_ADD;
use crate::emulator::layout;
use crate::emulator::machine::{Guest, Machine};
use crate::emulator::mdev;
use crate::emulator::points::Writer;
use crate::emulator::points::vfio_ap as driver;
use crate::emulator::rng::Rng;

use super::administrator::{self, Access, administer};
use super::cast::Cast;
use super::{roles, steady};

/// Mdevs besides those of the guests, in `churn`.
pub const SPARE: u32 = 8;
/// UUIDs that are drawn from: more than there are places.
const UUIDS: u64 = 12;
/// Threads that create and remove.
const CHURNERS: u32 = 3;
/// How often user space looks whether it is asked for the device.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// For each guest its vCPUs, `notify`, `vfio`, and `mdev`, which removes the mdev while it is open and makes it anew.
pub fn remove_in_use(machine: &'static Machine) -> Vec<ActorSpec> {
    let mut cast = Cast::default();
    for guest in &machine.guests {
        steady::vcpus(&mut cast, machine, guest);
        cast.add("notify", guest.number, move |actor| {
            use_until_asked(actor, machine, guest);
        });
        cast.add("vfio", guest.number, move |actor| {
            roles::reset(actor, guest, 200, 900);
        });
        cast.add("mdev", guest.number, move |actor| {
            remove_and_create(actor, machine, guest, (30, 120));
        });
    }
    cast.specs()
}

/// User space of a guest: starts it, gives the driver the eventfd on which it can be asked for the device, and stops it
/// when it is asked, or after 1.3 to 1.9 s: a removal without the request waits for longer than it may.
fn use_until_asked(actor: &mut Actor, machine: &'static Machine, guest: &'static Guest) {
    while !actor.is_stopping() {
        let release_first = actor.rng.percent(50);
        let looks = actor.rng.between(260, 380);
        actor.note(|| format!("stop release_first={release_first} after {looks} looks"));
        let asked_before = guest.mdev.req_trigger.signals.load(Ordering::Relaxed);
        actor.begin("guest start");
        {
            let _gate = roles::gate(guest);
            roles::set_group(guest, KVM_DEV_VFIO_GROUP_ADD);
            roles::open(machine, guest);
        }
        if machine.generation.has_ap_config {
            roles::while_open(guest, || {
                driver::vfio_ap_mdev_ioctl(guest.mdev_device, VFIO_DEVICE_SET_IRQS, 0);
            });
        }
        actor.begin("pause");
        for _ in 0..looks {
            let asked = guest.mdev.req_trigger.signals.load(Ordering::Relaxed) != asked_before;
            if asked || actor.is_stopping() {
                break;
            }
            actor.shared.stop.sleep(LOOK_EVERY);
        }
        actor.begin("guest stop");
        roles::unplug_carefully(machine, guest, release_first);
        actor.pause_ms(5, 30);
    }
}

/// The administrator who removes a guest's mdev whatever the guest does, and makes it anew.
fn remove_and_create(
    actor: &mut Actor,
    machine: &'static Machine,
    guest: &'static Guest,
    pause: (u64, u64),
) {
    let attributes = attributes::of(machine.generation);
    while !actor.is_stopping() {
        actor.pause_ms(pause.0, pause.1);
        if actor.is_stopping() {
            return;
        }
        actor.note(|| "remove and create".into());
        actor.begin("echo 1 > remove");
        mdev::remove(machine, guest.mdev_device, &Writer::SELF);
        actor.begin("echo UUID > create");
        let _gate = roles::gate(guest);
        if mdev::create(machine, &mdev::guest_uuid(guest.number), &Writer::SELF) == 0 {
            administrator::assign_initial(&attributes, guest.mdev_device, guest.number);
        }
    }
}

/// The actors of `steady` without conversion, for each guest `mdev`, which now and then removes the guest's own mdev and
/// makes it anew, and three `churn`.
pub fn churn(machine: &'static Machine) -> Vec<ActorSpec> {
    let mut cast = Cast::default();
    for guest in &machine.guests {
        steady::vcpus(&mut cast, machine, guest);
        cast.add("notify", guest.number, move |actor| {
            actor.pause_ms(0, 20);
            roles::start_and_stop(actor, machine, guest, (50, 200), (20, 60));
        });
        cast.add("sysfs", guest.number, move |actor| {
            actor.pause_ms(0, 20);
            administer(actor, machine, guest, 15, 60);
        });
        cast.add("mdev", guest.number, move |actor| {
            remove_and_create(actor, machine, guest, (150, 600));
        });
    }
    for number in 0..CHURNERS {
        cast.add_global("churn", number, move |actor| churner(actor, machine));
    }
    cast.specs()
}

/// Creates, assigns, reads and removes mdevs that no guest has.
fn churner(actor: &mut Actor, machine: &'static Machine) {
    let attributes = attributes::of(machine.generation);
    while !actor.is_stopping() {
        let n = actor.rng.below(UUIDS);
        let uuid = format!("c4000000-0000-4000-8000-{n:012x}");
        let guest = actor.rng.below(machine.guests.len() as u64) as u32;
        match actor.rng.below(10) {
            0..4 => {
                actor.note(|| format!("create {n}"));
                actor.begin("echo UUID > create");
                mdev::create(machine, &uuid, &Writer::SELF);
            }
            4..8 => {
                let access = next_assignment(&mut actor.rng, guest);
                actor.note(|| format!("{n} {access:?}"));
                actor.begin("sysfs access");
                with_mdev(machine, &attributes, &uuid, &access);
            }
            _ => {
                actor.note(|| format!("remove {n}"));
                actor.begin("echo 1 > remove");
                let mut devices = mdev::devices(machine).into_iter();
                if let Some(device) = devices.find(|device| device.uuid() == uuid) {
                    mdev::remove(machine, device, &Writer::SELF);
                }
            }
        }
        actor.pause_ms(1, 8);
    }
}

/// The attribute of the mdev with this UUID, if there is one.
fn with_mdev(machine: &Machine, attributes: &[&Attribute], uuid: &str, access: &Access) {
    let mut devices = mdev::devices(machine).into_iter();
    if let Some(device) = devices.find(|device| device.uuid() == uuid) {
        administrator::perform(attributes, device, access);
    }
}

/// Adapters and domains of a guest's cell: some are free, some the guest has already.
fn next_assignment(rng: &mut Rng, guest: u32) -> Access {
    let adapter = layout::first_adapter(guest) + 1 + rng.below(3) as u16;
    let domain = layout::first_domain(guest) + rng.below(3) as u16;
    let (name, text) = match rng.below(6) {
        0 | 1 => ("assign_adapter", Some(format!("{adapter}\n"))),
        2 | 3 => ("assign_domain", Some(format!("{domain}\n"))),
        4 => ("assign_control_domain", Some(format!("{domain}\n"))),
        _ => ("matrix", None),
    };
    Access { name, text }
}
