//! Reading a recording, whatever state the file is in.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek};
use std::path::Path;

use super::content::Content;
use super::flushes::{Flushes, Part};
use super::totals::run;
use super::{VERSION, header, header_of};
use crate::frame::Frame;

/// Bytes that are decompressed in vain before a damaged file is given up.
const MAX_EFFORT: usize = 1 << 30;

/// Where the version is in the header.
const VERSION_AT: usize = 16;
/// Bytes of the header that may be damaged.
const MOST_DAMAGED: usize = 2;

/// So far into a file without a header, the first flush is looked for: no flush is larger before compression, unless its
/// only frame is.
const LOOK: usize = 16 << 20;

/// Why a recording could not be read, or what of it.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file could not be opened or read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The file has neither a header of ours nor a flush near its beginning.
    #[error("not a recording of apscope: {why}")]
    NotARecording {
        /// What was there instead.
        why: &'static str,
    },
    /// Written by another version.
    #[error("format version {found}, this apscope reads versions up to {VERSION}")]
    Version {
        /// Version in the header.
        found: u32,
    },
    /// A part of the file is damaged, or it ends early. The frames before were handed out, and those behind it follow.
    #[error(
        "damaged at byte {offset}, after {frames} whole frames: {why}; {skipped} bytes were skipped"
    )]
    Damaged {
        /// Start of what could not be read, in bytes from the start of the file.
        offset: u64,
        /// Its length in bytes, up to the next flush that could be read, or the end of the file.
        skipped: u64,
        /// Frames handed out before.
        frames: u64,
        /// What is wrong.
        why: String,
    },
}

/// Reads frames from a stream: an iterator that goes on behind [`ReadError::Damaged`], and ends after any other error.
///
/// A frame with totals ([`Frame::base`]) is handed out where frames before it were not, and left out elsewhere.
pub struct Reader<R> {
    flushes: Flushes<R>,
    /// The flush being handed out.
    content: Content,
    /// Where it is in the file, and its length.
    offset: u64,
    length: u64,
    last: Option<Last>,
    frames: u64,
    skipped: u64,
    effort: usize,
    ended: bool,
    /// What is to be told first: bytes at the beginning that were skipped, and what is wrong with them.
    beginning: Option<(u64, &'static str)>,
}

/// What a recording is read from, where it can be gone back in.
pub trait Input: BufRead + Seek {}

impl<T: BufRead + Seek> Input for T {}

/// A place between two frames of a stream, for [`Reader::go_to`].
#[derive(Debug, Clone)]
pub struct Place {
    /// Where the next flush begins, in bytes from the start of the stream.
    next: u64,
    /// A flush that is not handed out whole: where it begins, and the bytes of its content that are.
    rest: Option<(u64, usize)>,
    last: Option<Last>,
    frames: u64,
    skipped: u64,
    beginning: Option<(u64, &'static str)>,
}

/// The last frame that was handed out.
#[derive(Debug, Clone, Copy)]
struct Last {
    run: (u64, u64, u32),
    /// Its number; `None` before the first one of the run.
    number: Option<u64>,
    /// Every frame of the run was handed out, or totals for those that were not.
    whole: bool,
}

impl Reader<Box<dyn Input>> {
    /// Opens a file.
    ///
    /// # Errors
    ///
    /// It cannot be opened, or is no recording.
    pub fn open(path: &Path) -> Result<Self, ReadError> {
        let file = File::open(path)?;
        if file.metadata()?.is_dir() {
            return Err(ReadError::NotARecording {
                why: "it is a directory",
            });
        }
        Self::new(Box::new(BufReader::with_capacity(256 << 10, file)))
    }
}

impl<R: BufRead> Reader<R> {
    /// Starts to read: checks the header. Where there is none, the first flush is looked for, and what was skipped told.
    ///
    /// # Errors
    ///
    /// The stream cannot be read, or is no recording.
    pub fn new(input: R) -> Result<Self, ReadError> {
        let mut flushes = Flushes::new(input);
        let expected = header();
        let found = flushes.peek(expected.len())?;
        if found.is_empty() {
            let why = "the file is empty";
            return Err(ReadError::NotARecording { why });
        }
        if found.len() < expected.len() && expected.starts_with(found) {
            let why = "the file ends inside its header";
            return Err(ReadError::NotARecording { why });
        }
        let differ = |range: std::ops::Range<usize>| {
            let pairs = found[range.clone()].iter().zip(&expected[range]);
            pairs.filter(|(a, b)| a != b).count()
        };
        // A damaged byte or two leave no doubt what it was.
        let beginning = if found.len() < expected.len() || differ(0..VERSION_AT) > MOST_DAMAGED {
            Some(first_flush(&mut flushes)?)
        } else {
            let version: [u8; 4] = std::array::from_fn(|n| found[VERSION_AT + n]);
            let version = u32::from_le_bytes(version);
            // There will never be so many versions.
            let known = (1..=VERSION).contains(&version);
            if !known && u8::try_from(version).is_ok() {
                return Err(ReadError::Version { found: version });
            }
            let damaged = !known || found != header_of(version);
            flushes.advance(expected.len());
            damaged.then_some((expected.len() as u64, "the header"))
        };
        Ok(Self {
            flushes,
            content: Content::default(),
            offset: 0,
            length: 0,
            last: None,
            frames: 0,
            skipped: 0,
            effort: 0,
            ended: false,
            beginning,
        })
    }

    /// Frames handed out so far.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Bytes skipped so far because they are damaged.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Where it is: behind the last frame that was handed out.
    pub fn place(&self) -> Place {
        let rest = !self.content.is_over();
        Place {
            next: self.flushes.position(),
            rest: rest.then(|| (self.offset, self.content.used())),
            last: self.last,
            frames: self.frames,
            skipped: self.skipped,
            beginning: self.beginning,
        }
    }

    fn damaged(&mut self, offset: u64, skipped: u64, why: String) -> ReadError {
        self.skipped += skipped;
        ReadError::Damaged {
            offset,
            skipped,
            frames: self.frames,
            why,
        }
    }

    /// The next frame, `None` at the end of the file.
    fn next_frame(&mut self) -> Result<Option<Frame>, ReadError> {
        if let Some((skipped, why)) = self.beginning.take() {
            return Err(self.damaged(0, skipped, why.into()));
        }
        loop {
            match self.content.next() {
                Some(Ok(frame)) => {
                    if let Some(meta) = &frame.meta {
                        self.enter(run(meta));
                    }
                    if self.is_known(&frame) {
                        continue;
                    }
                    self.follow(&frame);
                    self.frames += 1;
                    return Ok(Some(frame));
                }
                Some(Err(why)) => {
                    let (offset, length) = (self.offset, self.length);
                    return Err(self.damaged(offset, length, why));
                }
                None if self.next_flush()? => {}
                None => return Ok(None),
            }
        }
    }

    /// From here on frames are of this run.
    fn enter(&mut self, run: (u64, u64, u32)) {
        if self.last.is_none_or(|last| last.run != run) {
            self.last = Some(Last {
                run,
                number: None,
                whole: true,
            });
        }
    }

    /// Totals of what was handed out, all of it.
    fn is_known(&self, frame: &Frame) -> bool {
        let known = |last: Last| last.whole && last.number == Some(frame.number);
        frame.base.is_some() && self.last.is_some_and(known)
    }

    /// Notes that a frame is handed out.
    fn follow(&mut self, frame: &Frame) {
        if let Some(last) = &mut self.last {
            let next = last.number.map_or(0, |number| number.saturating_add(1));
            last.whole = frame.base.is_some() || last.whole && frame.number <= next;
            last.number = Some(frame.number);
        }
    }

    /// Decompresses the next flush that can be read; false at the end of the file.
    fn next_flush(&mut self) -> Result<bool, ReadError> {
        let mut lost: Option<(u64, String)> = None;
        loop {
            let position = self.flushes.position();
            let blocks = self.flushes.blocks();
            let part = self.flushes.part()?;
            let mut length = None;
            let why = match part {
                Part::End if lost.is_none() => return Ok(false),
                Part::Header if lost.is_none() => {
                    self.flushes.advance(header().len());
                    continue;
                }
                Part::End | Part::Header => None,
                Part::Flush(bytes) => {
                    length = Some(bytes);
                    self.unpack(bytes, lost.is_some())?
                }
                Part::Unknown(why) => Some(why.to_owned()),
                Part::Later(version) => {
                    let why = format!("version {version} of the format, of a later apscope");
                    lost.get_or_insert((position, why));
                    self.flushes.search_header()?;
                    continue;
                }
            };
            match (why, &lost) {
                (None, None) => {
                    // A flush, whole, where it is expected.
                    self.offset = position;
                    self.length = length.unwrap_or(0) as u64;
                    self.flushes.advance(length.unwrap_or(0));
                    return Ok(true);
                }
                (None, Some((offset, why))) => {
                    // What comes next is read when the hole has been told.
                    let (offset, why) = (*offset, why.clone());
                    self.content.leave();
                    return Err(self.damaged(offset, position - offset, why));
                }
                (Some(why), _) => {
                    let (offset, first) = lost.get_or_insert((position, why));
                    let blocks = self.flushes.blocks() - blocks;
                    self.effort = self.effort.saturating_add(blocks.saturating_mul(64));
                    if self.effort > MAX_EFFORT {
                        let (offset, why) = (*offset, format!("{first}; too much more to go on"));
                        self.ended = true;
                        return Err(self.damaged(offset, position - offset, why));
                    }
                    self.leave(length)?;
                }
            }
        }
    }

    /// Leaves a flush that cannot be read: for what follows it, if its length seems right, or else for the next magic.
    fn leave(&mut self, length: Option<usize>) -> io::Result<()> {
        if let Some(length) = length {
            let next = self.flushes.peek(length + 4)?;
            let magic = super::ZSTD_MAGIC.to_le_bytes();
            if next.len() == length || next[length..] == magic {
                self.flushes.advance(length);
                return Ok(());
            }
        }
        self.flushes.search(u64::MAX)
    }

    /// Decompresses a flush; what is wrong with it, if anything is. Behind damage its first frame must make sense too.
    fn unpack(&mut self, bytes: usize, search: bool) -> io::Result<Option<String>> {
        let packed = self.flushes.peek(bytes)?;
        let mut why = self.content.replace(packed).err();
        if why.is_none() && search {
            why = match Content::unpack(packed).map(|mut content| content.next()) {
                Ok(Some(Ok(_))) => None,
                _ => Some("no frame behind it".to_owned()),
            };
        }
        if why.is_some() {
            self.effort = self.effort.saturating_add(self.content.len().max(bytes));
        }
        Ok(why)
    }
}

/// Looks for the first flush of a file that does not begin with a header; gives the bytes before it, and why they are
/// skipped. Only what can be nothing else is taken for one: a checksum that holds, frames and nothing besides, and a run
/// that they are of. Frames say themselves whether they are packed, so that no version is needed.
fn first_flush(flushes: &mut Flushes<impl BufRead>) -> Result<(u64, &'static str), ReadError> {
    let mut effort = 0_usize;
    let mut content = Content::default();
    while flushes.position() <= LOOK as u64 && effort <= MAX_EFFORT {
        let blocks = flushes.blocks();
        match flushes.part_within(LOOK)? {
            Part::End => break,
            Part::Header => return Ok((flushes.position(), "something else before the header")),
            Part::Flush(bytes) => {
                let unpacked = content.replace(flushes.peek(bytes)?).is_ok();
                effort = effort.saturating_add(content.len().max(bytes));
                if unpacked && content.is_flush() {
                    return Ok((flushes.position(), "the header is not there"));
                }
            }
            Part::Later(found) => return Err(ReadError::Version { found }),
            Part::Unknown(_) => {}
        }
        effort = effort.saturating_add((flushes.blocks() - blocks).saturating_mul(64));
        flushes.search(LOOK as u64)?;
    }
    Err(ReadError::NotARecording {
        why: "it starts with something else",
    })
}

impl<R: BufRead + Seek> Reader<R> {
    /// Goes on from a place where it has been.
    ///
    /// # Errors
    ///
    /// The stream cannot be read there, or is not what it was.
    pub fn go_to(&mut self, place: &Place) -> io::Result<()> {
        self.content.leave();
        self.ended = false;
        if let Some((offset, used)) = place.rest {
            self.flushes.go_to(offset)?;
            let changed = || io::Error::new(io::ErrorKind::InvalidData, "the file has changed");
            let Part::Flush(bytes) = self.flushes.part()? else {
                return Err(changed());
            };
            if self.unpack(bytes, false)?.is_some() {
                return Err(changed());
            }
            self.content.skip_to(used);
            (self.offset, self.length) = (offset, bytes as u64);
        }
        self.flushes.go_to(place.next)?;
        self.last = place.last;
        self.frames = place.frames;
        self.skipped = place.skipped;
        self.beginning = place.beginning;
        Ok(())
    }
}

impl<R: BufRead> Iterator for Reader<R> {
    type Item = Result<Frame, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.next_frame().transpose();
        self.ended |= !matches!(next, Some(Ok(_) | Err(ReadError::Damaged { .. })));
        next
    }
}
