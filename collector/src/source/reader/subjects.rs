//! What calls act on: an id for each mdev and each guest.
//!
//! Takes addresses, with when something was called, made or removed there; gives ids. A struct's memory is used again for
//! others, so an address alone says nothing: what was called after its end is another's. Does not know of names: a source
//! gives those, see [`Subjects::name`].

use std::collections::{HashMap, HashSet};

use probe_ebpf::abi::{Call, SPAN_ENTRY};
use probe_ebpf::names::entry_id;

use crate::frame::{ActedOn, Object};

/// Addresses remembered, of each kind.
const MOST_ADDRESSES: usize = 16_384;
/// Objects described; beyond, those that are gone are left out, the oldest first.
const MOST_OBJECTS: usize = 8_192;

/// A kind of object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A matrix mdev.
    Mdev,
    /// A guest.
    Guest,
}

impl Kind {
    /// As frames have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mdev => "mdev",
            Self::Guest => "guest",
        }
    }
}

/// Something that is to be named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subject {
    /// Id.
    pub id: u32,
    /// Kind.
    pub kind: Kind,
    /// Address of its struct.
    pub address: u64,
    /// It has ended: its memory may be another's.
    pub gone: bool,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    id: u32,
    /// When it ended, CLOCK_MONOTONIC nanoseconds.
    gone_ns: Option<u64>,
}

/// All of a run.
#[derive(Debug, Default)]
pub struct Subjects {
    known: HashMap<(Kind, u64), Known>,
    next_id: u32,
    unnamed: Vec<(Kind, u64, u32)>,
}

impl Subjects {
    /// What is at an address at this time (CLOCK_MONOTONIC nanoseconds). `None` for address 0, and where there is no room.
    pub fn at(&mut self, kind: Kind, address: u64, now_ns: u64) -> Option<u32> {
        if address == 0 {
            return None;
        }
        let key = (kind, address);
        if let Some(known) = self.known.get(&key)
            && known.gone_ns.is_none_or(|gone_ns| now_ns < gone_ns)
        {
            return Some(known.id);
        }
        if self.known.len() >= MOST_ADDRESSES {
            self.known.retain(|_, known| known.gone_ns.is_none());
            if self.known.len() >= MOST_ADDRESSES {
                return None;
            }
        }
        let id = self.next_id;
        self.next_id = self.next_id.checked_add(1)?;
        self.known.insert(key, Known { id, gone_ns: None });
        self.unnamed.push((kind, address, id));
        Some(id)
    }

    /// What is at an address has ended at this time: what is called there from then on acts on something else.
    pub fn end(&mut self, kind: Kind, address: u64, gone_ns: u64) {
        if let Some(known) = self.known.get_mut(&(kind, address)) {
            known.gone_ns = Some(known.gone_ns.map_or(gone_ns, |before| before.min(gone_ns)));
        }
    }

    /// Ids of the mdevs whose end was not seen.
    pub fn mdevs(&self) -> HashSet<u32> {
        let known = self.known.iter();
        known
            .filter(|((kind, _), known)| *kind == Kind::Mdev && known.gone_ns.is_none())
            .map(|(_, known)| known.id)
            .collect()
    }

    /// What a call has acted on.
    pub(super) fn of(&mut self, call: &Call) -> ActedOn {
        let span = &call.span;
        if span.kind != SPAN_ENTRY {
            return ActedOn::default();
        }
        let makes = matches!(span.what, entry_id::CREATE | entry_id::PROBE);
        if makes && span.result >= 0 {
            // Its predecessor's end was not seen: the record found no room.
            self.end(Kind::Mdev, call.mdev, span.start_ns);
        }
        let on = self.during(call.mdev, call.guest, span.start_ns);
        // Until v5.14 a removal may be refused; later the function returns nothing, and the value is whatever the
        // register had.
        if span.what == entry_id::REMOVE && span.result != -libc::EBUSY {
            let end_ns = span.start_ns.saturating_add(span.duration_ns);
            self.end(Kind::Mdev, call.mdev, end_ns);
        }
        on
    }

    /// What a call acts on that began at `since_ns`, by address.
    pub(super) fn during(&mut self, mdev: u64, guest: u64, since_ns: u64) -> ActedOn {
        ActedOn {
            mdev: self.at(Kind::Mdev, mdev, since_ns),
            guest: self.at(Kind::Guest, guest, since_ns),
        }
    }

    /// Describes what is new since the last time: `name` gives a name, and the guest's number plus 1 (0: none). True if
    /// there was something.
    pub fn name(
        &mut self,
        objects: &mut Vec<Object>,
        mut name: impl FnMut(&Subject) -> (String, u32),
    ) -> bool {
        let unnamed = std::mem::take(&mut self.unnamed);
        let changed = !unnamed.is_empty();
        for (kind, address, id) in unnamed {
            let known = self.known.get(&(kind, address));
            let subject = Subject {
                id,
                kind,
                address,
                gone: known.is_none_or(|known| known.id != id || known.gone_ns.is_some()),
            };
            let (name, guest) = name(&subject);
            objects.push(Object {
                id,
                kind: kind.name().into(),
                name,
                address,
                guest,
                ..Object::default()
            });
        }
        if objects.len() > MOST_OBJECTS {
            let alive = self.known.values().filter(|known| known.gone_ns.is_none());
            let alive: HashSet<u32> = alive.map(|known| known.id).collect();
            let mut too_many = objects.len() - MOST_OBJECTS;
            objects.retain(|object| {
                let goes = too_many > 0 && !alive.contains(&object.id);
                too_many -= usize::from(goes);
                !goes
            });
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use probe_ebpf::abi::{NO_INSTANCE, SPAN_LOCK, Span};

    use super::*;

    fn call(what: u8, start_ns: u64, duration_ns: u64, result: i32) -> Call {
        let span = Span {
            start_ns,
            duration_ns,
            extra: 0,
            tid: 1,
            instance: NO_INSTANCE,
            result,
            kind: SPAN_ENTRY,
            what,
            inside: 0,
            flags: 0,
        };
        Call {
            span,
            mdev: 0x1000,
            guest: 0x2000,
        }
    }

    fn ids(subjects: &mut Subjects, call: &Call) -> (Option<u32>, Option<u32>) {
        let on = subjects.of(call);
        (on.mdev, on.guest)
    }

    #[test]
    fn an_address_that_is_used_again_is_another_object() {
        let mut subjects = Subjects::default();
        let write = |at| call(entry_id::ASSIGN_ADAPTER, at, 5, 5);
        assert_eq!(ids(&mut subjects, &write(10)), (Some(0), Some(1)));
        assert_eq!(ids(&mut subjects, &write(20)), (Some(0), Some(1)));
        let remove = call(entry_id::REMOVE, 30, 10, 0);
        assert_eq!(ids(&mut subjects, &remove), (Some(0), Some(1)));
        // It had begun before, and its record came later.
        assert_eq!(ids(&mut subjects, &write(35)), (Some(0), Some(1)));
        assert_eq!(ids(&mut subjects, &write(41)), (Some(2), Some(1)));
        subjects.end(Kind::Guest, 0x2000, 50);
        assert_eq!(ids(&mut subjects, &write(49)), (Some(2), Some(1)));
        assert_eq!(ids(&mut subjects, &write(50)), (Some(2), Some(3)));
    }

    #[test]
    fn a_refused_removal_ends_nothing() {
        let mut subjects = Subjects::default();
        let remove = call(entry_id::REMOVE, 30, 10, -libc::EBUSY);
        subjects.of(&remove);
        let later = call(entry_id::IOCTL, 50, 1, 0);
        assert_eq!(ids(&mut subjects, &later).0, Some(0));
    }

    #[test]
    fn a_new_mdev_is_another_one_even_where_the_removal_was_lost() {
        let mut subjects = Subjects::default();
        subjects.of(&call(entry_id::IOCTL, 10, 1, 0));
        let failed = call(entry_id::PROBE, 20, 5, -12);
        assert_eq!(ids(&mut subjects, &failed).0, Some(0));
        let made = call(entry_id::PROBE, 30, 5, 0);
        assert_eq!(ids(&mut subjects, &made).0, Some(2));
        assert_eq!(
            ids(&mut subjects, &call(entry_id::IOCTL, 36, 1, 0)).0,
            Some(2)
        );
    }

    #[test]
    fn nothing_and_locks_act_on_nothing() {
        let mut subjects = Subjects::default();
        let mut lock = call(entry_id::IOCTL, 10, 1, 0);
        lock.span.kind = SPAN_LOCK;
        assert_eq!(ids(&mut subjects, &lock), (None, None));
        let mut none = call(entry_id::IOCTL, 10, 1, 0);
        (none.mdev, none.guest) = (0, 0);
        assert_eq!(ids(&mut subjects, &none), (None, None));
    }

    #[test]
    fn what_is_new_is_named_once_and_what_is_gone_keeps_its_name() {
        let mut subjects = Subjects::default();
        let mut objects = Vec::new();
        let mut asked = Vec::new();
        let mut name = |subjects: &mut Subjects, objects: &mut Vec<Object>| {
            let changed = subjects.name(objects, |subject| {
                asked.push((subject.id, subject.gone));
                (format!("{} {}", subject.kind.name(), subject.id), 0)
            });
            (changed, std::mem::take(&mut asked))
        };
        subjects.of(&call(entry_id::REMOVE, 30, 10, 0));
        assert_eq!(
            name(&mut subjects, &mut objects),
            (true, vec![(0, true), (1, false)])
        );
        assert_eq!(name(&mut subjects, &mut objects), (false, vec![]));
        subjects.of(&call(entry_id::PROBE, 50, 1, 0));
        assert_eq!(name(&mut subjects, &mut objects), (true, vec![(2, false)]));
        let names: Vec<&str> = objects.iter().map(|object| object.name.as_str()).collect();
        assert_eq!(names, ["mdev 0", "guest 1", "mdev 2"]);
        assert_eq!(objects[0].address, objects[2].address);
    }

    #[test]
    fn memory_is_bounded() {
        let mut subjects = Subjects::default();
        let mut objects = Vec::new();
        for n in 0..3 * MOST_ADDRESSES as u64 {
            let address = 0x1000 + n;
            assert!(subjects.at(Kind::Mdev, address, n).is_some());
            subjects.end(Kind::Mdev, address, n + 1);
            if n % 100 == 0 {
                subjects.name(&mut objects, |_| (String::new(), 0));
            }
        }
        assert!(subjects.known.len() <= MOST_ADDRESSES);
        assert!(objects.len() <= MOST_OBJECTS);
        let newest = objects.last().map(|object| object.address);
        assert!(newest > Some(0x1000 + 2 * MOST_ADDRESSES as u64));
        for n in 0..2 * MOST_ADDRESSES as u64 {
            subjects.at(Kind::Guest, 0x1000 + n, 0);
        }
        assert_eq!(subjects.at(Kind::Guest, 0x1, 0), None, "all of them alive");
    }
}
