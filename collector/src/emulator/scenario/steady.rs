//! The scenario `steady`: every guest runs, is bound and released, has an administrator, a RESET now and then, and is
//! converted to a protected guest and back.
//!
//! Conversion never overlaps with binding or release of the same guest: user space keeps them apart with a gate of its
//! own, so no generation can hang.

use crate::emulator::actors::ActorSpec;
use crate::emulator::machine::{Guest, Machine};

use super::administrator::administer;
use super::cast::Cast;
use super::roles;

/// Milliseconds for which a guest has the device.
pub const ON_MS: (u64, u64) = (100, 400);
/// Milliseconds for which it has not.
pub const OFF_MS: (u64, u64) = (20, 100);

/// The actors: those of each guest.
pub fn actors(machine: &'static Machine) -> Vec<ActorSpec> {
    let mut cast = Cast::default();
    for guest in &machine.guests {
        guest_actors(&mut cast, machine, guest);
    }
    cast.specs()
}

/// The vCPUs of a guest, as in `steady`.
pub fn vcpus(cast: &mut Cast, machine: &'static Machine, guest: &'static Guest) {
    for vcpu in guest.kvm.vcpus() {
        let role = format!("vcpu{}", vcpu.vcpu_id);
        cast.add(&role, guest.number, move |actor| {
            // Not all at once; nor the others below.
            actor.pause_ms(0, 20);
            roles::run_vcpu(actor, machine, guest, vcpu, 3, 9);
        });
    }
}

/// All actors of a guest: its vCPUs, `notify`, `sysfs`, `vfio` and `pv`.
pub fn guest_actors(cast: &mut Cast, machine: &'static Machine, guest: &'static Guest) {
    vcpus(cast, machine, guest);
    cast.add("notify", guest.number, move |actor| {
        actor.pause_ms(0, 20);
        roles::start_and_stop(actor, machine, guest, ON_MS, OFF_MS);
    });
    cast.add("sysfs", guest.number, move |actor| {
        actor.pause_ms(0, 20);
        administer(actor, machine, guest, 15, 60);
    });
    cast.add("vfio", guest.number, move |actor| {
        actor.pause_ms(0, 20);
        roles::reset(actor, guest, 200, 900);
    });
    cast.add("pv", guest.number, move |actor| {
        actor.pause_ms(0, 20);
        roles::convert(actor, machine, guest);
    });
}
