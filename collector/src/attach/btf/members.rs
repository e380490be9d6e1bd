//! Where a member is: a dotted path through structs, unions, typedefs and members without a name, to an offset.

use super::{Btf, Type, kind};

/// Members that one search looks at. The largest struct of a kernel has some 300, its parts included some thousand.
const MAX_MEMBERS: u32 = 100_000;

/// Members without a name inside each other, and typedefs and qualifiers in a row.
const MAX_DEPTH: u32 = 32;

/// Why a member has no offset.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// No struct or union of the name is defined.
    #[error("no struct {0}")]
    NoStruct(String),
    /// It is defined, without the member.
    #[error("struct {outer} has no {member}")]
    NoMember {
        /// The struct, or the path to it.
        outer: String,
        /// The member.
        member: String,
    },
    /// A path leads on through something that is no struct: a pointer, a number or an array.
    #[error("{0} is no struct")]
    NotAStruct(String),
    /// The member is some bits of a word.
    #[error("{0} is a bit field")]
    Bitfield(String),
    /// Two different structs have the name, and the member is not at the same place in both.
    #[error("two different structs are called {0}")]
    Ambiguous(String),
    /// The types go round in circles, or are nested beyond any sense.
    #[error("the types of {0} cannot be followed")]
    Unreadable(String),
}

impl PathError {
    /// Whether the struct is known and certainly has no such member, which is different from nothing being known.
    #[must_use]
    pub const fn is_absent(&self) -> bool {
        matches!(self, Self::NoMember { .. })
    }
}

/// A member that was found: its offset in bits, and its type.
struct Place {
    bits: u64,
    type_id: u32,
    bitfield: bool,
}

impl Btf {
    /// Offset in bytes of a member of a struct or union. `path` is as in C (`arch.crypto.pqap_hook`); members without a
    /// name are searched. An array's offset is that of its first element.
    ///
    /// # Errors
    /// See [`PathError`].
    pub fn offset_of(&self, outer: &str, path: &str) -> Result<u32, PathError> {
        let ids = self.structs(outer);
        let mut found: Option<Result<u32, PathError>> = None;
        for id in ids {
            let offset = self.offset_in(id, outer, path);
            match &found {
                None => found = Some(offset),
                Some(first) if *first == offset => {}
                Some(_) => return Err(PathError::Ambiguous(outer.to_owned())),
            }
        }
        found.unwrap_or_else(|| Err(PathError::NoStruct(outer.to_owned())))
    }

    fn offset_in(&self, id: u32, outer: &str, path: &str) -> Result<u32, PathError> {
        let mut bits = 0_u64;
        let mut id = id;
        let mut so_far = outer.to_owned();
        let mut budget = MAX_MEMBERS;
        let mut parts = path.split('.').peekable();
        while let Some(member) = parts.next() {
            let place = self
                .member(id, member.as_bytes(), 0, &mut budget)
                .map_err(|fault| match fault {
                    Fault::Missing => PathError::NoMember {
                        outer: so_far.clone(),
                        member: member.to_owned(),
                    },
                    Fault::NotAStruct => PathError::NotAStruct(so_far.clone()),
                    Fault::Unreadable => PathError::Unreadable(so_far.clone()),
                })?;
            so_far = format!("{so_far}.{member}");
            if place.bitfield || place.bits % 8 != 0 {
                return Err(PathError::Bitfield(so_far));
            }
            bits += place.bits;
            if parts.peek().is_some() {
                id = place.type_id;
            }
        }
        u32::try_from(bits / 8).map_err(|_| PathError::Unreadable(so_far))
    }

    fn member(&self, id: u32, name: &[u8], depth: u32, budget: &mut u32) -> Result<Place, Fault> {
        if depth > MAX_DEPTH {
            return Err(Fault::Unreadable);
        }
        let (btf, outer) = self.resolve(id)?;
        if !matches!(outer.kind, kind::STRUCT | kind::UNION) {
            return Err(Fault::NotAStruct);
        }
        for index in 0..usize::from(outer.length) {
            *budget = budget.checked_sub(1).ok_or(Fault::Unreadable)?;
            let at = outer.at + super::TYPE + 12 * index;
            let (Some(name_off), Some(type_id), Some(offset)) =
                (btf.word(at), btf.word(at + 4), btf.word(at + 8))
            else {
                return Err(Fault::Unreadable);
            };
            let (bits, size) = if outer.kind_flag {
                (offset & 0xff_ffff, offset >> 24)
            } else {
                (offset, 0)
            };
            let own_name = btf.string(name_off);
            if own_name == name {
                return Ok(Place {
                    bits: u64::from(bits),
                    type_id,
                    // Before v4.20's kind_flag, a bit field is an integer type with bits of its own.
                    bitfield: size != 0 || self.has_own_bits(type_id),
                });
            }
            if own_name.is_empty() && size == 0 {
                match self.member(type_id, name, depth + 1, budget) {
                    Ok(place) => {
                        return Ok(Place {
                            bits: u64::from(bits) + place.bits,
                            ..place
                        });
                    }
                    Err(Fault::Unreadable) => return Err(Fault::Unreadable),
                    // Not in this one; or padding, which is a number without a name.
                    Err(Fault::Missing | Fault::NotAStruct) => {}
                }
            }
        }
        Err(Fault::Missing)
    }

    /// The type behind typedefs and qualifiers.
    fn resolve(&self, mut id: u32) -> Result<(&Self, Type), Fault> {
        for _ in 0..MAX_DEPTH {
            let (btf, t) = self.get(id).ok_or(Fault::NotAStruct)?;
            match t.kind {
                kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG => {
                    id = t.size_or_target;
                }
                _ => return Ok((btf, t)),
            }
        }
        Err(Fault::Unreadable)
    }

    /// Whether an integer type is narrower than its bytes, or begins inside them.
    fn has_own_bits(&self, id: u32) -> bool {
        self.resolve(id).is_ok_and(|(btf, t)| {
            t.kind == kind::INT
                && btf.word(t.at + super::TYPE).is_some_and(|word| {
                    let (offset, bits) = (word >> 16 & 0xff, word & 0xff);
                    offset != 0 || u64::from(bits) != 8 * u64::from(t.size_or_target)
                })
        })
    }
}

enum Fault {
    Missing,
    NotAStruct,
    Unreadable,
}
