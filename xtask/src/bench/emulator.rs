//! The emulated driver without a collector: started, told to go and to stop, over the protocol of `apscope emulate`.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::compare::count;
use crate::failure::Failure;

/// A running emulator; ended when dropped.
pub struct Emulator {
    child: Child,
    socket: UnixStream,
    replies: BufReader<UnixStream>,
    /// What it says of itself.
    pub hello: Value,
}

impl Emulator {
    /// Starts `apscope emulate` with these options, and reads its description. Its actors wait.
    pub fn start(binary: &Path, options: &[&str]) -> Result<Self, Failure> {
        let failed = |e: std::io::Error| Failure::file("starting", binary, &e);
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        let child = Command::new(binary)
            .args(["emulate", "--control-fd", "0"])
            .args(options)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .spawn()
            .map_err(failed)?;
        ours.set_read_timeout(Some(Duration::from_secs(60)))
            .map_err(failed)?;
        let replies = BufReader::new(ours.try_clone().map_err(failed)?);
        let mut emulator = Self {
            child,
            socket: ours,
            replies,
            hello: Value::Null,
        };
        emulator.hello = emulator.reply("hello")?;
        Ok(emulator)
    }

    /// Lets the actors run for a time. Returns how long they ran and the ground truth.
    pub fn run(&mut self, duration: Duration) -> Result<(Duration, Value), Failure> {
        let started = Instant::now();
        self.request("go")?;
        std::thread::sleep(duration);
        self.request("stop")?;
        let stopped = self.reply("stopped")?;
        Ok((started.elapsed(), stopped["truth"].clone()))
    }

    /// Most memory that the process had so far, in KiB.
    pub fn peak_rss_kib(&self) -> Result<u64, Failure> {
        let file = PathBuf::from(format!("/proc/{}/status", self.child.id()));
        let status =
            std::fs::read_to_string(&file).map_err(|e| Failure::file("reading", &file, &e))?;
        status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"))
            .and_then(|kib| kib.parse().ok())
            .ok_or_else(|| Failure::new("the emulator's process has no VmHWM"))
    }

    /// File offset of a probe point.
    pub fn point(&self, module: &str, symbol: &str) -> Result<u64, Failure> {
        self.hello["points"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|p| p["module"] == module && p["symbol"] == symbol)
            .map(|p| count(&p["file_offset"]))
            .ok_or_else(|| Failure::new(format!("the emulator has no probe point {symbol}")))
    }

    fn request(&mut self, what: &str) -> Result<(), Failure> {
        writeln!(self.socket, "\"{what}\"").map_err(|e| {
            Failure::new(format!("telling the emulator to {what}")).cause(e.to_string())
        })
    }

    fn reply(&mut self, expected: &str) -> Result<Value, Failure> {
        let failure = || Failure::new(format!("waiting for the emulator's \"{expected}\""));
        let mut line = String::new();
        self.replies
            .read_line(&mut line)
            .map_err(|e| failure().cause(e.to_string()))?;
        let mut reply: Value =
            serde_json::from_str(&line).map_err(|e| failure().cause(e.to_string()))?;
        match reply.get_mut(expected) {
            Some(content) => Ok(content.take()),
            None => Err(failure().cause(line.trim().to_owned())),
        }
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        // End of file ends the emulator; the kill is for one that hangs.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        let deadline = Instant::now() + Duration::from_secs(2);
        while Instant::now() < deadline {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
