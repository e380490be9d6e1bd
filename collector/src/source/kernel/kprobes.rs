//! kprobes and kretprobes through tracefs: events of our own, with a program attached to each.
//!
//! tracefs and not the kprobe event source, because only tracefs gives a return probe a pool of instances of a chosen
//! size (a vCPU that blocks keeps one), and because only tracefs counts what was missed. What tracefs has made outlives
//! this process, so a child waits for its end and removes what is left: see [`Guard`].

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::ops::Range;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::guard::Guard;

/// Instances of a return probe: tasks that can be inside the function at once.
const RETURN_INSTANCES: u32 = 2048;
/// Most events of one process: their names are made before the first is.
const MOST: usize = 256;
/// Numbers from here on are for sampling, whose events may stay when it is given up.
const SAMPLED_FROM: usize = 192;

/// How often misses are read.
const READ_EVERY: Duration = Duration::from_millis(100);

/// The events of this process. Several threads may use it: what the kernel is asked never happens under the lock, so that
/// a thread that does not come back holds up no other.
pub struct Kprobes {
    tracefs: PathBuf,
    group: String,
    /// Numbers that events have.
    numbers: Range<usize>,
    events: Mutex<Events>,
    /// Times that misses were read.
    readings: AtomicU64,
    /// Its events end before the guard does.
    guard: Mutex<Option<Guard>>,
}

#[derive(Default)]
struct Events {
    all: Vec<Event>,
    /// Misses of events that were removed, by program.
    gone: BTreeMap<&'static str, u64>,
}

struct Event {
    name: String,
    /// Name of its program.
    program: &'static str,
    perf: Option<OwnedFd>,
    /// Hits that the kernel missed, as last read.
    missed: u64,
}

/// What events are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Measuring.
    Measures,
    /// Sampling, before.
    Samples,
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
    pub fn new(tracefs: &Path, what: What) -> io::Result<Self> {
        remove_stale(tracefs);
        let group = format!("apscope_{}", std::process::id());
        let names = (0..MOST).map(|n| event_name(std::process::id(), n));
        let guard = Guard::start(tracefs, &group, names)?;
        Ok(Self::with_guard(tracefs, group, what, Some(guard)))
    }

    fn with_guard(tracefs: &Path, group: String, what: What, guard: Option<Guard>) -> Self {
        Self {
            tracefs: tracefs.to_owned(),
            group,
            numbers: match what {
                What::Measures => 0..SAMPLED_FROM,
                What::Samples => SAMPLED_FROM..MOST,
            },
            events: Mutex::default(),
            readings: AtomicU64::new(0),
            guard: Mutex::new(guard),
        }
    }

    /// So many events, below a folder that is no tracefs.
    #[cfg(test)]
    pub fn made_up(folder: &Path, count: usize) -> Arc<Self> {
        // Nothing but a place for commands.
        let _ = fs::write(folder.join("kprobe_events"), "");
        let group = format!("apscope_{}", std::process::id());
        let kprobes = Self::with_guard(folder, group, What::Measures, None);
        kprobes.events().all.extend((0..count).map(|n| Event {
            name: event_name(std::process::id(), n),
            program: "k_enter",
            perf: None,
            missed: 0,
        }));
        Arc::new(kprobes)
    }

    /// Nothing panics with the lock in its hands; what it protects is whole after every statement.
    fn events(&self) -> MutexGuard<'_, Events> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes an event and attaches a program to it.
    ///
    /// # Errors
    ///
    /// The kernel's answer, with the step that failed.
    pub fn attach(
        &self,
        place: &Place,
        side: Side,
        (program_name, program): (&'static str, BorrowedFd<'_>),
    ) -> Result<(), String> {
        let (number, name) = {
            let mut events = self.events();
            let number = events.all.len();
            if number >= self.numbers.len() {
                return Err(format!("more than {number} kprobes"));
            }
            let name = event_name(std::process::id(), self.numbers.start + number);
            // On record before it is made: it is removed even if what follows does not come back.
            events.all.push(Event {
                name: name.clone(),
                program: program_name,
                perf: None,
                missed: 0,
            });
            (number, name)
        };
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
        // An event that was removed meanwhile is detached with `perf`.
        if let Some(event) = self.events().all.get_mut(number) {
            event.perf = Some(perf);
        }
        Ok(())
    }

    /// Number of events.
    pub fn len(&self) -> usize {
        self.events().all.len()
    }

    /// Ends all events from this number on.
    pub fn truncate(&self, len: usize) {
        self.read();
        let gone: Vec<Event> = {
            let mut events = self.events();
            let len = len.min(events.all.len());
            let gone = events.all.split_off(len);
            for event in &gone {
                *events.gone.entry(event.program).or_default() += event.missed;
            }
            gone
        };
        for event in gone.into_iter().rev() {
            drop(event.perf);
            let command = format!("-:{}/{}\n", self.group, event.name);
            // A module that was unloaded has taken its events along.
            let _ = write_events(&self.tracefs, command.as_bytes());
        }
    }

    /// Ends all events, and the guard.
    pub fn end(&self) {
        self.truncate(0);
        let guard = self.guard.lock().map(|mut guard| guard.take());
        if let Ok(Some(guard)) = guard {
            guard.end();
        }
    }

    /// Hits that the kernel missed, by program, as last read. Waits for nothing.
    pub fn missed(&self) -> BTreeMap<&'static str, u64> {
        let events = self.events();
        let mut missed = events.gone.clone();
        for event in &events.all {
            *missed.entry(event.program).or_default() += event.missed;
        }
        missed.retain(|_, missed| *missed != 0);
        missed
    }

    /// Reads what was missed (`kprobe_profile`): a probe inside a probe, or a return probe out of instances. The kernel
    /// takes its `event_mutex` for that (probes_profile_seq_op, kernel/trace/trace_kprobe.c), so it may not come back.
    fn read(&self) {
        // Without it, what was known stays.
        let profile = fs::read_to_string(self.tracefs.join("kprobe_profile")).unwrap_or_default();
        let mut events = self.events();
        for (name, missed) in missed_in(&profile) {
            // The profile has names without their groups, which is why ours have the process in them.
            let number = name
                .strip_prefix(&self.group)
                .and_then(|rest| rest.strip_prefix('_'))
                .and_then(|number| number.parse::<usize>().ok())
                .and_then(|number| number.checked_sub(self.numbers.start));
            if let Some(event) = number.and_then(|number| events.all.get_mut(number)) {
                event.missed = event.missed.max(missed);
            }
        }
        drop(events);
        self.readings.fetch_add(1, Ordering::Release);
    }

    /// Reads what was missed, again and again, on a thread of its own, as long as the events are there.
    pub fn keep_reading(this: &Arc<Self>) {
        let events = Arc::downgrade(this);
        let spawned = std::thread::Builder::new()
            .name("misses".into())
            .spawn(move || {
                while let Some(kprobes) = events.upgrade() {
                    kprobes.read();
                    drop(kprobes);
                    std::thread::sleep(READ_EVERY);
                }
            });
        // Without a thread, misses are read at the end only.
        drop(spawned);
    }

    /// Waits until misses were read from now on, at most this long.
    pub fn read_again(&self, at_most: Duration) {
        let deadline = Instant::now() + at_most;
        // The reading that goes on may have begun before.
        let enough = self.readings.load(Ordering::Acquire) + 2;
        while self.readings.load(Ordering::Acquire) < enough && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Names, and the third column: `name hits misses`.
fn missed_in(profile: &str) -> impl Iterator<Item = (&str, u64)> {
    profile.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let (name, _hits, missed) = (words.next()?, words.next()?, words.next()?);
        Some((name, missed.parse().ok()?))
    })
}

impl Drop for Kprobes {
    fn drop(&mut self) {
        self.end();
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

    fn made(folder: &Path) -> Arc<Kprobes> {
        let group = format!("apscope_{}", std::process::id());
        Arc::new(Kprobes::with_guard(folder, group, What::Measures, None))
    }

    #[test]
    fn misses_are_the_third_column_of_the_profile() {
        let profile = "  e0   100   3\n  e1  7  0\n broken\n e2 3 x\n";
        let missed: Vec<_> = missed_in(profile).collect();
        assert_eq!(missed, [("e0", 3), ("e1", 0)]);
    }

    #[test]
    fn misses_are_read_while_an_attach_does_not_come_back() {
        let folder = tempfile::tempdir().unwrap();
        // Nobody reads from this: whoever opens it to write waits for ever.
        let events = folder.path().join("kprobe_events");
        let path = std::ffi::CString::new(events.to_str().unwrap()).unwrap();
        // SAFETY: a path that ends with a NUL.
        assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
        let kprobes = made(folder.path());
        Kprobes::keep_reading(&kprobes);
        let attaching = Arc::clone(&kprobes);
        let attach = std::thread::spawn(move || {
            let program = fs::File::open("/dev/null").unwrap();
            let program = ("k_enter", std::os::fd::AsFd::as_fd(&program));
            let _ = attaching.attach(&Place::Address(8), Side::Entry, program);
        });
        let deadline = Instant::now() + Duration::from_secs(10);
        while kprobes.len() == 0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(kprobes.len(), 1, "the attach has begun");
        for missed in [3, 5] {
            let name = event_name(std::process::id(), 0);
            let profile = format!("  {name} 100 {missed}\n  other_0 7 9\n");
            fs::write(folder.path().join("kprobe_profile"), profile).unwrap();
            kprobes.read_again(Duration::from_secs(10));
            assert_eq!(kprobes.missed(), BTreeMap::from([("k_enter", missed)]));
        }
        // Lets the thread go: its write finds a reader, and what it does then fails.
        let both = fs::OpenOptions::new().read(true).write(true).open(&events);
        attach.join().unwrap();
        drop(both);
        // What follows writes to a file.
        fs::remove_file(&events).unwrap();
        fs::write(&events, "").unwrap();
    }

    #[test]
    fn what_removed_events_have_missed_stays() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("kprobe_events"), "").unwrap();
        let kprobes = made(folder.path());
        for (n, program) in ["k_enter", "k_return", "k_enter"].into_iter().enumerate() {
            kprobes.events().all.push(Event {
                name: event_name(std::process::id(), n),
                program,
                perf: None,
                missed: 0,
            });
        }
        let name = |n| event_name(std::process::id(), n);
        let profile = format!("{} 1 2\n{} 1 4\n{} 1 8\n", name(0), name(1), name(2));
        fs::write(folder.path().join("kprobe_profile"), profile).unwrap();
        kprobes.truncate(1);
        let expected = BTreeMap::from([("k_enter", 10), ("k_return", 4)]);
        assert_eq!(kprobes.missed(), expected);
        fs::write(folder.path().join("kprobe_profile"), "").unwrap();
        kprobes.read();
        assert_eq!(kprobes.missed(), expected);
    }
}
