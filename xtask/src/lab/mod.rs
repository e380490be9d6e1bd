//! `cargo xtask lab`: a virtual s390x that runs the genuine driver, with apscope inside. QEMU emulates the machine, a
//! kernel module (`xtask/lab/ap_shim.c`) the AP hardware and the start of guests; kernels are Debian's sources, not
//! changed. Everything is made in `target/lab`, without root. docs/lab.md describes it.

mod build;
mod checks;
mod console;
mod doctor;
mod guest;
mod initramfs;
mod kernels;
mod packages;
mod programs;
mod qemu;
mod room;
mod terminal;
mod test;
mod tree;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::failure::Failure;
use guest::{Guest, Hardware, command_line};
use kernels::Kernel;
use programs::Programs;

/// Commands of the lab.
#[derive(Debug, clap::Subcommand)]
pub enum Lab {
    /// Say what this machine lacks for the lab
    Doctor {
        /// The nightly toolchain that builds apscope for s390x
        #[arg(long, default_value = "nightly")]
        toolchain: String,
    },
    /// Download what a kernel is made of, without building it
    Fetch(build::Options),
    /// Make a kernel for the lab from Debian's packages
    Build {
        /// Which kernel
        #[command(flatten)]
        options: build::Options,
        /// Change the kernel's source by this patch; the kernel is then called V+NAME
        #[arg(long, value_name = "FILE")]
        driver_patch: Option<PathBuf>,
    },
    /// Run a command in the guest, and end with its exit code; /share inside is a folder here
    Run {
        /// The kernel and the machine
        #[command(flatten)]
        start: Start,
        /// End the machine after this time
        #[arg(long, value_name = "D", default_value = "10m", value_parser = humantime::parse_duration)]
        deadline: Duration,
        /// A command and its arguments, or one line for the shell
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// A shell in the guest; ctrl-a x ends the machine
    Shell {
        /// The kernel and the machine
        #[command(flatten)]
        start: Start,
    },
    /// The dashboard on the genuine driver, with a workload; on 5.10 it ends in the deadlock of 2021
    Demo {
        /// The kernel and the machine
        #[command(flatten)]
        start: Start,
    },
    /// Trace the genuine driver on each kernel, and compare with the truth, other tracers, lockdep and the emulated driver
    Test(test::Options),
}

/// Which kernel is started, on which machine.
#[derive(Debug, Clone, clap::Args)]
pub struct Start {
    /// Kernel: 5.10, 5.10-lockdep, 6.1, 6.12, 7.2, or 6.12-stock
    #[arg(long, value_name = "V", default_value = "6.12")]
    kernel: String,
    /// Folder of ready kernels, instead of those that `lab build` made
    #[arg(long, value_name = "DIR")]
    kernels: Option<PathBuf>,
    /// This apscope for s390x instead of building one
    #[arg(long, value_name = "FILE")]
    apscope: Option<PathBuf>,
    /// The machine
    #[command(flatten)]
    hardware: Hardware,
}

impl Start {
    fn guest(&self, root: &Path, purpose: &str) -> Result<Guest, Failure> {
        doctor::require(doctor::Use::Run)?;
        let kernel = find(root, self.kernels.as_deref(), &self.kernel)?;
        let programs = Programs::build(root, self.apscope.as_deref())?;
        let folder = runs(root).join(format!("{}-{purpose}", kernel.name));
        Guest::new(&folder, kernel, &programs)
    }
}

/// Where runs leave what they leave.
fn runs(root: &Path) -> PathBuf {
    root.join("target/lab/runs")
}

/// The kernel of a name: a ready one, or one that was built; of those, the trimmed one before the stock one. The stock one
/// takes a minute, and is made where there is none.
fn find(root: &Path, ready: Option<&Path>, name: &str) -> Result<Kernel, Failure> {
    let built = root.join("target/lab/kernels");
    let folder = ready.unwrap_or(&built);
    let stock = |name: &str| {
        format!(
            "{}{}",
            name.trim_end_matches(kernels::STOCK),
            kernels::STOCK
        )
    };
    let look = || {
        Kernel::find(folder, name).or_else(|e| Kernel::find(folder, &stock(name)).map_err(|_| e))
    };
    let found = look().or_else(|failure| {
        if ready.is_some() || stock(name) != stock(build::STOCK) {
            return Err(failure);
        }
        println!("there is no kernel {name} yet");
        build::stock(root)?;
        look()
    })?;
    doctor::require_for(found.series())?;
    Ok(found)
}

/// Runs a command of the lab. What a command in the guest ended with is the exit code.
pub fn run(root: &Path, lab: Lab) -> Result<u8, Failure> {
    match lab {
        Lab::Doctor { toolchain } => doctor::run(&toolchain).map(|()| 0),
        Lab::Fetch(options) => build::fetch(root, &options).map(|()| 0),
        Lab::Build {
            options,
            driver_patch,
        } => build::build(root, &options, driver_patch.as_deref()).map(|()| 0),
        Lab::Run {
            start,
            deadline,
            command,
        } => {
            let guest = start.guest(root, "run")?;
            let script = format!("{}\n", command_line(&command));
            let ended = guest.run(&script, &start.hardware, deadline, true)?;
            Ok(ended.code)
        }
        Lab::Shell { start } => {
            let guest = start.guest(root, "run")?;
            println!(
                "/share is {}; ctrl-a x ends the machine",
                guest.share.display()
            );
            terminal::shell(&guest, &start.hardware).map(|()| 0)
        }
        Lab::Test(options) => test::run(root, &options).map(|()| 0),
        Lab::Demo { start } => {
            let guest = start.guest(root, "demo")?;
            terminal::demo(&guest, &start.hardware).map(|()| 0)
        }
    }
}
