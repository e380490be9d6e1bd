//! Between a point and the function behind it: the in-process hooks, and the count of calls and returns.

use crate::emulator::machine::{self, Machine};
use crate::emulator::objects::KvmVcpu;
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

/// Calls the function behind an entry point. `args` are its arguments, as registers hold them; those of an entry point
/// that sysfs reaches end with the writer (pid and name) as arguments 5 and 6.
pub fn call<R: ReturnValue, const N: usize>(
    entry: u8,
    args: [u64; N],
    function: impl FnOnce(&'static Machine) -> R,
) -> R {
    const { assert!(N <= 6, "what registers hold") };
    let machine = machine::current();
    let mut six = [0; 6];
    six[..N].copy_from_slice(&args);
    hooks::entry_enter(entry, six);
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
    call(entry, [word(vcpu), 0, 0, 0], |machine| {
        let result = function(machine);
        if result == 0 {
            let entries = &machine.entries;
            entries.leave_pqap(entry, vcpu.gpr(0), vcpu.gpr(1));
        }
        result
    })
}
