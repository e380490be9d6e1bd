//! Files that commands write: opened before the work starts, so that a path that cannot be written is known at once,
//! and emptied only when there is something to write, so that a run that fails does not cost an older file.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Stdout, Write};
use std::path::{Path, PathBuf};

use super::Failure;

/// An output that can be written.
#[derive(Debug)]
pub struct Output {
    target: Target,
    stream: Stream,
    /// Made by [`Output::open`], and nothing was written yet.
    new: bool,
}

/// What an output is called.
#[derive(Debug, Clone)]
pub enum Target {
    /// A file.
    File(PathBuf),
    /// The standard output.
    Stdout,
}

impl Target {
    /// The failure of writing to it.
    pub fn failure(&self, error: &io::Error) -> Failure {
        if error.kind() == io::ErrorKind::BrokenPipe && matches!(self, Self::Stdout) {
            return Failure::OutputClosed;
        }
        Failure::new(
            format!("{self} could not be written"),
            error.to_string(),
            "make room there, or another path",
        )
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Stdout => f.write_str("the standard output"),
        }
    }
}

#[derive(Debug)]
enum Stream {
    File(File),
    Stdout(Stdout),
}

impl Output {
    /// Opens an output; `-` is the standard output.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        if path.as_os_str() == "-" {
            return Ok(Self {
                target: Target::Stdout,
                stream: Stream::Stdout(io::stdout()),
                new: false,
            });
        }
        let mut options = OpenOptions::new();
        options.write(true);
        let (file, new) = match options.clone().create_new(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                (options.create(true).open(path), false)
            }
            opened => (opened, true),
        };
        let stream = file.map(Stream::File).map_err(|error| {
            Failure::new(
                format!("{} cannot be written", path.display()),
                error.to_string(),
                "another path, or `-` for the standard output",
            )
        })?;
        Ok(Self {
            target: Target::File(path.to_owned()),
            stream,
            new,
        })
    }

    /// Empties the file: whatever was in it is lost from here on.
    pub fn start(&mut self) -> Result<(), Failure> {
        self.new = false;
        if let Stream::File(file) = &self.stream {
            // Pipes and devices have no length.
            let regular = file.metadata().is_ok_and(|m| m.is_file());
            if regular && let Err(error) = file.set_len(0) {
                return Err(self.target.failure(&error));
            }
        }
        Ok(())
    }

    /// Empties the file and writes it whole.
    pub fn write_whole(
        mut self,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), Failure> {
        self.start()?;
        let mut buffered = io::BufWriter::with_capacity(64 << 10, &mut self);
        let written = write(&mut buffered).and_then(|()| buffered.flush());
        // What is left in the buffer after an error must not be tried again.
        let _ = buffered.into_parts();
        written.map_err(|error| self.target.failure(&error))
    }

    /// What it is called.
    pub fn target(&self) -> &Target {
        &self.target
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.stream {
            Stream::File(file) => file.write(bytes),
            Stream::Stdout(stdout) => stdout.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.stream {
            Stream::File(file) => file.flush(),
            Stream::Stdout(stdout) => stdout.flush(),
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Target::File(path) = &self.target
            && self.new
        {
            // An empty file that nobody asked for. Where it cannot be removed, it stays.
            let _ = fs::remove_file(path);
        }
    }
}

/// Prints to the standard output.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut output = Output::open(Path::new("-"))?;
    let written = output
        .write_all(text.as_bytes())
        .and_then(|()| output.flush());
    written.map_err(|error| output.target.failure(&error))
}
