//! What is assigned to mdevs, and what of it their guests have: read from the driver's `struct ap_matrix` in memory.
//!
//! Takes the offsets and something that reads memory, of the kernel or of the emulated driver; keeps the descriptions of
//! mdevs up to date. The driver's sysfs attributes are not asked: reading them takes its locks.

use std::collections::HashSet;

use crate::frame::{Matrix, Object};

/// Bytes of `struct ap_matrix` (drivers/s390/crypto/vfio_ap_private.h, the same from v4.20 to v7.2): three times a largest
/// number and a bitmap of 256 bits.
const BYTES: usize = 3 * MAP;
const MAP: usize = 8 + 32;
/// What is assigned is looked at so often, and when an mdev is new.
pub(super) const INTERVAL_NS: u64 = 1_000_000_000;

/// Offsets in bytes in `struct ap_matrix_mdev`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    /// `matrix`.
    pub assigned: u32,
    /// `shadow_apcb`, which is what the guest was given, since v6.0. Before, a guest is given all that is assigned.
    pub in_guest: Option<u32>,
    /// `kvm`.
    pub kvm: u32,
}

/// What an mdev has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Has {
    /// What is assigned.
    pub assigned: Matrix,
    /// What the guest has; `None` where no guest has the mdev.
    pub in_guest: Option<Matrix>,
    /// Address of the guest; 0 is none.
    pub kvm: u64,
}

/// Reads what an mdev has; `None` where its memory cannot be read. `read` fills a buffer from an address.
pub(super) fn read(
    read: &impl Fn(u64, &mut [u8]) -> bool,
    layout: Layout,
    mdev: u64,
) -> Option<Has> {
    let matrix = |offset: u32| {
        let mut bytes = [0; BYTES];
        read(mdev.checked_add(u64::from(offset))?, &mut bytes).then(|| parse(&bytes))
    };
    let assigned = matrix(layout.assigned)?;
    let mut pointer = [0; 8];
    let kvm = read(mdev.checked_add(u64::from(layout.kvm))?, &mut pointer)
        .then(|| u64::from_ne_bytes(pointer))?;
    let in_guest = match (kvm, layout.in_guest) {
        (0, _) => None,
        (_, Some(offset)) => Some(matrix(offset)?),
        (_, None) => Some(assigned.clone()),
    };
    Some(Has {
        assigned,
        in_guest,
        kvm,
    })
}

fn parse(bytes: &[u8; BYTES]) -> Matrix {
    let mut maps = bytes.chunks_exact(MAP).map(|map| bits(&map[8..]));
    let mut next = || maps.next().unwrap_or_default();
    Matrix {
        adapters: next(),
        domains: next(),
        control_domains: next(),
    }
}

/// Bits that are set. Bit 0 is the leftmost of word 0 (`set_bit_inv`).
fn bits(map: &[u8]) -> Vec<u32> {
    let words = map.chunks_exact(8).enumerate();
    words
        .flat_map(|(n, word)| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(word);
            let word = u64::from_ne_bytes(bytes);
            let set = move |bit: &u32| word & (1 << (63 - bit)) != 0;
            (0..64).filter(set).map(move |bit| n as u32 * 64 + bit)
        })
        .collect()
}

/// Brings the descriptions of mdevs up to date. `alive`: ids of those that are there; `read` reads one at an address, and
/// says which number plus 1 its guest has (0: none). True if something changed.
pub(super) fn update(
    objects: &mut [Object],
    alive: &HashSet<u32>,
    mut read: impl FnMut(u64) -> Option<(Has, u32)>,
) -> bool {
    let mut changed = false;
    for object in objects.iter_mut().filter(|object| object.kind == "mdev") {
        let has = if alive.contains(&object.id) {
            read(object.address)
        } else {
            None
        };
        let (assigned, in_guest, guest) = match has {
            Some((has, guest)) => (Some(has.assigned), has.in_guest, guest),
            None => (None, None, 0),
        };
        // Of one that no guest has any more, it stays known who had it.
        let guest = if guest == 0 { object.guest } else { guest };
        if (&object.assigned, &object.in_guest, object.guest) != (&assigned, &in_guest, guest) {
            (object.assigned, object.in_guest, object.guest) = (assigned, in_guest, guest);
            changed = true;
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `struct ap_matrix_mdev` of a driver with this matrix, guest and shadow.
    fn memory(assigned: &[u64; 15], kvm: u64, shadow: &[u64; 15]) -> Vec<u8> {
        let words = assigned.iter().chain([&kvm]).chain(shadow);
        words.flat_map(|word| word.to_ne_bytes()).collect()
    }

    fn reads(memory: &[u8]) -> impl Fn(u64, &mut [u8]) -> bool + '_ {
        |address, into| {
            let from = address as usize;
            let Some(bytes) = memory.get(from..from.saturating_add(into.len())) else {
                return false;
            };
            into.copy_from_slice(bytes);
            true
        }
    }

    const LAYOUT: Layout = Layout {
        assigned: 0,
        in_guest: Some(128),
        kvm: 120,
    };

    /// Largest numbers of 255; adapters 0x05 and 0xff, domains 0x04, 0x47, control domain 0x40.
    fn assigned() -> [u64; 15] {
        let bit = |n: u64| 1 << (63 - n % 64);
        let mut words = [0; 15];
        (words[0], words[5], words[10]) = (255, 255, 255);
        (words[1], words[4]) = (bit(5), bit(0xff));
        (words[6], words[7]) = (bit(4), bit(0x47));
        words[12] = bit(0x40);
        words
    }

    fn matrix(adapters: &[u32], domains: &[u32], control: &[u32]) -> Matrix {
        Matrix {
            adapters: adapters.to_vec(),
            domains: domains.to_vec(),
            control_domains: control.to_vec(),
        }
    }

    #[test]
    fn bits_are_counted_from_the_left() {
        let mut shadow = assigned();
        shadow[4] = 0;
        let memory = memory(&assigned(), 0x8000, &shadow);
        let all = matrix(&[5, 255], &[4, 0x47], &[0x40]);
        let has = read(&reads(&memory), LAYOUT, 0).unwrap();
        assert_eq!(has.kvm, 0x8000);
        assert_eq!(has.assigned, all);
        assert_eq!(has.in_guest, Some(matrix(&[5], &[4, 0x47], &[0x40])));
        let before_v6_0 = Layout {
            in_guest: None,
            ..LAYOUT
        };
        let has = read(&reads(&memory), before_v6_0, 0).unwrap();
        assert_eq!(has.in_guest, Some(all));
    }

    #[test]
    fn without_a_guest_nothing_is_given_to_one() {
        let memory = memory(&assigned(), 0, &assigned());
        let has = read(&reads(&memory), LAYOUT, 0).unwrap();
        assert_eq!((has.in_guest, has.kvm), (None, 0));
        assert_eq!(read(&reads(&memory), LAYOUT, 200), None, "torn");
        assert_eq!(read(&reads(&memory), LAYOUT, u64::MAX), None);
    }

    #[test]
    fn what_is_gone_has_nothing_and_keeps_its_guest() {
        let object = |id, kind: &str| Object {
            id,
            kind: kind.into(),
            address: u64::from(id),
            ..Object::default()
        };
        let mut objects = [object(1, "mdev"), object(2, "guest"), object(3, "mdev")];
        let has = || Has {
            assigned: matrix(&[1], &[2], &[]),
            in_guest: Some(matrix(&[1], &[], &[])),
            kvm: 0x8000,
        };
        let mut asked = Vec::new();
        let alive = HashSet::from([1, 2]);
        let mut look = |objects: &mut [Object], alive: &HashSet<u32>| {
            update(objects, alive, |address| {
                asked.push(address);
                Some((has(), 7))
            })
        };
        assert!(look(&mut objects, &alive));
        assert!(!look(&mut objects, &alive), "nothing has changed");
        assert_eq!(objects[0].assigned, Some(has().assigned));
        assert_eq!((objects[0].guest, objects[2].guest), (7, 0));
        assert!(look(&mut objects, &HashSet::new()));
        assert_eq!((&objects[0].assigned, objects[0].guest), (&None, 7));
        assert_eq!(asked, [1, 1]);
    }
}
