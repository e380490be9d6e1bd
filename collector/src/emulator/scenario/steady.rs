//! The scenario `steady`: every guest runs, is bound and released, has an administrator, a RESET now and then, and is
//! converted to a protected guest and back.
//!
//! Conversion never overlaps with binding or release of the same guest: user space keeps them apart with a gate of its
//! own, so no generation can hang. What an actor does next depends on its random numbers alone, never on time or on
//! the outcome of what it did.

use crate::emulator::actors::{Actor, ActorSpec, thread_name};
use crate::emulator::machine::Machine;

use super::roles;

/// The actors: for each guest its vCPUs, `notify`, `sysfs`, `vfio` and `pv`.
pub fn actors(machine: &'static Machine) -> Vec<ActorSpec> {
    let mut specs = Vec::new();
    for guest in &machine.guests {
        let mut add = |role: &str, run: Box<dyn FnOnce(&mut Actor) + Send>| {
            specs.push(ActorSpec {
                name: thread_name(role, guest.number),
                run: Box::new(move |actor| {
                    // Not all at once.
                    actor.pause_ms(0, 20);
                    run(actor);
                }),
            });
        };
        for vcpu in guest.kvm.vcpus() {
            let role = format!("vcpu{}", vcpu.vcpu_id);
            add(
                &role,
                Box::new(move |actor| roles::run_vcpu(actor, guest, vcpu)),
            );
        }
        add(
            "notify",
            Box::new(move |actor| roles::start_and_stop(actor, machine, guest)),
        );
        add(
            "sysfs",
            Box::new(move |actor| roles::administer(actor, machine, guest)),
        );
        add("vfio", Box::new(move |actor| roles::reset(actor, guest)));
        add(
            "pv",
            Box::new(move |actor| roles::convert(actor, machine, guest)),
        );
    }
    specs
}
