//! Files that commands write: tried before the work starts, so that a path that cannot be written is known at once.
//!
//! [`Output`] is written as the work goes, and emptied only when there is something to write, so that a run that fails
//! does not cost an older file. [`Replaced`] is written at the end, beside the older file, which it then replaces: a
//! run that is killed leaves what was there.

use std::fmt;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Stdout, Write};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::Failure;

/// An output that can be written.
#[derive(Debug)]
pub struct Output {
    target: Target,
    stream: Stream,
    /// Made by [`Output::open`], and nothing was written yet.
    new: bool,
}

/// Who may read a file that is new; one that exists stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Readers {
    /// Its owner.
    Owner,
    /// Whoever the umask lets.
    Umask,
}

impl Readers {
    const fn mode(self) -> u32 {
        match self {
            Self::Owner => 0o600,
            Self::Umask => 0o666,
        }
    }
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
    /// Opens an output; `-` is the standard output. A new file is its owner's alone: recordings are not for everybody.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        Self::open_as(path, Readers::Owner)
    }

    fn open_as(path: &Path, readers: Readers) -> Result<Self, Failure> {
        if path.as_os_str() == "-" {
            return Ok(Self {
                target: Target::Stdout,
                stream: Stream::Stdout(io::stdout()),
                new: false,
            });
        }
        let mut options = OpenOptions::new();
        options.write(true).mode(readers.mode());
        let (file, new) = match options.clone().create_new(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                (options.create(true).open(path), false)
            }
            opened => (opened, true),
        };
        let stream = file
            .map(Stream::File)
            .map_err(|error| unwritable(path, &error))?;
        Ok(Self {
            target: Target::File(path.to_owned()),
            stream,
            new,
        })
    }

    /// Makes a file that does not exist yet, for its owner alone.
    pub fn create(path: &Path) -> Result<Self, Failure> {
        let mut options = OpenOptions::new();
        options.write(true).mode(Readers::Owner.mode());
        let file = options.create_new(true).open(path);
        Ok(Self {
            target: Target::File(path.to_owned()),
            stream: Stream::File(file.map_err(|error| unwritable(path, &error))?),
            new: true,
        })
    }

    /// Takes back what was written behind so many bytes, after a write that failed in the middle.
    pub fn cut(&self, bytes: u64) -> io::Result<()> {
        match &self.stream {
            Stream::File(file) if file.metadata()?.is_file() => file.set_len(bytes),
            _ => Ok(()),
        }
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

/// An output that is written whole, at the end.
#[derive(Debug)]
pub struct Replaced {
    target: Target,
    way: Way,
    readers: Readers,
}

/// How an output is written at the end.
#[derive(Debug)]
enum Way {
    /// As a new file in this folder, renamed to this path.
    Rename(PathBuf, PathBuf),
    /// Directly: the standard output, a pipe, a device.
    Direct(Output),
}

impl Replaced {
    /// Tries an output; `-` is the standard output. Nothing is changed yet.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        Self::open_as(path, Readers::Umask)
    }

    /// The same, for its owner alone.
    pub fn private(path: &Path) -> Result<Self, Failure> {
        Self::open_as(path, Readers::Owner)
    }

    fn open_as(path: &Path, readers: Readers) -> Result<Self, Failure> {
        let direct = || {
            let output = Output::open_as(path, readers)?;
            Ok(Self {
                target: output.target.clone(),
                way: Way::Direct(output),
                readers,
            })
        };
        // Of a link, the file behind it is replaced, not the link.
        let (file, exists) = match fs::canonicalize(path) {
            _ if path.as_os_str() == "-" => return direct(),
            Ok(file) if file.is_file() => (file, true),
            Ok(_) => return direct(),
            Err(_) if fs::symlink_metadata(path).is_ok() => return direct(),
            Err(_) => (path.to_owned(), false),
        };
        if exists {
            // A file that is protected is not replaced.
            let opened = OpenOptions::new().write(true).open(&file);
            opened.map_err(|error| unwritable(path, &error))?;
        }
        let folder = match file.parent() {
            Some(folder) if folder != Path::new("") => folder.to_owned(),
            _ => PathBuf::from("."),
        };
        // Made and removed again: a run that is killed leaves nothing.
        match beside(&folder, readers) {
            Ok(_) => Ok(Self {
                target: Target::File(path.to_owned()),
                way: Way::Rename(folder, file),
                readers,
            }),
            Err(_) if exists => direct(),
            Err(error) => Err(unwritable(path, &error)),
        }
    }

    /// Writes it.
    pub fn write(
        self,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), Failure> {
        let written = match self.way {
            Way::Direct(mut output) => {
                output.start()?;
                whole(&mut output, write)
            }
            Way::Rename(folder, file) => replace(&folder, &file, self.readers, write),
        };
        written.map_err(|error| self.target.failure(&error))
    }

    /// What it is called.
    pub fn target(&self) -> &Target {
        &self.target
    }
}

/// An output that is written as the work goes, and is whole, or replaces the older file, with [`Begun::finish`].
#[derive(Debug)]
pub struct Begun {
    target: Target,
    stream: BegunStream,
}

#[derive(Debug)]
enum BegunStream {
    /// To be renamed to this path.
    New(io::BufWriter<NamedTempFile>, PathBuf),
    Direct(io::BufWriter<Output>),
}

impl Replaced {
    /// Begins to write it.
    pub fn begin(self) -> Result<Begun, Failure> {
        let target = self.target;
        let stream = match self.way {
            Way::Direct(mut output) => {
                output.start()?;
                BegunStream::Direct(io::BufWriter::with_capacity(64 << 10, output))
            }
            Way::Rename(folder, file) => {
                let new = beside(&folder, self.readers).map_err(|error| target.failure(&error))?;
                BegunStream::New(io::BufWriter::with_capacity(64 << 10, new), file)
            }
        };
        Ok(Begun { target, stream })
    }
}

impl Begun {
    /// What it is called.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Writes what is left, and gives the file its name.
    pub fn finish(self) -> Result<(), Failure> {
        let finished = match self.stream {
            BegunStream::Direct(mut out) => out.flush(),
            BegunStream::New(out, file) => out
                .into_inner()
                .map_err(io::IntoInnerError::into_error)
                .and_then(|new| persist(new, &file)),
        };
        finished.map_err(|error| self.target.failure(&error))
    }
}

impl Write for Begun {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.stream {
            BegunStream::New(out, _) => out.write(bytes),
            BegunStream::Direct(out) => out.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.stream {
            BegunStream::New(out, _) => out.flush(),
            BegunStream::Direct(out) => out.flush(),
        }
    }
}

/// A new file in a folder, removed when dropped.
fn beside(folder: &Path, readers: Readers) -> io::Result<NamedTempFile> {
    tempfile::Builder::new()
        .prefix(".apscope-")
        // Less the umask.
        .permissions(Permissions::from_mode(readers.mode()))
        .tempfile_in(folder)
        .map_err(|error| {
            // The name of a file that nobody has asked for says nothing.
            let cause = error.to_string();
            let cause = cause.split(" at path \"").next().unwrap_or_default();
            io::Error::new(error.kind(), format!("{}: {cause}", folder.display()))
        })
}

fn replace(
    folder: &Path,
    file: &Path,
    readers: Readers,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let mut new = beside(folder, readers)?;
    whole(&mut new, write)?;
    persist(new, file)
}

/// Gives a file that is whole its name.
fn persist(new: NamedTempFile, file: &Path) -> io::Result<()> {
    if let Ok(old) = fs::metadata(file) {
        new.as_file().set_permissions(old.permissions())?;
    }
    // The name must not come before the content.
    new.as_file().sync_all()?;
    new.persist(file).map(drop).map_err(|error| error.error)
}

fn whole(out: impl Write, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut buffered = io::BufWriter::with_capacity(64 << 10, out);
    let written = write(&mut buffered).and_then(|()| buffered.flush());
    // What is left in the buffer after an error must not be tried again.
    let _ = buffered.into_parts();
    written
}

fn unwritable(path: &Path, error: &io::Error) -> Failure {
    Failure::new(
        format!("{} cannot be written", path.display()),
        error.to_string(),
        "another path, or `-` for the standard output",
    )
}

/// Prints to the standard output.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut output = Output::open(Path::new("-"))?;
    let written = output
        .write_all(text.as_bytes())
        .and_then(|()| output.flush());
    written.map_err(|error| output.target.failure(&error))
}
