//! Writing a recording to a stream.

use std::io::Write;

use super::packer::{Packer, WriteError};
use super::{Flush, header};
use crate::frame::Frame;

/// Writes frames to a stream. What was not flushed when a writer is dropped is lost: call [`Writer::finish`].
pub struct Writer<W> {
    out: W,
    packer: Packer,
    frames: u64,
    bytes: u64,
}

impl<W: Write> Writer<W> {
    /// Starts a recording: writes the header.
    ///
    /// # Errors
    ///
    /// The stream refuses.
    pub fn new(mut out: W) -> Result<Self, WriteError> {
        out.write_all(&header())?;
        out.flush()?;
        Ok(Self {
            out,
            packer: Packer::new()?,
            frames: 0,
            bytes: header().len() as u64,
        })
    }

    /// Adds a frame; writes the flush if it is complete.
    ///
    /// # Errors
    ///
    /// See [`WriteError`].
    pub fn push(&mut self, frame: &Frame) -> Result<(), WriteError> {
        let flush = self.packer.push(frame)?;
        self.frames += 1;
        self.write(flush)
    }

    /// Writes what is pending as a flush of its own.
    ///
    /// # Errors
    ///
    /// See [`WriteError`].
    pub fn flush(&mut self) -> Result<(), WriteError> {
        let flush = self.packer.take()?;
        self.write(flush)
    }

    /// Writes what is pending and hands back the stream.
    ///
    /// # Errors
    ///
    /// See [`WriteError`].
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

    fn write(&mut self, flush: Option<Flush>) -> Result<(), WriteError> {
        if let Some(flush) = flush {
            self.out.write_all(&flush.bytes)?;
            self.out.flush()?;
            self.bytes += flush.bytes.len() as u64;
        }
        Ok(())
    }
}
