//! `cargo xtask screenshots`: the pictures of README.md, drawn by the dashboard's own code from recordings of the
//! emulated driver that are kept in tui/tests/recordings, as SVG and as PNG; and, when asked to, these recordings.

mod png;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args;

use crate::apscope;
use crate::failure::Failure;
use crate::process;

/// Arguments of `screenshots`.
#[derive(Debug, Args)]
pub struct ScreenshotsArgs {
    /// The binary to use, instead of building it
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Record the runs anew first
    #[arg(long)]
    record: bool,
    /// Folder with the font of the PNG files, DejaVu Sans Mono
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/usr/share/fonts/truetype/dejavu"
    )]
    fonts: PathBuf,
    /// Draw the PNG files again, of the SVG files as they are
    #[arg(long, conflicts_with_all = ["record", "binary"])]
    only_png: bool,
}

/// Scenario, generation, guests, duration.
const RECORDINGS: [(&str, &str, u32, &str); 10] = [
    ("steady", "v5.13", 3, "3s"),
    ("slow-reset", "v6.0", 3, "3s"),
    ("se-start", "v5.13", 3, "4s"),
    ("se-start", "v5.11", 2, "4s"),
    ("se-start", "v5.15-rc", 2, "4s"),
    ("stuck-reset", "v6.6", 3, "5s"),
    ("lost-wakeup", "v5.13", 2, "5s"),
    ("two-mdevs", "rfc-2021-06", 2, "5s"),
    ("starved-vcpu", "v5.13", 5, "4s"),
    ("remove-in-use", "v6.0", 2, "4s"),
];

/// Draws all pictures into `docs/pictures`.
pub fn run(root: &Path, args: &ScreenshotsArgs) -> Result<(), Failure> {
    let folder = root.join("docs/pictures");
    if !args.only_png {
        draw(root, args, &folder)?;
    }
    png::all(&folder, &args.fonts)?;
    println!("{}", folder.display());
    Ok(())
}

fn draw(root: &Path, args: &ScreenshotsArgs, folder: &Path) -> Result<(), Failure> {
    let binary = apscope::binary(root, args.binary.clone())?;
    let recordings = root.join("tui/tests/recordings");
    if args.record {
        record(&binary, &recordings)?;
    }
    fs::create_dir_all(folder).map_err(|e| Failure::file("creating", folder, &e))?;
    process::run(
        Command::new(&binary)
            .arg("screenshot")
            .arg("--recordings")
            .arg(&recordings)
            .arg("-o")
            .arg(folder),
        "drawing the pictures",
    )
}

fn record(binary: &Path, folder: &Path) -> Result<(), Failure> {
    fs::create_dir_all(folder).map_err(|e| Failure::file("creating", folder, &e))?;
    for (scenario, generation, guests, duration) in RECORDINGS {
        let file = folder.join(format!("{scenario}-{generation}.apscope"));
        apscope::record(
            binary,
            &["--scenario", scenario, "--generation", generation],
            (&guests.to_string(), duration),
            &file,
        )?;
    }
    Ok(())
}
