//! Writing a recording.

use std::io::{self, Write};

use prost::Message;
use zstd::bulk::Compressor;

use super::{MAX_FLUSH, MAX_FRAME, header};
use crate::frame::{Frame, Meta};

/// A flush is written when its frames span this time.
const FLUSH_NS: u64 = 1_000_000_000;
/// A flush is written when its frames are larger than this.
const FLUSH_BYTES: usize = 8 << 20;
/// Compression level: zstd's default.
const LEVEL: i32 = 3;

// One more frame always fits into a flush that is not yet due.
const _: () = assert!(FLUSH_BYTES + MAX_FRAME < MAX_FLUSH);

/// Why a frame could not be recorded.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The stream refused.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The first frame must describe the run.
    #[error("the first frame has no description of the run")]
    NoMeta,
    /// The frame is larger than [`MAX_FRAME`].
    #[error("frame {number} is {bytes} bytes long, at most {MAX_FRAME} can be recorded")]
    TooLarge {
        /// Number of the frame.
        number: u64,
        /// Its size.
        bytes: usize,
    },
}

/// Writes frames to a stream. What was not flushed when a writer is dropped is lost: call [`Writer::finish`].
pub struct Writer<W> {
    out: W,
    compressor: Compressor<'static>,
    meta: Option<Meta>,
    /// Encoded frames of the current flush.
    pending: Vec<u8>,
    /// Time of the first frame in `pending`.
    pending_since_ns: u64,
    frames: u64,
    bytes: u64,
}

impl<W: Write> Writer<W> {
    /// Starts a recording: writes the header.
    pub fn new(mut out: W) -> Result<Self, WriteError> {
        let mut compressor = Compressor::new(LEVEL)?;
        compressor.include_checksum(true)?;
        out.write_all(&header())?;
        out.flush()?;
        Ok(Self {
            out,
            compressor,
            meta: None,
            pending: Vec::new(),
            pending_since_ns: 0,
            frames: 0,
            bytes: header().len() as u64,
        })
    }

    /// Adds a frame; writes the flush if it is due.
    pub fn push(&mut self, frame: &Frame) -> Result<(), WriteError> {
        // Encoded messages that follow each other are one message with the fields of both.
        let description = if let Some(meta) = &frame.meta {
            self.meta = Some(meta.clone());
            None
        } else if self.pending.is_empty() {
            let meta = self.meta.clone().ok_or(WriteError::NoMeta)?;
            Some(Frame {
                meta: Some(meta),
                ..Frame::default()
            })
        } else {
            None
        };
        let bytes = description.as_ref().map_or(0, Message::encoded_len) + frame.encoded_len();
        if bytes > MAX_FRAME {
            let number = frame.number;
            return Err(WriteError::TooLarge { number, bytes });
        }
        if self.pending.is_empty() {
            self.pending_since_ns = frame.at_ns;
        }
        // A `Vec` grows as needed: encoding into it cannot run out of space.
        prost::encode_length_delimiter(bytes, &mut self.pending).map_err(io::Error::other)?;
        if let Some(description) = description {
            description
                .encode(&mut self.pending)
                .map_err(io::Error::other)?;
        }
        frame.encode(&mut self.pending).map_err(io::Error::other)?;
        self.frames += 1;
        let due = frame.at_ns.saturating_sub(self.pending_since_ns) >= FLUSH_NS
            || self.pending.len() >= FLUSH_BYTES;
        if due || frame.end.is_some() {
            self.flush()?;
        }
        Ok(())
    }

    /// Writes what is pending as a flush of its own.
    pub fn flush(&mut self) -> Result<(), WriteError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let flush = self.compressor.compress(&self.pending)?;
        self.pending.clear();
        self.pending.shrink_to(2 * FLUSH_BYTES);
        self.out.write_all(&flush)?;
        self.out.flush()?;
        self.bytes += flush.len() as u64;
        Ok(())
    }

    /// Writes what is pending and hands back the stream.
    pub fn finish(mut self) -> Result<W, WriteError> {
        self.flush()?;
        Ok(self.out)
    }

    /// Frames added so far.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Bytes written so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}
