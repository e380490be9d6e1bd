//! The scenario `write-retry`: guests run, and somebody writes the same to each mdev's matrix again and again, as a tool does
//! that does not give up. Until v5.19 a running guest's matrix cannot be changed, and every write is refused.

use crate::emulator::actors::{Actor, ActorSpec};
use crate::emulator::driver::attributes;
use crate::emulator::layout;
use crate::emulator::machine::{Guest, Machine};

use super::administrator;
use super::cast::Cast;
use super::meeting::Meeting;
use super::{roles, steady};

/// For each guest its vCPUs, `notify`, which starts it and stops it at the end, and `sysfs`, which writes meanwhile.
pub fn actors(machine: &'static Machine) -> Vec<ActorSpec> {
    let mut cast = Cast::default();
    for guest in &machine.guests {
        steady::vcpus(&mut cast, machine, guest);
        let (bound, when_bound) = (Meeting::of(2), Meeting::of(2));
        let (done, when_done) = (bound.clone(), when_bound.clone());
        cast.add("notify", guest.number, move |actor| {
            actor.begin("guest start");
            roles::plug(machine, guest, false);
            // Whoever stops first lets the other one know.
            let _ = bound.wait(&actor.shared.stop);
            actor.begin("guest runs");
            let _ = when_bound.wait(&actor.shared.stop);
            actor.begin("guest stop");
            roles::unplug_carefully(machine, guest, true);
        });
        cast.add("sysfs", guest.number, move |actor| {
            actor.begin("waits for the guest");
            if done.wait(&actor.shared.stop) {
                write_again(actor, machine, guest);
            }
            let _ = when_done.wait(&actor.shared.stop);
        });
    }
    cast.specs()
}

/// Assigns an adapter that is free.
fn write_again(actor: &mut Actor, machine: &'static Machine, guest: &'static Guest) {
    let attributes = attributes::of(machine.generation);
    let adapter = layout::first_adapter(guest.number) + 2;
    while !actor.is_stopping() {
        actor.note(|| format!("assign_adapter {adapter}"));
        actor.begin("sysfs access");
        let text = format!("{adapter}\n");
        administrator::write(&attributes, guest.mdev_device, "assign_adapter", text);
        actor.pause_ms(5, 15);
    }
}
