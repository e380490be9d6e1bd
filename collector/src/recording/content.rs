//! What is inside a flush: frames, each behind its length.

use std::io::{self, Read};

use prost::Message;
use zstd::stream::read::Decoder;

use super::{MAX_FLUSH, MAX_FRAME, packed};
use crate::frame::Frame;

/// log2 of the largest window a flush may ask the decompressor for: 32 MiB.
const MAX_WINDOW_LOG: u32 = 25;

/// What [`crate::frame::Meta`] says of where frames came from, where these can be recorded.
const SOURCES: [&str; 3] = ["kernel", "emulator", "remote"];

/// A flush, decompressed: an iterator over its frames, which ends behind the first one that makes no sense.
#[derive(Debug, Default)]
pub(super) struct Content {
    bytes: Vec<u8>,
    used: usize,
}

impl Content {
    /// Decompresses a flush.
    pub fn unpack(flush: &[u8]) -> Result<Self, String> {
        let mut content = Self::default();
        content.replace(flush)?;
        Ok(content)
    }

    /// Decompresses another flush into the same memory. What was decompressed before an error is
    /// dropped, since it has not passed its checksum.
    pub fn replace(&mut self, flush: &[u8]) -> Result<(), String> {
        self.bytes.clear();
        self.used = 0;
        let read = unpack(flush, &mut self.bytes);
        let failed = match read {
            Ok(()) if self.bytes.len() <= MAX_FLUSH => return Ok(()),
            Ok(()) => format!("a flush is larger than {MAX_FLUSH} bytes"),
            Err(error) => error.to_string(),
        };
        self.bytes = Vec::new();
        Err(failed)
    }

    /// Whether it can be nothing else than a flush: frames from the first byte to the last, and before them the
    /// description of a run.
    pub fn is_flush(&mut self) -> bool {
        let described = match self.next() {
            Some(Ok(frame)) => frame.meta.is_some_and(|meta| {
                SOURCES.contains(&meta.source.as_str()) && !meta.arch.is_empty()
            }),
            _ => false,
        };
        described && self.all(|frame| frame.is_ok())
    }

    /// Bytes of the whole content.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes of it that have been handed out.
    pub fn used(&self) -> usize {
        self.used
    }

    /// Nothing is left to hand out.
    pub fn is_over(&self) -> bool {
        self.used >= self.bytes.len()
    }

    /// Goes on behind so many bytes.
    pub fn skip_to(&mut self, used: usize) {
        self.used = used.min(self.bytes.len());
    }

    /// Leaves out what is left.
    pub fn leave(&mut self) {
        self.used = self.bytes.len();
    }

    fn frame(&mut self) -> Result<Frame, String> {
        let mut rest = &self.bytes[self.used..];
        let length = prost::decode_length_delimiter(&mut rest)
            .map_err(|_| "the length of a frame makes no sense".to_owned())?;
        if length > MAX_FRAME {
            return Err(format!(
                "a frame of {length} bytes; at most {MAX_FRAME} are allowed"
            ));
        }
        let Some(encoded) = rest.get(..length) else {
            return Err("a frame is longer than the flush it is in".to_owned());
        };
        let mut frame = Frame::decode(encoded)
            .map_err(|error| format!("a frame cannot be decoded: {error}"))?;
        packed::unpack(&mut frame).map_err(|why| format!("a frame with {why}"))?;
        if self.used == 0 && frame.meta.is_none() {
            return Err("a flush does not start with a description of the run".to_owned());
        }
        self.used = self.bytes.len() - (rest.len() - length);
        Ok(frame)
    }
}

impl Iterator for Content {
    type Item = Result<Frame, String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.used >= self.bytes.len() {
            return None;
        }
        let frame = self.frame();
        if frame.is_err() {
            self.leave();
        }
        Some(frame)
    }
}

fn unpack(flush: &[u8], into: &mut Vec<u8>) -> io::Result<()> {
    let mut decoder = Decoder::with_buffer(flush)?.single_frame();
    decoder.window_log_max(MAX_WINDOW_LOG)?;
    decoder.take(MAX_FLUSH as u64 + 1).read_to_end(into)?;
    Ok(())
}
