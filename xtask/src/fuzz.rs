//! `cargo xtask fuzz`: builds a fuzz target with nightly Rust and coverage instrumentation, and runs it for a while.
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

const TARGET: &str = "sysfs";
const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Ccodegen-units=1 --cfg fuzzing";

/// Inputs that one process takes.
const RUNS: u32 = 5000;

/// Options of `fuzz`.
#[derive(Debug, Args)]
pub struct Options {
    /// How long to run
    #[arg(long, default_value_t = 30, value_name = "N")]
    seconds: u64,
    /// Run this input alone, and print its operations
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
    /// The nightly toolchain to build with
    #[arg(long, default_value = "nightly")]
    toolchain: String,
}

/// Builds and runs.
pub fn run(root: &Path, options: &Options) -> Result<(), Failure> {
    let binary = build(root, &options.toolchain)?;
    let folder = root.join("target/fuzz").join(TARGET);
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
    // Machines stay until the process ends, so a long run is several processes one after the other.
    while ended.is_ok() && Instant::now() < until {
        let left = until.saturating_duration_since(Instant::now());
        rounds += 1;
        ended = process::run(
            Command::new(&binary)
                .arg(&corpus)
                .arg(fuzz.join("seeds").join(TARGET))
                .arg(format!("-dict={}", fuzz.join("sysfs.dict").display()))
                .arg(format!("-artifact_prefix={}/", found.display()))
                .arg(format!("-max_total_time={}", left.as_secs().max(1)))
                .arg(format!("-runs={RUNS}"))
                .args(["-timeout=10", "-rss_limit_mb=4096", "-max_len=1024"])
                .arg("-verbosity=0"),
            "running the fuzz target",
        );
    }
    if let Some(input) = newest(&found, started) {
        let input = input.display();
        return Err(
            Failure::found(format!("the fuzz target {TARGET} found {input}"))
                .cause("a panic, a hang or a broken invariant; it is described above")
                .hint(format!("cargo xtask fuzz --replay {input}")),
        );
    }
    ended?;
    let inputs = fs::read_dir(&corpus).map_or(0, Iterator::count);
    println!(
        "{rounds} rounds of at most {RUNS} inputs broke nothing; {inputs} inputs are in {}",
        corpus.display()
    );
    Ok(())
}

fn build(root: &Path, toolchain: &str) -> Result<PathBuf, Failure> {
    let host = host(toolchain)?;
    let target = root.join("target/fuzz");
    process::run(
        process::cargo(toolchain)
            .current_dir(root.join("collector/fuzz"))
            // Named, so that build scripts and macros are not instrumented.
            .args(["build", "--release", "--locked", "--target", &host])
            .args(["--bin", TARGET])
            .arg("--target-dir")
            .arg(&target)
            .env("RUSTFLAGS", FLAGS),
        "building the fuzz target",
    )?;
    Ok(target.join(host).join("release").join(TARGET))
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
fn newest(folder: &Path, since: SystemTime) -> Option<PathBuf> {
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
                .any(|prefix| name.starts_with(prefix));
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
        assert_eq!(newest(&folder, since), None);
        fs::write(folder.join("crash-1"), "").unwrap();
        assert_eq!(newest(&folder, since), Some(folder.join("crash-1")));
        let later = SystemTime::now() + std::time::Duration::from_secs(60);
        assert_eq!(newest(&folder, later), None);
        fs::remove_dir_all(&folder).unwrap();
    }
}
