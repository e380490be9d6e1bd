//! What the evidence table is made of: a function, the generations it is so in, and the steps it makes.
//!
//! Takes nothing; gives types and constructors for `const` tables. Does not know which functions there are.

use probe_ebpf::abi::Mode;

use crate::attach::generation::Generations;

/// A lock class, an id of [`probe_ebpf::names::CLASSES`], and how it is held or asked for.
pub type Lock = (u8, Mode);

/// Whose function it is: names like `matrix_show` and `handle_pqap` are there several times in a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// vfio_ap.
    Driver,
    /// kvm.
    Kvm,
    /// Anything else: the kernel, vfio, the AP bus.
    Others,
}

/// What a step does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    /// Takes a lock.
    Lock(Lock),
    /// Takes a lock in some cases only: `kvm->lock` where the mdev has a guest.
    LockIf(Lock),
    /// Taken already by every caller, or a flag that is set without waiting.
    Held(Lock),
    /// Taken already by some callers.
    HeldIf(Lock),
    /// Releases a class.
    Unlock(u8),
    /// Waits for a flag of this class, with the guard of the other released meanwhile.
    WaitFlag(u8, u8),
    /// Waits for a `reset_work`.
    Flush,
    /// Here it may sleep or compute for long; no lock is asked for.
    Stay,
    /// Polls hardware.
    Poll,
    /// Calls another function of the table.
    Call(&'static [&'static str]),
}

/// A step, in the order of the source.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    pub act: Act,
    /// The functions in which it is done, by any compiler's choice of them; none: in the function itself.
    pub within: &'static [&'static str],
    /// One of them must be on the stack: they cannot be inlined.
    pub must: bool,
}

/// A function's steps.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sequence {
    pub functions: &'static [&'static str],
    pub owner: Owner,
    pub generations: Generations,
    pub steps: &'static [Step],
    /// The guest that it is about is that of the task's own process.
    pub own_guest: bool,
    /// It says something only together with another function of the table.
    pub only_with_others: bool,
    /// What it says holds, if it is innermost; false where the function has other mutexes too.
    pub sure: bool,
    pub rule: &'static str,
}

const fn step(act: Act) -> Step {
    Step {
        act,
        within: &[],
        must: false,
    }
}

/// `mutex_lock()`.
pub(super) const fn mutex(class: u8) -> Step {
    step(Act::Lock((class, Mode::Exclusive)))
}

/// `mutex_lock()`, in some cases only.
pub(super) const fn mutex_if(class: u8) -> Step {
    step(Act::LockIf((class, Mode::Exclusive)))
}

/// `down_read()`.
pub(super) const fn read(class: u8) -> Step {
    step(Act::Lock((class, Mode::Read)))
}

/// `down_write()`.
pub(super) const fn write(class: u8) -> Step {
    step(Act::Lock((class, Mode::Write)))
}

/// Held by every caller, or set.
pub(super) const fn held(class: u8) -> Step {
    step(Act::Held((class, Mode::Exclusive)))
}

/// Held for reading by every caller.
pub(super) const fn held_read(class: u8) -> Step {
    step(Act::Held((class, Mode::Read)))
}

/// Held by some callers.
pub(super) const fn held_if(class: u8) -> Step {
    step(Act::HeldIf((class, Mode::Exclusive)))
}

/// Released.
pub(super) const fn unlock(class: u8) -> Step {
    step(Act::Unlock(class))
}

/// `wait_event_cmd()` for a flag, with its guard released.
pub(super) const fn wait_flag(class: u8, guard: u8) -> Step {
    step(Act::WaitFlag(class, guard))
}

/// Calls one of these.
pub(super) const fn call(functions: &'static [&'static str]) -> Step {
    step(Act::Call(functions))
}

/// `flush_work()`.
pub(super) const FLUSH: Step = step(Act::Flush);
/// May sleep.
pub(super) const STAY: Step = step(Act::Stay);
/// Polls.
pub(super) const POLL: Step = step(Act::Poll);

impl Step {
    /// Done in one of these, each of which a compiler may have inlined.
    pub(super) const fn within(self, within: &'static [&'static str]) -> Self {
        Self { within, ..self }
    }

    /// Done in one of these, which is on the stack for certain.
    pub(super) const fn always_within(self, within: &'static [&'static str]) -> Self {
        Self {
            within,
            must: true,
            ..self
        }
    }
}

/// Functions of the driver.
pub(super) const fn driver(
    functions: &'static [&'static str],
    generations: Generations,
    rule: &'static str,
    steps: &'static [Step],
) -> Sequence {
    Sequence {
        functions,
        owner: Owner::Driver,
        generations,
        steps,
        own_guest: false,
        only_with_others: false,
        sure: true,
        rule,
    }
}

/// Functions of kvm.
pub(super) const fn kvm(
    functions: &'static [&'static str],
    generations: Generations,
    rule: &'static str,
    steps: &'static [Step],
) -> Sequence {
    Sequence {
        owner: Owner::Kvm,
        own_guest: true,
        ..driver(functions, generations, rule, steps)
    }
}

/// Functions of the rest of the kernel.
pub(super) const fn others(
    functions: &'static [&'static str],
    generations: Generations,
    rule: &'static str,
    steps: &'static [Step],
) -> Sequence {
    Sequence {
        owner: Owner::Others,
        ..driver(functions, generations, rule, steps)
    }
}

impl Sequence {
    /// Called by the guest's process.
    pub(super) const fn of_own_guest(self) -> Self {
        Self {
            own_guest: true,
            ..self
        }
    }

    /// Says nothing alone.
    pub(super) const fn with_others(self) -> Self {
        Self {
            only_with_others: true,
            ..self
        }
    }

    /// The function waits for other locks too.
    pub(super) const fn unsure(self) -> Self {
        Self {
            sure: false,
            ..self
        }
    }
}
