//! Files of a recording: one that is being written, and numbered ones.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::ops::AddAssign;
use std::path::{Path, PathBuf};

use crate::cli::Failure;
use crate::cli::output::Output;
use crate::recording::{Flush, header};

/// What was recorded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub frames: u64,
    pub spans: u64,
    /// Spans that were lost meanwhile.
    pub dropped: u64,
}

impl Counts {
    pub fn of(flush: &Flush) -> Self {
        Self {
            frames: flush.frames,
            spans: flush.spans,
            dropped: flush.dropped,
        }
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, more: Self) {
        self.frames += more.frames;
        self.spans += more.spans;
        self.dropped += more.dropped;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            frames,
            spans,
            dropped,
        } = self;
        write!(f, "{frames} frames, {spans} spans, {dropped} dropped")
    }
}

/// A file that holds whole flushes at every moment that matters: a write that fails is taken back.
#[derive(Debug)]
pub(super) struct Piece {
    output: Output,
    bytes: u64,
    counts: Counts,
    failed: bool,
}

impl Piece {
    /// Begins a file: whatever was in it is lost.
    pub fn start(mut output: Output) -> Result<Self, Failure> {
        output.start()?;
        let mut piece = Self {
            output,
            bytes: 0,
            counts: Counts::default(),
            failed: false,
        };
        piece.write_bytes(&header())?;
        Ok(piece)
    }

    /// Adds a flush. After a failure nothing is written any more.
    pub fn write(&mut self, flush: &Flush) -> Result<(), Failure> {
        self.write_bytes(&flush.bytes)?;
        if !self.failed {
            self.counts += Counts::of(flush);
        }
        Ok(())
    }

    /// Adds the totals of what is elsewhere, which are no frame of the run.
    pub fn write_totals(&mut self, totals: &Flush) -> Result<(), Failure> {
        self.write_bytes(&totals.bytes)
    }

    /// What is in it.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Bytes in it.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn write_bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        if self.failed {
            return Ok(());
        }
        let written = self.output.write_all(bytes);
        if let Err(error) = written.and_then(|()| self.output.flush()) {
            self.failed = true;
            // Where it cannot be cut, the reader skips the part that is there.
            let _ = self.output.cut(self.bytes);
            return Err(self.output.target().failure(&error));
        }
        self.bytes += bytes.len() as u64;
        Ok(())
    }
}

/// Numbered files beside a path.
#[derive(Debug)]
pub(super) struct Numbered {
    path: PathBuf,
    next: u32,
    /// Files of this run that are complete, oldest first, with their sizes and what is in them.
    complete: VecDeque<(PathBuf, u64, Counts)>,
    /// Most bytes of all files.
    max: Option<u64>,
    removed: u64,
}

impl Numbered {
    /// Files beside this path, behind those that exist.
    pub fn beside(path: &Path, max: Option<u64>) -> Result<Self, Failure> {
        let unreadable = |error: &io::Error| {
            Failure::new(
                format!("no file can be written beside {}", path.display()),
                error.to_string(),
                "a path in a folder that exists",
            )
        };
        if path.file_name().is_none() {
            return Err(unreadable(&io::Error::other("it names no file")));
        }
        let folder = match path.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        let mut last = 0;
        for entry in fs::read_dir(folder).map_err(|error| unreadable(&error))? {
            let entry = entry.map_err(|error| unreadable(&error))?;
            let name = entry.file_name();
            last = last.max(number_in(path, &name.to_string_lossy()).unwrap_or(0));
        }
        Ok(Self {
            path: path.to_owned(),
            next: last.saturating_add(1),
            complete: VecDeque::new(),
            max,
            removed: 0,
        })
    }

    /// The name that the next file will have.
    pub fn next_path(&self) -> PathBuf {
        numbered(&self.path, self.next)
    }

    /// Begins the next file.
    pub fn begin(&mut self) -> Result<Piece, Failure> {
        let path = self.next_path();
        self.next = self.next.saturating_add(1);
        Piece::start(Output::create(&path)?)
    }

    /// The file that was begun last is complete.
    pub fn complete(&mut self, piece: &Piece) {
        let path = numbered(&self.path, self.next.saturating_sub(1));
        self.complete
            .push_back((path, piece.bytes(), piece.counts()));
    }

    /// Removes the oldest files until there is room for so many bytes beside the complete ones.
    pub fn make_room(&mut self, bytes: u64) -> Result<(), Failure> {
        let Some(max) = self.max else {
            return Ok(());
        };
        while self.bytes().saturating_add(bytes) > max {
            let Some((path, ..)) = self.complete.pop_front() else {
                break;
            };
            match fs::remove_file(&path) {
                Ok(()) => self.removed += 1,
                // Somebody else took it away.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    return Err(Failure::new(
                        format!("{} cannot be removed", path.display()),
                        error.to_string(),
                        "a larger --max-size",
                    ));
                }
            }
        }
        Ok(())
    }

    /// Bytes of the complete files.
    pub fn bytes(&self) -> u64 {
        self.complete.iter().map(|(_, bytes, _)| bytes).sum()
    }

    /// What is in the complete files.
    pub fn counts(&self) -> Counts {
        let mut all = Counts::default();
        for (_, _, counts) in &self.complete {
            all += *counts;
        }
        all
    }

    /// The oldest of the complete files.
    pub fn first(&self) -> Option<&Path> {
        self.complete.front().map(|(path, ..)| path.as_path())
    }

    /// Complete files, and those that were removed.
    pub fn count(&self) -> (u64, u64) {
        (self.complete.len() as u64, self.removed)
    }
}

/// `run.apscope` and 1 give `run.0001.apscope`.
fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = OsString::from(path.file_stem().unwrap_or_default());
    name.push(format!(".{number:04}"));
    if let Some(extension) = path.extension() {
        name.push(".");
        name.push(extension);
    }
    path.with_file_name(name)
}

/// The number in the name of such a file.
fn number_in(path: &Path, name: &str) -> Option<u32> {
    let stem = path.file_stem()?.to_str()?;
    let rest = name.strip_prefix(stem)?.strip_prefix('.')?;
    let digits = match path.extension() {
        Some(extension) => rest.strip_suffix(extension.to_str()?)?.strip_suffix('.')?,
        None => rest,
    };
    let all = digits.len() >= 4 && digits.bytes().all(|b| b.is_ascii_digit());
    all.then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_numbered_before_the_extension() {
        for (path, name) in [
            ("a/run.apscope", "a/run.0007.apscope"),
            ("run", "run.0007"),
            ("a.b/c.d.e", "a.b/c.d.0007.e"),
        ] {
            let path = Path::new(path);
            let file = numbered(path, 7);
            assert_eq!(file, Path::new(name));
            let name = file.file_name().unwrap().to_string_lossy();
            assert_eq!(number_in(path, &name), Some(7));
        }
        for name in ["run.apscope", "run.7.apscope", "run.x007.apscope", "other"] {
            assert_eq!(number_in(Path::new("run.apscope"), name), None, "{name}");
        }
    }
}
