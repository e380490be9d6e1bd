//! `doctor`: what this machine allows, and what would be measured.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::output::print;
use super::{Color, Failure, Globals, run_options};
use crate::doctor::{Report, Style, text};
use crate::machine::{Allowed, Facts};
use crate::source::ebpf::verifier;
use crate::survey::GivenTypes;

/// Arguments of `doctor`.
#[derive(Debug, Clone, PartialEq, Args)]
pub struct DoctorArgs {
    /// One JSON object, described in docs/json.md, instead of a page
    #[arg(long)]
    pub json: bool,

    /// Read another machine's files from this folder, which has parts of its /proc and /sys
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,

    /// Also load every eBPF program, and say what this kernel's verifier makes of it; takes seconds, attaches nothing
    #[arg(long, conflicts_with = "root")]
    pub programs: bool,
}

pub(super) fn run(args: &DoctorArgs, globals: &Globals) -> Result<ExitCode, Failure> {
    let options = run_options(globals)?;
    let no_folder = |cause: String| {
        Failure::new(
            format!("{} cannot be read as a machine", args.root.display()),
            cause,
            "a folder that holds proc and sys, or no --root for this machine",
        )
    };
    // A folder that is this machine, by whatever name, is.
    let root = std::fs::canonicalize(&args.root).map_err(|error| no_folder(error.to_string()))?;
    if !root.join("proc").is_dir() && !root.join("sys").is_dir() {
        return Err(no_folder("it holds neither proc nor sys".into()));
    }
    let facts = Facts::read(&root);
    let allowed = Allowed::probe(&facts);
    let mut report = Report::of(facts, allowed, &options).map_err(|error| {
        let (what, cause) = error.what_and_cause();
        Failure::new(what, cause, GivenTypes::HINT)
    })?;
    if args.programs {
        let programs = verifier::try_all().map_err(|cause| {
            Failure::new(
                "the programs cannot be loaded",
                cause,
                "as root, or without --programs",
            )
        })?;
        report.programs = Some(programs);
    }
    let page = if args.json {
        let mut json = serde_json::to_string_pretty(&report).map_err(|error| {
            Failure::new(
                "the report cannot be written as JSON",
                error.to_string(),
                "without --json",
            )
        })?;
        json.push('\n');
        json
    } else {
        text(&report, style(globals.color))
    };
    print(&page)?;
    Ok(ExitCode::from(report.verdict.exit))
}

fn style(color: Color) -> Style {
    let terminal = std::io::stdout().is_terminal();
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    Style {
        ascii: !terminal || dumb,
        colour: match color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => terminal && !dumb && !plain,
        },
    }
}
