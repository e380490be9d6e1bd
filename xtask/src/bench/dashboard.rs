//! `cargo xtask bench dashboard`: time of the dashboard's pictures with 200 guests, by an example of the dashboard that
//! goes through a recording.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use super::process;
use crate::apscope::{self, Scratch};
use crate::compare::count;
use crate::failure::Failure;

/// How to measure it.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Use this apscope instead of building one
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Guests of the recording
    #[arg(long, default_value_t = 200)]
    guests: u32,
    /// Its length
    #[arg(long, default_value = "20s")]
    duration: String,
    /// Where the table goes
    #[arg(
        short,
        long,
        value_name = "FILE",
        default_value = "docs/results/dashboard.md"
    )]
    output: PathBuf,
}

/// The 99th percentile of a picture must not be above.
const DRAW_NS: u64 = 4_000_000;
/// Share of a core, in percent, that must not be exceeded.
const SHARE: f64 = 3.0;

/// Records, runs the example, writes the table.
pub fn run(root: &Path, options: &Options) -> Result<(), Failure> {
    let binary = apscope::binary(root, options.binary.clone())?;
    let scratch = Scratch::new()?;
    let recording = scratch.path().join("guests.apscope");
    let guests = options.guests.to_string();
    apscope::record(
        &binary,
        &["--generation", "v6.0", "--vcpus", "1"],
        (&guests, &options.duration),
        &recording,
    )?;
    let measured = super::example(root, "apscope-tui", "bench_dashboard", Some(&recording))?;
    let mut text = format!(
        "# Cost of the dashboard\n\n\
         A recording of {} guests of the emulated driver, ten frames a second, each folded, diagnosed and drawn at 200 by\n\
         60, one thread, release build. A picture is to take {} ms at most in the 99th percentile, and all of it, reading the\n\
         recording included, {SHARE} % of a core's time. Written by `cargo xtask bench dashboard`.\n\n{}\
         \n| view | pictures | draw median µs | draw p99 µs | fold median µs | share of a core % | memory MiB, after 20 pictures and at the end |\n\
         |---|--:|--:|--:|--:|--:|--:|\n",
        options.guests,
        DRAW_NS / 1_000_000,
        process::provenance(),
    );
    let mut slow = None;
    for row in &measured {
        let view = row["view"].as_str().unwrap_or("?");
        let share =
            count(&row["busy_ns"]) as f64 * 100.0 / count(&row["recorded_ns"]).max(1) as f64;
        let p99 = count(&row["draw_p99_ns"]);
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| {view} | {} | {} | {} | {} | {share:.2} | {}, {} |",
            count(&row["pictures"]),
            count(&row["draw_p50_ns"]) / 1_000,
            p99 / 1_000,
            count(&row["fold_p50_ns"]) / 1_000,
            count(&row["resident_kib"][0]) / 1024,
            count(&row["resident_kib"][1]) / 1024,
        );
        println!("{view}: p99 {} us, {share:.2} % of a core", p99 / 1_000);
        if p99 > DRAW_NS || share > SHARE {
            slow = Some(format!(
                "{view}: p99 {} us, {share:.2} % of a core",
                p99 / 1_000
            ));
        }
    }
    let table = root.join(&options.output);
    fs::write(&table, text).map_err(|e| Failure::file("writing", &table, &e))?;
    println!("table in {}", table.display());
    slow.map_or(Ok(()), |what| Err(Failure::found(what)))
}
