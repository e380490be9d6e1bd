//! Names of what calls act on in an emulated driver: its mdevs and its guests.
//!
//! Takes what the emulator has said of itself; what comes later, an mdev in a place for others, and what is assigned to each,
//! is asked for in its memory.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;

use super::matrix;
use super::reader::{Kind, Subject, Subjects};
use crate::emulator::protocol::{Hello, SubjectObject, UUID_LENGTH};
use crate::frame::Object;

/// Names by address.
pub(super) struct Named {
    known: HashMap<u64, SubjectObject>,
    /// The emulator's memory, where it may be read.
    memory: Option<File>,
    layout: matrix::Layout,
    /// When to look next at what is assigned.
    next_matrices_ns: u64,
}

impl Named {
    pub(super) fn new(hello: &Hello) -> Self {
        let known = hello.subjects.iter();
        Self {
            known: known.map(|known| (known.address, known.clone())).collect(),
            memory: File::open(format!("/proc/{}/mem", hello.pid)).ok(),
            layout: matrix::Layout {
                assigned: hello.offsets.mdev_matrix,
                in_guest: hello.offsets.mdev_shadow_apcb,
                kvm: hello.offsets.mdev_kvm,
            },
            next_matrices_ns: 0,
        }
    }

    /// Describes what is new, and once a second what is assigned to mdevs. True if there was something.
    pub(super) fn name(
        &mut self,
        subjects: &mut Subjects,
        objects: &mut Vec<Object>,
        now_ns: u64,
    ) -> bool {
        let new = subjects.name(objects, |subject| self.of(subject));
        if now_ns < self.next_matrices_ns && !new {
            return new;
        }
        self.next_matrices_ns = now_ns.saturating_add(matrix::INTERVAL_NS);
        let Some(memory) = &self.memory else {
            return new;
        };
        let read = |address, into: &mut [u8]| memory.read_exact_at(into, address).is_ok();
        let changed = matrix::update(objects, &subjects.mdevs(), |mdev| {
            let has = matrix::read(&read, self.layout, mdev)?;
            let guest = self.known.get(&has.kvm).and_then(|guest| guest.guest);
            Some((has, guest.map_or(0, |guest| guest + 1)))
        });
        new || changed
    }

    fn of(&self, subject: &Subject) -> (String, u32) {
        let found = self.known.get(&subject.address);
        let found = found.filter(|known| known.is_guest == (subject.kind == Kind::Guest));
        let Some(known) = found else {
            return (format!("{:#x}", subject.address), 0);
        };
        // What is in the place by now is another one.
        let uuid = known.uuid_at.filter(|_| !subject.gone);
        let name = uuid
            .and_then(|address| self.uuid(address))
            .unwrap_or_else(|| known.name.clone());
        (name, known.guest.map_or(0, |guest| guest + 1))
    }

    fn uuid(&self, address: u64) -> Option<String> {
        let mut text = [0; UUID_LENGTH];
        let memory = self.memory.as_ref()?;
        memory.read_exact_at(&mut text, address).ok()?;
        let text = String::from_utf8(text.into()).ok()?;
        let is_part = |c: char| c.is_ascii_hexdigit() || c == '-';
        text.chars().all(is_part).then_some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::scene;

    #[test]
    fn what_is_in_a_place_for_others_is_named_by_its_uuid() {
        let uuid = *b"62177883-f1bb-47f0-914d-32a22e3a8804";
        let nothing = [b'!'; UUID_LENGTH];
        let at = |text: &[u8; UUID_LENGTH]| std::ptr::from_ref(text) as u64;
        let mut hello = scene::hello(Vec::new(), Vec::new());
        let mut add = |address, is_guest, name: &str, guest, uuid_at| {
            hello.subjects.push(SubjectObject {
                address,
                is_guest,
                name: name.into(),
                guest,
                uuid_at,
            });
        };
        add(0x10, false, "mdev-0", None, Some(at(&uuid)));
        add(0x20, false, "mdev-1", None, Some(at(&nothing)));
        add(0x30, false, "mdev-2", None, Some(0x8));
        add(0x40, true, "guest-3", Some(3), None);
        let named = Named::new(&hello);
        let of = |address, kind, gone| {
            let id = 0;
            named.of(&Subject {
                id,
                kind,
                address,
                gone,
            })
        };
        let text = String::from_utf8_lossy(&uuid).into_owned();
        assert_eq!(of(0x10, Kind::Mdev, false), (text, 0));
        assert_eq!(of(0x10, Kind::Mdev, true), ("mdev-0".into(), 0));
        assert_eq!(of(0x20, Kind::Mdev, false), ("mdev-1".into(), 0));
        assert_eq!(of(0x30, Kind::Mdev, false), ("mdev-2".into(), 0));
        assert_eq!(of(0x40, Kind::Guest, false), ("guest-3".into(), 4));
        assert_eq!(of(0x40, Kind::Mdev, false), ("0x40".into(), 0));
    }
}
