//! `report`: one page of HTML about a run.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::export::{finish, not_over};
use super::live::{Warnings, follow};
use super::output::Replaced;
use super::reading::fold_recording;
use super::{Failure, Globals, run_options};
use crate::diagnose::Case;
use crate::export::Origin;
use crate::report::{Collected, write};
use crate::source::Session;

/// Arguments of `report`.
#[derive(Debug, Clone, PartialEq, Args)]
pub struct ReportArgs {
    /// Recording or support bundle to report on, `-` is the standard input; without it, the source is measured for `--duration`
    pub file: Option<PathBuf>,

    /// File to write; `-` is the standard output
    #[arg(short, long, value_name = "OUT")]
    pub output: PathBuf,
}

pub(super) fn run(args: &ReportArgs, globals: &Globals) -> Result<ExitCode, Failure> {
    let mut case = Case::default();
    let mut collected = Collected::default();
    if let Some(file) = &args.file {
        globals.only_read(file, &[])?;
        not_over(file, &args.output)?;
        let output = Replaced::open(&args.output)?;
        fold_recording(file, &mut case, |case, frame| {
            collected.frame(case, frame);
            Ok(())
        })?;
        output.write(|out| write(&collected, &case, Origin::Recording, out))?;
        return Ok(ExitCode::SUCCESS);
    }
    let Some(duration) = globals.duration else {
        return Err(Failure::new(
            "nothing says how long to measure",
            "a report on a running source needs --duration",
            "--duration 5s, or the path of a recording",
        ));
    };
    let options = run_options(globals)?;
    let output = Replaced::open(&args.output)?;
    let session = Session::start(&options)?;
    let finished = follow(globals, Warnings::Told, session, Some(duration), |frame| {
        case.apply(frame);
        collected.frame(&case, frame);
        Ok(())
    })?;
    output.write(|out| write(&collected, &case, Origin::Live, out))?;
    finish(globals, &finished, None)
}
