//! Time from the moment that a deadlock forms to the finding: runs of the emulated driver, `se-start`. The moment is the
//! emulator's own word (when the last wait of the circle began, in the truth of the run), the finding's is when
//! `Diagnosis::observe` has returned. Run by `cargo xtask bench latency`; prints one JSON object a run.
//!
//! Arguments: generation, probe (`ebpf` or `in-process`), first seed, last seed.
#![forbid(unsafe_code)]

use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use apscope_collector::diagnose::{Case, Finding};
use apscope_collector::options::{EmulatorOptions, ProbeChoice, RunOptions, SourceChoice};
use apscope_collector::source::Session;
use apscope_collector::source::reader::monotonic_ns;

/// A run that has not hung by then does not.
const LIMIT: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    // The emulated driver is this program too, started again.
    if std::env::args_os()
        .nth(1)
        .is_some_and(|command| command == "emulate")
    {
        return apscope_collector::cli::program::main(std::env::args_os());
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:?}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [generation, probe, first, last] = &arguments[..] else {
        return Err("arguments: generation, probe, first seed, last seed".into());
    };
    let probe = match probe.as_str() {
        "ebpf" => ProbeChoice::Ebpf,
        "in-process" => ProbeChoice::InProcess,
        other => return Err(format!("no such probe: {other}").into()),
    };
    for seed in first.parse()?..=last.parse::<u64>()? {
        one(generation, probe, seed)?;
    }
    Ok(())
}

fn one(generation: &str, probe: ProbeChoice, seed: u64) -> Result<(), Box<dyn Error>> {
    let options = RunOptions {
        source: SourceChoice::Emulator,
        probe,
        emulator: EmulatorOptions {
            generation: generation.to_owned(),
            scenario: "se-start".into(),
            seed,
            guests: 2,
            ..EmulatorOptions::default()
        },
        truth: true,
        ..RunOptions::default()
    };
    let mut session = Session::start(&options)?;
    let started = Instant::now();
    let mut case = Case::default();
    let mut found: Option<(u64, Finding)> = None;
    let mut stopped = false;
    while let Some(frame) = session.frames.blocking_recv() {
        if stopped {
            continue;
        }
        case.apply(&frame);
        let report = case.report();
        let now = monotonic_ns();
        found = report
            .findings
            .into_iter()
            .find(|f| f.id.0 == 1)
            .map(|f| (now, f));
        if found.is_some() || started.elapsed() > LIMIT {
            stopped = true;
            session.stop();
        }
    }
    let ended = session.ended();
    session.detached();
    let truth = ended.truth.ok_or("no ground truth")?;
    let Some((at_ns, finding)) = found else {
        println!(r#"{{"seed":{seed},"found":false}}"#);
        return Ok(());
    };
    // The circle's tasks, and when the last of them began to wait, in the emulator's own words.
    let circle = finding.seen.tasks.iter().map(|task| task.comm.as_str());
    let formed_ns = circle
        .map(|comm| {
            let of = truth
                .blocked
                .iter()
                .filter(|blocked| blocked.thread == comm);
            of.map(|blocked| blocked.since_ns).max()
        })
        .collect::<Option<Vec<u64>>>()
        .and_then(|since| since.into_iter().max())
        .ok_or("the truth does not have the circle's tasks")?;
    let latency_ns = at_ns.saturating_sub(formed_ns);
    println!(r#"{{"seed":{seed},"found":true,"latency_ns":{latency_ns}}}"#);
    Ok(())
}
