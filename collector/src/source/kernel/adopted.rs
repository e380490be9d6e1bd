//! Places of locks that come and go: when one is new, when its object has ended, and when its place may be another's.
//!
//! Takes what programs have written to `INSTANCE_INFO`; gives [`Change`]s. A place that is used again gets another id, so
//! that no statistics, span or edge of one lock is ever taken for those of its predecessor. Knows nothing of maps.

/// A place is not given to others before this time after its object's end has passed: what was on its way then has
/// arrived.
const GRACE_NS: u64 = 2_000_000_000;
/// Places that may still be empty below one that is in use: slots are given out from the lowest on, but one CPU may be
/// slower than another.
const LATE: usize = 64;

/// What a place says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Address of the lock; 0 for none.
    pub address: u64,
    /// Class id.
    pub class: u8,
    /// What it belongs to.
    pub object: u64,
    /// When its object ended, CLOCK_MONOTONIC nanoseconds; 0 while it lives.
    pub gone_ns: u64,
}

/// What has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// A lock was adopted. Its instance has this id, and where it is an rwsem the next one for readers.
    New {
        /// Slot.
        slot: u32,
        /// Id.
        id: u32,
    },
    /// A lock's object has ended.
    Gone {
        /// Id.
        id: u32,
        /// What was there.
        record: Record,
    },
    /// A slot may be another lock's.
    Free {
        /// Slot.
        slot: u32,
        /// Id that it had.
        id: u32,
    },
}

#[derive(Debug, Clone, Copy, Default)]
struct Place {
    /// 0: nothing was seen there.
    address: u64,
    id: u32,
    /// When its end was seen, CLOCK_MONOTONIC nanoseconds.
    gone_ns: Option<u64>,
    used_before: bool,
}

/// All places.
#[derive(Debug)]
pub struct Adopted {
    /// The first place's slot.
    first: u32,
    places: Vec<Place>,
    next_id: u32,
}

impl Adopted {
    /// Places from slot `first` on, each of `step` slots, in `slots` altogether.
    pub const fn new(first: u32, slots: u32) -> Self {
        Self {
            first,
            places: Vec::new(),
            // Ids of places that are used again lie behind all slots.
            next_id: slots,
        }
    }

    /// Slot of the first place.
    pub const fn first(&self) -> u32 {
        self.first
    }

    /// Looks at all places, once a tick. `step`: slots of each. `in_use`: a live task still holds or waits for this id.
    pub fn look(
        &mut self,
        step: u32,
        now_ns: u64,
        records: impl Iterator<Item = Record>,
        in_use: impl Fn(u32) -> bool,
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        for (n, record) in records.enumerate() {
            if record.address == 0 {
                if n > self.places.len() + LATE {
                    break;
                }
                continue;
            }
            if self.places.len() <= n {
                self.places.resize(n + 1, Place::default());
            }
            let slot = self.first + n as u32 * step;
            let place = &mut self.places[n];
            if place.address == 0 {
                place.address = record.address;
                place.id = if place.used_before {
                    self.next_id
                } else {
                    slot
                };
                if place.used_before {
                    self.next_id = self.next_id.wrapping_add(step);
                }
                changes.push(Change::New { slot, id: place.id });
            }
            match place.gone_ns {
                None if record.gone_ns != 0 => {
                    place.gone_ns = Some(now_ns);
                    let id = place.id;
                    changes.push(Change::Gone { id, record });
                }
                Some(gone_ns)
                    if now_ns.saturating_sub(gone_ns) > GRACE_NS
                        && !(0..step).any(|mode| in_use(place.id + mode)) =>
                {
                    changes.push(Change::Free { slot, id: place.id });
                    *place = Place {
                        used_before: true,
                        ..Place::default()
                    };
                }
                _ => {}
            }
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn record(address: u64, gone: bool) -> Record {
        Record {
            address,
            class: 3,
            object: 7,
            gone_ns: u64::from(gone),
        }
    }

    fn look(adopted: &mut Adopted, now: u64, records: &[Record]) -> Vec<Change> {
        adopted.look(2, now, records.iter().copied(), |_| false)
    }

    #[test]
    fn a_place_that_is_used_again_has_another_id() {
        let mut adopted = Adopted::new(10, 100);
        let none = record(0, false);
        let changes = look(&mut adopted, 0, &[record(0x1000, false), none]);
        assert_eq!(changes, [Change::New { slot: 10, id: 10 }]);
        let gone = record(0x1000, true);
        let changes = look(&mut adopted, SECOND, &[gone]);
        assert_eq!(
            changes,
            [Change::Gone {
                id: 10,
                record: gone
            }]
        );
        assert!(look(&mut adopted, 2 * SECOND, &[gone]).is_empty());
        let changes = look(&mut adopted, 4 * SECOND, &[gone]);
        assert_eq!(changes, [Change::Free { slot: 10, id: 10 }]);
        assert!(look(&mut adopted, 4 * SECOND, &[none]).is_empty());
        // The same address, another lock.
        let changes = look(&mut adopted, 5 * SECOND, &[record(0x1000, false)]);
        assert_eq!(changes, [Change::New { slot: 10, id: 100 }]);
        let changes = look(&mut adopted, 6 * SECOND, &[gone, record(0x2000, false)]);
        let expected = [
            Change::Gone {
                id: 100,
                record: gone,
            },
            Change::New { slot: 12, id: 12 },
        ];
        assert_eq!(changes, expected);
        look(&mut adopted, 9 * SECOND, &[gone]);
        let changes = look(&mut adopted, 10 * SECOND, &[record(0x3000, false)]);
        assert_eq!(changes, [Change::New { slot: 10, id: 102 }]);
    }

    #[test]
    fn a_place_with_a_holder_is_not_given_away() {
        let mut adopted = Adopted::new(10, 100);
        let gone = [record(0x1000, true)];
        look(&mut adopted, 0, &gone);
        // A reader: the second id of the place.
        let held = adopted.look(2, 9 * SECOND, gone.into_iter(), |id| id == 11);
        assert!(held.is_empty());
        let changes = look(&mut adopted, 9 * SECOND, &gone);
        assert_eq!(changes, [Change::Free { slot: 10, id: 10 }]);
    }

    #[test]
    fn a_lock_that_ended_before_it_was_seen_is_new_and_gone() {
        let mut adopted = Adopted::new(0, 100);
        let changes = look(&mut adopted, 0, &[record(0, false), record(0x1000, true)]);
        assert_eq!(changes[0], Change::New { slot: 2, id: 2 });
        assert!(matches!(changes[1], Change::Gone { id: 2, .. }));
    }
}
