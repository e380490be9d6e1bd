//! Leaving at once, although the kernel detaches slowly.
//!
//! For each uprobe that goes, the kernel waits for several grace periods (`perf_trace_event_unreg`, one event after
//! the other under `event_mutex`): about a tenth of a second each, six for all of them. A process that exits waits
//! for that. So the last references are left to a child that has nothing else to do.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// This process has attached probes.
pub(super) static ATTACHED: AtomicBool = AtomicBool::new(false);

/// Makes the exit of this process quick: a child keeps the probes' descriptors until this process is gone, and then
/// goes too. A program calls it last, when everything is written and said. Without a child, the exit only takes longer.
pub fn detach_in_background() {
    if !ATTACHED.load(Ordering::Relaxed) {
        return;
    }
    // SAFETY: no precondition.
    let parent = unsafe { libc::getpid() };
    // SAFETY: the child of a process with threads may call async-signal-safe functions only, and does.
    if unsafe { libc::fork() } != 0 {
        return;
    }
    for fd in 0..3 {
        // Whoever reads our output must see its end.
        // SAFETY: closes a descriptor that nothing in this process uses any more.
        unsafe { libc::close(fd) };
    }
    let pause = libc::timespec {
        tv_sec: 0,
        tv_nsec: Duration::from_millis(10).subsec_nanos().into(),
    };
    // SAFETY: no precondition; the parent's end makes this process another's child.
    while unsafe { libc::getppid() } == parent {
        // SAFETY: `pause` outlives the call, and the remaining time is not asked for.
        unsafe { libc::nanosleep(&raw const pause, std::ptr::null_mut()) };
    }
    // SAFETY: ends this process without running anything of the parent's.
    unsafe { libc::_exit(0) };
}
