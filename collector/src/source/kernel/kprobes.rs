//! kprobes and kretprobes through tracefs: events of our own, with a program attached to each.
//!
//! tracefs and not the kprobe event source, because only tracefs gives a return probe a pool of instances of a chosen
//! size (a vCPU that blocks keeps one), and because only tracefs counts what was missed. What tracefs has made outlives
//! this process, so a child waits for its end and removes what is left: see [`Guard`].

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

/// Instances of a return probe: tasks that can be inside the function at once.
const RETURN_INSTANCES: u32 = 2048;
/// Most events of one process: their names are made before the first is.
const MOST: usize = 256;

/// How often the guard waits for events that are busy, over all of them, and for how long each time.
const RETRIES: u32 = 600;
static PAUSE: libc::timespec = libc::timespec {
    tv_sec: 0,
    tv_nsec: 50_000_000,
};

/// The events of this process.
pub struct Kprobes {
    tracefs: PathBuf,
    group: String,
    /// Its events end before the guard does.
    events: Vec<Event>,
    guard: Option<Guard>,
}

struct Event {
    name: String,
    /// Name of its program.
    program: &'static str,
    perf: Option<OwnedFd>,
}

/// Where a kprobe goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// `module:symbol` or `symbol`.
    Symbol(String),
    /// An address, where the symbol alone does not name the function.
    Address(u64),
}

/// Which side of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Its entry.
    Entry,
    /// Its return.
    Return,
}

impl Kprobes {
    /// Prepares for events below this tracefs. Removes those that a process left behind that is gone.
    pub fn new(tracefs: &Path) -> io::Result<Self> {
        remove_stale(tracefs);
        let group = format!("apscope_{}", std::process::id());
        let guard = Guard::start(tracefs, &group)?;
        Ok(Self {
            tracefs: tracefs.to_owned(),
            group,
            events: Vec::new(),
            guard: Some(guard),
        })
    }

    /// Makes an event and attaches a program to it.
    ///
    /// # Errors
    ///
    /// The kernel's answer, with the step that failed.
    pub fn attach(
        &mut self,
        place: &Place,
        side: Side,
        (program_name, program): (&'static str, BorrowedFd<'_>),
    ) -> Result<(), String> {
        if self.events.len() >= MOST {
            return Err(format!("more than {MOST} kprobes"));
        }
        let name = event_name(std::process::id(), self.events.len());
        let kind = match side {
            Side::Entry => "p".to_owned(),
            Side::Return => format!("r{RETURN_INSTANCES}"),
        };
        let place = match place {
            Place::Symbol(symbol) => symbol.clone(),
            Place::Address(address) => format!("{address:#x}"),
        };
        let command = format!("{kind}:{}/{name} {place}\n", self.group);
        write_events(&self.tracefs, command.as_bytes())
            .map_err(|e| format!("kprobe_events: {e}"))?;
        self.events.push(Event {
            name: name.clone(),
            program: program_name,
            perf: None,
        });
        let id = self
            .tracefs
            .join("events")
            .join(&self.group)
            .join(&name)
            .join("id");
        let id: u64 = fs::read_to_string(id)
            .map_err(|e| format!("id of the event: {e}"))?
            .trim()
            .parse()
            .map_err(|_| "id of the event is no number".to_owned())?;
        let perf = attach_perf(id, program).map_err(|(call, e)| format!("{call}: {e}"))?;
        if let Some(event) = self.events.last_mut() {
            event.perf = Some(perf);
        }
        Ok(())
    }

    /// Number of events.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Ends all events from this number on.
    pub fn truncate(&mut self, len: usize) {
        for event in self.events.drain(len.min(self.events.len())..).rev() {
            drop(event.perf);
            let command = format!("-:{}/{}\n", self.group, event.name);
            // A module that was unloaded has taken its events along.
            let _ = write_events(&self.tracefs, command.as_bytes());
        }
    }

    /// Hits that the kernel missed, by program (`kprobe_profile`): a probe inside a probe, or a return probe out of
    /// instances.
    pub fn missed(&self) -> BTreeMap<&'static str, u64> {
        let Ok(profile) = fs::read_to_string(self.tracefs.join("kprobe_profile")) else {
            return BTreeMap::new();
        };
        // The profile has names without their groups, which is why ours have the process in them.
        missed_in(&profile, |name| {
            let number = name.strip_prefix(&self.group)?.strip_prefix('_')?;
            let event = self.events.get(number.parse::<usize>().ok()?)?;
            Some(event.program)
        })
    }
}

/// Sums of the third column: `name hits misses`. Lines of events that are not ours are left out.
fn missed_in(
    profile: &str,
    program: impl Fn(&str) -> Option<&'static str>,
) -> BTreeMap<&'static str, u64> {
    let mut all = BTreeMap::new();
    for line in profile.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(name), Some(_hits), Some(missed)) = (words.next(), words.next(), words.next())
        else {
            continue;
        };
        if let (Some(program), Ok(missed)) = (program(name), missed.parse::<u64>()) {
            *all.entry(program).or_default() += missed;
        }
    }
    all
}

impl Drop for Kprobes {
    fn drop(&mut self) {
        self.truncate(0);
        if let Some(guard) = self.guard.take() {
            guard.end();
        }
    }
}

/// Name of an event; its group is `apscope_PID`.
fn event_name(pid: u32, n: usize) -> String {
    format!("apscope_{pid}_{n}")
}

/// One write is one command.
fn write_events(tracefs: &Path, command: &[u8]) -> io::Result<()> {
    fs::OpenOptions::new()
        .append(true)
        .open(tracefs.join("kprobe_events"))?
        .write_all(command)
}

/// Removes events of processes that are gone.
fn remove_stale(tracefs: &Path) {
    let Ok(events) = fs::read_to_string(tracefs.join("kprobe_events")) else {
        return;
    };
    for line in events.lines() {
        if let Some((name, pid)) = ours(line)
            && !Path::new("/proc").join(pid.to_string()).exists()
        {
            // Another collector may be doing the same.
            let _ = write_events(tracefs, format!("-:{name}\n").as_bytes());
        }
    }
}

/// `group/event` and process of a line of `kprobe_events`, if it is an event of a collector.
fn ours(line: &str) -> Option<(&str, u32)> {
    let (_, rest) = line.split_once(':')?;
    let name = rest.split_ascii_whitespace().next()?;
    let (group, _) = name.split_once('/')?;
    let pid = group.strip_prefix("apscope_")?.parse().ok()?;
    Some((name, pid))
}

/// Opens a trace event, gives it the program, and switches it on.
fn attach_perf(id: u64, program: BorrowedFd<'_>) -> Result<OwnedFd, (&'static str, io::Error)> {
    use aya_obj::generated::{perf_event_attr, perf_type_id};
    /// `PERF_EVENT_IOC_SET_BPF` and `PERF_EVENT_IOC_ENABLE` (uapi/linux/perf_event.h).
    const SET_BPF: libc::c_ulong = 0x4004_2408;
    const ENABLE: libc::c_ulong = 0x2400;
    /// `PERF_FLAG_FD_CLOEXEC`.
    const CLOEXEC: libc::c_ulong = 8;
    let last = io::Error::last_os_error;
    // SAFETY: plain data for which all zeroes is valid.
    let mut attr: perf_event_attr = unsafe { std::mem::zeroed() };
    attr.type_ = perf_type_id::PERF_TYPE_TRACEPOINT as u32;
    attr.size = size_of::<perf_event_attr>() as u32;
    attr.config = id;
    attr.__bindgen_anon_1.sample_period = 1;
    // A program runs wherever the event happens, whatever CPU the event was opened on.
    // SAFETY: `attr` is valid for the call.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            &raw const attr,
            -1,
            0,
            -1,
            CLOEXEC,
        )
    };
    let fd = i32::try_from(fd).unwrap_or(-1);
    if fd < 0 {
        return Err(("perf_event_open", last()));
    }
    // SAFETY: a descriptor that was just opened, and is nobody else's.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: the request takes a descriptor as its argument.
    if unsafe { libc::ioctl(fd.as_raw_fd(), SET_BPF as _, program.as_raw_fd()) } < 0 {
        return Err(("PERF_EVENT_IOC_SET_BPF", last()));
    }
    // SAFETY: the request takes no argument.
    if unsafe { libc::ioctl(fd.as_raw_fd(), ENABLE as _, 0) } < 0 {
        return Err(("PERF_EVENT_IOC_ENABLE", last()));
    }
    Ok(fd)
}

/// A child that removes this process's events should it be killed.
struct Guard {
    child: libc::pid_t,
    /// Its end is this process's end, for the child.
    _alive: OwnedFd,
}

impl Guard {
    fn start(tracefs: &Path, group: &str) -> io::Result<Self> {
        use std::os::unix::ffi::OsStrExt as _;
        // Everything that the child needs is made before the fork: afterwards it may only make system calls.
        let mut path = tracefs
            .join("kprobe_events")
            .as_os_str()
            .as_bytes()
            .to_vec();
        path.push(0);
        let commands: Vec<Vec<u8>> = (0..MOST)
            .map(|n| format!("-:{group}/{}\n", event_name(std::process::id(), n)).into_bytes())
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
    fn end(self) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_events_of_collectors_are_ours() {
        assert_eq!(
            ours("r2048:apscope_123/apscope_123_7 vfio_ap:handle_pqap"),
            Some(("apscope_123/apscope_123_7", 123))
        );
        assert_eq!(ours("p:kprobes/apscope_1 do_sys_open"), None);
        assert_eq!(ours("p:apscope_x/e1 do_sys_open"), None);
        assert_eq!(ours(""), None);
    }

    #[test]
    fn misses_are_the_third_column_of_our_events() {
        let profile = "  e0   100   3\n  e1  7  0\n  other 5 9\n  r12 1 4\n broken\n e2 3 1\n";
        let program = |name: &str| match name.chars().next() {
            Some('e') => Some("k_enter"),
            Some('r') => Some("k_return"),
            _ => None,
        };
        let missed: Vec<_> = missed_in(profile, program).into_iter().collect();
        assert_eq!(missed, [("k_enter", 4), ("k_return", 4)]);
        assert!(missed_in("", program).is_empty());
    }
}
