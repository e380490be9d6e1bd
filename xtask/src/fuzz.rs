//! `cargo xtask fuzz`: builds the fuzz targets with nightly Rust and coverage instrumentation, and runs each for a while.
//!
//! The flags are those of cargo-fuzz, without a sanitizer: the code is safe Rust but for a few lines, and what is looked
//! for are panics, hangs and broken invariants. The corpus grows in `target/fuzz`; the seeds are in the repository.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use clap::Args;

use crate::failure::Failure;
use crate::process;

/// A fuzz target, and what its process may take.
struct Target {
    name: &'static str,
    /// Bytes of the longest input.
    longest: u32,
    /// Inputs of one process.
    runs: u32,
    /// MiB of memory.
    memory: u32,
    /// Whether there is a dictionary.
    dictionary: bool,
    /// Whether running out of memory is a finding.
    oom: bool,
}

const TARGETS: [Target; 6] = [
    Target {
        name: "sysfs",
        longest: 1024,
        // Machines stay until the process ends, so a long run is several processes one after the other.
        runs: 5000,
        memory: 4096,
        dictionary: true,
        oom: false,
    },
    reader("kallsyms", 4096),
    reader("filter_functions", 4096),
    reader("btf", 8192),
    reader("stacks", 8192),
    Target {
        // A flush may have 256 MiB.
        memory: 2048,
        ..reader("recording", 16384)
    },
];

/// A target that reads bytes and keeps nothing: its memory is bounded by the input's length.
const fn reader(name: &'static str, longest: u32) -> Target {
    Target {
        name,
        longest,
        runs: u32::MAX >> 1,
        memory: 512,
        dictionary: false,
        oom: true,
    }
}

const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Ccodegen-units=1 --cfg fuzzing";

/// Options of `fuzz`.
#[derive(Debug, Args)]
pub struct Options {
    /// How long to run each target
    #[arg(long, default_value_t = 30, value_name = "N")]
    seconds: u64,
    /// Run this target alone: sysfs, kallsyms, filter_functions, btf, stacks or recording
    #[arg(long, value_name = "NAME")]
    target: Option<String>,
    /// Run this input alone, and print its operations
    #[arg(long, value_name = "FILE", requires = "target")]
    replay: Option<PathBuf>,
    /// The nightly toolchain to build with
    #[arg(long, default_value = "nightly")]
    toolchain: String,
}

/// Builds and runs.
pub fn run(root: &Path, options: &Options) -> Result<(), Failure> {
    let wanted = |target: &&Target| {
        let name = options.target.as_deref();
        name.is_none_or(|name| name == target.name)
    };
    let targets: Vec<&Target> = TARGETS.iter().filter(wanted).collect();
    if targets.is_empty() {
        let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
        return Err(Failure::new("no such fuzz target").hint(names.join(", ")));
    }
    for target in targets {
        run_target(root, options, target)?;
    }
    Ok(())
}

fn run_target(root: &Path, options: &Options, target: &Target) -> Result<(), Failure> {
    let binary = build(root, &options.toolchain, target.name)?;
    let folder = root.join("target/fuzz").join(target.name);
    if let Some(input) = &options.replay {
        return process::run(
            Command::new(&binary)
                .env("APSCOPE_FUZZ_TRACE", "1")
                .arg("-timeout=10")
                .arg(input),
            "replaying the input",
        );
    }
    let (corpus, found) = (folder.join("corpus"), folder.join("found"));
    for folder in [&corpus, &found] {
        fs::create_dir_all(folder).map_err(|e| Failure::file("creating", folder, &e))?;
    }
    let fuzz = root.join("collector/fuzz");
    let started = SystemTime::now();
    let until = Instant::now() + Duration::from_secs(options.seconds);
    let mut ended = Ok(());
    let mut rounds = 0;
    while ended.is_ok() && Instant::now() < until {
        let left = until.saturating_duration_since(Instant::now());
        rounds += 1;
        let mut command = Command::new(&binary);
        command
            .arg(&corpus)
            .arg(fuzz.join("seeds").join(target.name))
            .arg(format!("-artifact_prefix={}/", found.display()))
            .arg(format!("-max_total_time={}", left.as_secs().max(1)))
            .arg(format!("-runs={}", target.runs))
            .arg(format!("-rss_limit_mb={}", target.memory))
            .arg(format!("-max_len={}", target.longest))
            .args(["-timeout=10", "-verbosity=0"]);
        if target.dictionary {
            let file = format!("{}.dict", target.name);
            command.arg(format!("-dict={}", fuzz.join(file).display()));
        }
        ended = process::run(&mut command, "running the fuzz target");
    }
    let name = target.name;
    if let Some(input) = newest(&found, started, target.oom) {
        let input = input.display();
        return Err(
            Failure::found(format!("the fuzz target {name} found {input}"))
                .cause("a panic, a hang or a broken invariant; it is described above")
                .hint(format!("cargo xtask fuzz --target {name} --replay {input}")),
        );
    }
    ended?;
    let inputs = fs::read_dir(&corpus).map_or(0, Iterator::count);
    println!(
        "{name}: nothing broke in {rounds} rounds of {} s in all; {inputs} inputs are in {}",
        options.seconds,
        corpus.display()
    );
    Ok(())
}

fn build(root: &Path, toolchain: &str, name: &str) -> Result<PathBuf, Failure> {
    let host = host(toolchain)?;
    let target = root.join("target/fuzz");
    process::run(
        process::cargo(toolchain)
            .current_dir(root.join("collector/fuzz"))
            // Named, so that build scripts and macros are not instrumented.
            .args(["build", "--release", "--locked", "--target", &host])
            .args(["--bin", name])
            .arg("--target-dir")
            .arg(&target)
            .env("RUSTFLAGS", FLAGS),
        "building the fuzz target",
    )?;
    Ok(target.join(host).join("release").join(name))
}

fn host(toolchain: &str) -> Result<String, Failure> {
    let plus = format!("+{toolchain}");
    let said = process::output_of("rustc", &[&plus, "-vV"]).ok_or_else(|| {
        Failure::new("no nightly Rust")
            .cause(format!(
                "`rustc {plus}` does not run, and coverage instrumentation is not in stable Rust"
            ))
            .hint(format!("rustup toolchain install {toolchain}"))
    })?;
    if process::output_of("c++", &["--version"]).is_none() {
        return Err(Failure::new("no C++ compiler")
            .cause("`c++ --version` does not run, and libFuzzer is built from source")
            .hint("apt-get install g++"));
    }
    said.lines()
        .find_map(|line| line.strip_prefix("host: "))
        .map(str::to_owned)
        .ok_or_else(|| Failure::new(format!("`rustc {plus} -vV` names no host")))
}

/// The newest file written since the start.
fn newest(folder: &Path, since: SystemTime, oom: bool) -> Option<PathBuf> {
    fs::read_dir(folder)
        .ok()?
        .flatten()
        .filter_map(|entry| {
            let time = entry.metadata().ok()?.modified().ok()?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            // What libFuzzer calls its findings.
            let finding = ["crash-", "timeout-", "leak-"]
                .iter()
                .any(|prefix| name.starts_with(prefix))
                || oom && name.starts_with("oom-");
            (finding && time >= since).then(|| (time, entry.path()))
        })
        .max()
        .map(|(_, path)| path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_finding_of_this_run_is_named() {
        let folder = std::env::temp_dir().join(format!("apscope-fuzz-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let since = SystemTime::now() - std::time::Duration::from_secs(60);
        fs::write(folder.join("oom-1"), "").unwrap();
        assert_eq!(newest(&folder, since, false), None);
        assert_eq!(newest(&folder, since, true), Some(folder.join("oom-1")));
        fs::write(folder.join("crash-1"), "").unwrap();
        assert_eq!(newest(&folder, since, false), Some(folder.join("crash-1")));
        let later = SystemTime::now() + std::time::Duration::from_secs(60);
        assert_eq!(newest(&folder, later, false), None);
        fs::remove_dir_all(&folder).unwrap();
    }
}
