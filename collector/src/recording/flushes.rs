//! The flushes in a stream, also in one that is damaged: where each begins and ends, by the headers of zstd's blocks
//! (RFC 8878), and where the next one is behind something that makes no sense.

use std::io::{self, BufRead, Seek, SeekFrom};

use super::{HEADER_MAGIC, NAME, VERSION, ZSTD_MAGIC, header, header_of};

/// Bytes of a compressed flush that are looked at: zstd never makes more of [`super::MAX_FLUSH`].
const MAX_PACKED: usize = super::MAX_FLUSH + (2 << 20);

/// A stream, with what was read of it and not yet used.
pub(super) struct Flushes<R> {
    input: R,
    buffer: Vec<u8>,
    /// Bytes of `buffer` that are used.
    used: usize,
    /// Where `buffer` begins in the stream.
    start: u64,
    /// Headers of blocks that were looked at.
    blocks: usize,
}

/// What is at some place of a stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// The stream has ended.
    End,
    /// A header of ours, again: recordings written one after the other.
    Header,
    /// A header of a version that is not known here: what follows may mean something else.
    Later(u32),
    /// A flush of so many bytes.
    Flush(usize),
    /// Something else.
    Unknown(&'static str),
}

impl<R: BufRead> Flushes<R> {
    pub fn new(input: R) -> Self {
        Self {
            input,
            buffer: Vec::new(),
            used: 0,
            start: 0,
            blocks: 0,
        }
    }

    /// Where it is in the stream.
    pub fn position(&self) -> u64 {
        self.start + self.used as u64
    }

    /// Headers of blocks that were looked at so far.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// The next bytes, at most so many: fewer at the end of the stream only.
    pub fn peek(&mut self, count: usize) -> io::Result<&[u8]> {
        while self.buffer.len() - self.used < count {
            let read = match self.input.fill_buf() {
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if read.is_empty() {
                break;
            }
            self.buffer.extend_from_slice(read);
            let read = read.len();
            self.input.consume(read);
        }
        let end = self.buffer.len().min(self.used.saturating_add(count));
        Ok(&self.buffer[self.used..end])
    }

    /// Leaves bytes behind.
    pub fn advance(&mut self, count: usize) {
        self.used = self.buffer.len().min(self.used.saturating_add(count));
        // Moved seldom, so that a byte is moved once on average.
        if self.used >= (1 << 20) && self.used * 2 >= self.buffer.len() {
            self.buffer.drain(..self.used);
            self.start += self.used as u64;
            self.used = 0;
        }
    }

    /// What comes next.
    pub fn part(&mut self) -> io::Result<Part> {
        self.part_within(MAX_PACKED)
    }

    /// What comes next, where a flush is not larger than this.
    pub fn part_within(&mut self, most: usize) -> io::Result<Part> {
        let magic = match *self.peek(4)? {
            [] => return Ok(Part::End),
            [a, b, c, d] => u32::from_le_bytes([a, b, c, d]),
            _ => return Ok(Part::Unknown("the file ends inside a flush")),
        };
        match magic {
            HEADER_MAGIC => Ok(header_part(self.peek(header().len())?)),
            ZSTD_MAGIC => self.extent(most),
            _ => Ok(Part::Unknown("neither a flush nor the end of the file")),
        }
    }

    /// Goes on, by one byte at least, to where a flush or a header may begin, or to the end, or beyond `until`.
    pub fn search(&mut self, until: u64) -> io::Result<()> {
        let (flush, head) = (ZSTD_MAGIC.to_le_bytes(), HEADER_MAGIC.to_le_bytes());
        self.advance(1);
        while self.position() <= until {
            let bytes = self.peek(64 << 10)?;
            if bytes.len() < 4 {
                let rest = bytes.len();
                self.advance(rest);
                return Ok(());
            }
            let found = bytes.windows(4).enumerate().find(|(at, window)| {
                *window == flush
                    || *window == head
                        && bytes
                            .get(at + 8..)
                            .is_some_and(|rest| rest.len() < 8 || rest.starts_with(&NAME))
            });
            let (skip, found) = match found {
                Some((at, _)) => (at, true),
                None => (bytes.len() - 3, false),
            };
            self.advance(skip);
            if found {
                break;
            }
        }
        Ok(())
    }

    /// Goes on to the next header of a version that is known, or to the end.
    pub fn search_header(&mut self) -> io::Result<()> {
        loop {
            self.search(u64::MAX)?;
            let bytes = self.peek(header().len())?;
            if bytes.is_empty() || header_part(bytes) == Part::Header {
                return Ok(());
            }
        }
    }

    /// How long the zstd frame is that begins here, by its headers.
    fn extent(&mut self, most: usize) -> io::Result<Part> {
        const SHORT: Part = Part::Unknown("the file ends inside a flush");
        let Some(&descriptor) = self.peek(5)?.get(4) else {
            return Ok(SHORT);
        };
        let single_segment = descriptor & 0x20 != 0;
        let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
        let size = match descriptor >> 6 {
            0 => usize::from(single_segment),
            1 => 2,
            2 => 4,
            _ => 8,
        };
        let checksum = if descriptor & 4 != 0 { 4 } else { 0 };
        let mut length = 5 + usize::from(!single_segment) + dictionary + size;
        loop {
            let Some(&[a, b, c]) = self.peek(length + 3)?.get(length..) else {
                return Ok(SHORT);
            };
            let block = u32::from_le_bytes([a, b, c, 0]);
            length += 3;
            self.blocks += 1;
            length += match block >> 1 & 3 {
                // One byte, repeated.
                1 => 1,
                0 | 2 => (block >> 3) as usize,
                _ => return Ok(Part::Unknown("a flush with a block of no known kind")),
            };
            if length > most {
                return Ok(Part::Unknown("a flush that does not end"));
            }
            if block & 1 == 1 {
                break;
            }
        }
        length += checksum;
        if self.peek(length)?.len() < length {
            return Ok(SHORT);
        }
        Ok(Part::Flush(length))
    }
}

/// What bytes with the magic of a header are.
fn header_part(bytes: &[u8]) -> Part {
    let version = bytes.last_chunk().copied().map_or(0, u32::from_le_bytes);
    match version {
        _ if bytes != header_of(version) => Part::Unknown("a header of something else"),
        1..=VERSION => Part::Header,
        // There will never be more versions: that is damage, as version 0 is.
        ..=255 if version > VERSION => Part::Later(version),
        _ => Part::Unknown("a header of no version"),
    }
}

impl<R: BufRead + Seek> Flushes<R> {
    /// Goes on at this place of the stream.
    pub fn go_to(&mut self, position: u64) -> io::Result<()> {
        self.input.seek(SeekFrom::Start(position))?;
        self.buffer.clear();
        (self.used, self.start) = (0, position);
        Ok(())
    }
}
