//! Running other programs: is it there, what did it say, did it succeed.

use std::io::{self, BufRead, BufReader, IsTerminal};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

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
    let status = command.status();
    ended(command, what, status)
}

/// Whether a command has succeeded.
fn ended(command: &Command, what: &str, status: io::Result<ExitStatus>) -> Result<(), Failure> {
    let cause = match status {
        Ok(status) if status.success() => return Ok(()),
        Ok(status) => status.to_string(),
        Err(e) => e.to_string(),
    };
    Err(Failure::new(what).cause(format!("{}: {cause}", command.get_program().display())))
}

/// Runs a command that prints a line for each of its steps, and says how far it is: in a line that changes where there is a
/// terminal, else in one line every half minute.
pub fn run_counting(command: &mut Command, what: &str) -> Result<(), Failure> {
    let mut child = match command.stdout(Stdio::piped()).spawn() {
        Ok(child) => child,
        Err(e) => return ended(command, what, Err(e)),
    };
    let terminal = io::stderr().is_terminal();
    let pause = Duration::from_millis(if terminal { 200 } else { 30_000 });
    let begun = Instant::now();
    let mut said = begun;
    let steps = child.stdout.take().into_iter().flat_map(|out| {
        let lines = BufReader::new(out).split(b'\n');
        lines.map_while(Result::ok)
    });
    for (number, step) in (1..).zip(steps) {
        if said.elapsed() < pause {
            continue;
        }
        said = Instant::now();
        let text = progress(what, number, begun.elapsed(), &step);
        if terminal {
            eprint!("\r\x1b[K{text}");
        } else {
            println!("{text}");
        }
    }
    if terminal {
        eprint!("\r\x1b[K");
    }
    let status = child.wait();
    ended(command, what, status)
}

/// How far something is, in a line that has room on a terminal.
fn progress(what: &str, steps: u64, since: Duration, step: &[u8]) -> String {
    let step = String::from_utf8_lossy(step);
    // A path from the root on is mostly that of a folder which is known.
    let words: Vec<&str> = step
        .split_whitespace()
        .map(|word| match word.strip_prefix('/') {
            Some(path) => path.rsplit('/').next().unwrap_or(path),
            None => word,
        })
        .collect();
    let seconds = since.as_secs();
    let text = format!(
        "{what}: {steps} steps in {}:{:02}, {}",
        seconds / 60,
        seconds % 60,
        words.join(" ")
    );
    text.chars().take(79).collect()
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
    fn how_far_something_is_stands_in_one_line() {
        let text = progress(
            "building 6.12",
            1204,
            Duration::from_secs(65),
            b"  CC      drivers/s390/crypto/vfio_ap_ops.o",
        );
        assert_eq!(
            text,
            "building 6.12: 1204 steps in 1:05, CC drivers/s390/crypto/vfio_ap_ops.o"
        );
        let built = progress(
            "building 6.12",
            3,
            Duration::ZERO,
            b"  LD [M]  /home/x/target/lab/build/vfio_ap.ko",
        );
        assert_eq!(built, "building 6.12: 3 steps in 0:00, LD [M] vfio_ap.ko");
        let long = progress("x", 1, Duration::ZERO, &[b'y'; 200]);
        assert_eq!(long.len(), 79);
    }

    #[test]
    fn a_counted_command_fails_with_its_name() {
        let sh = |script| run_counting(Command::new("sh").args(["-c", script]), "counting");
        assert!(sh("echo one; printf '\\377\\n'; true").is_ok());
        let Err(failure) = sh("echo one; exit 3") else {
            panic!("it has failed");
        };
        let text = failure.to_string();
        assert!(
            text.contains("counting") && text.contains("sh: exit status: 3"),
            "{text}"
        );
        let nothing = run_counting(&mut Command::new("/no/such/program"), "counting");
        assert!(nothing.is_err());
    }

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
