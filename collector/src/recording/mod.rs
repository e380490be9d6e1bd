//! Recordings: frames in a file. docs/recording.md describes the format.
//!
//! A file is a header (a zstd skippable frame with a magic) and then one standard zstd frame, with a checksum, for
//! each *flush*: half a second. A flush is self-contained: its first message has the description of the run, and the
//! dictionary of tasks is complete in every message. Frames are packed there (`packed/`), each for itself. So a crash loses at most the flush being collected, damage the
//! flushes that it touches, and `zstd -d` reads the file.
//!
//! Frames are increments. A file whose first frames are elsewhere, because it is the second of several or what was left in
//! a ring, begins with a frame that has the totals until then ([`Totals`]); the same is repeated now and then, so that
//! counts are right again behind a hole.
//!
//! [`Packer`] makes flushes, [`Writer`] writes them to a stream, [`Ring`] keeps the last ones in memory; [`Reader`] works on
//! any stream. None of them knows of sources or of the model.

mod content;
mod flushes;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod packed;
mod packer;
mod reader;
mod ring;
mod totals;
mod writer;

pub use packer::{Flush, Packer, WriteError};
pub use reader::{Input, Place, ReadError, Reader};
pub use ring::{Ring, Taken};
pub use totals::Totals;
pub use writer::Writer;

/// Version of the format. Those before are read too: in version 1, no frame is packed.
pub const VERSION: u32 = 2;
/// A recorded frame is not larger than this.
pub const MAX_FRAME: usize = 64 << 20;
/// A flush is not larger than this before compression.
pub const MAX_FLUSH: usize = 256 << 20;

/// Magic of the skippable frame that is the header (zstd reserves 0x184D2A50 to 0x184D2A5F).
const HEADER_MAGIC: u32 = 0x184D_2A5A;
/// First bytes in the header.
const NAME: [u8; 8] = *b"apscope\0";
/// Bytes in the header: [`NAME`] and [`VERSION`].
const HEADER_CONTENT: u32 = 12;
/// Magic of a zstd frame.
const ZSTD_MAGIC: u32 = 0xFD2F_B528;

/// The header, whole.
pub fn header() -> [u8; 20] {
    header_of(VERSION)
}

/// The header of files of a version.
fn header_of(version: u32) -> [u8; 20] {
    let mut header = [0; 20];
    header[..4].copy_from_slice(&HEADER_MAGIC.to_le_bytes());
    header[4..8].copy_from_slice(&HEADER_CONTENT.to_le_bytes());
    header[8..16].copy_from_slice(&NAME);
    header[16..].copy_from_slice(&version.to_le_bytes());
    header
}
