//! `cargo xtask serve`: the daemon with those who really read it, into docs/results/serve.md.

mod daemon;
mod otlp;
mod prometheus;
mod torture;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::apscope::Scratch;
use crate::failure::Failure;
use crate::process;

const RESULTS: &str = "docs/results/serve.md";

/// What is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// A Prometheus of this machine scrapes it.
    Prometheus,
    /// A receiver of OTLP takes what it exports.
    Otlp,
    /// Clients that behave badly.
    Clients,
}

/// Options of `cargo xtask serve`.
#[derive(Debug, Args)]
pub struct Options {
    /// Only this; prints, and leaves the results as they are
    #[arg(long, value_enum)]
    only: Option<Part>,
    /// Seconds of clients that behave badly
    #[arg(long, default_value_t = 300)]
    seconds: u64,
    /// Folder with apscope-collector and examples/torture_clients, instead of building them
    #[arg(long)]
    programs: Option<PathBuf>,
}

/// Runs the checks.
pub fn run(root: &Path, options: &Options) -> Result<(), Failure> {
    let folder = match &options.programs {
        Some(folder) => folder
            .canonicalize()
            .map_err(|e| Failure::file("finding", folder, &e))?,
        None => build(root)?,
    };
    let program = folder.join("apscope-collector");
    let clients = folder.join("examples/torture_clients");
    let wanted = |part| options.only.is_none_or(|only| only == part);
    let mut sections = Vec::new();
    if wanted(Part::Prometheus) {
        sections.push(prometheus::check(&program, Scratch::new()?.path())?);
    }
    if wanted(Part::Otlp) {
        sections.push(otlp::check(&program, Scratch::new()?.path())?);
    }
    if wanted(Part::Clients) {
        let length = Duration::from_secs(options.seconds);
        sections.push(torture::check(
            &program,
            &clients,
            Scratch::new()?.path(),
            length,
        )?);
    }
    let sections = sections.join("\n");
    if options.only.is_some() {
        println!("{sections}");
        return Ok(());
    }
    let path = root.join(RESULTS);
    let text = format!(
        "# The daemon and its readers\n\nEMULATED: the emulated driver, measured over eBPF where this machine permits it. Written by \
         `cargo xtask serve`.\n\n{}\n{sections}",
        format_args!(
            "{}| build | {} |\n",
            process::provenance(),
            folder.file_name().unwrap_or_default().display()
        )
    );
    fs::write(&path, text).map_err(|e| Failure::file("writing", &path, &e))?;
    println!("wrote {}", path.display());
    Ok(())
}

fn build(root: &Path) -> Result<PathBuf, Failure> {
    println!("building");
    process::run(
        Command::new("cargo").current_dir(root).args([
            "build",
            "--release",
            "--package",
            "apscope-collector",
            "--bins",
            "--examples",
        ]),
        "building apscope-collector",
    )?;
    Ok(root.join("target/release"))
}
