//! `apscope-collector`: every command that needs no terminal, and the plain text summary.

use std::path::PathBuf;
use std::process::ExitCode;

use apscope_collector::cli::{self, Command, Globals};
use clap::Parser;

/// Traces the vfio_ap driver, or an emulated one: lock contention, latencies, who waits for whom.
///
/// Without a command, prints a plain text summary of a recording, or of three seconds of a running source.
#[derive(Debug, Parser)]
#[command(version, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,

    /// Recording to summarise; without it, the source is measured
    file: Option<PathBuf>,

    /// Print the summary again each second
    #[arg(long, conflicts_with = "file")]
    watch: bool,

    #[command(flatten)]
    globals: Globals,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let globals = &arguments.globals;
    let result = match &arguments.command {
        Some(command) => cli::run(command, globals),
        None => cli::plain::run(globals, arguments.file.as_deref(), arguments.watch),
    };
    result.unwrap_or_else(|failure| failure.report())
}
