//! Layouts of structs in kernels without type information, by build id.
//!
//! Gives offsets for exactly the binaries that they were read from: an offset is used only where the GNU build id of the
//! module (or kernel) that has the struct is the one of the table. Does not know of versions: two builds of one release
//! may differ in any option.

use std::fmt;

use super::offsets::Field;

/// A GNU build id.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct BuildId(Vec<u8>);

/// `NT_GNU_BUILD_ID` (include/uapi/linux/elf.h).
const NT_GNU_BUILD_ID: u32 = 3;

/// Bytes of the longest build id: `BUILD_ID_SIZE_MAX` is 20 (include/linux/buildid.h); 32 leaves room for others.
const MAX_BUILD_ID: usize = 32;

/// Bytes of notes that are looked at.
const MAX_NOTES: usize = 64 << 10;

impl BuildId {
    /// The build id among ELF notes in either byte order: `/sys/kernel/notes`, or `/sys/module/NAME/notes/*`.
    #[must_use]
    pub fn from_notes(notes: &[u8]) -> Option<Self> {
        let notes = &notes[..notes.len().min(MAX_NOTES)];
        [u32::from_be_bytes, u32::from_le_bytes]
            .into_iter()
            .find_map(|order| Self::find(notes, order))
    }

    fn find(mut notes: &[u8], order: fn([u8; 4]) -> u32) -> Option<Self> {
        loop {
            let word = |at: usize| Some(order(*notes.get(at..)?.first_chunk()?));
            let (name, length, kind) = (word(0)? as usize, word(4)? as usize, word(8)?);
            let data = 12_usize.checked_add(name.checked_next_multiple_of(4)?)?;
            let end = data.checked_add(length)?;
            if kind == NT_GNU_BUILD_ID && notes.get(12..16)? == b"GNU\0" && name == 4 {
                return (1..=MAX_BUILD_ID)
                    .contains(&length)
                    .then(|| notes.get(data..end).map(|id| Self(id.to_vec())))?;
            }
            notes = notes.get(end.checked_next_multiple_of(4)?..)?;
        }
    }

    /// Whether this is the id of these hexadecimal digits.
    #[must_use]
    pub fn is(&self, hex: &str) -> bool {
        self.to_string() == hex
    }
}

impl fmt::Display for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BuildId({self})")
    }
}

/// What is known of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// Its offset (or a size) in bytes.
    At(u32),
    /// The struct has no such member.
    Absent,
}

/// What is known of the structs of one binary.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// The module, or `vmlinux`.
    pub object: &'static str,
    /// Its build id, in hexadecimal digits.
    pub build_id: &'static str,
    /// The kernel's release, for messages.
    pub release: &'static str,
    /// What is known.
    pub fields: &'static [(Field, Known)],
}

/// All known layouts.
pub const LAYOUTS: &[Layout] = &[];

/// The layouts of an object with this build id.
#[must_use]
pub fn find(object: &str, id: &BuildId) -> Option<&'static Layout> {
    LAYOUTS
        .iter()
        .find(|layout| layout.object == object && id.is(layout.build_id))
}
