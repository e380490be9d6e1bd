//! `emulate`: the emulated driver as a process of its own, alone or under a collector.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::protocol::{Truth, abstract_name};
use super::run::Run;
use super::{Problem, control};
use crate::cli::values;
use crate::options::EmulatorOptions;

/// Options of `emulate`.
#[derive(Debug, Clone, PartialEq, clap::Args)]
pub struct EmulateArgs {
    /// Driver generation
    #[arg(long, default_value = "v5.13", value_name = "G")]
    pub generation: String,
    /// What the guests and administrators do
    #[arg(long, default_value = "steady", value_name = "S")]
    pub scenario: String,
    /// Seed of every actor's sequence of operations
    #[arg(
        long,
        default_value_t = 1,
        allow_negative_numbers = true,
        value_name = "N"
    )]
    pub seed: u64,
    /// Number of guests
    #[arg(long, default_value_t = 8, value_name = "N", allow_negative_numbers = true, value_parser = values::guests)]
    pub guests: u32,
    /// vCPUs of each guest
    #[arg(long, default_value_t = 2, value_name = "N", allow_negative_numbers = true, value_parser = values::vcpus)]
    pub vcpus: u32,
    /// Operations a second, relative to the scenario's own rate
    #[arg(long, default_value_t = 1.0, value_name = "X", allow_negative_numbers = true, value_parser = values::rate)]
    pub rate: f64,
    /// Stop after this time, for example 30s
    #[arg(long, value_name = "D", allow_negative_numbers = true, value_parser = values::duration)]
    pub duration: Option<Duration>,
    /// Write the ground truth to this file at the end
    #[arg(long, value_name = "FILE")]
    pub truth: Option<PathBuf>,
    /// Mount the emulated sysfs on this empty directory, as the root of a /sys; docs/sysfs.md describes it
    #[arg(long, value_name = "DIR")]
    pub mount: Option<PathBuf>,
    /// Socket to the collector, inherited
    #[arg(long, value_name = "N", hide = true)]
    pub control_fd: Option<RawFd>,
}

impl EmulateArgs {
    fn options(&self) -> EmulatorOptions {
        EmulatorOptions {
            generation: self.generation.clone(),
            scenario: self.scenario.clone(),
            seed: self.seed,
            guests: self.guests,
            vcpus: self.vcpus,
            rate: self.rate,
            mount: self.mount.clone(),
        }
    }
}

/// Runs the emulator until its end.
///
/// # Errors
///
/// Options that cannot be met, a truth file that cannot be written, a run that ended stuck.
pub fn run(args: &EmulateArgs) -> Result<(), Problem> {
    let run = Run::build(&args.options())?;
    // Opened now: an unwritable file is said before the run, not after it.
    let truth = args.truth.as_ref().map(TruthFile::create).transpose()?;
    match args.control_fd {
        Some(fd) => under_a_collector(fd, &run, truth),
        None => alone(args, &Arc::new(run), truth),
    }
}

struct TruthFile<'a> {
    path: &'a PathBuf,
    file: File,
}

impl<'a> TruthFile<'a> {
    fn problem(path: &std::path::Path, error: &io::Error) -> Problem {
        Problem::new(
            format!("{} could not be written", path.display()),
            error.to_string(),
            "--truth with a file in a directory you can write to",
        )
    }

    fn create(path: &'a PathBuf) -> Result<Self, Problem> {
        let file = File::create(path).map_err(|e| Self::problem(path, &e))?;
        Ok(Self { path, file })
    }

    fn write(mut self, truth: &Truth) -> Result<(), Problem> {
        serde_json::to_writer_pretty(&mut self.file, truth)
            .map_err(io::Error::from)
            .and_then(|()| self.file.write_all(b"\n"))
            .map_err(|e| Self::problem(self.path, &e))
    }
}

/// The collector decides when to start and stop; the end of the connection is the end.
fn under_a_collector(fd: RawFd, run: &Run, truth: Option<TruthFile<'_>>) -> Result<(), Problem> {
    let stream = control::inherited(fd)?;
    // ctrl-c, the end of a terminal and timeout(1) reach the whole foreground group; the collector handles them and stops the
    // emulator in order.
    for signal in [libc::SIGINT, libc::SIGHUP, libc::SIGTERM] {
        // SAFETY: setting a signal to be ignored has no precondition.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    // An error here means that the collector is gone.
    let end = control::serve(&stream, run).unwrap_or(control::End::Closed);
    match truth {
        Some(file) if end == control::End::Stopped => file.write(&run.stop()),
        _ => Ok(()),
    }
}

/// Runs at once, and lets collectors attach.
fn alone(args: &EmulateArgs, run: &Arc<Run>, truth: Option<TruthFile<'_>>) -> Result<(), Problem> {
    let signals = Signals::block();
    let stopped = Arc::new(AtomicBool::new(false));
    listen(run, &stopped)?;
    run.go()?;
    eprintln!(
        "EMULATED {} driver, scenario {}, pid {}; ctrl-c ends it",
        args.generation,
        args.scenario,
        std::process::id()
    );
    let until = args.duration.map(|d| Instant::now() + d);
    while !stopped.load(Ordering::SeqCst) {
        let left = until.map_or(Duration::MAX, |t| {
            t.saturating_duration_since(Instant::now())
        });
        if left.is_zero() || signals.wait(left.min(Duration::from_millis(50))) {
            break;
        }
    }
    let result = run.stop();
    if let Some(file) = truth {
        file.write(&result)?;
    }
    if result.ended == "stuck" {
        return Err(Problem::new(
            "the run ended stuck",
            some_of(&result.in_flight),
            "--truth FILE lists the operations in flight, and who waited for whom",
        ));
    }
    Ok(())
}

/// The first operations, and how many more there are.
fn some_of(in_flight: &[String]) -> String {
    const SHOWN: usize = 4;
    let mut text = in_flight
        .iter()
        .take(SHOWN)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ");
    if in_flight.len() > SHOWN {
        let _ = write!(text, " and {} more", in_flight.len() - SHOWN);
    }
    text
}

/// Accepts collectors in the background. A collector that leaves does not end the run; one that says stop does.
fn listen(run: &Arc<Run>, stopped: &Arc<AtomicBool>) -> Result<(), Problem> {
    let name = abstract_name(std::process::id());
    let listener = SocketAddr::from_abstract_name(&name)
        .and_then(|address| UnixListener::bind_addr(&address))
        .map_err(|error| {
            Problem::new(
                format!("the socket @{name} could not be opened"),
                error.to_string(),
                "run where Unix sockets are permitted",
            )
        })?;
    let (run, stopped) = (Arc::clone(run), Arc::clone(stopped));
    let accept = move || {
        for stream in listener.incoming().flatten() {
            if !peer_is_permitted(&stream) {
                continue;
            }
            let (run, stopped) = (Arc::clone(&run), Arc::clone(&stopped));
            // Without a thread for it the collector sees the connection close.
            let _ = std::thread::Builder::new()
                .name("control".into())
                .spawn(move || {
                    if let Ok(control::End::Stopped) = control::serve(&stream, &run) {
                        stopped.store(true, Ordering::SeqCst);
                    }
                });
        }
    };
    std::thread::Builder::new()
        .name("listen".into())
        .spawn(accept)
        .map(drop)
        .map_err(|error| {
            Problem::new(
                "a thread could not be started",
                error.to_string(),
                "a higher limit on processes (ulimit -u)",
            )
        })
}

/// The same user, or root.
fn peer_is_permitted(stream: &UnixStream) -> bool {
    let mut peer = libc::ucred {
        pid: 0,
        uid: libc::uid_t::MAX,
        gid: 0,
    };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the descriptor is open, and the kernel writes at most `length` bytes to `peer`.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &raw mut length,
        )
    };
    // SAFETY: geteuid has no precondition.
    let own = unsafe { libc::geteuid() };
    result == 0 && (peer.uid == 0 || peer.uid == own)
}

/// SIGINT and SIGTERM, blocked in this thread and all it starts, and waited for.
struct Signals(libc::sigset_t);

impl Signals {
    fn block() -> Self {
        let mut set = std::mem::MaybeUninit::uninit();
        // SAFETY: sigemptyset initialises the set; the others take a valid set and valid signal numbers.
        let set = unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            let mut set = set.assume_init();
            libc::sigaddset(&raw mut set, libc::SIGINT);
            libc::sigaddset(&raw mut set, libc::SIGTERM);
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
            set
        };
        Self(set)
    }

    /// Waits for one of them; `false` when none came in time.
    fn wait(&self, time: Duration) -> bool {
        let time = libc::timespec {
            tv_sec: libc::time_t::try_from(time.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: time.subsec_nanos().into(),
        };
        // SAFETY: the set and the time are valid; no information about the signal is asked for.
        unsafe { libc::sigtimedwait(&raw const self.0, std::ptr::null_mut(), &raw const time) > 0 }
    }
}
