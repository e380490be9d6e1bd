//! The binary `apscope`: the dashboard, and every command of the collector.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    apscope_tui::cli::run(std::env::args_os())
}
