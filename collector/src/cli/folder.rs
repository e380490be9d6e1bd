//! Folders that commands write files into: tried before the work starts; the files get their names when all are whole.

use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::Failure;

/// A folder to write files into.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// Made by [`Folder::open`].
    new: bool,
    /// Inside of it, for files that are not whole yet. `None` when all have their names.
    pending: Option<TempDir>,
    names: Vec<String>,
}

impl Folder {
    /// Opens a folder, which is made where it does not exist. Nothing in it is changed yet.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        if path.as_os_str() == "-" {
            return Err(Failure::new(
                "the standard output cannot hold several files",
                "this format is a folder of files",
                "-o with the path of a folder",
            ));
        }
        let new = match fs::create_dir(path) {
            Ok(()) => true,
            Err(_) if path.is_dir() => false,
            Err(error) => return Err(unwritable(path, &error)),
        };
        let mut folder = Self {
            path: path.to_owned(),
            new,
            pending: None,
            names: Vec::new(),
        };
        let pending = tempfile::Builder::new()
            .prefix(".apscope-")
            .tempdir_in(path);
        folder.pending = Some(pending.map_err(|error| unwritable(path, &error))?);
        Ok(folder)
    }

    /// A new file in it, which replaces an older one of the name in the end.
    pub fn create(&mut self, name: &str) -> io::Result<BufWriter<File>> {
        let pending = self.pending.as_ref().ok_or(io::ErrorKind::NotFound)?;
        let file = File::create(pending.path().join(name))?;
        self.names.push(name.to_owned());
        Ok(BufWriter::with_capacity(64 << 10, file))
    }

    /// Gives all files their names.
    pub fn finish(mut self) -> Result<(), Failure> {
        let named = self.name();
        named.map_err(|error| self.failure(&error))
    }

    /// The failure of writing into it.
    pub fn failure(&self, error: &io::Error) -> Failure {
        Failure::new(
            format!("{} could not be written", self.path.display()),
            error.to_string(),
            "make room there, or another path",
        )
    }

    fn name(&mut self) -> io::Result<()> {
        let Some(pending) = self.pending.take() else {
            return Ok(());
        };
        for name in &self.names {
            let file = pending.path().join(name);
            // The name must not come before the content.
            File::open(&file)?.sync_all()?;
            fs::rename(&file, self.path.join(name))?;
        }
        self.new = false;
        pending.close()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is not whole goes; so does a folder that nobody asked for, if nothing else is in it.
        drop(self.pending.take());
        if self.new {
            let _ = fs::remove_dir(&self.path);
        }
    }
}

fn unwritable(path: &Path, error: &io::Error) -> Failure {
    Failure::new(
        format!("{} cannot be written into", path.display()),
        error.to_string(),
        "the path of a folder, or of one that can be made",
    )
}
