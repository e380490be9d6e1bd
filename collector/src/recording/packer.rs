//! Frames into flushes.

use std::io;

use prost::Message;
use zstd::bulk::Compressor;

use super::packed::pack;
use super::{MAX_FLUSH, MAX_FRAME, Totals};
use crate::frame::{Frame, Meta};

/// A flush is complete when its frames span this time: with a tick more, and the time to write it, still below a second.
const FLUSH_NS: u64 = 500_000_000;
/// A flush is complete when its frames are larger than this.
const FLUSH_BYTES: usize = 8 << 20;
/// Compression level of flushes that are large: zstd's default.
const LEVEL: i32 = 3;
/// Compression level of the others, where a few milliseconds are well spent: a twentieth smaller.
const SMALL_LEVEL: i32 = 9;
/// Bytes from which on a flush is large.
const LARGE: usize = 1 << 20;
/// The totals are repeated when this many times their size was recorded since.
const TOTALS_SHARE: usize = 32;
/// The totals are repeated after so many flushes at the earliest.
const TOTALS_FLUSHES: u32 = 16;

// One more frame, and the totals, always fit into a flush that is not yet complete.
const _: () = assert!(FLUSH_BYTES + 2 * MAX_FRAME < MAX_FLUSH);

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

/// Some frames, self-contained: one zstd frame of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flush {
    /// The zstd frame.
    pub bytes: Vec<u8>,
    /// Time of the first frame in it, CLOCK_MONOTONIC nanoseconds of the traced machine.
    pub from_ns: u64,
    /// Time of the last one.
    pub to_ns: u64,
    /// Frames in it.
    pub frames: u64,
    /// Spans in it, and spans that were lost in its time.
    pub spans: u64,
    /// See `spans`.
    pub dropped: u64,
}

fn spans_of(frame: &Frame) -> u64 {
    frame.spans.as_ref().map_or(0, |spans| spans.len() as u64)
}

fn dropped_of(frame: &Frame) -> u64 {
    let lost = frame.loss.iter().flat_map(|loss| &loss.programs);
    lost.map(|program| program.dropped).sum()
}

/// Makes flushes of frames.
pub struct Packer {
    compressor: Compressor<'static>,
    meta: Option<Meta>,
    totals: Totals,
    /// Encoded frames of the flush to come.
    pending: Vec<u8>,
    /// Its time and number of frames.
    from_ns: u64,
    to_ns: u64,
    frames: u64,
    spans: u64,
    dropped: u64,
    /// Bytes and flushes, before compression, since the totals were recorded.
    since_totals: (usize, u32),
    /// Size of the totals when they were recorded last.
    totals_size: usize,
}

impl Packer {
    /// One that has seen no frame.
    ///
    /// # Errors
    ///
    /// The compressor cannot be made: there is no memory.
    pub fn new() -> Result<Self, WriteError> {
        let mut compressor = Compressor::new(LEVEL)?;
        compressor.include_checksum(true)?;
        Ok(Self {
            compressor,
            meta: None,
            totals: Totals::default(),
            pending: Vec::new(),
            from_ns: 0,
            to_ns: 0,
            frames: 0,
            spans: 0,
            dropped: 0,
            since_totals: (0, 0),
            totals_size: 0,
        })
    }

    /// Adds a frame. Returns the flush where it is complete with it: then nothing is pending.
    ///
    /// # Errors
    ///
    /// The frame is too large, or nothing describes the run.
    pub fn push(&mut self, frame: &Frame) -> Result<Option<Flush>, WriteError> {
        if self.pending.is_empty() && frame.base.is_none() {
            self.repeat_totals()?;
        }
        // Encoded messages that follow each other are one message with the fields of both.
        let description = if let Some(meta) = &frame.meta {
            self.meta = Some(meta.clone());
            None
        } else if self.pending.is_empty() {
            let meta = self.meta.clone().ok_or(WriteError::NoMeta)?;
            let meta = Some(meta);
            Some(pack(&Frame {
                meta,
                ..Frame::default()
            }))
        } else {
            None
        };
        let packed = pack(frame);
        let bytes = description.as_ref().map_or(0, Message::encoded_len) + packed.encoded_len();
        if bytes > MAX_FRAME {
            let number = frame.number;
            return Err(WriteError::TooLarge { number, bytes });
        }
        if self.frames == 0 {
            self.from_ns = frame.at_ns;
        }
        self.encode(bytes, description.iter().chain([&packed]))?;
        let tick = frame.at_ns.saturating_sub(self.to_ns.max(self.from_ns));
        self.to_ns = frame.at_ns;
        self.frames += 1;
        self.spans += spans_of(frame);
        self.dropped += dropped_of(frame);
        self.totals.fold(frame);
        // Also where the next frame would come too late.
        let spans_ns = frame
            .at_ns
            .saturating_sub(self.from_ns)
            .saturating_add(tick);
        let complete = spans_ns >= FLUSH_NS || self.pending.len() >= FLUSH_BYTES;
        if complete || frame.end.is_some() {
            return self.take();
        }
        Ok(None)
    }

    /// What is pending, as a flush; `None` where nothing is.
    ///
    /// # Errors
    ///
    /// There is no memory.
    pub fn take(&mut self) -> Result<Option<Flush>, WriteError> {
        if self.pending.is_empty() {
            return Ok(None);
        }
        let level = if self.pending.len() < LARGE {
            SMALL_LEVEL
        } else {
            LEVEL
        };
        self.compressor.set_compression_level(level)?;
        let bytes = self.compressor.compress(&self.pending)?;
        self.since_totals.0 += self.pending.len();
        self.since_totals.1 += 1;
        self.pending.clear();
        self.pending.shrink_to(2 * FLUSH_BYTES);
        let frames = std::mem::take(&mut self.frames);
        Ok(Some(Flush {
            bytes,
            from_ns: self.from_ns,
            to_ns: self.to_ns,
            frames,
            spans: std::mem::take(&mut self.spans),
            dropped: std::mem::take(&mut self.dropped),
        }))
    }

    /// The totals of all frames so far as a flush of their own, for the beginning of another file; `None` before the first
    /// frame. Call it when nothing is pending, or what is pending would be counted twice.
    ///
    /// # Errors
    ///
    /// The totals are too large, or there is no memory.
    pub fn totals(&mut self) -> Result<Option<Flush>, WriteError> {
        debug_assert!(self.pending.is_empty());
        let Some(frame) = self.totals.frame() else {
            return Ok(None);
        };
        self.pack(&frame).map(Some)
    }

    /// A frame as a flush of its own, whatever is pending. It is not added to the totals.
    ///
    /// # Errors
    ///
    /// It is too large, or there is no memory.
    pub fn pack(&mut self, frame: &Frame) -> Result<Flush, WriteError> {
        let packed = pack(frame);
        let bytes = packed.encoded_len();
        if bytes > MAX_FRAME {
            let number = frame.number;
            return Err(WriteError::TooLarge { number, bytes });
        }
        let encoded = packed.encode_length_delimited_to_vec();
        Ok(Flush {
            bytes: self.compressor.compress(&encoded)?,
            from_ns: frame.at_ns,
            to_ns: frame.at_ns,
            frames: 1,
            spans: spans_of(frame),
            dropped: dropped_of(frame),
        })
    }

    /// Puts the totals before the frames of a flush that begins, where they are due.
    fn repeat_totals(&mut self) -> Result<(), WriteError> {
        let (bytes, flushes) = self.since_totals;
        if flushes < TOTALS_FLUSHES || bytes < self.totals_size.saturating_mul(TOTALS_SHARE) {
            return Ok(());
        }
        let Some(frame) = self.totals.frame() else {
            return Ok(());
        };
        let frame = pack(&frame);
        self.totals_size = frame.encoded_len();
        if bytes >= self.totals_size.saturating_mul(TOTALS_SHARE) && self.totals_size <= MAX_FRAME {
            self.since_totals = (0, 0);
            self.encode(self.totals_size, [&frame])?;
        }
        Ok(())
    }

    fn encode<'a>(
        &mut self,
        bytes: usize,
        parts: impl IntoIterator<Item = &'a Frame>,
    ) -> Result<(), WriteError> {
        // A `Vec` grows as needed: encoding into it cannot run out of space.
        prost::encode_length_delimiter(bytes, &mut self.pending).map_err(io::Error::other)?;
        for part in parts {
            part.encode(&mut self.pending).map_err(io::Error::other)?;
        }
        Ok(())
    }
}
