//! Running other programs: is it there, what did it say, did it succeed.

use std::path::PathBuf;
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

/// What results were obtained with: commit, kernel and date, as the first rows of a table.
pub fn provenance() -> String {
    let unknown = || "unknown".to_owned();
    let commit = output_of("git", &["describe", "--always", "--dirty", "--abbrev=12"]);
    let kernel = output_of("uname", &["-srm"]);
    let date = output_of("date", &["-u", "+%F"]);
    format!(
        "| | |\n|---|---|\n| commit | {} |\n| kernel | {} |\n| date | {} |\n",
        commit.unwrap_or_else(unknown),
        kernel.unwrap_or_else(unknown),
        date.unwrap_or_else(unknown),
    )
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
    let mut command = cargo_here();
    command.arg(format!("+{toolchain}"));
    command
}

/// `cargo` of the checkout's own toolchain, likewise.
pub fn cargo_here() -> Command {
    let mut command = Command::new("cargo");
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

/// Version and sysroot of a nightly toolchain that has the standard library's sources, or how to get them.
pub fn nightly_sysroot(name: &str) -> Result<(String, PathBuf), Failure> {
    let plus = format!("+{name}");
    let Some(rustc) = output_of("rustc", &[&plus, "--version"]) else {
        return Err(Failure::new("no nightly Rust")
            .cause(format!(
                "`rustc {plus}` does not run, and the target has no standard library to download"
            ))
            .hint(format!("rustup toolchain install {name}")));
    };
    let sysroot = output_of("rustc", &[&plus, "--print", "sysroot"])
        .map(PathBuf::from)
        .ok_or_else(|| Failure::new(format!("`rustc {plus} --print sysroot` failed")))?;
    let core = sysroot.join("lib/rustlib/src/rust/library/core/Cargo.toml");
    if !core.exists() {
        return Err(Failure::new("no sources of the Rust standard library")
            .cause(format!("{} does not exist", core.display()))
            .hint(format!("rustup component add rust-src --toolchain {name}")));
    }
    Ok((rustc, sysroot))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_toolchain_is_said_with_the_way_to_get_it() {
        let Err(failure) = nightly_sysroot("no-such-toolchain-1999") else {
            panic!("there is no such toolchain");
        };
        let text = failure.to_string();
        assert!(
            text.starts_with("error: no nightly Rust\ncause: "),
            "{text}"
        );
        assert!(
            text.ends_with("try: rustup toolchain install no-such-toolchain-1999"),
            "{text}"
        );
    }
}
