//! `cargo xtask matrix --saturation`: is the account of the ring exact when most of what is emitted finds no room?
//!
//! Twenty runs with the smallest ring at a hundred times the scenario's rate, over the driver generations. Of each run:
//!
//! * every statistic equals the emulated driver's own ground truth, as in the matrix;
//! * `emitted == received + dropped`, of which `received` is counted by the reader of the ring, the others by the
//!   programs;
//! * the account by program and CPU adds up to the totals, and no CPU dropped more than it emitted;
//! * each program emitted as many records as the truth has releases and returns.
//!
//! The table goes to `docs/results/saturation.md`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::apscope::{Export, Scratch};
use crate::compare::{count, differences};
use crate::failure::Failure;
use crate::process;

/// Runs for each kind of probes.
const RUNS: usize = 20;
/// One page: room for 85 records.
const RING_BYTES: u32 = 4096;
/// The fastest scenarios: one program on one CPU; two on all of them.
const SCENARIOS: [&str; 2] = ["lock-cycle", "pqap-storm"];
/// Relative to the scenario's own rate, so that no actor ever pauses for long.
const RATE: &str = "100";
/// A run that drops less than this share is not at saturation, and proves nothing.
const LEAST_DROPPED_PERCENT: u64 = 25;

/// What to run, from the options of the matrix.
pub struct Options<'a> {
    /// Driver generations, taken in turn.
    pub generations: &'a [String],
    /// `ebpf`, `in-process`.
    pub probes: &'a [String],
    /// Length of each run.
    pub duration: Duration,
    /// Where the table goes.
    pub output: &'a Path,
}

/// One run.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    what: String,
    emitted: u64,
    received: u64,
    dropped: u64,
    found: Vec<String>,
}

/// Runs everything and writes the table; a difference is an error that names the first one.
pub fn run(root: &Path, binary: &Path, options: &Options<'_>) -> Result<(), Failure> {
    let scratch = Scratch::new()?;
    let mut rows = Vec::new();
    for probe in options.probes {
        for number in 0..RUNS {
            // Generations and scenarios are taken in turn; there is an odd number of generations, so that both
            // scenarios run on all of them when there are runs enough.
            let Some(generation) = options
                .generations
                .get(number % options.generations.len().max(1))
            else {
                return Err(Failure::new("no driver generation to run"));
            };
            let export = Export {
                generation: Some(generation.clone()),
                scenario: SCENARIOS[number % SCENARIOS.len()].into(),
                seed: number as u64 + 1,
                probe: probe.clone(),
                ring_bytes: Some(RING_BYTES),
                duration: options.duration,
                more: vec!["--rate".into(), RATE.into()],
            };
            let (measured, truth) = export.run(binary, scratch.path())?;
            let row = row(
                format!(
                    "{probe} | {generation} | {} | {}",
                    export.scenario, export.seed
                ),
                &measured,
                &truth,
            );
            println!(
                "{}: {} of {} dropped, {} differences",
                row.what,
                row.dropped,
                row.emitted,
                row.found.len()
            );
            rows.push(row);
        }
    }
    let table = root.join(options.output);
    fs::write(&table, markdown(options.duration, &rows))
        .map_err(|e| Failure::file("writing", &table, &e))?;
    println!("{} runs, table in {}", rows.len(), table.display());
    let mut found = rows.iter().flat_map(|r| &r.found);
    match found.next() {
        None => Ok(()),
        Some(first) => Err(Failure::found(format!(
            "{} differences; the first is: {first}",
            found.count() + 1
        ))),
    }
}

fn row(what: String, measured: &Value, truth: &Value) -> Row {
    let events = &measured["events"];
    let mut found = differences(measured, truth);
    found.extend(account(events, truth));
    let (emitted, dropped) = (count(&events["emitted"]), count(&events["dropped"]));
    if dropped * 100 < emitted * LEAST_DROPPED_PERCENT || emitted == 0 {
        found.push(format!(
            "only {dropped} of {emitted} dropped: the ring was not saturated"
        ));
    }
    Row {
        found: found.iter().map(|f| format!("{what}: {f}")).collect(),
        what,
        emitted,
        received: count(&events["received"]),
        dropped,
    }
}

/// What is wrong with the account by program and CPU.
fn account(events: &Value, truth: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let (mut emitted, mut dropped) = (0, 0);
    let mut by_program: BTreeMap<&str, u64> = BTreeMap::new();
    for one in events["by_program"].as_array().into_iter().flatten() {
        let name = one["name"].as_str().unwrap_or("?");
        let of_one = (count(&one["emitted"]), count(&one["dropped"]));
        if of_one.1 > of_one.0 {
            found.push(format!(
                "{name} on CPU {}: dropped {} of {}",
                one["cpu"], of_one.1, of_one.0
            ));
        }
        emitted += of_one.0;
        dropped += of_one.1;
        *by_program.entry(name).or_default() += of_one.0;
    }
    let total = (count(&events["emitted"]), count(&events["dropped"]));
    if (emitted, dropped) != total {
        found.push(format!(
            "by program and CPU {emitted} emitted and {dropped} dropped, in all {} and {}",
            total.0, total.1
        ));
    }
    let received = count(&events["received"]);
    if received + dropped != emitted {
        found.push(format!(
            "by program and CPU {emitted} emitted and {dropped} dropped, but {received} received"
        ));
    }
    // One record for each completed hold and each return.
    for (program, expected) in [
        ("lock_release", releases(truth)),
        ("entry_return", returns(truth)),
    ] {
        let of_it = by_program.remove(program).unwrap_or(0);
        if of_it != expected {
            found.push(format!("{program}: emitted {of_it}, truth {expected}"));
        }
    }
    for (program, of_it) in by_program {
        if of_it > 0 {
            found.push(format!("{program}: emitted {of_it}, expected none"));
        }
    }
    found
}

fn releases(truth: &Value) -> u64 {
    let locks = truth["locks"].as_array().into_iter().flatten();
    locks.map(|lock| count(&lock["releases"])).sum()
}

fn returns(truth: &Value) -> u64 {
    let entries = truth["entry_points"].as_array().into_iter().flatten();
    entries
        .filter_map(|entry| entry["returns"].as_object())
        .flat_map(|returns| returns.values())
        .map(count)
        .sum()
}

fn markdown(duration: Duration, rows: &[Row]) -> String {
    let mut text = format!(
        "# The ring at saturation\n\n\
         Runs with the smallest ring ({RING_BYTES} bytes) at {RATE} times the scenario's rate: most records find no room.\n\
         `exact` means: every statistic equals the emulated driver's own ground truth; `emitted == received + dropped`,\n\
         the first and last counted by the programs, the other by the ring's reader; the account by program and CPU adds\n\
         up to the totals; and each program emitted as many records as the truth has releases (`lock_release`) and\n\
         returns (`entry_return`). Written by `cargo xtask matrix --saturation`.\n\n\
         {}| each run | {} |\n\n\
         | probe | generation | scenario | seed | emitted | received | dropped | share dropped | result |\n\
         |---|---|---|--:|--:|--:|--:|--:|---|\n",
        process::provenance(),
        humantime::format_duration(duration),
    );
    for row in rows {
        let share = row.dropped as f64 * 100.0 / row.emitted.max(1) as f64;
        let result = match row.found.len() {
            0 => "exact".to_owned(),
            n => format!("{n} differences"),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {share:.1} % | {result} |",
            row.what, row.emitted, row.received, row.dropped
        );
    }
    let mut found = rows.iter().flat_map(|r| &r.found).peekable();
    if found.peek().is_some() {
        text.push_str("\nDifferences:\n\n");
        for difference in found {
            let _ = writeln!(text, "* {difference}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn truth() -> Value {
        json!({ "ended": "finished",
            "locks": [{ "class": "kvm->lock", "mode": "-", "acquisitions": 6, "contended": 0, "releases": 6, "attempts_failed": 0 }],
            "entry_points": [{ "name": "handle_pqap", "calls": 4, "returns": { "ok": 3, "-EBUSY": 1 } }] })
    }

    fn events() -> Value {
        json!({ "emitted": 10, "received": 3, "dropped": 7, "by_program": [
            { "name": "lock_release", "cpu": 0, "emitted": 2, "dropped": 2 },
            { "name": "lock_release", "cpu": 1, "emitted": 4, "dropped": 2 },
            { "name": "entry_return", "cpu": 1, "emitted": 4, "dropped": 3 },
        ] })
    }

    #[test]
    fn an_account_that_adds_up_is_exact_and_any_other_is_not() {
        assert_eq!(account(&events(), &truth()), Vec::<String>::new());
        for pointer in [
            "/emitted",
            "/received",
            "/dropped",
            "/by_program/0/emitted",
            "/by_program/1/dropped",
            "/by_program/2/emitted",
        ] {
            let mut events = events();
            let value = events.pointer_mut(pointer).expect("is there");
            *value = json!(count(value) + 1);
            assert_ne!(
                account(&events, &truth()),
                Vec::<String>::new(),
                "{pointer}"
            );
        }
    }

    #[test]
    fn totals_that_add_up_do_not_hide_a_wrong_program() {
        let mut moved = events();
        moved["by_program"][1]["emitted"] = json!(5);
        moved["by_program"][2]["emitted"] = json!(3);
        assert_eq!(
            account(&moved, &truth()),
            [
                "lock_release: emitted 7, truth 6",
                "entry_return: emitted 3, truth 4"
            ]
        );
        let mut renamed = events();
        renamed["by_program"][2]["name"] = json!("wait_wake");
        assert_eq!(account(&renamed, &truth()).len(), 2);
        let mut impossible = events();
        impossible["by_program"][0]["dropped"] = json!(3);
        impossible["by_program"][1]["dropped"] = json!(1);
        assert_eq!(
            account(&impossible, &truth()),
            ["lock_release on CPU 0: dropped 3 of 2"]
        );
    }

    #[test]
    fn a_run_with_room_for_everything_proves_nothing() {
        let mut measured = json!({ "events": events() });
        measured["events"]["received"] = json!(10);
        measured["events"]["dropped"] = json!(0);
        for one in measured["events"]["by_program"]
            .as_array_mut()
            .expect("is a list")
        {
            one["dropped"] = json!(0);
        }
        let row = row("x".into(), &measured, &truth());
        assert!(
            row.found.iter().any(|f| f.ends_with("not saturated")),
            "{row:?}"
        );
        assert!(markdown(Duration::from_secs(1), &[row]).contains("| x | 10 | 10 | 0 | 0.0 % |"));
    }
}
