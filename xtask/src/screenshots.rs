//! `cargo xtask screenshots`: the pictures of README.md, each drawn by `apscope screenshot` from a real run of the
//! emulated driver.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::apscope;
use crate::failure::Failure;
use crate::process;

/// View, columns, lines.
const PICTURES: [(&str, u16, u16); 3] = [
    ("locks", 120, 30),
    ("lock-detail", 120, 30),
    ("entries", 120, 30),
];

/// Draws all pictures into `docs/pictures`.
pub fn run(root: &Path, binary: Option<PathBuf>) -> Result<(), Failure> {
    let binary = apscope::binary(root, binary)?;
    let folder = root.join("docs/pictures");
    fs::create_dir_all(&folder).map_err(|e| Failure::file("creating", &folder, &e))?;
    for (view, width, height) in PICTURES {
        let file = folder.join(format!("{view}.svg"));
        process::run(
            Command::new(&binary)
                .args(["screenshot", "--source", "emulator", "--view", view])
                .args([
                    "--width",
                    &width.to_string(),
                    "--height",
                    &height.to_string(),
                ])
                .arg("-o")
                .arg(&file),
            &format!("drawing {}", file.display()),
        )?;
        println!("{}", file.display());
    }
    Ok(())
}
