//! `cargo xtask s390x`: cross-builds the workspace for the machine the traced driver runs on, and runs the unit tests
//! that depend on byte order (ABI, histograms, names, frames, model, recordings) under qemu's user emulation.
//!
//! The standard library is built from rust-src, so no s390x toolchain of Rust is needed, only Debian's cross C
//! compiler as linker (and for libzstd).

use std::path::Path;
use std::process::Command;

use crate::failure::Failure;
use crate::process;

const TARGET: &str = "s390x-unknown-linux-gnu";
/// The C compiler for s390x, which also links.
pub const LINKER: &str = "s390x-linux-gnu-gcc";
/// Static and for the oldest processor, as releases are, and without debug
/// information, of which there would be gigabytes.
const FLAGS: [&str; 6] = [
    "-C",
    "target-feature=+crt-static",
    "-C",
    "target-cpu=z13",
    "-C",
    "debuginfo=0",
];
const EMULATOR: &str = "qemu-s390x-static";
/// Tests that are run: everything that reads or writes bytes or folds frames, nothing that needs the emulated
/// driver's own threads to keep time under qemu.
const TESTS: [&str; 8] = [
    "abi::",
    "body::",
    "export::",
    "frame::",
    "h2::",
    "model::",
    "names::",
    "recording::",
];

/// Test programs that are run whole, for the same reason.
const SUITES: [&str; 2] = ["model", "recording"];

/// Builds everything; with `test`, runs the tests too.
pub fn run(root: &Path, test: bool, toolchain: &str) -> Result<(), Failure> {
    check_tools(test, toolchain)?;
    println!("building the workspace for {TARGET}");
    process::run(
        cargo(root, toolchain, "build").arg("--workspace"),
        "building for s390x",
    )?;
    if test {
        println!("running unit tests under {EMULATOR}");
        // The whole workspace, so that what was just built is used.
        process::run(
            cargo(root, toolchain, "test")
                .args(["--workspace", "--lib", "--"])
                .args(TESTS),
            "testing on s390x",
        )?;
        let mut command = cargo(root, toolchain, "test");
        command.arg("--workspace");
        for suite in SUITES {
            command.args(["--test", suite]);
        }
        process::run(&mut command, "testing on s390x")?;
    }
    Ok(())
}

fn cargo(root: &Path, toolchain: &str, verb: &str) -> Command {
    let mut command = process::cargo(toolchain);
    command
        .current_dir(root)
        .args([
            verb,
            "--locked",
            "-Zbuild-std=std,panic_abort",
            "--target",
            TARGET,
        ])
        .arg("--target-dir")
        .arg(root.join("target/s390x"))
        .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\u{1f}"))
        .env("CARGO_TARGET_S390X_UNKNOWN_LINUX_GNU_LINKER", LINKER)
        .env("CC_s390x_unknown_linux_gnu", LINKER)
        .env("AR_s390x_unknown_linux_gnu", "s390x-linux-gnu-ar")
        .env(
            "CARGO_TARGET_S390X_UNKNOWN_LINUX_GNU_RUNNER",
            format!("{EMULATOR} -L /usr/s390x-linux-gnu"),
        );
    command
}

fn check_tools(test: bool, toolchain: &str) -> Result<(), Failure> {
    process::nightly_sysroot(toolchain)?;
    if process::output_of(LINKER, &["--version"]).is_none() {
        return Err(Failure::new("no cross compiler for s390x")
            .cause(format!("`{LINKER} --version` does not run"))
            .hint("apt-get install gcc-s390x-linux-gnu libc6-dev-s390x-cross"));
    }
    if test && process::output_of(EMULATOR, &["--version"]).is_none() {
        return Err(Failure::new("no emulator for s390x programs")
            .cause(format!("`{EMULATOR} --version` does not run"))
            .hint("apt-get install qemu-user-static"));
    }
    Ok(())
}
