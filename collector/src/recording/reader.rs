//! Reading a recording, whatever state the file is in.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use prost::Message;
use zstd::stream::read::Decoder;

use super::{HEADER_MAGIC, MAX_FLUSH, MAX_FRAME, VERSION, ZSTD_MAGIC, header};
use crate::frame::Frame;

/// log2 of the largest window a flush may ask the decompressor for: 32 MiB.
const MAX_WINDOW_LOG: u32 = 25;

/// Why a recording could not be read, or not further.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file could not be opened or read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The file has no header of ours.
    #[error("not a recording of apscope: {why}")]
    NotARecording {
        /// What was there instead.
        why: &'static str,
    },
    /// Written by another version.
    #[error("format version {found}, this apscope reads version {VERSION}")]
    Version {
        /// Version in the header.
        found: u32,
    },
    /// The file is damaged or ends early. All frames before were handed out.
    #[error("damaged at byte {offset}, after {frames} whole frames: {why}")]
    Damaged {
        /// Start of the flush that could not be read, in bytes from the start of the file.
        offset: u64,
        /// Frames handed out.
        frames: u64,
        /// What is wrong.
        why: String,
    },
}

/// Reads frames from a stream: an iterator that ends after the first error.
pub struct Reader<R> {
    input: Counted<R>,
    /// The flush being handed out, decompressed.
    flush: Vec<u8>,
    /// Bytes of `flush` handed out.
    used: usize,
    /// Where the flush starts in the file.
    offset: u64,
    frames: u64,
    ended: bool,
}

impl Reader<BufReader<File>> {
    /// Opens a file.
    pub fn open(path: &Path) -> Result<Self, ReadError> {
        let file = File::open(path)?;
        if file.metadata()?.is_dir() {
            return Err(ReadError::NotARecording {
                why: "it is a directory",
            });
        }
        Self::new(BufReader::with_capacity(256 << 10, file))
    }
}

impl<R: BufRead> Reader<R> {
    /// Starts to read: checks the header.
    pub fn new(input: R) -> Result<Self, ReadError> {
        let mut input = Counted { input, position: 0 };
        let mut found = Vec::new();
        let expected = header();
        (&mut input)
            .take(expected.len() as u64)
            .read_to_end(&mut found)?;
        if found.is_empty() {
            let why = "the file is empty";
            return Err(ReadError::NotARecording { why });
        }
        if found.len() < expected.len() && expected.starts_with(&found) {
            let why = "the file ends inside its header";
            return Err(ReadError::NotARecording { why });
        }
        // Everything but the version.
        if found.len() < expected.len() || found[..16] != expected[..16] {
            let why = "it starts with something else";
            return Err(ReadError::NotARecording { why });
        }
        let version = u32::from_le_bytes([found[16], found[17], found[18], found[19]]);
        if version != VERSION {
            return Err(ReadError::Version { found: version });
        }
        Ok(Self {
            input,
            flush: Vec::new(),
            used: 0,
            offset: 0,
            frames: 0,
            ended: false,
        })
    }

    /// Frames handed out so far.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    fn damaged(&self, why: impl Into<String>) -> ReadError {
        ReadError::Damaged {
            offset: self.offset,
            frames: self.frames,
            why: why.into(),
        }
    }

    /// The next frame, `None` at the end of the file.
    fn next_frame(&mut self) -> Result<Option<Frame>, ReadError> {
        while self.used == self.flush.len() {
            if !self.next_flush()? {
                return Ok(None);
            }
        }
        let first = self.used == 0;
        let mut rest = &self.flush[self.used..];
        let length = prost::decode_length_delimiter(&mut rest)
            .map_err(|_| self.damaged("the length of a frame makes no sense"))?;
        if length > MAX_FRAME {
            let why = format!("a frame of {length} bytes; at most {MAX_FRAME} are allowed");
            return Err(self.damaged(why));
        }
        let Some(encoded) = rest.get(..length) else {
            return Err(self.damaged("a frame is longer than the flush it is in"));
        };
        let frame = Frame::decode(encoded)
            .map_err(|error| self.damaged(format!("a frame cannot be decoded: {error}")))?;
        if first && frame.meta.is_none() {
            return Err(self.damaged("a flush does not start with a description of the run"));
        }
        self.used = self.flush.len() - (rest.len() - length);
        self.frames += 1;
        Ok(Some(frame))
    }

    /// Decompresses the next flush; false at the end of the file.
    fn next_flush(&mut self) -> Result<bool, ReadError> {
        self.flush.clear();
        self.used = 0;
        self.offset = self.input.position;
        let mut magic = Vec::new();
        (&mut self.input).take(4).read_to_end(&mut magic)?;
        let Ok(magic) = <[u8; 4]>::try_from(magic.as_slice()) else {
            if magic.is_empty() {
                return Ok(false);
            }
            return Err(self.damaged("the file ends inside a flush"));
        };
        match u32::from_le_bytes(magic) {
            // Recordings written one after the other into one file.
            HEADER_MAGIC => {
                let expected = header();
                let mut found = magic.to_vec();
                (&mut self.input)
                    .take(expected.len() as u64 - 4)
                    .read_to_end(&mut found)?;
                if found == expected {
                    return Ok(true);
                }
                return Err(self.damaged("a header of something else"));
            }
            ZSTD_MAGIC => {}
            _ => return Err(self.damaged("neither a flush nor the end of the file")),
        }
        let whole = magic.as_slice().chain(&mut self.input);
        let mut decoder = Decoder::with_buffer(whole)?.single_frame();
        decoder.window_log_max(MAX_WINDOW_LOG)?;
        let read = decoder
            .take(MAX_FLUSH as u64 + 1)
            .read_to_end(&mut self.flush);
        let why = match read {
            Ok(_) if self.flush.len() <= MAX_FLUSH => return Ok(true),
            Ok(_) => format!("a flush is larger than {MAX_FLUSH} bytes"),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                "the file ends inside a flush".to_owned()
            }
            Err(error) => error.to_string(),
        };
        // What was decompressed before the error has not passed its checksum.
        self.flush.clear();
        Err(self.damaged(why))
    }
}

impl<R: BufRead> Iterator for Reader<R> {
    type Item = Result<Frame, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.next_frame().transpose();
        self.ended = !matches!(next, Some(Ok(_)));
        next
    }
}

/// A stream that knows how far it was read.
struct Counted<R> {
    input: R,
    position: u64,
}

impl<R: BufRead> Read for Counted<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(into)?;
        self.position += read as u64;
        Ok(read)
    }
}

impl<R: BufRead> BufRead for Counted<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.input.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.position += amount as u64;
        self.input.consume(amount);
    }
}
