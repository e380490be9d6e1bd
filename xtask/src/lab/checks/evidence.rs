//! What a script has left, read: texts, exit codes, JSON, and recordings. Recordings are made by big-endian apscope in the
//! guest and read by that of this machine. What is missing or malformed is a failure of the check that wants it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::Findings;
use crate::failure::Failure;
use crate::lab::kernels::Kernel;
use crate::process;

/// Programs that read recordings for the checks, examples of the collector.
const EXAMPLES: [&str; 2] = ["pqap_spans", "snapshots_agree"];

/// Results of one run of a guest.
#[derive(Debug)]
pub struct Evidence<'a> {
    /// What ran.
    pub kernel: &'a Kernel,
    /// Where the script put its results.
    pub folder: PathBuf,
    /// apscope of this machine.
    pub apscope: PathBuf,
    /// The checkout.
    pub root: PathBuf,
}

impl Evidence<'_> {
    /// The generation of the kernel's driver, as the emulated driver names it.
    pub fn generation(&self) -> &str {
        if let Some(generation) = &self.kernel.generation {
            return generation;
        }
        match self.kernel.series() {
            "5.10" => "v5.10",
            "6.1" => "v6.0",
            "6.12" => "v6.6",
            _ => "v7.3",
        }
    }

    /// Whether the driver has one mutex for everything.
    pub fn has_one_lock(&self) -> bool {
        self.kernel.series() == "5.10"
    }

    /// A text.
    pub fn text(&self, name: &str) -> Result<String, Failure> {
        let path = self.folder.join(name);
        let bytes = fs::read(&path).map_err(|e| Failure::file("reading", &path, &e))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Names of everything that the script has left, sorted.
    pub fn names(&self) -> Result<Vec<String>, Failure> {
        let mut names: Vec<String> = fs::read_dir(&self.folder)
            .map_err(|e| Failure::file("reading", &self.folder, &e))?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        names.sort();
        Ok(names)
    }

    /// The exit code of something, from the file of that name.
    pub fn code(&self, name: &str) -> Result<i64, Failure> {
        let text = self.text(name)?;
        text.trim()
            .parse()
            .map_err(|_| Failure::new(format!("{name} is no exit code: {text}")))
    }

    /// A JSON document.
    pub fn json(&self, name: &str) -> Result<Value, Failure> {
        parse(name, &self.text(name)?)
    }

    /// Whether nothing of apscope was left: `gone` of the scripts has written how many events and how many processes are.
    pub fn nothing_left(
        &self,
        file: &str,
        what: &str,
        findings: &mut Findings,
    ) -> Result<(), Failure> {
        let left = self.text(file)?;
        findings.equal(format!("events and processes {what}"), &left.trim(), &"0 0");
        Ok(())
    }

    /// The export of a recording.
    pub fn export(&self, recording: &str) -> Result<Value, Failure> {
        let name = format!("{recording}.json");
        let mut command = Command::new(&self.apscope);
        command
            .arg("export")
            .arg(self.folder.join(recording))
            .args(["--format", "json", "-o"])
            .arg(self.folder.join(&name));
        run(&mut command, &[0])?;
        self.json(&name)
    }

    /// The diagnosis of a recording.
    pub fn diagnosis(&self, recording: &str) -> Result<Value, Failure> {
        self.diagnose(&["--json"], recording)
    }

    /// The diagnosis of a text with stacks.
    pub fn diagnosis_of_text(&self, name: &str) -> Result<Value, Failure> {
        self.diagnose(&["--json", "--from"], name)
    }

    /// What an example of the collector says of recordings.
    pub fn example(&self, name: &str, recordings: &[&str]) -> Result<Value, Failure> {
        let mut command = cargo(&self.root, "run");
        command
            .args(["--example", name, "--"])
            .args(recordings.iter().map(|name| self.folder.join(name)));
        parse(name, &run(&mut command, &[0])?)
    }

    fn diagnose(&self, options: &[&str], file: &str) -> Result<Value, Failure> {
        let mut command = Command::new(&self.apscope);
        command
            .arg("diagnose")
            .args(options)
            .arg(self.folder.join(file));
        parse(file, &run(&mut command, &[0, 1])?)
    }
}

/// Builds what [`Evidence::example`] runs, so that no machine runs beside a compiler.
pub fn build_examples(root: &Path) -> Result<(), Failure> {
    println!("building programs that read recordings");
    let mut command = cargo(root, "build");
    for name in EXAMPLES {
        command.args(["--example", name]);
    }
    process::run(&mut command, "building programs that read recordings")
}

fn cargo(root: &Path, what: &str) -> Command {
    let mut command = process::cargo_here();
    command
        .current_dir(root)
        .args([what, "--quiet", "--package", "apscope-collector"]);
    command
}

/// What a program of this machine prints, if it ends with one of these codes.
pub fn run(command: &mut Command, codes: &[i32]) -> Result<String, Failure> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|e| Failure::new(format!("running {command:?}")).cause(e.to_string()))?;
    let code = output.status.code();
    if code.is_some_and(|code| codes.contains(&code)) {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(Failure::new(format!("{command:?}: {}", output.status))
        .cause(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

/// A text that is JSON.
pub fn parse(name: &str, text: &str) -> Result<Value, Failure> {
    serde_json::from_str(text)
        .map_err(|e| Failure::new(format!("{name} is not JSON")).cause(e.to_string()))
}

/// Elements of a list; none where there is no list.
pub fn items<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value[name].as_array().into_iter().flatten()
}

/// A text member; empty where there is none.
pub fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

/// A number; 0 where there is none.
pub fn number(value: &Value, name: &str) -> u64 {
    value[name].as_u64().unwrap_or_default()
}

/// Calls of an entry point.
pub fn calls(document: &Value, name: &str) -> u64 {
    items(document, "entry_points")
        .filter(|entry| text(entry, "name") == name)
        .map(|entry| number(entry, "calls"))
        .sum()
}

/// Acquisitions of a class in a mode.
pub fn acquisitions(document: &Value, class: &str, mode: &str) -> u64 {
    items(document, "locks")
        .filter(|lock| text(lock, "class") == class && text(lock, "mode") == mode)
        .map(|lock| number(lock, "acquisitions"))
        .sum()
}

/// The first finding of an id.
pub fn finding<'a>(document: &'a Value, id: &str) -> Option<&'a Value> {
    items(document, "findings").find(|finding| text(finding, "id") == id)
}

/// The class of the name of an instance: `kvm->lock` of `kvm->lock[guest-0]`.
pub fn class(name: &str) -> &str {
    name.split('[').next().unwrap_or_default()
}
