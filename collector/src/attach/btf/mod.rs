//! A small reader of BTF, the kernel's type information (include/uapi/linux/btf.h, v6.12): structs by name, members by
//! path, sizes.
//!
//! Takes the bytes of `/sys/kernel/btf/*` in either byte order, a module's together with vmlinux', which it continues;
//! gives offsets in bytes. Does not know which types are wanted. The bytes are not trusted: nothing is allocated beyond
//! a small multiple of their length, types may refer to each other in circles, and names may lie anywhere.

mod members;

use std::collections::HashSet;
use std::sync::Arc;

pub use members::PathError;

use super::lines::key;

/// Bytes of one file. Distributions' vmlinux has 5 to 8 MB.
pub const MAX_BYTES: usize = 64 << 20;

/// Bytes of a name that are compared; longer names are equal to none.
const MAX_NAME: usize = 512;

const MAGIC: u16 = 0xeb9f;
/// magic, version, flags, hdr_len, type_off, type_len, str_off, str_len.
const HEADER: usize = 24;
/// `struct btf_type`: name_off, info, size or type.
const TYPE: usize = 12;

mod kind {
    pub const INT: u8 = 1;
    pub const PTR: u8 = 2;
    pub const ARRAY: u8 = 3;
    pub const STRUCT: u8 = 4;
    pub const UNION: u8 = 5;
    pub const ENUM: u8 = 6;
    pub const FWD: u8 = 7;
    pub const TYPEDEF: u8 = 8;
    pub const VOLATILE: u8 = 9;
    pub const CONST: u8 = 10;
    pub const RESTRICT: u8 = 11;
    pub const FUNC: u8 = 12;
    pub const FUNC_PROTO: u8 = 13;
    pub const VAR: u8 = 14;
    pub const DATASEC: u8 = 15;
    pub const FLOAT: u8 = 16;
    pub const DECL_TAG: u8 = 17;
    pub const TYPE_TAG: u8 = 18;
    pub const ENUM64: u8 = 19;
}

/// Why bytes are no BTF that can be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BtfError {
    /// The magic number is missing.
    #[error("not BTF: it does not begin with eB9F in either byte order")]
    Magic,
    /// More than [`MAX_BYTES`].
    #[error("more than {MAX_BYTES} bytes")]
    TooLarge,
    /// Another version of the format.
    #[error("BTF version {0}; only 1 is known")]
    Version(u8),
    /// A section lies outside of the file.
    #[error("the {0} lies outside of the file")]
    Section(&'static str),
    /// A type is cut off by the end of the section.
    #[error("type {0} is cut off")]
    Truncated(u32),
    /// A kind that the format's version 1 does not have, so that what follows cannot be found.
    #[error("type {id} is of the unknown kind {kind}")]
    Kind {
        /// The type's number.
        id: u32,
        /// Its kind.
        kind: u8,
    },
    /// A module's types without vmlinux'.
    #[error("these are the types of a module, which continue vmlinux' types; those are missing")]
    NoBase,
    /// A module's types with the base in another byte order.
    #[error("the base has the other byte order")]
    BaseOrder,
}

/// Types of a file, and of the file that it continues.
#[derive(Debug)]
pub struct Btf {
    data: Vec<u8>,
    big: bool,
    /// Where each type begins in `data`; the first one has the number `first`.
    types: Vec<u32>,
    first: u32,
    strings: std::ops::Range<usize>,
    /// Offset of the first string here: the length of the base's strings.
    first_string: u32,
    base: Option<Arc<Btf>>,
    /// Own structs, unions, enums, typedefs and functions that have a name: its key and the type's number, sorted.
    named: Vec<(u32, u32)>,
}

/// A type's fixed part.
#[derive(Debug, Clone, Copy)]
struct Type {
    at: usize,
    name: u32,
    kind: u8,
    /// Bit offsets are split into size and offset of a bitfield.
    kind_flag: bool,
    length: u16,
    size_or_target: u32,
}

/// Whether bytes continue another file's types: strings of vmlinux begin with the empty one, strings of a module do
/// not (btf_parse_str_sec in kernel/bpf/btf.c, v6.12). `false` for bytes that are no BTF.
#[must_use]
pub fn is_split(data: &[u8]) -> bool {
    Header::parse(data).is_ok_and(|h| data[h.strings].first().is_some_and(|byte| *byte != 0))
}

struct Header {
    big: bool,
    types: std::ops::Range<usize>,
    strings: std::ops::Range<usize>,
}

impl Header {
    fn parse(data: &[u8]) -> Result<Self, BtfError> {
        if data.len() > MAX_BYTES {
            return Err(BtfError::TooLarge);
        }
        let Some(magic) = data.first_chunk() else {
            return Err(BtfError::Magic);
        };
        let big = match (u16::from_be_bytes(*magic), u16::from_le_bytes(*magic)) {
            (MAGIC, _) => true,
            (_, MAGIC) => false,
            _ => return Err(BtfError::Magic),
        };
        if data.len() < HEADER {
            return Err(BtfError::Section("header"));
        }
        if data[2] != 1 {
            return Err(BtfError::Version(data[2]));
        }
        let word = |at| read_u32(data, big, at).unwrap_or(u32::MAX) as usize;
        let header = word(4);
        let section = |offset: usize, length: usize, what| {
            let start = header.checked_add(offset);
            let end = start.and_then(|start| start.checked_add(length));
            match (start, end) {
                (Some(start), Some(end)) if header >= HEADER && end <= data.len() => Ok(start..end),
                _ => Err(BtfError::Section(what)),
            }
        };
        Ok(Self {
            big,
            types: section(word(8), word(12), "type section")?,
            strings: section(word(16), word(20), "string section")?,
        })
    }
}

fn read_u32(data: &[u8], big: bool, at: usize) -> Option<u32> {
    let bytes = data.get(at..)?.first_chunk()?;
    Some(if big {
        u32::from_be_bytes(*bytes)
    } else {
        u32::from_le_bytes(*bytes)
    })
}

impl Btf {
    /// Reads a file that stands alone, such as vmlinux'.
    ///
    /// # Errors
    /// See [`BtfError`].
    pub fn parse(data: Vec<u8>) -> Result<Self, BtfError> {
        if is_split(&data) {
            return Err(BtfError::NoBase);
        }
        Self::read(data, None)
    }

    /// Reads a file that continues another, such as a module's.
    ///
    /// # Errors
    /// See [`BtfError`].
    pub fn parse_split(data: Vec<u8>, base: &Arc<Self>) -> Result<Self, BtfError> {
        Self::read(data, Some(Arc::clone(base)))
    }

    fn read(mut data: Vec<u8>, base: Option<Arc<Self>>) -> Result<Self, BtfError> {
        let header = Header::parse(&data)?;
        if base.as_ref().is_some_and(|base| base.big != header.big) {
            return Err(BtfError::BaseOrder);
        }
        data.shrink_to_fit();
        let mut btf = Self {
            data,
            big: header.big,
            types: Vec::new(),
            first: base.as_ref().map_or(1, |base| base.end()),
            strings: header.strings,
            first_string: base.as_ref().map_or(0, |base| {
                base.first_string.saturating_add(base.strings.len() as u32)
            }),
            base,
            named: Vec::new(),
        };
        let mut at = header.types.start;
        while at < header.types.end {
            let id = btf.first.saturating_add(btf.types.len() as u32);
            let length = btf.length_of(at, id)?;
            btf.types.push(at as u32);
            at += length;
            if at > header.types.end {
                return Err(BtfError::Truncated(id));
            }
        }
        btf.types.shrink_to_fit();
        btf.index();
        Ok(btf)
    }

    /// One past the last type's number.
    fn end(&self) -> u32 {
        self.first.saturating_add(self.types.len() as u32)
    }

    /// Bytes of the type at an offset.
    fn length_of(&self, at: usize, id: u32) -> Result<usize, BtfError> {
        let t = self.type_at(at).ok_or(BtfError::Truncated(id))?;
        let each = usize::from(t.length);
        let more = match t.kind {
            kind::PTR
            | kind::FWD
            | kind::TYPEDEF
            | kind::VOLATILE
            | kind::CONST
            | kind::RESTRICT
            | kind::FUNC
            | kind::FLOAT
            | kind::TYPE_TAG => 0,
            kind::INT | kind::VAR | kind::DECL_TAG => 4,
            kind::ARRAY => 12,
            kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => 12 * each,
            kind::ENUM | kind::FUNC_PROTO => 8 * each,
            kind => return Err(BtfError::Kind { id, kind }),
        };
        Ok(TYPE + more)
    }

    fn type_at(&self, at: usize) -> Option<Type> {
        let info = self.word(at + 4)?;
        Some(Type {
            at,
            name: self.word(at)?,
            kind: (info >> 24) as u8 & 0x1f,
            kind_flag: info >> 31 == 1,
            length: info as u16,
            size_or_target: self.word(at + 8)?,
        })
    }

    fn word(&self, at: usize) -> Option<u32> {
        read_u32(&self.data, self.big, at)
    }

    /// The file that has a type, and the type. Type 0 is `void` and has neither.
    fn get(&self, id: u32) -> Option<(&Self, Type)> {
        // A base never has a base of its own here, but a chain of any length ends: each step goes to an older file.
        let mut btf = self;
        while id < btf.first {
            btf = btf.base.as_deref()?;
        }
        let at = *btf.types.get((id - btf.first) as usize)?;
        Some((btf, btf.type_at(at as usize)?))
    }

    /// The string at an offset; empty where there is none, or none of a sane length.
    fn string(&self, offset: u32) -> &[u8] {
        let mut btf = self;
        while offset < btf.first_string {
            let Some(base) = btf.base.as_deref() else {
                return &[];
            };
            btf = base;
        }
        let strings = &btf.data[btf.strings.clone()];
        let Some(rest) = strings.get((offset - btf.first_string) as usize..) else {
            return &[];
        };
        let near = &rest[..rest.len().min(MAX_NAME)];
        near.iter()
            .position(|byte| *byte == 0)
            .map_or(&[], |end| &near[..end])
    }

    fn index(&mut self) {
        let mut named: Vec<(u32, u32)> = (self.first..self.end())
            .filter_map(|id| {
                let (_, t) = self.get(id)?;
                let kept = matches!(
                    t.kind,
                    kind::STRUCT
                        | kind::UNION
                        | kind::ENUM
                        | kind::ENUM64
                        | kind::TYPEDEF
                        | kind::FUNC
                );
                let name = if kept { self.string(t.name) } else { &[] };
                (!name.is_empty()).then(|| (key(name), id))
            })
            .collect();
        named.sort_unstable();
        named.shrink_to_fit();
        self.named = named;
    }

    fn name_of(&self, id: u32) -> &[u8] {
        self.get(id).map_or(&[], |(btf, t)| btf.string(t.name))
    }

    /// What has this name in this file, without the base.
    fn own(&self, name: &[u8]) -> impl Iterator<Item = (u32, Type)> {
        let key = key(name);
        let start = self.named.partition_point(|(other, _)| *other < key);
        let rest = &self.named[start..];
        let end = rest.partition_point(|(other, _)| *other <= key);
        let near = rest[..end].iter();
        near.filter(move |(_, id)| self.name_of(*id) == name)
            .filter_map(|(_, id)| self.get(*id).map(|(_, t)| (*id, t)))
    }

    /// All structs and unions of a name: of this file, or where it has none, of the base.
    fn structs(&self, name: &str) -> Vec<u32> {
        let mut next = Some(self);
        while let Some(btf) = next {
            let found: Vec<u32> = btf
                .own(name.as_bytes())
                .filter(|(_, t)| matches!(t.kind, kind::STRUCT | kind::UNION))
                .map(|(id, _)| id)
                .collect();
            if !found.is_empty() {
                return found;
            }
            next = btf.base.as_deref();
        }
        Vec::new()
    }

    /// Whether a struct or union of this name is defined here or in the base.
    #[must_use]
    pub fn has_struct(&self, name: &str) -> bool {
        !self.structs(name).is_empty()
    }

    /// Whether a struct or union of this name is defined in this very file.
    #[must_use]
    pub fn defines(&self, name: &str) -> bool {
        self.own(name.as_bytes())
            .any(|(_, t)| matches!(t.kind, kind::STRUCT | kind::UNION))
    }

    /// Whether an enum of this name is defined here or in the base.
    #[must_use]
    pub fn has_enum(&self, name: &str) -> bool {
        self.any(name, &[kind::ENUM, kind::ENUM64])
    }

    /// Whether a typedef of this name is defined here or in the base. A BTF tracepoint is attached by the typedef
    /// `btf_trace_NAME`.
    #[must_use]
    pub fn has_typedef(&self, name: &str) -> bool {
        self.any(name, &[kind::TYPEDEF])
    }

    /// Whether a function of this name is described here or in the base. fentry and fexit need that.
    #[must_use]
    pub fn has_function(&self, name: &str) -> bool {
        self.any(name, &[kind::FUNC])
    }

    fn any(&self, name: &str, kinds: &[u8]) -> bool {
        self.own(name.as_bytes())
            .any(|(_, t)| kinds.contains(&t.kind))
            || self.base.as_ref().is_some_and(|base| base.any(name, kinds))
    }

    /// Size in bytes of a struct or union.
    ///
    /// # Errors
    /// When it is missing, or two different ones have the name.
    pub fn size_of(&self, name: &str) -> Result<u32, PathError> {
        let sizes: HashSet<u32> = self
            .structs(name)
            .into_iter()
            .filter_map(|id| self.get(id).map(|(_, t)| t.size_or_target))
            .collect();
        let mut sizes = sizes.into_iter();
        match (sizes.next(), sizes.next()) {
            (Some(size), None) => Ok(size),
            (None, _) => Err(PathError::NoStruct(name.to_owned())),
            _ => Err(PathError::Ambiguous(name.to_owned())),
        }
    }

    /// Bytes of memory, without the base.
    #[cfg(feature = "fuzzing")]
    pub(super) const fn memory(btf: &Self) -> usize {
        btf.data.capacity() + 4 * btf.types.capacity() + 8 * btf.named.capacity()
    }

    /// Number of types in this file.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.types.len()
    }

    /// Whether this file has no type.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.types.is_empty()
    }
}

#[cfg(test)]
mod reduce;
#[cfg(test)]
mod tests;
