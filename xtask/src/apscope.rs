//! Running the product itself: builds the release binary, runs an export, and reads what it wrote.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::failure::Failure;
use crate::process;

/// The binary to measure: the one given, or the release build of this checkout.
pub fn binary(root: &Path, given: Option<PathBuf>) -> Result<PathBuf, Failure> {
    if let Some(path) = given {
        return path
            .canonicalize()
            .map_err(|e| Failure::file("finding", &path, &e));
    }
    println!("building apscope");
    process::run(
        Command::new("cargo").current_dir(root).args([
            "build",
            "--release",
            "--package",
            "apscope-tui",
        ]),
        "building apscope",
    )?;
    Ok(root.join("target/release/apscope"))
}

/// Records the emulated driver, measured in process, into a file. With so many guests, for so long.
pub fn record(
    binary: &Path,
    options: &[&str],
    (guests, duration): (&str, &str),
    file: &Path,
) -> Result<(), Failure> {
    process::run(
        Command::new(binary)
            .args(["record", "-q", "--source", "emulator"])
            .args(["--probe", "in-process"])
            .args(options)
            .args(["--guests", guests, "--duration", duration])
            .arg("-o")
            .arg(file),
        &format!("recording {}", file.display()),
    )
}

/// One run of the emulated driver.
#[derive(Debug, Clone)]
pub struct Export {
    /// Driver generation; the default one if `None`.
    pub generation: Option<String>,
    /// Scenario.
    pub scenario: String,
    /// Seed.
    pub seed: u64,
    /// `ebpf` or `in-process`.
    pub probe: String,
    /// Size of the span ring, the default one if `None`.
    pub ring_bytes: Option<u32>,
    /// How long.
    pub duration: Duration,
    /// Further arguments.
    pub more: Vec<String>,
}

impl Export {
    /// Runs `apscope export` and returns its JSON and the ground truth.
    pub fn run(&self, binary: &Path, folder: &Path) -> Result<(Value, Value), Failure> {
        let (out, truth) = (folder.join("out.json"), folder.join("truth.json"));
        let mut command = Command::new(binary);
        command
            .args(["export", "--source", "emulator", "--format", "json"])
            .args(["--scenario", &self.scenario])
            .args(["--seed", &self.seed.to_string()])
            .args(["--probe", &self.probe])
            .args(["--duration", &format!("{}ms", self.duration.as_millis())])
            .arg("-o")
            .arg(&out)
            .arg("--truth")
            .arg(&truth)
            .args(&self.more)
            .stdin(Stdio::null());
        if let Some(generation) = &self.generation {
            command.args(["--generation", generation]);
        }
        if let Some(bytes) = self.ring_bytes {
            command.args(["--ring-bytes", &bytes.to_string()]);
        }
        let output = command
            .output()
            .map_err(|e| Failure::file("running", binary, &e))?;
        if !output.status.success() {
            return Err(Failure::new(format!("{command:?}: {}", output.status))
                .cause(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
        }
        Ok((read(&out)?, read(&truth)?))
    }
}

fn read(path: &Path) -> Result<Value, Failure> {
    let text = fs::read_to_string(path).map_err(|e| Failure::file("reading", path, &e))?;
    serde_json::from_str(&text)
        .map_err(|e| Failure::new(format!("{} is not JSON", path.display())).cause(e.to_string()))
}

/// A folder for the outputs of this process's runs, removed when dropped.
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes the folder.
    pub fn new() -> Result<Self, Failure> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("apscope-xtask-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).map_err(|e| Failure::file("creating", &path, &e))?;
        Ok(Self(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Best effort: what stays behind is a few kilobytes in the temporary folder.
        let _ = fs::remove_dir_all(&self.0);
    }
}
