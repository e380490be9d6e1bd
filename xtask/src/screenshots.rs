//! `cargo xtask screenshots`: the pictures of README.md, drawn by the dashboard's own code from recordings of the
//! emulated driver that are kept in tui/tests/recordings; and, when asked to, these recordings.

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
    /// Also PNG files, into this folder, with rsvg-convert (librsvg)
    #[arg(long, value_name = "DIR")]
    png: Option<PathBuf>,
}

/// Scenario, generation, guests, duration.
const RECORDINGS: [(&str, &str, u32, &str); 9] = [
    ("steady", "v5.13", 3, "3s"),
    ("slow-reset", "v6.0", 3, "3s"),
    ("se-start", "v5.13", 3, "4s"),
    ("se-start", "v5.11", 2, "4s"),
    ("se-start", "v5.15-rc", 2, "4s"),
    ("stuck-reset", "v6.6", 3, "5s"),
    ("lost-wakeup", "v5.13", 2, "5s"),
    ("two-mdevs", "rfc-2021-06", 2, "5s"),
    ("remove-in-use", "v6.0", 2, "4s"),
];

/// Draws all pictures into `docs/pictures`.
pub fn run(root: &Path, args: &ScreenshotsArgs) -> Result<(), Failure> {
    let binary = apscope::binary(root, args.binary.clone())?;
    let recordings = root.join("tui/tests/recordings");
    if args.record {
        record(&binary, &recordings)?;
    }
    let folder = root.join("docs/pictures");
    fs::create_dir_all(&folder).map_err(|e| Failure::file("creating", &folder, &e))?;
    process::run(
        Command::new(&binary)
            .arg("screenshot")
            .arg("--recordings")
            .arg(&recordings)
            .arg("-o")
            .arg(&folder),
        "drawing the pictures",
    )?;
    if let Some(png) = &args.png {
        convert(&folder, png)?;
    }
    println!("{}", folder.display());
    Ok(())
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

fn convert(folder: &Path, png: &Path) -> Result<(), Failure> {
    fs::create_dir_all(png).map_err(|e| Failure::file("creating", png, &e))?;
    let entries = fs::read_dir(folder).map_err(|e| Failure::file("reading", folder, &e))?;
    for entry in entries {
        let path = entry
            .map_err(|e| Failure::file("reading", folder, &e))?
            .path();
        let Some(name) = path
            .file_stem()
            .filter(|_| path.extension().is_some_and(|e| e == "svg"))
        else {
            continue;
        };
        let target = png.join(name).with_extension("png");
        process::run(
            Command::new("rsvg-convert")
                .arg("-o")
                .arg(&target)
                .arg(&path),
            &format!("drawing {} with rsvg-convert", target.display()),
        )?;
    }
    Ok(())
}
