//! `cargo xtask bench recording`: bytes that a span takes on disk, and spans that are replayed in a second, by an example of
//! the collector that reads what the emulated driver's run has left.

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
    /// Length of each recording
    #[arg(long, default_value = "10s")]
    duration: String,
    /// Where the table goes
    #[arg(
        short,
        long,
        value_name = "FILE",
        default_value = "docs/results/replay.md"
    )]
    output: PathBuf,
}

/// Bytes on disk that a span may take, everything else in the file included.
const BYTES: f64 = 12.0;
/// Spans that are to be replayed in a second with a few guests, decompression, decoding and the model included.
const SPANS_A_SECOND: f64 = 5e6;
/// These are a few. With many, a frame has more besides spans, and fewer spans for each guest.
const FEW: &str = "8";
/// What is recorded: scenario, guests, generation.
const RUNS: [(&str, &str, &str); 8] = [
    ("steady", FEW, "v5.13"),
    ("boot-storm", FEW, "v5.13"),
    ("pqap-storm", FEW, "v5.13"),
    ("steady", "200", "v5.13"),
    ("steady", "200", "v5.15"),
    ("steady", "200", "v6.0"),
    ("boot-storm", "200", "v6.0"),
    (QUEUES, FEW, "v6.0"),
];
/// Everybody waits, so that there is more to say of live state than of spans: measured, and held against no limit.
const QUEUES: &str = "slow-reset";

/// Records, runs the example, writes the table.
pub fn run(root: &Path, options: &Options) -> Result<(), Failure> {
    let binary = apscope::binary(root, options.binary.clone())?;
    let scratch = Scratch::new()?;
    let mut text = format!(
        "# Size and replay of recordings\n\n\
         Recordings of the emulated driver (EMULATED), in process, {} each, at the scenarios' own rates. A span is to take {BYTES}\n\
         bytes on disk at most, with all that is in the file besides, and with {FEW} guests {} million spans are to be replayed in a\n\
         second on one core: read, decompressed, decoded and folded into the model. With 200 guests, a frame has more besides\n\
         its spans: who holds and waits, counts of each lock, names. In `{QUEUES}` everybody waits: it has few spans, and more of\n\
         the former, and no limit applies. Times are CPU time of that thread, the fastest of ten rounds.\n\
         Written by `cargo xtask bench recording`.\n\n{}\
         \n| scenario | guests | generation | frames | spans | bytes | bytes a span | read alone, M spans/s | replay, M spans/s |\n\
         |---|--:|---|--:|--:|--:|--:|--:|--:|\n",
        options.duration,
        SPANS_A_SECOND / 1e6,
        process::provenance(),
    );
    let mut missed = None;
    for (scenario, guests, generation) in RUNS {
        let recording = scratch.path().join("run.apscope");
        apscope::record(
            &binary,
            &["--scenario", scenario, "--generation", generation],
            (guests, &options.duration),
            &recording,
        )?;
        let measured = super::example(
            root,
            "apscope-collector",
            "bench_recording",
            Some(&recording),
        )?;
        let Some(row) = measured.first() else {
            return Err(Failure::new("the example measured nothing"));
        };
        let (spans, bytes) = (count(&row["spans"]), count(&row["bytes"]));
        let a_span = bytes as f64 / spans.max(1) as f64;
        let a_second = |member: &str| spans as f64 * 1e9 / count(&row[member]).max(1) as f64;
        let (read, replay) = (a_second("read_ns"), a_second("folded_ns"));
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| {scenario} | {guests} | {generation} | {} | {spans} | {bytes} | {a_span:.1} | {:.1} | {:.1} |",
            count(&row["frames"]),
            read / 1e6,
            replay / 1e6,
        );
        println!(
            "{scenario}, {guests} guests, {generation}: {a_span:.1} bytes a span, {:.1} M spans/s",
            replay / 1e6
        );
        let slow = guests == FEW && replay < SPANS_A_SECOND;
        if spans == 0 || scenario != QUEUES && (a_span > BYTES || slow) {
            missed = Some(format!(
                "{scenario}, {guests} guests, {generation}: {spans} spans, {a_span:.1} bytes a span, {:.1} M spans/s",
                replay / 1e6
            ));
        }
    }
    let table = root.join(&options.output);
    fs::write(&table, text).map_err(|e| Failure::file("writing", &table, &e))?;
    println!("table in {}", table.display());
    missed.map_or(Ok(()), |what| Err(Failure::found(what)))
}
