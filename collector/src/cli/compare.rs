//! `compare`: the same workload on several generations of the emulated driver.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::live::{Warnings, follow, note};
use super::output::print;
use super::{Failure, Globals, run_options};
use crate::compare::{Column, text};
use crate::diagnose::{Case, Report};
use crate::emulator::{self, Outcome};
use crate::options::SourceChoice;
use crate::source::Session;

/// How long each generation runs where nothing is said.
const DEFAULT_DURATION: Duration = Duration::from_secs(5);

/// Arguments of `compare`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct CompareArgs {
    /// Generations of the emulated driver, separated by commas
    #[arg(long, value_name = "A,B,...", value_delimiter = ',', required = true)]
    pub generations: Vec<String>,

    /// One JSON object, described in docs/json.md, instead of a table
    #[arg(long)]
    pub json: bool,
}

/// The JSON document.
#[derive(Serialize)]
struct Comparison {
    schema: u32,
    scenario: String,
    seed: u64,
    guests: u32,
    vcpus: u32,
    generations: Vec<Column>,
}

pub(super) fn run(args: &CompareArgs, globals: &Globals) -> Result<ExitCode, Failure> {
    if globals.pid.is_some()
        || globals.source == SourceChoice::Kernel
        || globals.generation.is_some()
    {
        return Err(Failure::new(
            "compare runs emulated drivers of its own",
            "--pid, --source kernel or --generation was given too",
            "without it",
        ));
    }
    let duration = globals.duration.unwrap_or(DEFAULT_DURATION);
    // What is no generation is said before anything runs.
    for generation in &args.generations {
        if !emulator::generations().contains(&generation.as_str()) {
            return Err(Failure::new(
                format!("there is no generation {generation}"),
                format!("there are {}", emulator::generations().join(", ")),
                "--generations v5.11,v5.13,v5.15,v6.0",
            ));
        }
    }
    let mut columns = Vec::new();
    for generation in &args.generations {
        let mut globals = globals.clone();
        globals.generation = Some(generation.clone());
        globals.source = SourceChoice::Emulator;
        if emulator::outcome(generation, &globals.scenario) == Some(Outcome::Refused) {
            let why = format!("it does not have what {} is about", globals.scenario);
            columns.push(Column::refused(generation, why));
            continue;
        }
        let options = run_options(&globals)?;
        if !globals.quiet {
            note(&format!(
                "{generation}: {} ...",
                humantime::format_duration(duration)
            ));
        }
        let session = Session::start(&options)?;
        columns.push(one(&globals, generation, session, duration)?);
    }
    let (scenario, seed) = (globals.scenario.clone(), globals.seed);
    let (guests, vcpus) = (globals.guests, globals.vcpus);
    if args.json {
        let document = Comparison {
            schema: crate::export::json::SCHEMA,
            scenario,
            seed,
            guests,
            vcpus,
            generations: columns,
        };
        let json = serde_json::to_string_pretty(&document).map_err(|error| {
            Failure::new(
                "the comparison cannot be written as JSON",
                error.to_string(),
                "without --json",
            )
        })?;
        print(&format!("{json}\n"))?;
    } else {
        let title = format!(
            "EMULATED drivers, scenario {scenario}, seed {seed}, {guests} guests x {vcpus} vCPUs, {} each",
            humantime::format_duration(duration)
        );
        print(&text::render(&title, &columns))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn one(
    globals: &Globals,
    generation: &str,
    session: Session,
    duration: Duration,
) -> Result<Column, Failure> {
    let mut case = Case::default();
    let mut before: Option<Report> = None;
    let limit = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let mut first_ns = None;
    let finished = follow(globals, Warnings::Told, session, Some(duration), |frame| {
        case.apply(frame);
        let at_ns = case.model.last.at_ns;
        let elapsed = at_ns.saturating_sub(*first_ns.get_or_insert(at_ns));
        if elapsed.saturating_add(case.model.last.length_ns.saturating_mul(2)) < limit {
            before = Some(case.report());
        }
        Ok(())
    })?;
    finished.check()?;
    let report = before.unwrap_or_else(|| case.report());
    Ok(Column::of(generation, &case, &report))
}
