//! One start of a kernel: the folder that it shares, the script that it executes, and how that ended. What the script
//! leaves in the share's `out` is read by whoever asked for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};

use super::console::Sink;
use super::initramfs;
use super::kernels::Kernel;
use super::programs::Programs;
use super::qemu::{Console, Machine};
use crate::failure::Failure;

/// What a dashboard that was ended with its machine has not undone: the mouse, the second screen, the hidden cursor, colours.
const LEAVE: &str = "\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?1049l\x1b[?25h\x1b[0m";

/// Options of the machine.
#[derive(Debug, Clone, clap::Args)]
pub struct Hardware {
    /// Emulated CPUs
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=16))]
    pub cpus: u32,
    /// Memory of the machine, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(256..=65536))]
    pub memory: u32,
    /// Options of the shim that stands for AP hardware, for example reset_ms=200
    #[arg(long = "shim", value_name = "NAME=VALUE")]
    pub shim: Vec<String>,
    /// Grace periods of RCU are expedited. Who attaches or detaches waits, asleep, for some with each probe.
    #[arg(skip)]
    pub expedited: bool,
}

impl Default for Hardware {
    fn default() -> Self {
        Self {
            cpus: 2,
            memory: 1024,
            shim: Vec::new(),
            expedited: false,
        }
    }
}

/// A kernel with everything it needs to be started.
#[derive(Debug)]
pub struct Guest {
    /// What is booted.
    pub kernel: Kernel,
    /// `/share` inside.
    pub share: PathBuf,
    folder: PathBuf,
    /// One machine at a time has the folder.
    _lock: Flock<fs::File>,
}

/// How a guest ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Exit code of the script.
    pub code: u8,
    /// From starting the machine to its end.
    pub took: Duration,
}

impl Guest {
    /// Prepares a guest in a folder of its own. Files that people put into the share stay; results of the run before go.
    pub fn new(folder: &Path, kernel: Kernel, programs: &Programs) -> Result<Self, Failure> {
        fs::create_dir_all(folder).map_err(|e| Failure::file("creating", folder, &e))?;
        let lock = folder.join("lock");
        let lock = fs::File::create(&lock).map_err(|e| Failure::file("creating", &lock, &e))?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock).map_err(|(_, e)| {
            Failure::new(format!("a machine runs in {}", folder.display()))
                .cause(e.to_string())
                .hint("end it, or wait until it has ended")
        })?;
        let share = folder.join("share");
        let fresh = |path: &Path| {
            // What is not there need not go.
            let _ = fs::remove_dir_all(path);
            fs::create_dir_all(path).map_err(|e| Failure::file("creating", path, &e))
        };
        fresh(&share.join("bin"))?;
        fresh(&share.join("out"))?;
        fresh(&share.join("btf"))?;
        for (name, file) in programs.files() {
            copy(file, &share.join("bin").join(name))?;
        }
        for file in &kernel.btf {
            copy(
                file,
                &share.join("btf").join(file.file_name().unwrap_or_default()),
            )?;
        }
        initramfs::write(&kernel, &folder.join("initramfs"))?;
        Ok(Self {
            kernel,
            share,
            folder: folder.into(),
            _lock: lock,
        })
    }

    /// The console's log of the last run.
    pub fn log(&self) -> PathBuf {
        self.folder.join("console.log")
    }

    /// Runs a script of the guest's shell, with what it says on the standard output where `shown`.
    pub fn run(
        &self,
        script: &str,
        hardware: &Hardware,
        deadline: Duration,
        shown: bool,
    ) -> Result<Ended, Failure> {
        let sink = Sink::new(&self.log(), shown)?;
        self.run_with(script, hardware, deadline, sink)
    }

    /// The same, with what it says in a sink.
    pub fn run_with(
        &self,
        script: &str,
        hardware: &Hardware,
        deadline: Duration,
        sink: Sink,
    ) -> Result<Ended, Failure> {
        let ended = self.start(script, hardware, deadline, 4, Console::Lines(sink))?;
        ended.ok_or_else(|| {
            self.early()
                .cause(format!("its console is in {}", self.log().display()))
        })
    }

    fn early(&self) -> Failure {
        Failure::new(format!(
            "the guest of {} ended before its command did",
            self.kernel.name
        ))
    }

    /// The same on the terminal of this process; kernel messages stay in the log of the kernel.
    pub fn interact(
        &self,
        script: &str,
        hardware: &Hardware,
        deadline: Duration,
    ) -> Result<(), Failure> {
        match self.start(script, hardware, deadline, 1, Console::Terminal)? {
            Some(_) => Ok(()),
            None if self.share.join("begun").exists() => {
                println!("{LEAVE}the machine was ended before its command ended");
                Ok(())
            }
            None => Err(self.early().cause("what it said is above")),
        }
    }

    /// Runs the machine. `None` if it ended in order, and the script had not: from outside, with ctrl-a x, or in a panic.
    fn start(
        &self,
        script: &str,
        hardware: &Hardware,
        deadline: Duration,
        loglevel: u8,
        console: Console,
    ) -> Result<Option<Ended>, Failure> {
        let command = self.share.join("command.sh");
        fs::write(&command, script).map_err(|e| Failure::file("writing", &command, &e))?;
        let exit = self.share.join("exit");
        // Of the run before, if there was one.
        let _ = fs::remove_file(&exit);
        let _ = fs::remove_file(self.share.join("begun"));
        let mut words = vec![
            format!("loglevel={loglevel}"),
            format!("lab.kernel={}", self.kernel.name),
        ];
        if hardware.expedited {
            words.push("rcupdate.rcu_expedited=1".into());
        }
        if !hardware.shim.is_empty() {
            words.push(format!("lab.shim={}", hardware.shim.join(",")));
        }
        let machine = Machine {
            image: &self.kernel.image,
            initramfs: &self.folder.join("initramfs"),
            share: &self.share,
            cpus: hardware.cpus,
            memory: hardware.memory,
            words,
            deadline,
        };
        let took = machine.run(console)?;
        let code = fs::read_to_string(&exit).ok();
        let code = code.and_then(|text| text.trim().parse().ok());
        Ok(code.map(|code| Ended { code, took }))
    }
}

/// Links where that is possible.
fn copy(from: &Path, to: &Path) -> Result<(), Failure> {
    fs::hard_link(from, to)
        .or_else(|_| fs::copy(from, to).map(drop))
        .map_err(|e| Failure::file("copying", from, &e))
}

/// One command line of the arguments of a command: a single one is the shell's to understand.
pub fn command_line(arguments: &[String]) -> String {
    match arguments {
        [one] => one.clone(),
        many => many
            .iter()
            .map(|word| format!("'{}'", word.replace('\'', r"'\''")))
            .collect::<Vec<_>>()
            .join(" "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_stay_what_they_are() {
        let line = |words: &[&str]| {
            command_line(&words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(line(&["ls /; uname"]), "ls /; uname");
        assert_eq!(line(&["echo", "a b", "it's"]), r"'echo' 'a b' 'it'\''s'");
    }
}
