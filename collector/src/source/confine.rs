//! Giving up privileges when everything is attached.
//!
//! Capabilities belong to threads, so each gives up its own: those of a source when they are asked to, at their next turn;
//! others call [`keep`] themselves.

use std::cell::Cell;
use std::sync::atomic::{AtomicU8, Ordering};

use caps::{CapSet, CapsHashSet};

use crate::machine::Capability;

/// What attaching needs.
pub const ATTACHING: [Capability; 8] = Capability::ALL;
/// What reading the maps of the emulated driver's probes needs, and its threads' state.
pub const EMULATOR: [Capability; 3] = [Capability::Bpf, Capability::Perfmon, Capability::SysPtrace];
/// What measuring a kernel needs: maps and memory, stacks and state of tasks, the kernel's log, tracefs; and attaching, where
/// a lock comes late.
pub const KERNEL: [Capability; 6] = [
    Capability::Bpf,
    Capability::Perfmon,
    Capability::SysAdmin,
    Capability::Syslog,
    Capability::SysPtrace,
    Capability::DacReadSearch,
];

const NOT_ASKED: u8 = 0;
const OF_EMULATOR: u8 = 1;
const OF_KERNEL: u8 = 2;

/// What the threads of a source are asked to keep.
static ASKED: AtomicU8 = AtomicU8::new(NOT_ASKED);

thread_local! {
    static DONE: Cell<bool> = const { Cell::new(false) };
}

/// Asks every thread of the source to keep only what it needs from now on.
pub fn ask(kernel: bool) {
    let asked = if kernel { OF_KERNEL } else { OF_EMULATOR };
    ASKED.store(asked, Ordering::Relaxed);
}

/// Does what was asked for, once. Threads of sources call it at every turn.
pub(super) fn follow() {
    let kept: &[Capability] = match ASKED.load(Ordering::Relaxed) {
        OF_EMULATOR => &EMULATOR,
        OF_KERNEL => &KERNEL,
        _ => return,
    };
    if !DONE.replace(true) {
        // A thread that could not is no worse off than before; its state is in /proc.
        let _ = keep(kept);
        let _ = no_new_privileges();
    }
}

/// Makes this thread, and those that it starts, keep only these capabilities, as far as it has them. Returns what it has.
pub fn keep(kept: &[Capability]) -> Result<Vec<Capability>, caps::errors::CapsError> {
    let permitted = caps::read(None, CapSet::Permitted)?;
    let left: Vec<Capability> = kept
        .iter()
        .copied()
        .filter(|capability| permitted.contains(&cap(*capability)))
        .collect();
    let set: CapsHashSet = left.iter().map(|capability| cap(*capability)).collect();
    // What is started later gets no more than this either.
    if permitted.contains(&caps::Capability::CAP_SETPCAP) {
        for other in caps::runtime::thread_all_supported() {
            if !set.contains(&other) {
                caps::drop(None, CapSet::Bounding, other)?;
            }
        }
    }
    if caps::runtime::ambient_set_supported().is_ok() {
        caps::clear(None, CapSet::Ambient)?;
    }
    caps::set(None, CapSet::Effective, &set)?;
    caps::set(None, CapSet::Permitted, &set)?;
    caps::set(None, CapSet::Inheritable, &CapsHashSet::new())?;
    Ok(left)
}

/// No program that this thread starts may give it privileges.
pub fn no_new_privileges() -> std::io::Result<()> {
    // SAFETY: this option takes no pointer.
    let result = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    if result == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}

const fn cap(capability: Capability) -> caps::Capability {
    match capability {
        Capability::DacOverride => caps::Capability::CAP_DAC_OVERRIDE,
        Capability::DacReadSearch => caps::Capability::CAP_DAC_READ_SEARCH,
        Capability::SysPtrace => caps::Capability::CAP_SYS_PTRACE,
        Capability::SysAdmin => caps::Capability::CAP_SYS_ADMIN,
        Capability::SysResource => caps::Capability::CAP_SYS_RESOURCE,
        Capability::Syslog => caps::Capability::CAP_SYSLOG,
        Capability::Perfmon => caps::Capability::CAP_PERFMON,
        Capability::Bpf => caps::Capability::CAP_BPF,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_keeps_what_it_was_told_and_no_more() {
        std::thread::spawn(|| {
            let before = caps::read(None, CapSet::Permitted).unwrap();
            let left = keep(&[Capability::Bpf]).unwrap();
            let after = caps::read(None, CapSet::Permitted).unwrap();
            let expected = before.contains(&caps::Capability::CAP_BPF);
            assert_eq!(left == [Capability::Bpf], expected);
            assert_eq!(after.len(), usize::from(expected));
            assert_eq!(caps::read(None, CapSet::Effective).unwrap(), after);
        })
        .join()
        .unwrap();
    }
}
