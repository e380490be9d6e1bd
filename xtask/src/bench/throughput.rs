//! `cargo xtask bench emulator`: lock cycles a second of the emulated driver, untraced, with many guests, and its memory.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::emulator::Emulator;
use super::{cycles, process};
use crate::apscope;
use crate::failure::Failure;

/// How to measure it.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Length of each measurement
    #[arg(long, value_name = "D", default_value = "60s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// Driver generations
    #[arg(long, value_delimiter = ',', default_value = "v5.13,v5.15,v7.3")]
    generations: Vec<String>,
    /// Guests
    #[arg(long, value_name = "N", default_value_t = 200)]
    guests: u32,
    /// vCPUs of each guest
    #[arg(long, value_name = "N", default_value_t = 8)]
    vcpus: u32,
    /// Use this apscope instead of building one
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Where the table goes
    #[arg(
        short,
        long,
        value_name = "FILE",
        default_value = "docs/results/emulator.md"
    )]
    output: PathBuf,
}

/// Lock cycles a second that there must be.
const MUST_REACH: u64 = 200_000;
/// Memory that must be enough.
const MEMORY_KIB: u64 = 1 << 20;

/// Runs `pqap-storm` on each generation and writes the table.
pub fn run(root: &Path, options: Options) -> Result<(), Failure> {
    let binary = apscope::binary(root, options.binary)?;
    let (guests, vcpus) = (options.guests.to_string(), options.vcpus.to_string());
    let mut text = format!(
        "# Throughput of the emulated driver\n\n\
         The scenario `pqap-storm`, untraced: acquisitions of all locks a second, and the peak memory of the\n\
         emulator's process. At least {MUST_REACH} a second, within {} MiB. Written by `cargo xtask bench emulator`.\n\n{}\
         | guests, vCPUs of each | {guests}, {vcpus} |\n| each run | {} |\n\n\
         | generation | lock cycles a second | contended | peak RSS in MiB |\n|---|--:|--:|--:|\n",
        MEMORY_KIB >> 10,
        process::provenance(),
        humantime::format_duration(options.duration),
    );
    let mut short = None;
    for generation in &options.generations {
        let mut emulator = Emulator::start(
            &binary,
            &[
                "--scenario",
                "pqap-storm",
                "--generation",
                generation,
                "--guests",
                &guests,
                "--vcpus",
                &vcpus,
            ],
        )?;
        let (took, truth) = emulator.run(options.duration)?;
        let rss_kib = emulator.peak_rss_kib()?;
        let contended: u64 = truth["locks"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|lock| crate::compare::count(&lock["contended"]))
            .sum();
        let all = cycles(&truth);
        let a_second = (all as f64 / took.as_secs_f64()) as u64;
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| {generation} | {a_second} | {} % | {} |",
            contended * 100 / all.max(1),
            rss_kib >> 10
        );
        println!("{generation}: {a_second} lock cycles a second, {rss_kib} KiB");
        if a_second < MUST_REACH || rss_kib > MEMORY_KIB {
            short = Some(format!("{generation}: {a_second} a second, {rss_kib} KiB"));
        }
    }
    let table = root.join(&options.output);
    fs::write(&table, text).map_err(|e| Failure::file("writing", &table, &e))?;
    println!("table in {}", table.display());
    short.map_or(Ok(()), |what| Err(Failure::found(what)))
}
