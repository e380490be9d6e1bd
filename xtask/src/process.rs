//! Running other programs: is it there, what did it say, did it succeed.

use std::process::{Command, Stdio};

use crate::failure::Failure;

/// Standard output of a command that succeeds, or `None` when it is missing or fails.
pub fn output_of(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program)
        .args(args)
        .stderr(Stdio::null())
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Runs a command to its end, with our own standard output and error.
pub fn run(command: &mut Command, what: &str) -> Result<(), Failure> {
    let status = command.status().map_err(|e| {
        Failure::new(what).cause(format!("{}: {e}", command.get_program().display()))
    })?;
    if status.success() {
        Ok(())
    } else {
        Err(Failure::new(what).cause(format!("{}: {status}", command.get_program().display())))
    }
}

/// `cargo +TOOLCHAIN` without what the cargo that started us has put into the environment.
pub fn cargo(toolchain: &str) -> Command {
    let mut command = Command::new("cargo");
    command.arg(format!("+{toolchain}"));
    for name in [
        "CARGO",
        "RUSTC",
        "RUSTFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_BUILD_TARGET",
    ] {
        command.env_remove(name);
    }
    command
}
