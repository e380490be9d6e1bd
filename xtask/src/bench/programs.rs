//! `cargo xtask bench programs`: time of each eBPF program for an event, and its ratio to a program that does nothing
//! but write one ring record.
//!
//! Both are measured by the kernel (`BPF_STATS_RUN_TIME`), in the same run, at the same probe points, for the same
//! events: the program to compare with is attached beside apscope's. What the kernel's own clock reads cost is in both,
//! and where the first of two programs fetches cache lines for the second, either may gain.
//!
//! The limit is for the scenario that does lock cycles only: all of apscope's time divided by all of its program runs,
//! so each program weighs as often as it runs in a cycle.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aya::sys::{Stats, enable_stats};
use serde_json::Value;

use super::baseline::{Baseline, Runs};
use super::{SCENARIO, emulator, median};
use crate::apscope::{self, Export, Scratch};
use crate::compare::{count, differences};
use crate::failure::Failure;
use crate::process;

/// How to measure it.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Runs of each scenario
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Length of each run
    #[arg(long, value_name = "D", default_value = "1s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// Use this apscope instead of building one
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Where the table goes
    #[arg(
        short,
        long,
        value_name = "FILE",
        default_value = "docs/results/programs.md"
    )]
    output: PathBuf,
}

/// Largest ratio of a program run to one of the yardstick's, weighted per lock cycle.
const LIMIT: f64 = 1.3;
/// The scenario of the limit, and two in which the other programs run too.
const SCENARIOS: [&str; 3] = [SCENARIO, "pqap-storm", "steady"];
/// Where the yardstick is attached: the two points of an uncontended lock cycle.
const POINTS: [&str; 2] = ["lock_acquired", "mutex_unlock"];

/// One run: the yardstick, and apscope's programs by name.
#[derive(Debug)]
struct Run {
    baseline: Runs,
    programs: BTreeMap<String, Runs>,
}

impl Runs {
    fn ns(self) -> f64 {
        self.run_time_ns as f64 / self.runs as f64
    }
}

impl Run {
    /// All programs together.
    fn all(&self) -> Runs {
        Runs {
            runs: self.programs.values().map(|r| r.runs).sum(),
            run_time_ns: self.programs.values().map(|r| r.run_time_ns).sum(),
        }
    }

    fn ratio(&self) -> f64 {
        self.all().ns() / self.baseline.ns()
    }
}

/// Measures, writes the table, and fails where the limit is not kept.
pub fn run(root: &Path, options: Options) -> Result<(), Failure> {
    let binary = apscope::binary(root, options.binary)?;
    let offsets = {
        let emulator = emulator(&binary)?;
        POINTS
            .iter()
            .map(|symbol| emulator.point("kernel", symbol))
            .collect::<Result<Vec<_>, _>>()?
    };
    let _statistics = enable_stats(Stats::RunTime).map_err(|e| {
        Failure::new("enabling the kernel's run statistics")
            .cause(e.to_string())
            .hint("run as root, on Linux 5.8 or newer")
    })?;
    let scratch = Scratch::new()?;
    let mut measured = Vec::new();
    for scenario in SCENARIOS {
        let mut runs = Vec::new();
        for seed in 1..=options.runs {
            let run = one(
                &binary,
                &offsets,
                scenario,
                seed,
                options.duration,
                scratch.path(),
            )?;
            println!(
                "{scenario} run {seed}: {:.0} ns a program run, yardstick {:.0} ns, ratio {:.2}",
                run.all().ns(),
                run.baseline.ns(),
                run.ratio()
            );
            runs.push(run);
        }
        measured.push((scenario, runs));
    }
    let (text, ratio) = markdown(options.duration, &measured);
    let table = root.join(&options.output);
    fs::write(&table, text).map_err(|e| Failure::file("writing", &table, &e))?;
    println!(
        "ratio {ratio:.2}, limit {LIMIT}; table in {}",
        table.display()
    );
    if ratio <= LIMIT {
        return Ok(());
    }
    Err(Failure::found(format!(
        "a program run takes {ratio:.2} times one of a program that writes one ring record, more than {LIMIT}"
    )))
}

fn one(
    binary: &Path,
    offsets: &[u64],
    scenario: &str,
    seed: u32,
    duration: Duration,
    folder: &Path,
) -> Result<Run, Failure> {
    let baseline = Baseline::attach(binary, offsets)?;
    let export = Export {
        generation: None,
        scenario: scenario.into(),
        seed: seed.into(),
        probe: "ebpf".into(),
        ring_bytes: None,
        duration,
        more: Vec::new(),
    };
    let (measured, truth) = export.run(binary, folder)?;
    let baseline = baseline.finish()?;
    if let Some(first) = differences(&measured, &truth).first() {
        return Err(Failure::new(format!(
            "apscope missed something, so its cost means nothing: {first}"
        )));
    }
    let dropped = count(&measured["events"]["dropped"]);
    if dropped > 0 {
        return Err(Failure::new(format!(
            "apscope's ring was full {dropped} times, and not writing a record is cheaper"
        )));
    }
    let run = Run {
        baseline,
        programs: programs(&measured),
    };
    if run.all().runs == 0 || run.all().run_time_ns == 0 || baseline.runs == 0 {
        return Err(Failure::new("the kernel has no run statistics"));
    }
    // Both see each event of a lock cycle, or they do not measure the same.
    if scenario == SCENARIO && run.all().runs != baseline.runs {
        return Err(Failure::new(format!(
            "apscope's programs ran {} times, the program to compare with {}",
            run.all().runs,
            baseline.runs
        )));
    }
    Ok(run)
}

/// The programs of an export that have run.
fn programs(measured: &Value) -> BTreeMap<String, Runs> {
    let list = measured["overhead"]["programs"].as_array();
    list.into_iter()
        .flatten()
        .filter(|p| count(&p["runs"]) > 0)
        .map(|p| {
            let runs = Runs {
                runs: count(&p["runs"]),
                run_time_ns: count(&p["run_time_ns"]),
            };
            (p["name"].as_str().unwrap_or("?").to_owned(), runs)
        })
        .collect()
}

/// The text, and the ratio that the limit is for.
fn markdown(duration: Duration, measured: &[(&str, Vec<Run>)]) -> (String, f64) {
    let ratio_of = |runs: &[Run]| median(runs.iter().map(Run::ratio).collect());
    let ratio = measured
        .iter()
        .find(|(scenario, _)| *scenario == SCENARIO)
        .map_or(f64::NAN, |(_, runs)| ratio_of(runs));
    let mut text = format!(
        "# Time of the eBPF programs\n\n\
         Time for an event, as the kernel measures it (run_time_ns / run_cnt of each program), and its ratio to a\n\
         program that only writes one ring record of the same size, attached to the same probe points in the same run:\n\
         medians over the runs. The limit is {LIMIT} for all programs together, weighted as often as each runs in a lock\n\
         cycle (scenario `{SCENARIO}`). The kernel's own clock reads are in both figures. Written by\n\
         `cargo xtask bench programs`.\n\n\
         {}| runs of each scenario | {} |\n| each run | {} |\n\n\
         **Ratio per lock cycle: {ratio:.2}, limit {LIMIT}: {}.**\n",
        process::provenance(),
        measured.first().map_or(0, |(_, runs)| runs.len()),
        humantime::format_duration(duration),
        if ratio <= LIMIT { "kept" } else { "not kept" },
    );
    for (scenario, runs) in measured {
        let mut names: Vec<_> = runs.iter().flat_map(|r| r.programs.keys()).collect();
        names.sort_unstable();
        names.dedup();
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "\n## {scenario}\n\n| program | runs | ns a run | ratio |\n|---|--:|--:|--:|"
        );
        let mut line = |name: &str, of: &dyn Fn(&Run) -> Option<Runs>| {
            let ran: Vec<_> = runs.iter().filter_map(|r| Some((of(r)?, r))).collect();
            let times = ran.iter().map(|(of, _)| of.ns()).collect();
            let ratios = ran
                .iter()
                .map(|(of, r)| of.ns() / r.baseline.ns())
                .collect();
            let _ = writeln!(
                text,
                "| {name} | {} | {:.0} | {:.2} |",
                ran.iter().map(|(of, _)| of.runs).sum::<u64>(),
                median(times),
                median(ratios)
            );
        };
        line("one ring record (yardstick)", &|r| Some(r.baseline));
        for name in names {
            line(&format!("`{name}`"), &|r| r.programs.get(name).copied());
        }
        line("all programs", &|r| Some(r.all()));
        let ratios: Vec<_> = runs.iter().map(|r| format!("{:.2}", r.ratio())).collect();
        let _ = writeln!(text, "\nRatio of each run: {}.", ratios.join(", "));
    }
    (text, ratio)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn run(baseline_ns: u64, acquired_ns: u64) -> Run {
        let measured = json!({ "overhead": { "programs": [
            { "name": "lock_acquired", "runs": 10, "run_time_ns": 10 * acquired_ns },
            { "name": "lock_release", "runs": 30, "run_time_ns": 30 * 200 },
            { "name": "wait_wake", "runs": 0 },
        ] } });
        Run {
            baseline: Runs {
                runs: 40,
                run_time_ns: 40 * baseline_ns,
            },
            programs: programs(&measured),
        }
    }

    #[test]
    fn programs_weigh_as_often_as_they_run() {
        let run = run(100, 40);
        assert_eq!(run.programs.len(), 2);
        assert!((run.all().ns() - 160.0).abs() < 1e-9);
        assert!((run.ratio() - 1.6).abs() < 1e-9);
    }

    #[test]
    fn the_limit_is_for_the_median_of_lock_cycles() {
        let cycles = vec![run(100, 40), run(200, 40), run(10, 40)];
        let (text, ratio) = markdown(
            Duration::from_secs(1),
            &[("steady", vec![run(160, 40)]), (SCENARIO, cycles)],
        );
        assert!((ratio - 1.6).abs() < 1e-9);
        assert!(
            text.contains("**Ratio per lock cycle: 1.60, limit 1.3: not kept.**"),
            "{text}"
        );
        assert!(
            text.contains("| `lock_release` | 90 | 200 | 2.00 |"),
            "{text}"
        );
        assert!(
            text.contains("Ratio of each run: 1.60, 0.80, 16.00."),
            "{text}"
        );
        let (text, _) = markdown(Duration::from_secs(1), &[(SCENARIO, vec![run(160, 40)])]);
        assert!(text.contains("1.00, limit 1.3: kept"), "{text}");
    }
}
