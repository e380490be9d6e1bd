//! The program `apscope-collector`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use super::{Command, Globals, plain, usage};
use crate::source::leave::detach_in_background;

/// Traces the vfio_ap driver, or an emulated one: lock contention, latencies, who waits for whom
///
/// Without a command, prints a plain text summary of a recording, or of three seconds of a running source.
#[derive(Debug, Clone, PartialEq, Parser)]
#[command(name = "apscope-collector", version, disable_help_subcommand = true)]
pub struct Program {
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

/// Parses the arguments and runs what they ask for.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let program = match Program::try_parse_from(arguments) {
        Ok(program) => program,
        Err(error) => return usage::refused(&error, "apscope-collector"),
    };
    let globals = &program.globals;
    let result = match &program.command {
        Some(command) => super::run(command, globals),
        None => plain::run(globals, program.file.as_deref(), program.watch),
    };
    let code = result.unwrap_or_else(|failure| failure.report());
    // Everything is written and said: nobody waits for the kernel to detach the last probe.
    detach_in_background();
    code
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_parser_is_consistent() {
        Program::command().debug_assert();
    }
}
