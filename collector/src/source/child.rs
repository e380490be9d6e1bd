//! The emulator's process: started or found, spoken to over its socket, and ended.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::{SourceError, confine};
use crate::emulator::protocol::{self, Hello, Reply, Request};
use crate::options::EmulatorOptions;

/// How long an emulator may take to build its objects.
const HELLO_TIMEOUT: Duration = Duration::from_secs(20);
/// Longest line accepted from an emulator.
const MAX_LINE: u64 = 64 << 20;

/// A connection to an emulator, and its process if it is ours.
pub struct Emulator {
    stream: UnixStream,
    child: Option<Child>,
    /// What it said of itself.
    pub hello: Hello,
    /// Its answers; closed when it is gone.
    pub replies: mpsc::UnboundedReceiver<Reply>,
}

fn error(what: &str, cause: &(impl ToString + ?Sized), hint: &str) -> SourceError {
    SourceError {
        what: what.into(),
        cause: cause.to_string(),
        hint: hint.into(),
    }
}

impl Emulator {
    /// Starts an emulator: this program again, as `emulate`, with a socket as its standard input.
    pub fn start(options: &EmulatorOptions) -> Result<Self, SourceError> {
        let failed = |e: io::Error| {
            error(
                "cannot start the emulated driver",
                &e,
                "run `apscope emulate` to see why",
            )
        };
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        let program = std::env::current_exe().map_err(failed)?;
        let mut command = Command::new(program);
        command.arg("emulate");
        if let Some(folder) = &options.mount {
            command.arg("--mount").arg(folder);
        }
        let child = command
            .args(["--control-fd", "0"])
            .args(["--generation", &options.generation])
            .args(["--scenario", &options.scenario])
            .args(["--seed", &options.seed.to_string()])
            .args(["--guests", &options.guests.to_string()])
            .args(["--vcpus", &options.vcpus.to_string()])
            .args(["--rate", &options.rate.to_string()])
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(nowhere().map_err(failed)?)
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        Self::connect(ours, Some(child))
    }

    /// Connects to an emulator that was started on its own.
    pub fn find(pid: u32) -> Result<Self, SourceError> {
        let hint = "start one with `apscope emulate`, and give the pid it prints; it must be the same user's";
        let failed =
            |e: io::Error| error(&format!("no emulated driver in process {pid}"), &e, hint);
        let address =
            SocketAddr::from_abstract_name(protocol::abstract_name(pid)).map_err(failed)?;
        let stream = UnixStream::connect_addr(&address).map_err(failed)?;
        Self::connect(stream, None)
    }

    fn connect(stream: UnixStream, mut child: Option<Child>) -> Result<Self, SourceError> {
        let what = "the emulated driver did not start";
        stream
            .set_read_timeout(Some(HELLO_TIMEOUT))
            .map_err(|e| error(what, &e, "try again"))?;
        let mut reader = BufReader::new(
            stream
                .try_clone()
                .map_err(|e| error(what, &e, "raise the limit of open files"))?,
        );
        let first = read_reply(&mut reader);
        let hello = match first {
            Ok(Some(Reply::Hello(hello))) if hello.version == protocol::VERSION => *hello,
            Ok(Some(Reply::Hello(hello))) => {
                let cause = format!(
                    "it speaks protocol version {}, this is {}",
                    hello.version,
                    protocol::VERSION
                );
                return Err(error(
                    what,
                    &cause,
                    "use the same version of apscope for both",
                ));
            }
            Ok(Some(Reply::Error { message })) => {
                return Err(error(what, &message, "run `apscope emulate` alone"));
            }
            Ok(Some(_)) => {
                return Err(error(
                    what,
                    "it said something else than hello",
                    "use the same version of both",
                ));
            }
            Ok(None) => {
                let cause = child
                    .as_mut()
                    .map_or_else(|| "it hung up".to_owned(), last_words);
                return Err(error(
                    what,
                    &cause,
                    "run `apscope emulate` alone to see more",
                ));
            }
            Err(e) => return Err(error(what, &e, "run `apscope emulate` alone to see more")),
        };
        stream
            .set_read_timeout(None)
            .map_err(|e| error(what, &e, "try again"))?;
        let (sender, replies) = mpsc::unbounded_channel();
        std::thread::Builder::new()
            .name("emulator-replies".into())
            .spawn(move || {
                // It reads from a socket, and needs no privilege for that; one that it cannot give up does no harm.
                let _ = confine::keep(&[]);
                let _ = confine::no_new_privileges();
                while let Ok(Some(reply)) = read_reply(&mut reader) {
                    if sender.send(reply).is_err() {
                        break;
                    }
                }
            })
            .map_err(|e| error(what, &e, "raise the limit of threads"))?;
        Ok(Self {
            stream,
            child,
            hello,
            replies,
        })
    }

    /// Sends a request.
    pub fn send(&mut self, request: &Request) -> io::Result<()> {
        let mut line = serde_json::to_vec(request).map_err(io::Error::other)?;
        line.push(b'\n');
        self.stream.write_all(&line)
    }

    /// The next answer; `None` if the emulator is gone or does not answer in time.
    pub fn wait_reply(&mut self) -> Option<Reply> {
        let start = Instant::now();
        loop {
            match self.replies.try_recv() {
                Ok(reply) => return Some(reply),
                Err(mpsc::error::TryRecvError::Disconnected) => return None,
                Err(mpsc::error::TryRecvError::Empty) if start.elapsed() > HELLO_TIMEOUT => {
                    return None;
                }
                Err(mpsc::error::TryRecvError::Empty) => {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }
    }

    /// It was started by this process, and ends with it.
    pub fn is_ours(&self) -> bool {
        self.child.is_some()
    }

    /// The process has ended, or has closed the connection.
    pub fn is_gone(&mut self) -> bool {
        match &mut self.child {
            Some(child) => !matches!(child.try_wait(), Ok(None)),
            None => self.replies.is_closed(),
        }
    }

    /// Why it is gone: its exit status and what it said last.
    pub fn epitaph(&mut self) -> String {
        match &mut self.child {
            Some(child) => last_words(child),
            None => format!("process {} closed the connection", self.hello.pid),
        }
    }

    /// Closes the connection, which ends an emulator of ours; one that does not end is killed.
    pub fn end(mut self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        let Some(mut child) = self.child.take() else {
            return;
        };
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(2) {
            if matches!(child.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = child.kill();
        let _ = child.wait();
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn read_reply(reader: &mut BufReader<UnixStream>) -> io::Result<Option<Reply>> {
    use std::io::Read as _;
    let mut line = Vec::new();
    if reader
        .by_ref()
        .take(MAX_LINE)
        .read_until(b'\n', &mut line)?
        == 0
    {
        return Ok(None);
    }
    serde_json::from_slice(&line)
        .map(Some)
        .map_err(io::Error::other)
}

/// Exit status and last line on standard error of a process that has closed its socket.
fn last_words(child: &mut Child) -> String {
    use std::io::Read as _;
    let start = Instant::now();
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Some(status),
            Ok(None) if start.elapsed() < Duration::from_secs(1) => {
                std::thread::sleep(Duration::from_millis(5));
            }
            _ => break None,
        }
    };
    let Some(status) = status else {
        return format!("process {} closed the connection and goes on", child.id());
    };
    let mut said = String::new();
    if let Some(stderr) = &mut child.stderr {
        let _ = stderr.take(4096).read_to_string(&mut said);
    }
    let said = said.trim();
    if said.is_empty() {
        format!("process {} ended ({status})", child.id())
    } else {
        format!(
            "process {} ended ({status}): {}",
            child.id(),
            said.replace('\n', "; ")
        )
    }
}

/// Standard output of a process that writes none: /dev/null, or in a root folder without devices the end of a pipe that
/// nobody reads.
fn nowhere() -> io::Result<Stdio> {
    match File::options().write(true).open("/dev/null") {
        Ok(null) => Ok(null.into()),
        Err(_) => io::pipe().map(|(_, writer)| writer.into()),
    }
}
