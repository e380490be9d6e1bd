//! The guard: a small process that takes the mount away when the emulator is gone, however it went.
//!
//! The kernel leaves the mount of a killed FUSE program in place; every access to it fails with `ENOTCONN`. The guard is
//! this program again, started before the mount is made. Its standard input is a pipe whose other end only the emulator
//! has, so that the end of file says that the emulator is gone. It lives in a session of its own, out of reach of ctrl-c.

use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::place;

/// Name of the hidden command.
pub const COMMAND: &str = "unmount-guard";

/// Arguments of the guard.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct GuardArgs {
    /// Mount point
    pub point: PathBuf,
    /// Source of the mount
    pub mount_source: String,
}

/// Keeps the guard waiting; dropped or closed with the process, it lets the guard do its work.
#[derive(Debug)]
pub struct Lifeline {
    _writer: io::PipeWriter,
}

/// Starts the guard of a mount that is about to be made.
pub fn start(point: &Path, source: &str) -> io::Result<Lifeline> {
    let (reader, writer) = io::pipe()?;
    Command::new(std::env::current_exe()?)
        .arg(COMMAND)
        .arg("--")
        .arg(point)
        .arg(source)
        .stdin(Stdio::from(reader))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .current_dir("/")
        // ctrl-c goes to the foreground group.
        .process_group(0)
        .spawn()?;
    Ok(Lifeline { _writer: writer })
}

/// The guard itself: waits for the end of its standard input, then unmounts.
pub fn run(args: &GuardArgs) {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: setting a signal to be ignored has no precondition.
        unsafe {
            libc::signal(signal, libc::SIG_IGN);
        }
    }
    // Nobody writes; an error is an end like any other.
    let _ = io::copy(&mut io::stdin().lock().by_ref(), &mut io::sink());
    place::unmount(&args.point, &args.mount_source);
}
