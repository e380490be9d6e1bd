//! Everything a developer runs: `cargo xtask COMMAND`.
#![deny(unsafe_code)]

mod apscope;
mod bench;
mod bpf;
mod combinations;
mod compare;
mod complexity;
mod crashes;
mod deadlocks;
mod diagnoses;
mod dist;
mod ebpf;
mod exports;
mod failure;
mod findings;
mod fuzz;
mod lab;
mod licences;
mod matrix;
mod process;
mod proto;
mod s390x;
mod saturation;
mod screenshots;
mod serve;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "xtask", about = "Developer commands of apscope")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build the eBPF objects into probe-ebpf/objects
    Ebpf {
        /// Only compare with what is checked in, byte for byte
        #[arg(long)]
        check: bool,
        /// The nightly toolchain to build with
        #[arg(long, default_value = "nightly")]
        toolchain: String,
    },
    /// Measure a cost against a peer
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Sizes of the eBPF programs, and what the verifier makes of them, into probe-ebpf/complexity.md
    Complexity(complexity::Options),
    /// Convert a guest against the release of its device, on every generation: which deadlocks?
    Deadlocks(deadlocks::Options),
    /// Build static release archives into target/dist, and try each of them
    Dist(dist::Options),
    /// Have each export read by tools that are not ours, and compare numbers; into docs/results/exports.md
    Exports(exports::Options),
    /// Feed arbitrary input to every reader (sysfs, kallsyms, BTF, stacks, recordings), and see that nothing breaks
    Fuzz(fuzz::Options),
    /// The genuine driver on a virtual s390x, with apscope inside
    #[command(subcommand)]
    Lab(lab::Lab),
    /// Check licences and origins of all dependencies against deny.toml, without network
    Licences,
    /// Compare every count with the emulated driver's ground truth, over seeds, generations, probes and ring sizes
    Matrix(matrix::Options),
    /// Draw the dashboard's pictures into docs/pictures
    Screenshots(screenshots::ScreenshotsArgs),
    /// Cross-build the workspace for s390x
    S390x {
        /// Also run the unit tests that depend on byte order, under qemu
        #[arg(long)]
        test: bool,
        /// The nightly toolchain to build with
        #[arg(long, default_value = "nightly")]
        toolchain: String,
    },
    /// Write docs/findings.md from the rules of the diagnosis
    Findings {
        /// Only compare with what is checked in
        #[arg(long)]
        check: bool,
    },
    /// Let Prometheus, a receiver of OTLP and fifty bad clients read the daemon, into docs/results/serve.md
    Serve(serve::Options),
    /// Regenerate the Rust types of the frame schema from collector/proto
    Proto {
        /// Only compare with what is checked in
        #[arg(long)]
        check: bool,
    },
}

/// The workspace's top folder.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

fn main() -> ExitCode {
    let result = match Args::parse().command {
        Command::Lab(lab) => {
            return match lab::run(&root(), lab) {
                Ok(code) => ExitCode::from(code),
                Err(failure) => report(&failure),
            };
        }
        Command::Ebpf { check, toolchain } => ebpf::run(&root(), check, &toolchain),
        Command::Bench(bench) => bench::run(&root(), bench),
        Command::Complexity(options) => complexity::run(&root(), &options),
        Command::Fuzz(options) => fuzz::run(&root(), &options),
        Command::Deadlocks(options) => deadlocks::run(&root(), &options),
        Command::Dist(options) => dist::run(&root(), &options),
        Command::Exports(options) => exports::run(&root(), &options),
        Command::Licences => licences::run(&root()),
        Command::Matrix(options) => matrix::run(&root(), options),
        Command::Screenshots(args) => screenshots::run(&root(), &args),
        Command::S390x { test, toolchain } => s390x::run(&root(), test, &toolchain),
        Command::Findings { check } => findings::run(&root(), check),
        Command::Serve(options) => serve::run(&root(), &options),
        Command::Proto { check } => proto::run(&root(), check),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => report(&failure),
    }
}

fn report(failure: &failure::Failure) -> ExitCode {
    eprintln!("{failure}");
    failure.exit_code()
}
