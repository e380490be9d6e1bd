//! `record`: frames into a file.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::export::{different, finish};
use super::live::{Warnings, follow, note};
use super::output::{Output, Replaced};
use super::{Failure, Globals, run_options};
use crate::recording::{WriteError, Writer};
use crate::source::Session;

/// Arguments of `record`.
#[derive(Debug, Clone, PartialEq, Args)]
pub struct RecordArgs {
    /// File to write; `-` is the standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,

    /// Also write what the emulated driver counted in its own code, as JSON
    #[arg(long, value_name = "FILE")]
    pub truth: Option<PathBuf>,
}

pub(super) fn run(args: &RecordArgs, globals: &Globals) -> Result<ExitCode, Failure> {
    let mut options = run_options(globals)?;
    options.truth = args.truth.is_some();
    different(&args.output, args.truth.as_deref())?;
    let mut output = Output::open(&args.output)?;
    let truth = args.truth.as_deref().map(Replaced::open).transpose()?;
    let target = output.target().clone();
    let session = Session::start(&options)?;
    output.start()?;
    let failed = |error: WriteError| match error {
        WriteError::Io(error) => target.failure(&error),
        error => target.failure(&io::Error::other(error)),
    };
    let mut writer = Writer::new(output).map_err(failed)?;
    let mut progress = Progress::new(globals, target.to_string());
    let followed = follow(
        globals,
        Warnings::Told,
        session,
        globals.duration,
        |frame| {
            writer.push(frame).map_err(failed)?;
            progress.show(writer.frames(), writer.bytes());
            Ok(())
        },
    );
    // What is pending is written, however the run ended.
    let written = writer.flush().map_err(failed);
    progress.end(writer.frames(), writer.bytes());
    let finished = followed?;
    written?;
    finish(globals, &finished, truth)
}

/// Progress on the standard error: a line that changes on a terminal, one line at the end elsewhere.
struct Progress {
    name: String,
    wanted: bool,
    terminal: bool,
    shown_bytes: u64,
}

impl Progress {
    fn new(globals: &Globals, name: String) -> Self {
        Self {
            name,
            wanted: !globals.quiet,
            terminal: io::stderr().is_terminal(),
            shown_bytes: 0,
        }
    }

    fn show(&mut self, frames: u64, bytes: u64) {
        // The number of bytes changes once a flush, about every second.
        if self.wanted && self.terminal && bytes != self.shown_bytes {
            self.shown_bytes = bytes;
            let text = format!(
                "\rrecording to {}: {frames} frames, {bytes} bytes",
                self.name
            );
            let mut stderr = io::stderr().lock();
            let _ = stderr
                .write_all(text.as_bytes())
                .and_then(|()| stderr.flush());
        }
    }

    fn end(&self, frames: u64, bytes: u64) {
        if self.wanted {
            let start = if self.shown_bytes > 0 { "\n" } else { "" };
            note(&format!(
                "{start}recorded {frames} frames, {bytes} bytes in {}",
                self.name
            ));
        }
    }
}
