//! Programs that run inside: apscope for s390x, and the workload that drives the driver, both static, so that the guest
//! needs no libraries; and Debian's strace with its own, where it can be had.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use super::packages::Archive;
use crate::dist;
use crate::failure::Failure;
use crate::process;
use crate::s390x;

/// Paths of what was built.
#[derive(Debug, Clone)]
pub struct Programs {
    apscope: PathBuf,
    workload: PathBuf,
    /// Debian's, with the loader and the library that it needs.
    strace: Vec<(&'static str, PathBuf)>,
}

impl Programs {
    /// Builds what is older than its sources. `apscope` may be given.
    pub fn build(root: &Path, apscope: Option<&Path>) -> Result<Self, Failure> {
        let folder = root.join("target/lab/bin");
        fs::create_dir_all(&folder).map_err(|e| Failure::file("creating", &folder, &e))?;
        let built = match apscope {
            Some(path) => path
                .canonicalize()
                .map_err(|e| Failure::file("finding", path, &e))?,
            None => dist::for_the_lab(root)?,
        };
        let stripped = folder.join("apscope");
        // A guest that runs may have the old one.
        let _ = fs::remove_file(&stripped);
        // The guest reads it through an emulated device.
        let mut strip = Command::new("s390x-linux-gnu-strip");
        process::run(
            strip.arg("-o").arg(&stripped).arg(&built),
            "stripping apscope",
        )?;
        Ok(Self {
            apscope: stripped,
            workload: workload(root, &folder)?,
            strace: strace(&root.join("target/lab")).unwrap_or_else(|failure| {
                println!("strace for the guest cannot be had: {failure}");
                Vec::new()
            }),
        })
    }

    /// Names inside, and files here.
    pub fn files(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let own = [
            ("apscope", self.apscope.as_path()),
            ("workload", self.workload.as_path()),
        ];
        let strace = self
            .strace
            .iter()
            .map(|(name, path)| (*name, path.as_path()));
        own.into_iter().chain(strace)
    }
}

/// Debian's strace, and its loader and library from the cross compiler.
fn strace(lab: &Path) -> Result<Vec<(&'static str, PathBuf)>, Failure> {
    let into = lab.join("packages/strace");
    Archive::open(lab, None, "bookworm", "s390x")?.unpack("strace", &into)?;
    let mut files = vec![("strace", into.join("usr/bin/strace"))];
    for name in ["ld64.so.1", "libc.so.6"] {
        let argument = format!("-print-file-name={name}");
        let path = process::output_of(s390x::LINKER, &[&argument])
            .filter(|path| Path::new(path).is_absolute())
            .ok_or_else(|| Failure::new(format!("{} has no {name}", s390x::LINKER)))?;
        files.push((name, path.into()));
    }
    Ok(files)
}

fn workload(root: &Path, folder: &Path) -> Result<PathBuf, Failure> {
    let source = root.join("xtask/lab/workload");
    let entries = fs::read_dir(&source).map_err(|e| Failure::file("reading", &source, &e))?;
    let files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    let program = folder.join("workload");
    if is_older(&program, &files) {
        let _ = fs::remove_file(&program);
        let sources = files
            .iter()
            .filter(|path| path.extension().is_some_and(|e| e == "c"));
        process::run(
            Command::new(s390x::LINKER)
                .args(["-O2", "-Wall", "-Wextra", "-static", "-pthread", "-o"])
                .arg(&program)
                .args(sources),
            "building the workload",
        )?;
    }
    Ok(program)
}

/// Whether a file is missing, or any source is newer.
fn is_older<'a>(file: &Path, sources: impl IntoIterator<Item = &'a PathBuf>) -> bool {
    let modified = |path: &Path| -> Option<SystemTime> { fs::metadata(path).ok()?.modified().ok() };
    let Some(made) = modified(file) else {
        return true;
    };
    sources
        .into_iter()
        .any(|source| modified(source).is_none_or(|changed| changed > made))
}
