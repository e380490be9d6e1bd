//! `cargo xtask bench diagnose`: time of the diagnosis for a tick, by an example of the collector that makes the frames.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use super::process;
use crate::compare::count;
use crate::failure::Failure;

/// How to measure it.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Where the table goes
    #[arg(
        short,
        long,
        value_name = "FILE",
        default_value = "docs/results/diagnose.md"
    )]
    output: PathBuf,
}

/// The median of a tick must not be above.
const MUST_REACH_NS: u64 = 2_000_000;

/// Runs the example and writes the table.
pub fn run(root: &Path, options: &Options) -> Result<(), Failure> {
    let measured = super::example(root, "apscope-collector", "bench_diagnose", None)?;
    let mut text = format!(
        "# Time of the diagnosis\n\n\
         `Diagnosis::observe` in the release build, one thread, {} µs a tick at most in the median. The time of folding\n\
         the frame into the model is not in it. Written by `cargo xtask bench diagnose`.\n\n{}\
         \n| case | tasks | locks | order edges | ticks | findings | median µs | longest µs |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|\n",
        MUST_REACH_NS / 1_000,
        process::provenance(),
    );
    let mut slow = None;
    for case in &measured {
        let name = case["case"].as_str().unwrap_or("?");
        let median = count(&case["median_ns"]);
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| {name} | {} | {} | {} | {} | {} | {} | {} |",
            count(&case["tasks"]),
            count(&case["locks"]),
            count(&case["edges"]),
            count(&case["ticks"]),
            count(&case["findings"]),
            median / 1_000,
            count(&case["max_ns"]) / 1_000,
        );
        println!(
            "{name}: {} us, at most {} us",
            median / 1_000,
            count(&case["max_ns"]) / 1_000
        );
        if median > MUST_REACH_NS {
            slow = Some(format!("{name}: {} us in the median", median / 1_000));
        }
    }
    let table = root.join(&options.output);
    fs::write(&table, text).map_err(|e| Failure::file("writing", &table, &e))?;
    println!("table in {}", table.display());
    slow.map_or(Ok(()), |what| Err(Failure::found(what)))
}
