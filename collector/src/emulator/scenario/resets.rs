//! The scenarios `slow-reset` and `stuck-reset`: queues that need long for a reset, and one that never ends it.

use crate::emulator::actors::ActorSpec;
use crate::emulator::hardware::{
    AP_RESPONSE_BUSY, AP_RESPONSE_RESET_IN_PROGRESS, FOREVER, Script, mkqid,
};
use crate::emulator::layout::STEADY_SCRIPT;
use crate::emulator::machine::Machine;

use super::administrator::administer;
use super::cast::Cast;
use super::{roles, steady};

/// The queue that never ends its reset: the first of guest 0.
pub const STUCK_QUEUE: u16 = mkqid(0, 0);

/// Every reset is answered "reset in progress" 3 to 10 times; and it is not before the third test that the queue shows
/// empty, which is what the bounded wait up to v6.0 looks at.
pub fn slow(apqn: u16) -> Script {
    Script {
        slow_reset_period: 1,
        slow_reset_tests: 3,
        reset_in_progress_period: 3,
        reset_response: AP_RESPONSE_RESET_IN_PROGRESS,
        reset_response_tests: 3 + u32::from(apqn >> 8) % 4 + u32::from(apqn & 0xff) % 5,
        ..STEADY_SCRIPT
    }
}

/// One queue answers "busy" for ever after a reset; up to v6.0 two polls are all that it gets.
pub fn stuck(apqn: u16) -> Script {
    if apqn != STUCK_QUEUE {
        return STEADY_SCRIPT;
    }
    Script {
        slow_reset_period: 1,
        slow_reset_tests: FOREVER,
        reset_response: AP_RESPONSE_BUSY,
        reset_response_tests: FOREVER,
        ..STEADY_SCRIPT
    }
}

/// The actors of both: for each guest its vCPUs, `notify`, `sysfs` and `vfio`, which resets often.
pub fn actors(machine: &'static Machine) -> Vec<ActorSpec> {
    let mut cast = Cast::default();
    for guest in &machine.guests {
        steady::vcpus(&mut cast, machine, guest);
        cast.add("notify", guest.number, move |actor| {
            actor.pause_ms(0, 20);
            roles::start_and_stop(actor, machine, guest, steady::ON_MS, steady::OFF_MS);
        });
        cast.add("sysfs", guest.number, move |actor| {
            actor.pause_ms(0, 20);
            administer(actor, machine, guest, 15, 60);
        });
        cast.add("vfio", guest.number, move |actor| {
            roles::reset(actor, guest, 50, 250);
        });
    }
    cast.specs()
}
