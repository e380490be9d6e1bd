//! A daemon for a check: started, asked over HTTP, stopped.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::failure::Failure;

/// A port on loopback that was free a moment ago.
pub fn free_port() -> Result<u16, Failure> {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .map(|at| at.port())
        .map_err(|error| Failure::new("finding a free port").cause(error.to_string()))
}

/// The body of an answer on loopback; an error where there is none, or it is no success.
pub fn get(port: u16, path: &str) -> Result<String, Failure> {
    let failed =
        |cause: String| Failure::new(format!("asking http://127.0.0.1:{port}{path}")).cause(cause);
    let mut text = Vec::new();
    TcpStream::connect(("127.0.0.1", port))
        .and_then(|mut stream| {
            stream.set_read_timeout(Some(Duration::from_secs(30)))?;
            // 1.0: the body comes in one piece.
            write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
            stream.read_to_end(&mut text)
        })
        .map_err(|error| failed(error.to_string()))?;
    let text = String::from_utf8_lossy(&text);
    let (head, body) = text
        .split_once("\r\n\r\n")
        .ok_or_else(|| failed("no answer".into()))?;
    let status = head.lines().next().unwrap_or_default();
    if !status.contains(" 200 ") {
        return Err(failed(format!("{status}: {}", body.trim())));
    }
    Ok(body.to_owned())
}

/// `apscope serve`, stopped when dropped.
pub struct Daemon {
    child: Child,
    program: PathBuf,
    /// Its socket.
    pub socket: PathBuf,
    /// Where its metrics are.
    pub port: u16,
}

impl Daemon {
    /// Starts it on the emulated driver, and waits until it is well.
    pub fn start(program: &Path, folder: &Path, more: &[&str]) -> Result<Self, Failure> {
        let socket = folder.join("collector.sock");
        let port = free_port()?;
        let child = Command::new(program)
            .args(["serve", "--source", "emulator", "--listen"])
            .arg(format!("unix:{}", socket.display()))
            .args(["--metrics", &port.to_string()])
            .args(more)
            .stdin(Stdio::null())
            .spawn()
            .map_err(|e| Failure::file("running", program, &e))?;
        let daemon = Self {
            child,
            program: program.to_owned(),
            socket,
            port,
        };
        let deadline = Instant::now() + Duration::from_secs(60);
        while let Err(failure) = get(port, "/healthz") {
            if Instant::now() > deadline {
                return Err(failure);
            }
            sleep(Duration::from_millis(100));
        }
        Ok(daemon)
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A metric, added up over all its labels.
    pub fn metric(&self, name: &str) -> Result<f64, Failure> {
        let text = get(self.port, "/metrics")?;
        let of = |line: &&str| line.split([' ', '{']).next() == Some(name);
        Ok(text
            .lines()
            .filter(of)
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum())
    }

    /// An export over its socket, begun now; it ends after this time, or with the daemon.
    pub fn export(&self, duration: &str, out: &Path) -> Result<Child, Failure> {
        Command::new(&self.program)
            .args([
                "export",
                "-q",
                "--format",
                "json",
                "--duration",
                duration,
                "--connect",
            ])
            .arg(format!("unix:{}", self.socket.display()))
            .arg("-o")
            .arg(out)
            .stdin(Stdio::null())
            .spawn()
            .map_err(|e| Failure::file("running", &self.program, &e))
    }

    /// What it says after a second, over its socket.
    pub fn now(&self, folder: &Path) -> Result<Value, Failure> {
        let out = folder.join("now.json");
        finished(self.export("1s", &out)?, "exporting over the socket")?;
        read(&out)
    }

    /// Stops it in order.
    pub fn stop(mut self) -> Result<(), Failure> {
        signal(self.child.id(), "TERM")?;
        let status = self.child.wait();
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(Failure::new("stopping the daemon").cause(status.to_string())),
            Err(error) => Err(Failure::new("stopping the daemon").cause(error.to_string())),
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It has ended, or something has failed before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits for a child that must succeed.
pub fn finished(mut child: Child, what: &str) -> Result<(), Failure> {
    match child.wait() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Failure::new(what).cause(status.to_string())),
        Err(error) => Err(Failure::new(what).cause(error.to_string())),
    }
}

/// Reads a file of JSON.
pub fn read(path: &Path) -> Result<Value, Failure> {
    let text = fs::read_to_string(path).map_err(|e| Failure::file("reading", path, &e))?;
    serde_json::from_str(&text)
        .map_err(|e| Failure::new(format!("{} is not JSON", path.display())).cause(e.to_string()))
}

/// Sends a signal to a process that a check has started.
pub fn signal(pid: u32, name: &str) -> Result<(), Failure> {
    crate::process::run(
        Command::new("kill").args([&format!("-{name}"), &pid.to_string()]),
        &format!("sending SIG{name}"),
    )
}
