//! `cargo xtask bench latency`: from the moment that a deadlock forms to the finding, by an example of the collector.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::process;
use crate::failure::Failure;

/// How to measure it.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Runs of each generation
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
    runs: u64,
    /// Generations
    #[arg(long, value_delimiter = ',', default_value = "v5.11,v5.13")]
    generations: Vec<String>,
    /// How it is measured
    #[arg(long, default_value = "in-process")]
    probe: String,
    /// Where the table goes
    #[arg(
        short,
        long,
        value_name = "FILE",
        default_value = "docs/results/latency.md"
    )]
    output: PathBuf,
}

/// The 99th percentile must not be above.
const MUST_REACH_MS: f64 = 500.0;

/// Runs the example and writes the table; a percentile above the limit is an error.
pub fn run(root: &Path, options: &Options) -> Result<(), Failure> {
    let mut text = format!(
        "# From deadlock to finding\n\n\
         The scenario `se-start` of the emulated driver, at the default interval of 100 ms. From the moment that the circle\n\
         forms, which is when its last wait begins by the emulator's own clock readings, to AP001. The 99th percentile is to\n\
         be {MUST_REACH_MS} ms at most. Written by `cargo xtask bench latency`.\n\n{}\
         \n| generation | probe | runs | found | median ms | p99 ms | longest ms |\n|---|---|--:|--:|--:|--:|--:|\n",
        process::provenance(),
    );
    let mut slow = None;
    for generation in &options.generations {
        let output = Command::new("cargo")
            .current_dir(root)
            .args([
                "run",
                "--quiet",
                "--release",
                "--package",
                "apscope-collector",
            ])
            .args([
                "--example",
                "bench_latency",
                "--",
                generation,
                &options.probe,
                "1",
            ])
            .arg(options.runs.to_string())
            .output()
            .map_err(|e| Failure::new("running the example").cause(e.to_string()))?;
        if !output.status.success() {
            return Err(Failure::new("the example failed")
                .cause(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
        }
        let mut latencies: Vec<f64> = Vec::new();
        let mut runs = 0;
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            let run: Value = serde_json::from_str(line)
                .map_err(|e| Failure::new(format!("not JSON: {line}")).cause(e.to_string()))?;
            runs += 1;
            latencies.extend(run["latency_ns"].as_f64().map(|ns| ns / 1e6));
        }
        latencies.sort_by(f64::total_cmp);
        let at = |share| super::quantile(&latencies, share);
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| {generation} | {} | {runs} | {} | {:.0} | {:.0} | {:.0} |",
            options.probe,
            latencies.len(),
            at(0.5),
            at(0.99),
            at(1.0)
        );
        println!(
            "{generation}: median {:.0} ms, p99 {:.0} ms",
            at(0.5),
            at(0.99)
        );
        if latencies.len() != runs || at(0.99).is_nan() || at(0.99) > MUST_REACH_MS {
            slow = Some(format!(
                "{generation}: {} of {runs} found, p99 {:.0} ms",
                latencies.len(),
                at(0.99)
            ));
        }
    }
    let table = root.join(&options.output);
    fs::write(&table, text).map_err(|e| Failure::file("writing", &table, &e))?;
    println!("table in {}", table.display());
    slow.map_or(Ok(()), |slow| Err(Failure::found(slow)))
}
