//! `cargo xtask findings`: docs/findings.md, as the product itself prints it.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::failure::Failure;

/// Writes `docs/findings.md`, or compares it.
pub fn run(root: &Path, check: bool) -> Result<(), Failure> {
    let output = Command::new("cargo")
        .current_dir(root)
        .args(["run", "--quiet", "--package", "apscope-collector", "--bin"])
        .args(["apscope-collector", "--", "explain", "--markdown"])
        .output()
        .map_err(|e| Failure::new("running cargo").cause(e.to_string()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(Failure::new("printing the documentation of findings").cause(said));
    }
    let target = root.join("docs/findings.md");
    if check {
        let present = fs::read(&target).map_err(|e| Failure::file("reading", &target, &e))?;
        if present != output.stdout {
            return Err(
                Failure::found(format!("{} is not what the rules say", target.display()))
                    .hint("cargo xtask findings"),
            );
        }
        println!("docs/findings.md is up to date");
        return Ok(());
    }
    fs::write(&target, output.stdout).map_err(|e| Failure::file("writing", &target, &e))?;
    println!("wrote {}", target.display());
    Ok(())
}
