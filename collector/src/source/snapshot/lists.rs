//! Lists of the kernel, walked while others change them.
//!
//! Takes memory and the address of a list; gives the addresses of its links. A walk takes no lock, so the list may change
//! under it, lie in memory that is somebody else's by now, or have no end. Each link must point back to the one before it,
//! none is visited twice, and there is a bound: what comes of a walk that fails one of these is not whole, and says so.

use std::collections::HashSet;

use crate::source::kernel::words::Memory;

/// Links of a walk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Walk {
    /// Addresses of the links, in the order of the list.
    pub links: Vec<u64>,
    /// The walk came to the end of the list, and every link pointed back to the one before it.
    pub whole: bool,
}

impl Walk {
    /// Of a list that has no links.
    pub const fn empty() -> Self {
        Self {
            links: Vec::new(),
            whole: true,
        }
    }

    /// Of a list that cannot be read.
    pub const fn nothing() -> Self {
        Self {
            links: Vec::new(),
            whole: false,
        }
    }
}

/// Links of a `struct list_head` list from behind its head on; at most `most`.
pub fn headed(memory: &impl Memory, head: u64, most: usize) -> Walk {
    match link(memory, head) {
        None => Walk::nothing(),
        Some((next, _)) if next == head => Walk::empty(),
        Some((next, _)) => walk(memory, next, head, head, most),
    }
}

/// Links of a circular list without a head, from its first link on; at most `most`.
pub fn ring(memory: &impl Memory, first: u64, most: usize) -> Walk {
    match link(memory, first) {
        None => Walk::nothing(),
        Some((_, last)) => walk(memory, first, first, last, most),
    }
}

/// From `at` on until the next link is `end`. `before`: what the first link must point back to.
fn walk(memory: &impl Memory, mut at: u64, end: u64, mut before: u64, most: usize) -> Walk {
    let mut walk = Walk::nothing();
    let mut seen = HashSet::new();
    while walk.links.len() < most {
        if at == 0 || !at.is_multiple_of(8) || !seen.insert(at) {
            return walk;
        }
        let Some((next, previous)) = link(memory, at) else {
            return walk;
        };
        if previous != before {
            return walk;
        }
        walk.links.push(at);
        if next == end {
            walk.whole = true;
            return walk;
        }
        (before, at) = (at, next);
    }
    walk
}

/// The two pointers of a `struct list_head` (include/linux/types.h): next and previous.
fn link(memory: &impl Memory, at: u64) -> Option<(u64, u64)> {
    let mut bytes = [0; 16];
    if at == 0 || !memory.read(at, &mut bytes) {
        return None;
    }
    let (next, previous) = bytes.split_first_chunk::<8>()?;
    let previous = previous.first_chunk::<8>()?;
    Some((u64::from_ne_bytes(*next), u64::from_ne_bytes(*previous)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::fake::Words;
    use super::*;

    const HEAD: u64 = 0x1000;
    const MOST: usize = 64;

    /// A list of links at these addresses.
    fn list(links: &[u64]) -> Words {
        let mut words = Words::default();
        let all: Vec<u64> = std::iter::once(HEAD).chain(links.iter().copied()).collect();
        for (n, at) in all.iter().enumerate() {
            words.put(*at, all[(n + 1) % all.len()]);
            words.put(at + 8, all[(n + all.len() - 1) % all.len()]);
        }
        words
    }

    #[test]
    fn links_come_in_order() {
        assert_eq!(headed(&list(&[]), HEAD, MOST), Walk::empty());
        let links = [0x2000, 0x1800, 0x3000];
        let walk = headed(&list(&links), HEAD, MOST);
        assert_eq!((walk.links.as_slice(), walk.whole), (&links[..], true));
        // Without a head: the head is one of the links.
        let walk = ring(&list(&links), 0x1800, MOST);
        assert_eq!(walk.links, [0x1800, 0x3000, HEAD, 0x2000]);
        assert!(walk.whole);
    }

    #[test]
    fn a_list_without_end_has_a_bound() {
        let mut words = list(&[0x2000, 0x3000]);
        // The last link points to itself, as after a list was initialised twice.
        words.put(0x3000, 0x3000);
        let walk = headed(&words, HEAD, MOST);
        assert!(!walk.whole && walk.links.len() <= 2, "{walk:?}");
        let long: Vec<u64> = (0..100).map(|n| 0x10_000 + n * 16).collect();
        let walk = headed(&list(&long), HEAD, MOST);
        assert_eq!((walk.links.len(), walk.whole), (MOST, false));
    }

    #[test]
    fn what_does_not_point_back_is_not_followed() {
        let mut words = list(&[0x2000, 0x3000]);
        words.put(0x3008, 0x9000);
        let walk = headed(&words, HEAD, MOST);
        assert_eq!((walk.links.as_slice(), walk.whole), (&[0x2000][..], false));
        words.forget(0x2000);
        assert_eq!(headed(&words, HEAD, MOST), Walk::nothing());
        assert_eq!(headed(&words, 0, MOST), Walk::nothing());
    }

    proptest! {
        /// Whatever is in memory, a walk ends, and gives only what is linked in both directions.
        #[test]
        fn any_memory_is_walked_to_an_end(
            pointers in prop::collection::vec(0_u64..40, 0..40),
            from in 0_u64..40,
        ) {
            let mut words = Words::default();
            for (n, pointer) in pointers.iter().enumerate() {
                words.put(n as u64 * 8, pointer * 8);
            }
            for walk in [headed(&words, from * 8, MOST), ring(&words, from * 8, MOST)] {
                prop_assert!(walk.links.len() <= MOST);
                for pair in walk.links.windows(2) {
                    prop_assert_eq!(words.get(pair[0]), Some(pair[1]));
                    prop_assert_eq!(words.get(pair[1] + 8), Some(pair[0]));
                }
            }
        }
    }
}
