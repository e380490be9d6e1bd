//! The plain text summary: what the dashboard shows, for a terminal that cannot show it, or none at all.
//!
//! ASCII, at most 79 columns. [`render`] makes the text from a model, [`run`] measures or reads a recording, and
//! prints.

mod text;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use super::live::{Warnings, follow, note};
use super::output::print;
use super::reading::fold_recording;
use super::{Failure, Globals, run_options};
use crate::diagnose::Case;
use crate::export::json::Origin;
use crate::source::Session;

pub use text::render;

/// How long to measure where nothing is said.
pub const DEFAULT_DURATION: Duration = Duration::from_secs(3);
/// Time between two prints of `--watch`.
const WATCH_NS: u64 = 1_000_000_000;

/// Prints the summary of a recording, or of a running source.
///
/// A running source is measured for `--duration` ([`DEFAULT_DURATION`]) and printed once. With `watch` it is printed
/// each second, until `--duration` is over or a signal comes.
pub fn run(globals: &Globals, file: Option<&Path>, watch: bool) -> Result<ExitCode, Failure> {
    if let Some(file) = file {
        globals.only_read(file, &[])?;
        let mut case = Case::default();
        fold_recording(file, &mut case, |_, _| Ok(()))?;
        print(&render(&case.model, &case.report(), Origin::Recording))?;
        return Ok(ExitCode::SUCCESS);
    }
    let options = run_options(globals)?;
    let duration = match globals.duration {
        None if !watch => Some(DEFAULT_DURATION),
        duration => duration,
    };
    if !globals.quiet {
        note(&measuring(duration));
    }
    let session = Session::start(&options)?;
    let mut case = Case::default();
    let mut printed_at_ns = None;
    let finished = follow(globals, Warnings::Printed, session, duration, |frame| {
        case.apply(frame);
        let at_ns = case.model.last.at_ns;
        let since = *printed_at_ns.get_or_insert(at_ns);
        if watch && at_ns.saturating_sub(since) >= WATCH_NS {
            printed_at_ns = Some(at_ns);
            print(&format!(
                "{}\n",
                render(&case.model, &case.report(), Origin::Live)
            ))?;
        }
        Ok(())
    })?;
    print(&render(&case.model, &case.report(), Origin::Live))?;
    finished.check()?;
    Ok(ExitCode::SUCCESS)
}

/// What is said while nothing can be shown yet; ASCII, as all of the summary is.
fn measuring(duration: Option<Duration>) -> String {
    match duration {
        Some(duration) => format!("measuring for {} ...", humantime::format_duration(duration)),
        None => "measuring until ctrl-c ...".to_owned(),
    }
}
