//! The emulated machine: its command line, its life. Takes a kernel, an initramfs and a shared folder, gives how it ended.
//! The machine ends at its deadline, and with this process, however that ends. Knows nothing of what runs inside.

use std::io::{BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::console::{self, Sink};
use crate::failure::Failure;
use crate::process;

/// The emulator.
pub const PROGRAM: &str = "qemu-system-s390x";
/// Ends a child when its parent ends (util-linux).
pub const LEASH: &str = "setpriv";

/// What the emulator says of its version, where it is here.
pub fn version() -> Option<String> {
    let text = process::output_of(PROGRAM, &["--version"])?;
    text.lines().next().map(str::to_owned)
}

/// Who has the serial console.
#[derive(Debug)]
pub enum Console {
    /// The terminal of this process, in raw mode; ctrl-a x ends the machine.
    Terminal,
    /// Lines go to a sink, nobody types.
    Lines(Sink),
}

/// A machine to be started.
#[derive(Debug)]
pub struct Machine<'a> {
    /// The kernel's image.
    pub image: &'a Path,
    /// Its initramfs.
    pub initramfs: &'a Path,
    /// Folder that is `/share` inside.
    pub share: &'a Path,
    /// Emulated CPUs.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory: u32,
    /// Words for the kernel's command line.
    pub words: Vec<String>,
    /// Longest life.
    pub deadline: Duration,
}

impl Machine<'_> {
    fn command(&self, terminal: bool) -> Command {
        let mut command = Command::new(LEASH);
        command
            .args(["--pdeathsig", "KILL", PROGRAM])
            // Several emulated CPUs run at once; `max` has what the kernels need, and no SIE, which the shim replaces.
            .args(["-M", "s390-ccw-virtio", "-accel", "tcg,thread=multi"])
            .args(["-cpu", "max", "-smp", &self.cpus.to_string()])
            .args(["-m", &format!("{}M", self.memory)])
            .args(["-display", "none", "-nodefaults", "-no-reboot"])
            .arg("-kernel")
            .arg(self.image)
            .arg("-initrd")
            .arg(self.initramfs)
            .arg("-fsdev")
            .arg(format!(
                "local,id=share,path={},security_model=none",
                self.share.display()
            ))
            .args(["-device", "virtio-9p-ccw,fsdev=share,mount_tag=share"])
            .arg("-append")
            .arg(format!(
                "console=ttysclp0 panic=-1 {}",
                self.words.join(" ")
            ));
        if terminal {
            command.args(["-serial", "mon:stdio"]);
        } else {
            command
                .args(["-monitor", "none", "-serial", "stdio"])
                .stdin(Stdio::null())
                .stdout(Stdio::piped());
        }
        command
    }

    /// Runs the machine until it powers off; how long that took.
    pub fn run(&self, console: Console) -> Result<Duration, Failure> {
        let start = Instant::now();
        let (mut command, sink) = match console {
            Console::Terminal => (self.command(true), None),
            Console::Lines(sink) => (self.command(false), Some(sink)),
        };
        let mut child = command.spawn().map_err(|e| {
            Failure::new("starting the machine")
                .cause(format!("{LEASH}: {e}"))
                .hint("cargo xtask lab doctor")
        })?;
        let reader = match (sink, child.stdout.take()) {
            (Some(sink), Some(stdout)) => Some(thread::spawn(move || follow(stdout, sink))),
            _ => None,
        };
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break Ok(status),
                Ok(None) if start.elapsed() >= self.deadline => {
                    kill(&mut child);
                    break Err(Failure::new("the machine did not end").cause(format!(
                        "it was ended after {}",
                        humantime::format_duration(self.deadline)
                    )));
                }
                Ok(None) => thread::sleep(Duration::from_millis(20)),
                Err(e) => {
                    kill(&mut child);
                    break Err(Failure::new("waiting for the machine").cause(e.to_string()));
                }
            }
        };
        if let Some(reader) = reader {
            // Its pipe is closed by now. A panic there would be a defect of the sink; there is nothing to add to it.
            let _ = reader.join();
        }
        let status = status?;
        if status.success() {
            Ok(start.elapsed())
        } else {
            Err(Failure::new("the machine did not run")
                .cause(format!("{PROGRAM}: {status}"))
                .hint("cargo xtask lab doctor"))
        }
    }
}

fn kill(child: &mut Child) {
    // It may have ended by itself in between.
    let _ = child.kill();
    let _ = child.wait();
}

fn follow(stdout: ChildStdout, mut sink: Sink) {
    let mut stdout = BufReader::new(stdout);
    let mut bytes = [0; 4096];
    let mut lines = console::Lines::default();
    loop {
        match stdout.read(&mut bytes) {
            Ok(0) | Err(_) => break,
            Ok(n) => {
                for line in lines.push(&bytes[..n]) {
                    sink.line(&line);
                }
            }
        }
    }
    if let Some(line) = lines.finish() {
        sink.line(&line);
    }
    // Nobody may be reading any more.
    let _ = std::io::stdout().flush();
}
