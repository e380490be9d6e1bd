//! The last minutes of a run, in memory: flushes as they would be in a file, and the totals of what is no longer there.

use std::collections::VecDeque;

use super::content::Content;
use super::{Flush, Packer, Totals, WriteError};

/// What a ring gives for a file.
#[derive(Debug)]
pub struct Taken {
    /// A flush with the totals of what is no longer there, where something is not.
    pub before: Option<Flush>,
    /// The flushes, oldest first.
    pub flushes: Vec<Flush>,
}

impl Taken {
    /// Bytes of all.
    pub fn bytes(&self) -> u64 {
        let all = self.before.iter().chain(&self.flushes);
        all.map(|flush| flush.bytes.len() as u64).sum()
    }
}

/// Flushes of the last while.
#[derive(Debug)]
pub struct Ring {
    flushes: VecDeque<Flush>,
    bytes: u64,
    /// Nanoseconds that are kept.
    keep_ns: u64,
    /// Bytes that are kept at most.
    keep_bytes: u64,
    /// What the flushes that are gone had counted.
    before: Totals,
    /// The flushes did not reach back as far as was asked for, for want of room.
    short: bool,
}

impl Ring {
    /// One that keeps so many nanoseconds, in at most so many bytes of compressed flushes.
    pub fn new(keep_ns: u64, keep_bytes: u64) -> Self {
        Self {
            flushes: VecDeque::new(),
            bytes: 0,
            keep_ns,
            keep_bytes,
            before: Totals::default(),
            short: false,
        }
    }

    /// Adds a flush, and forgets the oldest ones that are not needed.
    pub fn push(&mut self, flush: Flush) {
        let now = flush.to_ns;
        self.bytes += flush.bytes.len() as u64;
        self.flushes.push_back(flush);
        while let Some(oldest) = self.flushes.front() {
            let old = now.saturating_sub(oldest.to_ns) > self.keep_ns;
            let full = self.bytes > self.keep_bytes && self.flushes.len() > 1;
            if !old && !full {
                break;
            }
            self.short |= !old;
            self.forget_oldest();
        }
    }

    /// Counts a flush that is kept elsewhere, and all that is here: the ring is empty then.
    pub fn pass(&mut self, flush: Flush) {
        self.bytes += flush.bytes.len() as u64;
        self.flushes.push_back(flush);
        while !self.flushes.is_empty() {
            self.forget_oldest();
        }
    }

    /// The flushes for a file, oldest first, that of the totals before them. The ring is empty then, and goes on from here.
    ///
    /// # Errors
    ///
    /// See [`Packer::pack`]. The ring is as it was then.
    pub fn take(&mut self, packer: &mut Packer) -> Result<Taken, WriteError> {
        let before = self.before.frame();
        let before = before.map(|frame| packer.pack(&frame)).transpose()?;
        let taken = Taken {
            before,
            flushes: self.flushes.iter().cloned().collect(),
        };
        while !self.flushes.is_empty() {
            self.forget_oldest();
        }
        Ok(taken)
    }

    /// Bytes of the flushes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Nanoseconds that the flushes cover.
    pub fn covers_ns(&self) -> u64 {
        let ends = self.flushes.front().zip(self.flushes.back());
        ends.map_or(0, |(first, last)| last.to_ns.saturating_sub(first.from_ns))
    }

    /// There was no room for all that was to be kept.
    pub fn is_short(&self) -> bool {
        self.short
    }

    fn forget_oldest(&mut self) {
        let Some(flush) = self.flushes.pop_front() else {
            return;
        };
        self.bytes -= flush.bytes.len() as u64;
        // They were packed here: there is nothing wrong with them. A frame that could not be read would be missing in the
        // totals, which the gap between their numbers would tell.
        let Ok(content) = Content::unpack(&flush.bytes) else {
            return;
        };
        for frame in content.flatten() {
            self.before.fold(&frame);
        }
    }
}
