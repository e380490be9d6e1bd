//! Between a point and the function behind it: the in-process hooks, and the count of calls and returns.

use crate::emulator::machine::{self, Machine};
use crate::emulator::objects::KvmVcpu;
use crate::emulator::primitives::task;
use crate::inprocess::hooks;

/// What an entry point returns.
pub trait ReturnValue: Copy {
    /// As a C `long`.
    fn long(self) -> i64;
}

impl ReturnValue for i32 {
    fn long(self) -> i64 {
        self.into()
    }
}

impl ReturnValue for i64 {
    fn long(self) -> i64 {
        self
    }
}

impl ReturnValue for () {
    fn long(self) -> i64 {
        0
    }
}

/// An argument as a register holds it.
pub fn word<T>(reference: &T) -> u64 {
    std::ptr::from_ref(reference) as u64
}

/// Calls the function behind an entry point.
pub fn call<R: ReturnValue>(
    entry: u8,
    args: [u64; 6],
    function: impl FnOnce(&'static Machine) -> R,
) -> R {
    let machine = machine::current();
    #[cfg(any(test, feature = "fuzzing"))]
    let _inside = crate::emulator::invariants::enter(machine);
    let _entered = task::enter(entry);
    hooks::entry_enter(entry, args);
    machine.entries.enter(entry);
    let result = function(machine);
    machine.entries.leave(entry, result.long());
    hooks::entry_return(entry, result.long() as u64);
    result
}

/// Calls a PQAP handler. If it answers the guest (returns 0), the response code is counted too, as it stands in
/// GR1 at return.
pub fn call_pqap(
    entry: u8,
    vcpu: &'static KvmVcpu,
    function: impl FnOnce(&'static Machine) -> i32,
) -> i32 {
    call(entry, [word(vcpu), 0, 0, 0, 0, 0], |machine| {
        let result = function(machine);
        if result == 0 {
            let entries = &machine.entries;
            entries.leave_pqap(entry, vcpu.gpr(0), vcpu.gpr(1));
        }
        result
    })
}
