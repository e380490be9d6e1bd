//! A child process that removes this process's events from tracefs should it be killed: they would stay otherwise.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;

/// How often the guard waits for events that are busy, over all of them, and for how long each time.
const RETRIES: u32 = 600;
static PAUSE: libc::timespec = libc::timespec {
    tv_sec: 0,
    tv_nsec: 50_000_000,
};

/// A child that removes this process's events should it be killed.
pub struct Guard {
    child: libc::pid_t,
    /// Its end is this process's end, for the child.
    _alive: OwnedFd,
}

impl Guard {
    /// Starts it for events of this group below this tracefs, whose names these are.
    pub fn start(
        tracefs: &Path,
        group: &str,
        names: impl Iterator<Item = String>,
    ) -> io::Result<Self> {
        use std::os::unix::ffi::OsStrExt as _;
        // Everything that the child needs is made before the fork: afterwards it may only make system calls.
        let mut path = tracefs
            .join("kprobe_events")
            .as_os_str()
            .as_bytes()
            .to_vec();
        path.push(0);
        let commands: Vec<Vec<u8>> = names
            .map(|name| format!("-:{group}/{name}\n").into_bytes())
            .collect();
        let (ours, theirs) = io::pipe().map(|(reader, writer)| (OwnedFd::from(writer), reader))?;
        // SAFETY: the child makes async-signal-safe calls only.
        let child = unsafe { libc::fork() };
        if child < 0 {
            return Err(io::Error::last_os_error());
        }
        if child == 0 {
            // SAFETY: the data was made before the fork and is not shared with the parent.
            unsafe { wait_and_remove(&path, &commands, &ours, theirs.as_raw_fd()) };
        }
        Ok(Self {
            child,
            _alive: ours,
        })
    }

    /// Lets the child go: nothing is left to remove.
    pub fn end(self) {
        let child = self.child;
        // Closes the pipe that the child waits at.
        drop(self);
        // SAFETY: waits for a child of this process; no status is asked for.
        unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
    }
}

/// The child: waits for the parent's end, removes its events, and ends.
///
/// # Safety
///
/// To be called in a child that was forked from a process with threads: makes system calls only.
unsafe fn wait_and_remove(path: &[u8], commands: &[Vec<u8>], parents: &OwnedFd, end: i32) -> ! {
    // SAFETY: system calls on descriptors and memory of this process.
    unsafe {
        // A terminal's interrupt is for the parent.
        libc::setsid();
        libc::close(parents.as_raw_fd());
        // No descriptor of the parent's may live on here: neither its probes nor its output.
        for fd in 0..1024 {
            if fd != end {
                libc::close(fd);
            }
        }
        let mut byte = [0_u8];
        loop {
            let read = libc::read(end, byte.as_mut_ptr().cast(), 1);
            let interrupted = read < 0 && *libc::__errno_location() == libc::EINTR;
            if read <= 0 && !interrupted {
                break;
            }
        }
        // The parent's descriptors close one after the other; until then an event is busy.
        let mut retries = RETRIES;
        for command in commands {
            loop {
                // A file each: an error on one command must not end the others.
                let events = libc::open(path.as_ptr().cast(), libc::O_WRONLY | libc::O_APPEND);
                if events < 0 {
                    libc::_exit(1);
                }
                let written = libc::write(events, command.as_ptr().cast(), command.len());
                let busy = written < 0 && *libc::__errno_location() == libc::EBUSY;
                libc::close(events);
                if !busy || retries == 0 {
                    break;
                }
                retries -= 1;
                libc::nanosleep(&raw const PAUSE, std::ptr::null_mut());
            }
        }
        libc::_exit(0)
    }
}
