//! `cargo xtask matrix --findings`: does every scenario of the emulated driver give the findings that it must, on every
//! generation, and no others? What must and may be found is in `collector/tests/expected/findings.txt`; the table of
//! results goes to `docs/results/findings.md`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use serde_json::Value;

use crate::failure::Failure;
use crate::process;

/// The file of expectations.
pub const EXPECTED: &str = "collector/tests/expected/findings.txt";

/// Generations without a known deadlock, and scenarios that disturb nobody: nothing may be found in a minute.
const HEALTHY: [&str; 5] = ["v5.15", "v5.19", "v6.0", "v6.6", "v7.3"];
const UNDISTURBED: [&str; 3] = ["steady", "churn", "boot-storm"];

/// What to run.
pub struct Options<'a> {
    /// Seeds of each cell: 1 to N.
    pub seeds: u64,
    /// Length of a run where the expectation names none.
    pub duration: &'a str,
    /// Probes.
    pub probes: &'a [String],
    /// Scenarios; others are left out.
    pub scenarios: &'a [String],
    /// Generations; others are left out.
    pub generations: &'a [String],
    /// Runs at a time.
    pub jobs: u64,
    /// Where the table goes.
    pub output: &'a Path,
}

/// A scenario on a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    scenario: String,
    generation: String,
    must: BTreeSet<String>,
    may: BTreeSet<String>,
    options: Vec<String>,
}

/// The cells of the file.
pub fn cells(text: &str) -> Result<Vec<Cell>, String> {
    let mut cells = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let fields: Vec<&str> = line.split('|').map(str::trim).collect();
        let [scenario, generations, must, may, options] = fields[..] else {
            return Err(format!("line {}: not five fields", number + 1));
        };
        let set = |text: &str| text.split_whitespace().map(str::to_owned).collect();
        for generation in generations.split(',') {
            cells.push(Cell {
                scenario: scenario.to_owned(),
                generation: generation.to_owned(),
                must: set(must),
                may: set(may),
                options: options.split_whitespace().map(str::to_owned).collect(),
            });
        }
    }
    Ok(cells)
}

fn healthy_cells() -> Vec<Cell> {
    UNDISTURBED
        .into_iter()
        .flat_map(|scenario| HEALTHY.map(|generation| (scenario, generation)))
        .map(|(scenario, generation)| Cell {
            scenario: scenario.to_owned(),
            generation: generation.to_owned(),
            must: BTreeSet::new(),
            may: BTreeSet::new(),
            options: vec!["--duration".to_owned(), "60s".to_owned()],
        })
        .collect()
}

/// One run.
struct Outcome {
    cell: usize,
    probe: String,
    seed: u64,
    /// Of the process; `None` if a signal ended it.
    code: Option<i32>,
    found: Result<BTreeSet<String>, String>,
}

impl Outcome {
    /// What is wrong with it; `None` if it is as expected.
    fn wrong(&self, cell: &Cell) -> Option<String> {
        let found = match &self.found {
            Ok(found) => found,
            Err(error) => return Some(error.clone()),
        };
        // AP000 says that it is not here.
        let code = i32::from(found.iter().any(|id| id != "AP000"));
        let missing: Vec<&str> = cell.must.difference(found).map(String::as_str).collect();
        let more: Vec<&str> = found
            .iter()
            .filter(|id| !cell.must.contains(*id) && !cell.may.contains(*id))
            .map(String::as_str)
            .collect();
        let mut parts = Vec::new();
        if !missing.is_empty() {
            parts.push(format!("without {}", missing.join(" ")));
        }
        if !more.is_empty() {
            parts.push(format!("also {}", more.join(" ")));
        }
        if self.code != Some(code) {
            parts.push(match self.code {
                Some(other) => format!("exit code {other}, not {code}"),
                None => "ended by a signal".to_owned(),
            });
        }
        (!parts.is_empty())
            .then(|| format!("{} seed {}: {}", self.probe, self.seed, parts.join(", ")))
    }
}

/// Runs all cells and writes the table; a cell that is not as it must be is an error.
pub fn run(root: &Path, binary: &Path, options: &Options<'_>) -> Result<(), Failure> {
    let path = root.join(EXPECTED);
    let text = fs::read_to_string(&path).map_err(|e| Failure::file("reading", &path, &e))?;
    let mut cells =
        cells(&text).map_err(|e| Failure::new(format!("reading {EXPECTED}")).cause(e))?;
    cells.retain(|cell| {
        options.scenarios.contains(&cell.scenario) && options.generations.contains(&cell.generation)
    });
    let healthy = cells.len();
    cells.extend(healthy_cells().into_iter().filter(|cell| {
        options.scenarios.contains(&cell.scenario) && options.generations.contains(&cell.generation)
    }));
    let started = Instant::now();
    let runs: Vec<(usize, &str, u64)> = (0..healthy)
        .flat_map(|cell| {
            options
                .probes
                .iter()
                .map(move |probe| (cell, probe.as_str()))
        })
        .flat_map(|(cell, probe)| (1..=options.seeds).map(move |seed| (cell, probe, seed)))
        .collect();
    // Once each, in a minute; the longest runs first.
    let minutes = (healthy..cells.len()).map(|cell| (cell, "in-process", 1));
    let runs: Vec<(usize, &str, u64)> = minutes.chain(runs).collect();
    let next = AtomicUsize::new(0);
    let outcomes = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..options.jobs)
            .map(|_| {
                scope.spawn(|| {
                    let mut outcomes = Vec::new();
                    while let Some(&(cell, probe, seed)) =
                        runs.get(next.fetch_add(1, Ordering::Relaxed))
                    {
                        let outcome = one(binary, options, &cells[cell], cell, probe, seed);
                        let wrong = outcome.wrong(&cells[cell]);
                        println!(
                            "{} {} {probe} seed {seed}: {}",
                            cells[cell].scenario,
                            cells[cell].generation,
                            wrong.as_deref().unwrap_or("as expected")
                        );
                        outcomes.push(outcome);
                    }
                    outcomes
                })
            })
            .collect();
        workers
            .into_iter()
            .filter_map(|worker| worker.join().ok())
            .flatten()
            .collect::<Vec<_>>()
    });
    let table = root.join(options.output);
    fs::write(&table, markdown(options, &cells, &outcomes))
        .map_err(|e| Failure::file("writing", &table, &e))?;
    let wrong: Vec<String> = outcomes
        .iter()
        .filter_map(|o| {
            let cell = &cells[o.cell];
            Some(format!(
                "{} {} {}",
                cell.scenario,
                cell.generation,
                o.wrong(cell)?
            ))
        })
        .collect();
    println!(
        "{} cells, {} runs in {} s, table in {}",
        cells.len(),
        outcomes.len(),
        started.elapsed().as_secs(),
        table.display()
    );
    match wrong.first() {
        None => Ok(()),
        Some(first) => Err(Failure::found(format!(
            "{} runs are not as expected; the first is: {first}",
            wrong.len()
        ))),
    }
}

fn one(
    binary: &Path,
    options: &Options<'_>,
    cell: &Cell,
    number: usize,
    probe: &str,
    seed: u64,
) -> Outcome {
    let mut command = Command::new(binary);
    command.args([
        "diagnose", "--json", "--quiet", "--source", "emulator", "--probe", probe,
    ]);
    command.args([
        "--scenario",
        &cell.scenario,
        "--generation",
        &cell.generation,
    ]);
    command
        .args(["--seed", &seed.to_string()])
        .args(&cell.options);
    for (name, value) in [("--duration", options.duration), ("--guests", "4")] {
        if !cell.options.iter().any(|option| option == name) {
            command.args([name, value]);
        }
    }
    let mut code = None;
    let found = command
        .output()
        .map_err(|e| e.to_string())
        .and_then(|output| {
            code = output.status.code();
            let document: Value = serde_json::from_slice(&output.stdout)
                .map_err(|_| String::from_utf8_lossy(&output.stderr).replace('\n', " "))?;
            let findings = document["findings"].as_array().into_iter().flatten();
            Ok(findings
                .filter_map(|finding| finding["id"].as_str().map(str::to_owned))
                .collect())
        });
    Outcome {
        cell: number,
        probe: probe.to_owned(),
        seed,
        code,
        found,
    }
}

fn markdown(options: &Options<'_>, cells: &[Cell], outcomes: &[Outcome]) -> String {
    let mut text = format!(
        "# Findings by scenario and generation\n\n\
         Each cell is `apscope diagnose` on the emulated driver; what must and may be found is in\n\
         `{EXPECTED}`, with the reasons. Written by `cargo xtask matrix --findings`.\n\n{}\
         | probes | {} |\n| seeds | 1 to {} |\n\n\
         | scenario | generation | must | may | runs | as expected | otherwise |\n|---|---|---|---|--:|--:|---|\n",
        process::provenance(),
        options.probes.join(", "),
        options.seeds,
    );
    let words = |set: &BTreeSet<String>| set.iter().cloned().collect::<Vec<_>>().join(" ");
    for (number, cell) in cells.iter().enumerate() {
        let of: Vec<&Outcome> = outcomes.iter().filter(|o| o.cell == number).collect();
        let wrong: Vec<String> = of.iter().filter_map(|o| o.wrong(cell)).collect();
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| {}{} | {} | {} | {} | {} | {} | {} |",
            cell.scenario,
            if cell.options.iter().any(|option| option == "60s") {
                ", a minute"
            } else {
                ""
            },
            cell.generation,
            words(&cell.must),
            words(&cell.may),
            of.len(),
            of.len() - wrong.len(),
            wrong.join("; ").replace('|', "\\|")
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_of_expectations_is_in_order() {
        let text = include_str!("../../collector/tests/expected/findings.txt");
        let cells = cells(text).unwrap();
        assert!(cells.len() >= 40, "{}", cells.len());
        for (place, cell) in cells.iter().enumerate() {
            assert!(
                crate::combinations::GENERATIONS.contains(&cell.generation.as_str()),
                "{cell:?}"
            );
            assert!(
                crate::combinations::SCENARIOS.contains(&cell.scenario.as_str()),
                "{cell:?}"
            );
            let again = cells[place + 1..].iter().any(|other| {
                (&other.scenario, &other.generation) == (&cell.scenario, &cell.generation)
            });
            assert!(!again, "{cell:?} is there twice");
        }
    }

    #[test]
    fn what_is_missing_and_what_is_too_much_is_told() {
        let cell = &cells("s | g | AP001 AP002 | AP009 |").unwrap()[0];
        let with = |code, found: &[&str]| {
            Outcome {
                cell: 0,
                probe: "ebpf".into(),
                seed: 3,
                code,
                found: Ok(found.iter().map(|id| (*id).to_owned()).collect()),
            }
            .wrong(cell)
        };
        let wrong = |found: &[&str]| with(Some(1), found);
        assert_eq!(wrong(&["AP001", "AP002"]), None);
        assert_eq!(
            with(Some(0), &["AP001", "AP002"]).unwrap(),
            "ebpf seed 3: exit code 0, not 1"
        );
        assert!(with(None, &["AP001", "AP002"]).unwrap().contains("signal"));
        assert_eq!(wrong(&["AP001", "AP002", "AP009"]), None);
        assert_eq!(
            wrong(&["AP001", "AP003"]).unwrap(),
            "ebpf seed 3: without AP002, also AP003"
        );
        assert!(cells("a | b | c").is_err());
    }
}
