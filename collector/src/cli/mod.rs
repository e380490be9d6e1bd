//! The command line: options shared by every command, and the commands that need no terminal.
//!
//! Both binaries use it: `apscope` adds the dashboard, `apscope-collector` is this alone. A binary flattens
//! [`Globals`] into its own parser, has [`Command`] as its subcommands, and calls [`run`]; what fails is a
//! [`Failure`], reported in three lines, exit code 2. Machine output goes to the standard output, everything else to
//! the standard error.

mod bundle;
mod compare;
mod diagnose;
pub mod docs;
mod doctor;
mod explain;
mod export;
mod failure;
mod folder;
mod globals;
pub(crate) mod live;
mod output;
pub mod plain;
pub mod program;
mod reading;
mod record;
mod report;
mod serve;
pub mod usage;
pub mod values;
mod writing;

use std::process::ExitCode;

use clap::Subcommand;

use crate::emulator;
use crate::emulator::command::EmulateArgs;

pub use bundle::BundleArgs;
pub use compare::CompareArgs;
pub use diagnose::{DiagnoseArgs, FailOn};
pub use doctor::DoctorArgs;
pub use explain::ExplainArgs;
pub use export::{ExportArgs, Format};
pub use failure::{EXIT_FAILED, Failure};
pub use globals::{Color, Globals, run_options};
pub use reading::open_recording;
pub use record::RecordArgs;
pub use report::ReportArgs;
pub use serve::{Metrics, ServeArgs};

/// The commands that need no terminal.
#[derive(Debug, Clone, PartialEq, Subcommand)]
pub enum Command {
    /// Write what was measured, from a recording or live, in a format that other tools read
    Export(ExportArgs),
    /// Write one page of HTML about what was measured: findings, distributions, the order of locks, the environment
    ///
    /// It needs no network and no scripts, follows the light or dark colours of whoever reads it, and prints well.
    Report(ReportArgs),
    /// Record everything that is measured into a file; ctrl-c ends it cleanly
    Record(RecordArgs),
    /// Measure for others: frames over a socket, /metrics for Prometheus; docs/serve.md
    ///
    /// Runs until the source ends, --duration is over, or SIGINT or SIGTERM comes. SIGHUP reads --config again.
    Serve(ServeArgs),
    /// Say what is the matter: who waits for whom, why, what can help, and what upstream did about it
    ///
    /// Exit code 0: nothing found; 1: findings; 2: it could not run. docs/findings.md describes every finding.
    Diagnose(DiagnoseArgs),
    /// Put everything that a support case needs into one file, within 20 s, also on a host that hangs
    ///
    /// The diagnosis, 10 s of frames, what `doctor` says, kernel stacks of the tasks involved, the reports of the kernel's
    /// hung-task detector, build ids, settings and clocks. Never guest memory, keys, environments or command lines. `diagnose`,
    /// `export` and `replay` read it anywhere. docs/recording.md has the list.
    Bundle(BundleArgs),
    /// Run the same workload on several generations of the emulated driver, side by side
    Compare(CompareArgs),
    /// Print the documentation of a finding
    Explain(ExplainArgs),
    /// Say what this machine allows, how each function would be probed, and what is missing
    ///
    /// Exit code 0: ready; 1: degraded, something is lost; 2: impossible. It speaks about the source that a run with
    /// the same options would choose. See docs/doctor.md.
    Doctor(DoctorArgs),
    /// Run the emulated driver alone, for collectors to attach to with `--pid`
    Emulate(EmulateArgs),
    /// Unmount when the standard input ends
    #[command(hide = true, name = emulator::mount::guard::COMMAND)]
    UnmountGuard(emulator::mount::guard::GuardArgs),
}

/// Runs a command.
pub fn run(command: &Command, globals: &Globals) -> Result<ExitCode, Failure> {
    match command {
        Command::Export(args) => export::run(args, globals),
        Command::Report(args) => report::run(args, globals),
        Command::Record(args) => record::run(args, globals),
        Command::Serve(args) => serve::run(args, globals),
        Command::Diagnose(args) => diagnose::run(args, globals),
        Command::Bundle(args) => bundle::run(args, globals),
        Command::Compare(args) => compare::run(args, globals),
        Command::Explain(args) => explain::run(args),
        Command::Doctor(args) => doctor::run(args, globals),
        Command::Emulate(args) => {
            emulator::command::run(args)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::UnmountGuard(args) => {
            emulator::mount::guard::run(args);
            Ok(ExitCode::SUCCESS)
        }
    }
}
