//! Whole runs for tests: the real binary in a folder of its own, the files it writes, and the processes around it.
//!
//! Knows how to start `apscope-collector`, how to find its emulated driver, and whether eBPF is permitted here. Knows
//! nothing of what the numbers in a file should be: see [`consistency`] and [`truth`].
#![allow(
    dead_code,
    reason = "shared by several tests, each of which uses a part"
)]

pub mod bpf;
pub mod consistency;
pub mod process;
/// An export against the ground truth, number by number: the same comparison as `cargo xtask matrix` makes.
#[path = "../../../xtask/src/compare.rs"]
pub mod truth;

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// Both ways to measure the emulated driver.
pub const PROBES: [&str; 2] = ["ebpf", "in-process"];

/// An address in the kernel's memory that can be read and where no lock is: that of a function. Needs CAP_SYSLOG.
pub fn kernel_address() -> u64 {
    let symbols = fs::read_to_string("/proc/kallsyms").unwrap();
    let function = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let address = u64::from_str_radix(words.next()?, 16).ok()?;
        let there = words.next()? == "T" && address != 0 && address.is_multiple_of(8);
        (there && words.next()? == "mutex_lock").then_some(address)
    };
    symbols
        .lines()
        .find_map(function)
        .expect("mutex_lock in /proc/kallsyms")
}

/// A folder in which the program runs, removed at the end.
pub struct Place(TempDir);

impl Place {
    pub fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    /// The program with these arguments, separated by white space.
    pub fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_apscope-collector"));
        command
            .current_dir(self.0.path())
            .args(arguments.split_whitespace())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub fn start(&self, arguments: &str) -> Child {
        self.command(arguments).spawn().unwrap()
    }

    /// Runs the program, which must succeed.
    pub fn run(&self, arguments: &str) {
        let output = self.command(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments}: {}", told(&output));
    }

    /// Runs a live export of the emulated driver; returns the export and the ground truth.
    pub fn export(&self, arguments: &str) -> (Value, Value) {
        self.run(&format!(
            "export --source emulator --format json -o out.json --truth truth.json {arguments}"
        ));
        (self.json("out.json"), self.json("truth.json"))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&fs::read(self.path(name)).unwrap())
            .unwrap_or_else(|error| panic!("{name} is no whole JSON: {error}"))
    }
}

/// What a program has said on its standard error.
pub fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The three lines of an error, without their labels. The program must have exited with 2; lines before the error are
/// messages.
pub fn failure(output: &Output) -> [String; 3] {
    let told = told(output);
    assert_eq!(output.status.code(), Some(2), "{told}");
    let mut lines = told.lines().skip_while(|line| !line.starts_with("error: "));
    ["error: ", "cause: ", "try: "].map(|label| {
        let text = lines.next().and_then(|line| line.strip_prefix(label));
        let text = text.unwrap_or_else(|| panic!("no `{label}` in its place: {told}"));
        assert!(!text.is_empty(), "{told}");
        text.to_owned()
    })
}

/// The class and mode of an export; `None` where the generation does not have it.
pub fn lock<'a>(export: &'a Value, class: &str) -> Option<&'a Value> {
    export["locks"]
        .as_array()
        .unwrap()
        .iter()
        .find(|lock| lock["class"] == class)
}

/// A count that must be there.
pub fn number(value: &Value) -> u64 {
    value
        .as_u64()
        .unwrap_or_else(|| panic!("{value} is no count"))
}
