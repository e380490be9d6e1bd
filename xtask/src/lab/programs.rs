//! Programs that run inside: apscope for s390x, and the workload that drives the driver. Both are static, so that the
//! guest needs no libraries.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use crate::failure::Failure;
use crate::process;
use crate::s390x;

/// Paths of what was built.
#[derive(Debug, Clone)]
pub struct Programs {
    apscope: PathBuf,
    workload: PathBuf,
}

impl Programs {
    /// Builds what is not there or older than its sources. `apscope` may be given.
    pub fn build(root: &Path, apscope: Option<&Path>) -> Result<Self, Failure> {
        let folder = root.join("target/lab/bin");
        fs::create_dir_all(&folder).map_err(|e| Failure::file("creating", &folder, &e))?;
        let built = match apscope {
            Some(path) => path
                .canonicalize()
                .map_err(|e| Failure::file("finding", path, &e))?,
            None => s390x::apscope(root)?,
        };
        let stripped = folder.join("apscope");
        if is_older(&stripped, [&built]) {
            // A guest that runs may have the old one.
            let _ = fs::remove_file(&stripped);
            // A tenth of the size, which the guest reads through an emulated device.
            let mut strip = Command::new("s390x-linux-gnu-strip");
            process::run(
                strip.arg("-o").arg(&stripped).arg(&built),
                "stripping apscope",
            )?;
        }
        Ok(Self {
            apscope: stripped,
            workload: workload(root, &folder)?,
        })
    }

    /// Names inside, and files here.
    pub fn files(&self) -> [(&'static str, &Path); 2] {
        [("apscope", &self.apscope), ("workload", &self.workload)]
    }
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
