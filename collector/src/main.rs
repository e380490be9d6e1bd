//! `apscope-collector`: every command that needs no terminal, and the plain text summary.

use std::process::ExitCode;

fn main() -> ExitCode {
    apscope_collector::cli::program::main(std::env::args_os())
}
