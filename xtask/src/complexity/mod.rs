//! `cargo xtask complexity`: how large every eBPF program is, and what verifiers make of it, as tables that are kept in
//! the repository.
//!
//! Instruction counts come from the committed objects, for every machine. The rest is what `apscope doctor --programs`
//! says, which loads each program and attaches none: of this machine, as root; of others from its JSON, as the lab's
//! tests leave it. What a verifier does depends on the kernel, so every part names its release, and `--check` compares
//! all of it only where the release is the same.

mod object;
mod table;
mod verdicts;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::failure::Failure;
use crate::process;

use object::Size;
use table::{Row, Table};
use verdicts::Kernel;

/// Machines with an object.
const MACHINES: [&str; 3] = ["x86_64", "aarch64", "s390x"];
const FILE: &str = "probe-ebpf/complexity.md";

/// What is written or compared.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Change nothing; exit with 1 if the table is not what the objects and this kernel give
    #[arg(long)]
    check: bool,
    /// What `apscope doctor --programs --json` wrote on another machine, instead of asking this kernel
    #[arg(long, value_name = "FILE")]
    doctor: Option<PathBuf>,
    /// Use this apscope instead of building one
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

/// Writes the table, or compares it with what is there.
pub fn run(root: &Path, options: &Options) -> Result<(), Failure> {
    let rows = rows(root)?;
    let kernel = kernel(root, options)?;
    let path = root.join(FILE);
    let kept = read(root);
    if options.check {
        let kept = kept?;
        let mut differing = kept.sizes_that_differ(&rows);
        let verdicts = match &kernel {
            Some(now) => {
                let (compared, found) = compared(&kept, now);
                differing.extend(found);
                compared
            }
            None => "the rest needs root".into(),
        };
        println!(
            "{} programs, compared: instruction counts; {verdicts}",
            rows.len()
        );
        return judged(&differing);
    }
    let mut table = Table {
        rows,
        kernels: kept.map_or_else(|_| Vec::new(), |table| table.kernels),
    };
    if let Some(kernel) = kernel {
        table.put(kernel);
    }
    fs::write(&path, table.to_markdown()).map_err(|e| Failure::file("writing", &path, &e))?;
    println!("{} programs, table in {}", table.rows.len(), path.display());
    Ok(())
}

/// What a doctor's document of another machine says that the table does not, one sentence each, and what was compared.
pub fn against_the_table(root: &Path, report: &Value) -> Result<(String, Vec<String>), Failure> {
    let failed = |e: &str| Failure::new("reading a doctor's document").cause(e.to_owned());
    let now = Kernel::of(report).map_err(failed)?;
    Ok(compared(&read(root)?, &now))
}

/// What was compared of a kernel's verdicts, and what the table says otherwise, one sentence each.
fn compared(kept: &Table, now: &Kernel) -> (String, Vec<String>) {
    let Some(kernel) = kept.of_machine(now.machine()) else {
        let missing = format!("{}: the table has no kernel of its machine", now.name);
        return ("no verdicts".into(), vec![missing]);
    };
    let tried = now.verdicts.len();
    let what = if kernel.name == now.name {
        format!("all verdicts of {} on {tried} programs", now.name)
    } else {
        format!("stacks of {tried} programs with those of {}", kernel.name)
    };
    (what, kernel.differences(now))
}

fn judged(differing: &[String]) -> Result<(), Failure> {
    let Some(first) = differing.first() else {
        return Ok(());
    };
    for difference in differing {
        println!("  {difference}");
    }
    Err(Failure::found(format!(
        "{FILE} is not what the objects give: {} differences, the first is: {first}",
        differing.len(),
    ))
    .hint("cargo xtask complexity as root, and look at what has grown"))
}

/// The table that is kept.
fn read(root: &Path) -> Result<Table, Failure> {
    let path = root.join(FILE);
    let text = fs::read_to_string(&path).map_err(|e| Failure::file("reading", &path, &e))?;
    Table::parse(&text).map_err(|e| Failure::new(format!("reading {}", path.display())).cause(e))
}

/// The kernel whose verdicts are wanted; `None` without root where only a comparison is.
fn kernel(root: &Path, options: &Options) -> Result<Option<Kernel>, Failure> {
    if let Some(path) = &options.doctor {
        let bytes = fs::read(path).map_err(|e| Failure::file("reading", path, &e))?;
        let failed = |e: String| Failure::new(format!("reading {}", path.display())).cause(e);
        let report: Value = serde_json::from_slice(&bytes).map_err(|e| failed(e.to_string()))?;
        return Kernel::of(&report)
            .map(Some)
            .map_err(|e| failed(e.to_owned()));
    }
    if options.check && process::output_of("id", &["-u"]).as_deref() != Some("0") {
        return Ok(None);
    }
    let binary = if let Some(binary) = &options.binary {
        binary.clone()
    } else {
        process::run(
            Command::new("cargo")
                .current_dir(root)
                .args(["build", "--package", "apscope-tui"]),
            "building apscope",
        )?;
        root.join("target/debug/apscope")
    };
    Kernel::here(&binary).map(Some)
}

/// One row for each program that any object has, by name.
fn rows(root: &Path) -> Result<Vec<Row>, Failure> {
    let mut sizes: Vec<Vec<Size>> = Vec::new();
    for machine in MACHINES {
        let path = root.join(format!("probe-ebpf/objects/apscope-probes-{machine}.o"));
        let bytes = fs::read(&path).map_err(|e| Failure::file("reading", &path, &e))?;
        let failed = |e: String| Failure::new(format!("reading {}", path.display())).cause(e);
        sizes.push(object::sizes(&bytes).map_err(failed)?);
    }
    let mut names: Vec<(&str, &str)> = sizes
        .iter()
        .flatten()
        .map(|size| (size.name.as_str(), size.section.as_str()))
        .collect();
    names.sort_unstable();
    names.dedup_by_key(|(name, _)| *name);
    Ok(names
        .into_iter()
        .map(|(name, section)| Row {
            name: name.to_owned(),
            section: section.to_owned(),
            instructions: sizes
                .iter()
                .map(|of| of.iter().find(|s| s.name == name).map(|s| s.instructions))
                .collect(),
        })
        .collect())
}
