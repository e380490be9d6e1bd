//! `cargo xtask matrix`: is every count exact, for every generation, scenario, seed, probe and ring size?
//!
//! Each cell is a run of `apscope export` with the emulated driver's own ground truth beside it, compared number by
//! number. Combinations that hang by design, or that there are not, are left out. The table
//! of results, with seeds, commit, kernel and date, goes to `docs/results/exactness.md`.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::apscope::{self, Export, Scratch};
use crate::combinations::{GENERATIONS, SCENARIOS, ends};
use crate::compare::{count, differences};
use crate::crashes;
use crate::diagnoses;
use crate::failure::Failure;
use crate::process;
use crate::saturation;

/// The ring that is too small for the traffic: one page.
const SMALL_RING: u32 = 4096;
/// The scenario that is also run with the small ring: elsewhere there may be too little traffic for a loss.
const WITH_SMALL_RING: &str = "steady";

/// What to run.
#[derive(Debug, Clone, clap::Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "options that are given or not"
)]
pub struct Options {
    /// Seeds of each combination: 1 to N
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// Length of each run
    #[arg(long, value_name = "D", default_value = "300ms", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// Twenty runs for each kind of probes with the smallest ring, at the highest rate: is the account of drops exact?
    #[arg(long, conflicts_with_all = ["seeds", "ebpf_seeds", "quick", "scenarios", "jobs"])]
    saturation: bool,
    /// Which findings each scenario gives on each generation, instead of counts: docs/results/findings.md
    #[arg(long, conflicts_with_all = ["saturation", "ebpf_seeds", "quick"])]
    findings: bool,
    /// Fifty recorders that are killed at random moments: does every file open? docs/results/recording.md
    #[arg(long, conflicts_with_all = ["seeds", "ebpf_seeds", "quick", "scenarios", "generations", "probes", "jobs", "saturation", "findings"])]
    crash: bool,
    /// At most two seeds: is the matrix itself in order?
    #[arg(long)]
    quick: bool,
    /// Driver generations
    #[arg(long, value_delimiter = ',', default_values_t = GENERATIONS.map(String::from))]
    generations: Vec<String>,
    /// Scenarios
    #[arg(long, value_delimiter = ',', default_values_t = SCENARIOS.map(String::from))]
    scenarios: Vec<String>,
    /// Probes
    #[arg(long, value_delimiter = ',', default_value = "ebpf,in-process")]
    probes: Vec<String>,
    /// Seeds over eBPF, where the kernel takes some ten seconds to detach the probes of each run [default: as --seeds]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    ebpf_seeds: Option<u64>,
    /// Combinations at a time
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=64))]
    jobs: u64,
    /// Use this apscope instead of building one
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Where the table goes [default: docs/results/exactness.md, or saturation.md]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Options {
    fn output(&self) -> &Path {
        self.output.as_deref().unwrap_or(Path::new(if self.crash {
            "docs/results/recording.md"
        } else if self.findings {
            "docs/results/findings.md"
        } else if self.saturation {
            "docs/results/saturation.md"
        } else {
            "docs/results/exactness.md"
        }))
    }
}

/// One line of the table: all seeds of one combination.
#[derive(Debug, Default)]
struct Row {
    combination: [String; 4],
    seeds: u64,
    acquisitions: u64,
    contended: u64,
    calls: u64,
    emitted: u64,
    dropped: u64,
    differences: usize,
}

/// Runs the matrix and writes the table; a difference is an error that names the first ones.
pub fn run(root: &Path, mut options: Options) -> Result<(), Failure> {
    if options.quick {
        options.seeds = options.seeds.min(2);
    }
    let binary = apscope::binary(root, options.binary.clone())?;
    if options.crash {
        return crashes::run(root, &binary, options.output());
    }
    if options.findings {
        let options = diagnoses::Options {
            seeds: options.seeds,
            duration: "4s",
            probes: &options.probes,
            scenarios: &options.scenarios,
            generations: &options.generations,
            jobs: options.jobs,
            output: options.output(),
        };
        return diagnoses::run(root, &binary, &options);
    }
    if options.saturation {
        let options = saturation::Options {
            generations: &options.generations,
            probes: &options.probes,
            duration: options.duration,
            output: options.output(),
        };
        return saturation::run(root, &binary, &options);
    }
    let started = Instant::now();
    let (rows, found) = run_all(&options, &binary)?;
    let table = root.join(options.output());
    if let Some(folder) = table.parent() {
        fs::create_dir_all(folder).map_err(|e| Failure::file("creating", folder, &e))?;
    }
    fs::write(&table, markdown(&options, &rows, &found))
        .map_err(|e| Failure::file("writing", &table, &e))?;
    println!(
        "{} runs in {} s, table in {}",
        rows.iter().map(|r| r.seeds).sum::<u64>(),
        started.elapsed().as_secs(),
        table.display()
    );
    match found.first() {
        None => Ok(()),
        Some(first) => Err(Failure::found(format!(
            "{} differences from the ground truth; the first is: {first}",
            found.len()
        ))),
    }
}

/// All rows, in order, and every difference.
fn run_all(options: &Options, binary: &Path) -> Result<(Vec<Row>, Vec<String>), Failure> {
    let all = combinations(options);
    let next = AtomicUsize::new(0);
    let work = || -> Result<Vec<(usize, Row, Vec<String>)>, Failure> {
        let scratch = Scratch::new()?;
        let mut done = Vec::new();
        loop {
            let place = next.fetch_add(1, Ordering::Relaxed);
            let Some(combination) = all.get(place) else {
                return Ok(done);
            };
            let (row, found) = row(options, binary, scratch.path(), *combination)?;
            done.push((place, row, found));
        }
    };
    let mut done = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..options.jobs).map(|_| scope.spawn(work)).collect();
        let mut done = Vec::new();
        for thread in threads {
            // A panic of a worker is one of this program.
            done.extend(thread.join().expect("a worker panicked")?);
        }
        Ok::<_, Failure>(done)
    })?;
    done.sort_by_key(|(place, ..)| *place);
    let found = done
        .iter_mut()
        .flat_map(|d| std::mem::take(&mut d.2))
        .collect();
    Ok((done.into_iter().map(|(_, row, _)| row).collect(), found))
}

/// Generation, scenario, probe and ring.
type Combination<'a> = (&'a str, &'a str, &'a str, Option<u32>);

/// All seeds of one combination.
fn row(
    options: &Options,
    binary: &Path,
    folder: &Path,
    (generation, scenario, probe, ring_bytes): Combination<'_>,
) -> Result<(Row, Vec<String>), Failure> {
    let mut row = Row {
        combination: [
            generation.to_owned(),
            scenario.to_owned(),
            probe.to_owned(),
            ring_bytes.map_or_else(|| "default".into(), |b| format!("{b} B")),
        ],
        ..Row::default()
    };
    let mut found = Vec::new();
    let seeds = match options.ebpf_seeds {
        Some(seeds) if probe == "ebpf" => seeds,
        _ => options.seeds,
    };
    for seed in 1..=seeds {
        let export = Export {
            generation: Some(generation.to_owned()),
            scenario: scenario.to_owned(),
            seed,
            probe: probe.to_owned(),
            ring_bytes,
            duration: options.duration,
            more: Vec::new(),
        };
        let differing = cell(&export, binary, folder, &mut row)?;
        let name = format!("{} seed {seed}", row.combination.join(" "));
        println!("{name}: {}", verdict(differing.len()));
        for difference in differing {
            println!("  {name}: {difference}");
            found.push(format!("{name}: {difference}"));
        }
    }
    Ok((row, found))
}

/// Generation, scenario, probe and ring of each row.
fn combinations(options: &Options) -> Vec<Combination<'_>> {
    let mut all = Vec::new();
    for generation in &options.generations {
        for scenario in options.scenarios.iter().filter(|s| ends(generation, s)) {
            for probe in &options.probes {
                all.push((generation.as_str(), scenario.as_str(), probe.as_str(), None));
                if scenario == WITH_SMALL_RING {
                    all.push((generation, scenario, probe, Some(SMALL_RING)));
                }
            }
        }
    }
    all
}

/// One run: adds its counts to the row and returns what differs.
fn cell(
    export: &Export,
    binary: &Path,
    folder: &Path,
    row: &mut Row,
) -> Result<Vec<String>, Failure> {
    let (measured, truth) = export.run(binary, folder)?;
    let mut found = differences(&measured, &truth);
    let sum = |list: &str, field: &str| -> u64 {
        truth[list]
            .as_array()
            .into_iter()
            .flatten()
            .map(|v| count(&v[field]))
            .sum()
    };
    row.seeds += 1;
    row.acquisitions += sum("locks", "acquisitions");
    row.contended += sum("locks", "contended");
    row.calls += sum("entry_points", "calls");
    row.emitted += count(&measured["events"]["emitted"]);
    let dropped = count(&measured["events"]["dropped"]);
    row.dropped += dropped;
    // A run without traffic, or a small ring without drops, would prove nothing.
    if sum("locks", "acquisitions") == 0 {
        found.push("the truth has no acquisitions".into());
    }
    if export.ring_bytes.is_some() && dropped == 0 {
        found.push("the small ring dropped nothing".into());
    }
    row.differences += found.len();
    Ok(found)
}

fn verdict(differences: usize) -> String {
    match differences {
        0 => "exact".into(),
        n => format!("{n} differences"),
    }
}

fn markdown(options: &Options, rows: &[Row], found: &[String]) -> String {
    let mut text = format!(
        "# Exactness\n\n\
         Every count of every lock class, lock instance and entry point against the emulated driver's own ground\n\
         truth, number by number, and `emitted == received + dropped`. Written by `cargo xtask matrix`.\n\n\
{}| seeds | 1 to {} |\n| seeds over eBPF | 1 to {} |\n| each run | {} |\n\n\
         | generation | scenario | probe | ring | runs | acquisitions | contended | calls | spans emitted | dropped | result |\n\
         |---|---|---|---|--:|--:|--:|--:|--:|--:|---|\n",
        process::provenance(),
        options.seeds,
        options.ebpf_seeds.unwrap_or(options.seeds),
        humantime::format_duration(options.duration),
    );
    for row in rows {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} | {} |",
            row.combination.join(" | "),
            row.seeds,
            row.acquisitions,
            row.contended,
            row.calls,
            row.emitted,
            row.dropped,
            verdict(row.differences)
        );
    }
    if !found.is_empty() {
        text.push_str("\nDifferences:\n\n");
        for difference in found {
            let _ = writeln!(text, "* {difference}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_line_for_each_combination_and_names_differences() {
        let options = Options {
            findings: false,
            crash: false,
            seeds: 3,
            duration: Duration::from_secs(2),
            quick: false,
            generations: vec![],
            scenarios: vec![],
            probes: vec![],
            ebpf_seeds: Some(1),
            jobs: 1,
            binary: None,
            saturation: false,
            output: None,
        };
        let row = Row {
            combination: ["v5.13", "steady", "ebpf", "4096 B"].map(String::from),
            seeds: 3,
            acquisitions: 10,
            contended: 2,
            calls: 4,
            emitted: 14,
            dropped: 9,
            differences: 1,
        };
        let text = markdown(
            &options,
            &[row],
            &["seed 2: kvm->lock: contended 2, truth 1".into()],
        );
        assert!(
            text.contains(
                "| v5.13 | steady | ebpf | 4096 B | 3 | 10 | 2 | 4 | 14 | 9 | 1 differences |"
            ),
            "{text}"
        );
        assert!(text.contains("| seeds | 1 to 3 |"), "{text}");
        assert!(
            text.ends_with("* seed 2: kvm->lock: contended 2, truth 1\n"),
            "{text}"
        );
    }
}
