//! The archive: written whole, read with limits. Nothing is ever unpacked to a file system, so that a name in an archive of
//! somebody else is compared with those that are known, and means nothing besides.

use std::collections::BTreeMap;
use std::io::{self, Cursor, Read, Write};

use tar::{Builder, EntryType, Header};
use zstd::stream::read::Decoder;

use super::names;
use crate::recording::{Input, ReadError, Reader};

/// Bytes of one file that are read.
const MAX_FILE: u64 = 256 << 20;
/// Bytes of an archive after decompression that are read.
const MAX_ARCHIVE: u64 = 512 << 20;
/// Entries of an archive that are looked at.
const MAX_ENTRIES: usize = 256;
/// log2 of the largest window that the archive may ask the decompressor for: 32 MiB.
const MAX_WINDOW_LOG: u32 = 25;
/// Compression level: zstd's default.
const LEVEL: i32 = 3;

/// An archive that is being made.
pub struct Archive {
    tar: Builder<Vec<u8>>,
    unix_s: u64,
}

impl Archive {
    /// An empty one, whose files have this time, in seconds since 1970 UTC.
    pub fn new(unix_s: u64) -> Self {
        Self {
            tar: Builder::new(Vec::new()),
            unix_s,
        }
    }

    /// Adds a file.
    ///
    /// # Errors
    ///
    /// Its name is too long for an archive.
    pub fn add(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::Regular);
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(self.unix_s);
        self.tar.append_data(&mut header, name, content)
    }

    /// Compresses it into `out`.
    ///
    /// # Errors
    ///
    /// The output refuses.
    pub fn write(self, out: &mut dyn Write) -> io::Result<()> {
        let tar = self.tar.into_inner()?;
        let mut encoder = zstd::stream::Encoder::new(out, LEVEL)?;
        encoder.include_checksum(true)?;
        encoder.write_all(&tar)?;
        encoder.finish().map(|_| ())
    }
}

/// Why a bundle could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ContentsError {
    /// It could not be opened or read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It has none of the files of a bundle.
    #[error("not a bundle of apscope: {0}")]
    NotABundle(String),
}

/// The files of a bundle.
#[derive(Debug, Default)]
pub struct Contents {
    files: BTreeMap<&'static str, Vec<u8>>,
    /// What was passed over, and why.
    pub notes: Vec<String>,
}

/// Whether these are the first bytes of a bundle, and of no recording: a zstd frame.
pub fn is_bundle(start: &[u8]) -> bool {
    start.starts_with(&0xFD2F_B528_u32.to_le_bytes())
}

impl Contents {
    /// Reads a bundle. Of one that is damaged, the files before the damage.
    ///
    /// # Errors
    ///
    /// It has none of the files of a bundle.
    pub fn read(input: impl Read) -> Result<Self, ContentsError> {
        let mut contents = Self::default();
        let ended = contents.fill(input);
        if let Err(error) = ended {
            let note = format!("the archive is damaged, or not whole: {error}");
            contents.notes.push(note);
        }
        if contents.files.is_empty() {
            let why = contents.notes.join("; ");
            let why = if why.is_empty() {
                "none of the files of a bundle is in it".to_owned()
            } else {
                why
            };
            return Err(ContentsError::NotABundle(why));
        }
        Ok(contents)
    }

    fn fill(&mut self, input: impl Read) -> io::Result<()> {
        let mut decoder = Decoder::new(input)?;
        decoder.window_log_max(MAX_WINDOW_LOG)?;
        let mut archive = tar::Archive::new(decoder.take(MAX_ARCHIVE));
        for (number, entry) in archive.entries()?.enumerate() {
            if number >= MAX_ENTRIES {
                let note = format!("more than {MAX_ENTRIES} files: the others are passed over");
                self.notes.push(note);
                break;
            }
            let entry = entry?;
            let name = entry.path_bytes().into_owned();
            let known = names::ALL.iter().find(|known| known.as_bytes() == name);
            let regular = entry.header().entry_type() == EntryType::Regular;
            let Some(known) = known.filter(|_| regular) else {
                self.notes.push(format!(
                    "{:?} is no file of a bundle, and is passed over",
                    String::from_utf8_lossy(&name[..name.len().min(100)])
                ));
                continue;
            };
            if entry.size() > MAX_FILE {
                let note = format!("{known} is larger than {MAX_FILE} bytes, and is passed over");
                self.notes.push(note);
                continue;
            }
            let mut content = Vec::new();
            let read = entry.take(MAX_FILE).read_to_end(&mut content);
            // Also where it is cut: what it has may be what is needed.
            self.files.entry(*known).or_insert(content);
            read?;
        }
        Ok(())
    }

    /// A file; `None` where the bundle does not have it.
    pub fn file(&self, name: &str) -> Option<&[u8]> {
        self.files.get(name).map(Vec::as_slice)
    }

    /// The recording in it; `None` where there is none.
    ///
    /// # Errors
    ///
    /// What is in its place is none.
    pub fn frames(&mut self) -> Option<Result<Reader<Box<dyn Input>>, ReadError>> {
        let bytes = self.files.remove(names::FRAMES)?;
        Some(Reader::new(Box::new(Cursor::new(bytes))))
    }

    /// The stacks in it, as a text that `diagnose --from` reads: what the hung-task detector said, and what was read.
    pub fn stacks(&self) -> Vec<u8> {
        let files = [names::HUNG_TASKS, names::STACKS];
        files
            .iter()
            .filter_map(|name| self.file(name))
            .collect::<Vec<_>>()
            .join(&b'\n')
    }
}
