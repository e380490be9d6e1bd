//! `record`: frames into a file, into several, or into a ring in memory that is written when something is found.

mod files;
mod progress;
mod sink;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::diagnose::FailOn;
use super::export::{different, finish};
use super::live::{Event, Warnings, follow_events};
use super::output::Replaced;
use super::values::{bytes, duration};
use super::{Failure, Globals, run_options};
use crate::source::Session;
use progress::Progress;
use sink::{Recorder, Sink};

/// Smallest size of a file that is limited.
const MIN_SIZE: u64 = 64 << 10;

/// Arguments of `record`.
#[derive(Debug, Clone, PartialEq, Args)]
pub struct RecordArgs {
    /// File to write; `-` is the standard output. With --rotate and --on-finding, files beside it: run.apscope gives
    /// run.0001.apscope and so on, and none that exists is overwritten
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,

    /// Begin another file when this one has reached a size, in bytes or with k, m or g. Each can be read alone
    #[arg(long, value_name = "SIZE", value_parser = bytes, allow_negative_numbers = true, conflicts_with = "ring")]
    pub rotate: Option<u64>,

    /// Most bytes on disk: the recording ends before it is larger. With --rotate and --on-finding, the oldest of the files
    /// that this run has written are removed. With --ring alone, most bytes that are kept in memory
    #[arg(long, value_name = "SIZE", value_parser = bytes, allow_negative_numbers = true)]
    pub max_size: Option<u64>,

    /// Keep the last while in memory, for example 5m, and write it at the end; in at most 256 MiB
    #[arg(long, value_name = "D", value_parser = duration, allow_negative_numbers = true)]
    pub ring: Option<Duration>,

    /// With --ring: write it each time a finding of at least this severity begins, and the 5 s that follow; nothing
    /// otherwise. A flight recorder
    #[arg(long, value_enum, value_name = "SEVERITY", num_args = 0..=1, require_equals = true, default_missing_value = "warning", requires = "ring")]
    pub on_finding: Option<FailOn>,

    /// Also write what the emulated driver counted in its own code, as JSON
    #[arg(long, value_name = "FILE")]
    pub truth: Option<PathBuf>,
}

pub(super) fn run(args: &RecordArgs, globals: &Globals) -> Result<ExitCode, Failure> {
    let mut options = run_options(globals)?;
    options.truth = args.truth.is_some();
    different(&args.output, args.truth.as_deref())?;
    check(args)?;
    let sink = Sink::open(args)?;
    let truth = args.truth.as_deref().map(Replaced::open).transpose()?;
    let session = Session::start(&options)?;
    let mut recorder = Recorder::start(sink)?;
    let mut progress = Progress::new(globals, recorder.name());
    let stop = session.stopper();
    let duration = globals.duration;
    let followed = follow_events(globals, Warnings::Told, session, duration, |event| {
        match event {
            Event::Frame(frame) => recorder.push(frame)?,
            Event::Pause => recorder.pause()?,
        }
        progress.show(&recorder);
        if recorder.is_full() {
            stop.stop();
        }
        Ok(())
    });
    // What is pending is written, however the run ended.
    let written = recorder.finish();
    progress.end(&recorder);
    let finished = followed?;
    written?;
    finish(globals, &finished, truth)
}

/// Sizes and durations that make sense together.
fn check(args: &RecordArgs) -> Result<(), Failure> {
    let sizes = [("--rotate", args.rotate), ("--max-size", args.max_size)];
    for (name, size) in sizes {
        if let Some(size) = size.filter(|size| *size < MIN_SIZE) {
            return Err(Failure::new(
                format!("{name} {size} is too small"),
                format!("half a second can be larger; it must be at least {MIN_SIZE} bytes"),
                format!("{name} 10m"),
            ));
        }
    }
    if let (Some(rotate), Some(max)) = (args.rotate, args.max_size)
        && rotate > max / 2
    {
        return Err(Failure::new(
            format!("--rotate {rotate} is too large for --max-size {max}"),
            "when a file is begun, the one before it must still have room",
            format!("--rotate {}", max / 4),
        ));
    }
    if args.ring.is_some_and(|ring| ring.is_zero()) {
        return Err(Failure::new(
            "--ring 0s is out of bounds",
            "nothing can be kept of no time",
            "--ring 5m",
        ));
    }
    if args.output.as_os_str() == "-" && (args.rotate.is_some() || args.on_finding.is_some()) {
        return Err(Failure::new(
            "the standard output cannot be several files",
            "--rotate and --on-finding write one file after the other",
            "-o FILE",
        ));
    }
    Ok(())
}
