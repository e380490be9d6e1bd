//! Recordings and support bundles that commands read: from a file, from a pipe, from the standard input.
//!
//! What is given is opened once, and known by its first bytes, which stay part of it: a pipe gives them once only.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Chain, Cursor, Read, Seek, SeekFrom};
use std::os::fd::AsFd as _;
use std::path::Path;

use super::Failure;
use super::live::note;
use crate::bundle::{Contents, is_bundle};
use crate::diagnose::Case;
use crate::frame::Frame;
use crate::recording::{Input, ReadError, Reader};

/// Bytes at the beginning that tell what it is.
const START: u64 = 4096;
/// Bytes that are read at once.
const AT_ONCE: usize = 256 << 10;

/// A file that was opened, whatever is in it.
pub(super) struct Given {
    name: String,
    path: String,
    start: Vec<u8>,
    input: Box<dyn Input>,
    seekable: bool,
}

impl Given {
    /// Opens a file, a pipe, or the standard input (`-`).
    ///
    /// # Errors
    ///
    /// It cannot be opened or read.
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        let standard = path.as_os_str() == "-";
        let name = if standard {
            "the standard input".to_owned()
        } else {
            path.display().to_string()
        };
        let failed = |error: io::Error| unreadable(&name, error.to_string());
        let mut file = if standard {
            let own = io::stdin().as_fd().try_clone_to_owned();
            File::from(own.map_err(failed)?)
        } else {
            File::open(path).map_err(failed)?
        };
        if file.metadata().map_err(failed)?.is_dir() {
            return Err(unreadable(&name, "it is a directory".into()));
        }
        let mut start = Vec::new();
        (&file)
            .take(START)
            .read_to_end(&mut start)
            .map_err(failed)?;
        // What the standard input has before its place is not ours.
        let seekable = !standard && file.seek(SeekFrom::Start(0)).is_ok();
        let input: Box<dyn Input> = if seekable {
            Box::new(BufReader::with_capacity(AT_ONCE, file))
        } else {
            let rest = BufReader::with_capacity(AT_ONCE, file);
            Box::new(Once(Cursor::new(start.clone()).chain(rest)))
        };
        Ok(Self {
            name,
            path: path.display().to_string(),
            start,
            input,
            seekable,
        })
    }

    /// What it is called.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// What is in it, if it is a bundle; otherwise it is given back.
    ///
    /// # Errors
    ///
    /// It begins as a bundle, and cannot be read as one.
    pub(super) fn bundle(self) -> Result<Result<Contents, Self>, Failure> {
        if !is_bundle(&self.start) {
            return Ok(Err(self));
        }
        let contents = Contents::read(self.input);
        let contents = contents.map_err(|error| unreadable(&self.name, error.to_string()))?;
        Ok(Ok(contents))
    }

    /// As a recording, or as a bundle that has one.
    ///
    /// # Errors
    ///
    /// It is neither, or the bundle has no frames.
    pub(super) fn recording(self) -> Result<Recording, Failure> {
        let name = self.name.clone();
        let given = match self.bundle()? {
            Ok(mut contents) => return frames(name, &mut contents),
            Err(given) => given,
        };
        match Reader::new(given.input) {
            Ok(reader) => Ok(Recording { name, reader }),
            Err(ReadError::NotARecording { .. }) if is_text(&given.start) => Err(Failure::new(
                format!("{name} cannot be read as a recording"),
                "it is a text",
                format!(
                    "apscope diagnose --from {}, if there are stacks in it",
                    given.path
                ),
            )),
            Err(error) => Err(unreadable(&name, error.to_string())),
        }
    }
}

/// The recording in a bundle.
///
/// # Errors
///
/// There is none.
pub(super) fn frames(name: String, contents: &mut Contents) -> Result<Recording, Failure> {
    match contents.frames() {
        Some(Ok(reader)) => Ok(Recording { name, reader }),
        Some(Err(error)) => Err(unreadable(&name, error.to_string())),
        None => Err(Failure::new(
            format!("{name} holds no frames"),
            "nothing could be measured when the bundle was made: its manifest says why",
            "apscope diagnose, which reads the stacks in it too",
        )),
    }
}

/// A stream that cannot be gone back in.
struct Once<R>(Chain<Cursor<Vec<u8>>, R>);

impl<R: BufRead> Read for Once<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.0.read(bytes)
    }
}

impl<R: BufRead> BufRead for Once<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.0.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        self.0.consume(count);
    }
}

impl<R> Seek for Once<R> {
    fn seek(&mut self, _: SeekFrom) -> io::Result<u64> {
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "a pipe cannot be gone back in",
        ))
    }
}

fn unreadable(name: &str, cause: String) -> Failure {
    Failure::new(
        format!("{name} cannot be read as a recording"),
        cause,
        "a file that `record -o FILE` or `bundle -o FILE` has written, or - for the standard input",
    )
}

/// Nothing but what a text has.
fn is_text(start: &[u8]) -> bool {
    let plain = |byte: &u8| matches!(byte, b'\t' | b'\n' | b'\r' | 0x1b | 0x20..);
    !start.is_empty() && start.iter().all(plain)
}

/// Opens a recording, or the recording in a support bundle, to go forth and back in.
///
/// # Errors
///
/// It is neither, the bundle has no frames, or it is a pipe.
pub fn open_recording(path: &Path) -> Result<Reader<Box<dyn Input>>, Failure> {
    let given = Given::open(path)?;
    if !given.seekable {
        return Err(Failure::new(
            format!("{} cannot be replayed", given.name),
            "a replay goes forth and back, and what comes through a pipe comes once",
            "the path of a file; or diagnose, export or report, which read a pipe",
        ));
    }
    given.recording().map(|recording| recording.reader)
}

/// A recording that is open.
pub(super) struct Recording {
    name: String,
    reader: Reader<Box<dyn Input>>,
}

impl Recording {
    /// Folds all frames, and hands each to `each` after it was folded. Of a damaged recording that is everything that the
    /// damage does not touch, and a warning says what is missing.
    ///
    /// # Errors
    ///
    /// There are no frames, or those of `each`.
    pub(super) fn fold(
        mut self,
        case: &mut Case,
        mut each: impl FnMut(&Case, &Frame) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut damage = None;
        // What is said of the last is as of the end.
        let mut frames = (&mut self.reader).peekable();
        while let Some(frame) = frames.next() {
            match frame {
                Ok(frame) => {
                    if frames.peek().is_none() {
                        case.diagnosis.next_is_last();
                    }
                    case.apply(&frame);
                    each(case, &frame)?;
                }
                // The first is told.
                Err(error) => damage = damage.or(Some(error)),
            }
        }
        let name = self.name;
        let damage = damage.map(|error| {
            let skipped = self.reader.skipped();
            Failure::new(
                format!("{name} is not whole: {skipped} bytes were skipped"),
                error.to_string(),
                "record again: there is no whole frame in it",
            )
        });
        match damage {
            Some(damage) if self.reader.frames() == 0 => Err(damage),
            Some(damage) => {
                note(&format!(
                    "warning: {}; what can be read is used",
                    damage.line()
                ));
                Ok(())
            }
            None if self.reader.frames() == 0 => Err(Failure::new(
                format!("{name} holds no frames"),
                "the recording ended before its first flush",
                "record for longer",
            )),
            None => Ok(()),
        }
    }
}

/// Folds a recording, or the one in a support bundle. Of one that is damaged, everything that the damage does not touch,
/// and a warning says what is missing.
///
/// # Errors
///
/// It cannot be read, or holds no frames.
pub(super) fn fold_recording(
    path: &Path,
    case: &mut Case,
    each: impl FnMut(&Case, &Frame) -> Result<(), Failure>,
) -> Result<(), Failure> {
    Given::open(path)?.recording()?.fold(case, each)
}
