//! `cargo xtask deadlocks`: does the conversion of a guest against the release of its device deadlock, on which
//! generation, and who waits for whom? The table goes to `docs/results/deadlocks.md`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::apscope;
use crate::bench::emulator::Emulator;
use crate::combinations::{DEADLOCKING, GENERATIONS};
use crate::failure::Failure;
use crate::process;

/// What to run.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Seeds of each generation: 1 to N
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// Length of each run
    #[arg(long, value_name = "D", default_value = "3s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// Use this apscope instead of building one
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Where the table goes
    #[arg(
        short,
        long,
        value_name = "FILE",
        default_value = "docs/results/deadlocks.md"
    )]
    output: PathBuf,
}

/// All seeds of one generation.
#[derive(Debug, Default)]
struct Row {
    generation: &'static str,
    runs: u64,
    stuck: u64,
    /// Who waits for whom, in the different forms seen.
    chains: BTreeSet<String>,
}

impl Row {
    fn is_as_expected(&self) -> bool {
        let expected = if DEADLOCKING.contains(&self.generation) {
            self.runs
        } else {
            0
        };
        self.stuck == expected
    }
}

/// Runs `se-start` on every generation and writes the table; a generation that does not do as it must is an error.
pub fn run(root: &Path, options: &Options) -> Result<(), Failure> {
    let binary = apscope::binary(root, options.binary.clone())?;
    let mut rows = Vec::new();
    for generation in GENERATIONS {
        let mut row = Row {
            generation,
            ..Row::default()
        };
        for seed in 1..=options.seeds {
            let seed = seed.to_string();
            let arguments = ["--scenario", "se-start", "--guests", "2", "--seed", &seed];
            let arguments = [&arguments[..], &["--generation", generation]].concat();
            let (_, truth) = Emulator::start(&binary, &arguments)?.run(options.duration)?;
            let stuck = truth["ended"] == "stuck";
            println!("{generation} seed {seed}: {}", truth["ended"]);
            row.runs += 1;
            if stuck {
                row.stuck += 1;
                row.chains.insert(chain(&truth));
            }
        }
        rows.push(row);
    }
    let table = root.join(&options.output);
    if let Some(folder) = table.parent() {
        fs::create_dir_all(folder).map_err(|e| Failure::file("creating", folder, &e))?;
    }
    fs::write(&table, markdown(options, &rows))
        .map_err(|e| Failure::file("writing", &table, &e))?;
    println!("table in {}", table.display());
    match rows.iter().find(|row| !row.is_as_expected()) {
        None => Ok(()),
        Some(row) => Err(Failure::found(format!(
            "{} was stuck in {} of {} runs",
            row.generation, row.stuck, row.runs
        ))),
    }
}

/// The blocked threads of guest 0: `thread → lock (holders)`, by kind of thread.
fn chain(truth: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let blocked = truth["blocked"].as_array().into_iter().flatten();
    let waits: BTreeSet<String> = blocked
        .filter(|wait| text(&wait["thread"]).ends_with("/guest-0"))
        .map(|wait| {
            let holders = wait["holders"].as_array().into_iter().flatten();
            let holders: BTreeSet<String> = holders.map(|h| role(&text(h))).collect();
            let holders: Vec<String> = holders.into_iter().collect();
            format!(
                "{} → {} ({})",
                role(&text(&wait["thread"])),
                class(&text(&wait["lock"])),
                holders.join(", ")
            )
        })
        .collect();
    waits.into_iter().collect::<Vec<_>>().join("; ")
}

/// `vcpu` of `vcpu1/guest-0`.
fn role(thread: &str) -> String {
    let role = thread.split('/').next().unwrap_or_default();
    role.trim_end_matches(|c: char| c.is_ascii_digit()).into()
}

/// `kvm->lock` of `kvm->lock[guest-0]`.
fn class(lock: &str) -> &str {
    lock.split('[').next().unwrap_or_default()
}

fn markdown(options: &Options, rows: &[Row]) -> String {
    let mut text = format!(
        "# Deadlocks\n\n\
         The scenario `se-start` of the emulated driver: guest 0 is converted to a protected guest while its vCPUs\n\
         execute PQAP and its device is released. Written by `cargo xtask deadlocks`.\n\n{}\
         | seeds | 1 to {} |\n| each run | {} |\n\n\
         | generation | runs | stuck | as expected | who waits for what (held by), one line for each form seen |\n\
         |---|--:|--:|---|---|\n",
        process::provenance(),
        options.seeds,
        humantime::format_duration(options.duration),
    );
    for row in rows {
        let chains: Vec<String> = row.chains.iter().cloned().collect();
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} |",
            row.generation,
            row.runs,
            row.stuck,
            if row.is_as_expected() {
                "yes"
            } else {
                "**no**"
            },
            chains.join("<br>")
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_names_roles_and_classes() {
        let truth = serde_json::json!({ "blocked": [
            { "thread": "vcpu1/guest-0", "lock": "kvm_busy[guest-0]", "holders": ["notify/guest-0"] },
            { "thread": "vcpu0/guest-0", "lock": "kvm_busy[guest-0]", "holders": ["notify/guest-0"] },
            { "thread": "pv/guest-0", "lock": "vcpu->mutex[guest-0/vcpu0]", "holders": ["vcpu0/guest-0"] },
            { "thread": "sysfs/guest-1", "lock": "x", "holders": [] },
        ] });
        assert_eq!(
            chain(&truth),
            "pv → vcpu->mutex (vcpu); vcpu → kvm_busy (notify)"
        );
    }

    #[test]
    fn all_or_none_is_expected() {
        let row = |generation, stuck| Row {
            generation,
            runs: 10,
            stuck,
            ..Row::default()
        };
        assert!(row("v5.13", 10).is_as_expected());
        assert!(!row("v5.13", 9).is_as_expected());
        assert!(row("v5.15", 0).is_as_expected());
        assert!(!row("v5.15", 1).is_as_expected());
    }
}
