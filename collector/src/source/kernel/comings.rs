//! What locks come and go while a kernel is measured means for the run: its description, its reader, the words that are
//! looked at, and the maps.

use std::collections::HashSet;

use probe_ebpf::abi::{LockKind, SLOTS_PER_ADOPTED};
use probe_ebpf::names::{CLASSES, class_id};

use super::adopted::{Change, Record};
use super::objects;
use super::run::KernelSource;
use super::verify::Watched;
use super::words::Memory as _;
use crate::attach::offsets::Field;
use crate::frame::Frame;
use crate::source::ebpf::object;
use crate::source::matrix;
use crate::source::reader::{self, Kind};

/// Locks that are gone and stay in the description, with what was counted for them.
const MOST_ENDED: usize = 1024;

/// Puts what one look has found into an order in which names are right: what is gone before what may have its address, and
/// guests before what is called after them. Places say nothing of time. `class_at`: class of the lock in a slot.
fn sort(changes: &mut [Change], class_at: impl Fn(u32) -> u8) {
    let new: Vec<u32> = changes
        .iter()
        .filter_map(|change| match change {
            Change::New { id, .. } => Some(*id),
            _ => None,
        })
        .collect();
    changes.sort_by_key(|change| match change {
        Change::Gone { id, .. } if !new.contains(id) => 0,
        Change::New { slot, .. } if class_at(*slot) == class_id::KVM_LOCK => 1,
        Change::New { .. } => 2,
        Change::Gone { .. } => 3,
        Change::Free { .. } => 4,
    });
}

/// What is not listed any more may be another's address the next time.
fn forget_gone(leaving: &mut HashSet<u64>, listed: impl Iterator<Item = u64>) {
    let listed: HashSet<u64> = listed.collect();
    leaving.retain(|object| listed.contains(object));
}

impl KernelSource {
    /// Looks for locks that were adopted since the last tick, for those that have ended, and for places that are free.
    pub(super) fn adopt(&mut self) {
        let places = self.info.iter().skip(self.adopted.first() as usize);
        let records = places
            .step_by(SLOTS_PER_ADOPTED as usize)
            .map(|info| Record {
                address: info.address.get(),
                class: info.class.get() as u8,
                object: info.object.get(),
                gone_ns: info.gone_ns.get(),
            });
        let used = &self.used;
        let mut changes =
            self.adopted
                .look(SLOTS_PER_ADOPTED, reader::monotonic_ns(), records, |id| {
                    used.contains(&id)
                });
        sort(&mut changes, |slot| {
            let info = self.info.get(slot as usize);
            info.map_or(0, |info| info.class.get() as u8)
        });
        for change in changes {
            match change {
                Change::New { slot, id } => self.new_instance(slot, id),
                Change::Gone { id, record } => self.end_instance(id, record),
                Change::Free { slot, id } => self.free_instance(slot, id),
            }
        }
    }

    fn new_instance(&mut self, slot: u32, id: u32) {
        let Some(info) = self.info.get(slot as usize) else {
            return;
        };
        let instances = self.names.describe(&self.memory, &self.offsets, id, info);
        let (address, class) = (info.address.get(), info.class.get() as u8);
        let tgid = info.tgid.get() as u32;
        // Another object has the address by now.
        self.leaving.remove(&info.object.get());
        if class == class_id::KVM_LOCK {
            // Named while it is known who it is: it may end before a call on it is read.
            let (object, since) = (info.object.get(), info.since.get());
            self.reader.subjects.at(Kind::Guest, object, since);
            self.name_subjects();
        }
        for instance in instances {
            let slot = slot + (instance.id - id);
            self.reader
                .add_instance(slot, instance.id, instance.series as u8);
            self.meta.instances.push(instance);
        }
        let kind = CLASSES
            .get(usize::from(class))
            .map_or(LockKind::Mutex, |class| class.kind);
        self.watched.push(Watched {
            address,
            class,
            kind,
            slot: id,
            tgid,
        });
        self.meta.guests = self.names.guests();
        self.list_series();
    }

    /// Looks for mdevs and guests that no probe has seen coming or going, which below level 1 is all of them.
    pub(super) fn find_objects(&mut self) {
        let Some(matrix_dev) = self.matrix_dev.filter(|_| self.module.is_some()) else {
            return;
        };
        // What programs have adopted meanwhile is known then.
        self.adopt();
        let (memory, offsets) = (&self.memory, &self.offsets);
        let known = self
            .vm_list
            .and_then(|list| objects::all_guests(memory, offsets, list));
        let now = objects::guests_now(memory, offsets, matrix_dev, known.as_deref());
        let watched: HashSet<u64> = self.watched.iter().map(|w| w.address).collect();
        forget_gone(&mut self.leaving, now.iter().map(|(lock, _)| lock.object));
        let mut new = now;
        new.retain(|(lock, _)| {
            !watched.contains(&lock.address) && !self.leaving.contains(&lock.object)
        });
        for (lock, tgid) in &new {
            let mut room = true;
            let at = reader::monotonic_ns();
            self.on_maps(|ebpf| object::adopt(ebpf, lock, *tgid, at).map(|found| room = found));
            if !room {
                if !std::mem::replace(&mut self.full, true) {
                    self.log.push(
                        "warn",
                        "there are more guests and mdevs than places for their locks: some are not looked at",
                    );
                }
                break;
            }
        }
        let Some(known) = known.filter(|_| self.level == 0) else {
            return;
        };
        let mdevs = objects::mdevs(&self.memory, &self.offsets, matrix_dev);
        // Nothing else sees a guest or an mdev end.
        let first = self.adopted.first();
        let ended: Vec<u32> = self
            .info
            .iter()
            .zip(0..)
            .skip(first as usize)
            .step_by(SLOTS_PER_ADOPTED as usize)
            .filter(|(info, _)| {
                let class = info.class.get() as u8;
                let there = info.address.get() != 0 && info.gone_ns.get() == 0;
                let is_of_guest = matches!(
                    class,
                    class_id::KVM_LOCK | class_id::PQAP_HOOK_RWSEM | class_id::VCPU_MUTEX
                );
                let is_of_mdev = matches!(
                    class,
                    class_id::KVM_BUSY
                        | class_id::DEV_SET_LOCK
                        | class_id::GROUP_LOCK
                        | class_id::GROUP_RWSEM
                );
                there
                    && (is_of_guest && !known.contains(&info.object.get())
                        || is_of_mdev && !mdevs.contains(&info.object.get()))
            })
            .map(|(_, slot)| slot)
            .collect();
        // One look may be of a list that was just being changed.
        let before = std::mem::replace(&mut self.missing, ended.clone());
        for slot in ended.into_iter().filter(|slot| before.contains(slot)) {
            self.on_maps(|ebpf| object::end_instance(ebpf, slot, reader::monotonic_ns()));
        }
    }

    /// Names what calls have acted on since this was last asked.
    pub(super) fn name_subjects(&mut self) {
        let Self {
            names,
            memory,
            offsets,
            reader,
            meta,
            ..
        } = self;
        let named = reader.subjects.name(&mut meta.objects, |subject| {
            let address = subject.address;
            match subject.kind {
                // A name that is read where another lies by now would be the other's.
                _ if subject.gone => (format!("{address:#x}"), 0),
                Kind::Guest => {
                    let process = objects::process_of(memory, offsets, address);
                    let (number, name) = names.guest(address, process);
                    (name, number)
                }
                Kind::Mdev => {
                    names.forget(address);
                    let guest = objects::guest_of(memory, offsets, address);
                    let number = names.number(guest);
                    (names.mdev(memory, offsets, address), number)
                }
            }
        });
        if named {
            meta.guests = names.guests();
            self.meta_changed = true;
            self.next_matrices_ns = 0;
        }
    }

    /// Looks at what is assigned to mdevs, and what of it their guests have.
    pub(super) fn read_matrices(&mut self) {
        let offset = |field| self.offsets.get(field);
        let layout = || {
            Some(matrix::Layout {
                assigned: offset(Field::MdevMatrix)?,
                in_guest: offset(Field::MdevShadowApcb),
                kvm: offset(Field::MdevKvm)?,
            })
        };
        let driver = self.matrix_dev.filter(|_| self.module.is_some());
        let Some((matrix_dev, layout)) = driver.zip(layout()) else {
            let nothing = HashSet::new();
            self.meta_changed |= matrix::update(&mut self.meta.objects, &nothing, |_| None);
            return;
        };
        let listed = objects::mdevs(&self.memory, &self.offsets, matrix_dev);
        let listed: HashSet<u64> = listed.into_iter().collect();
        let alive = self.reader.subjects.mdevs();
        let (memory, names) = (&self.memory, &self.names);
        let read = |address, into: &mut [u8]| memory.read(address, into);
        let changed = matrix::update(&mut self.meta.objects, &alive, |mdev| {
            let has = matrix::read(&read, layout, mdev).filter(|_| listed.contains(&mdev))?;
            let guest = names.number(has.kvm);
            Some((has, guest))
        });
        self.meta_changed |= changed;
    }

    /// The object of an adopted lock has ended.
    fn end_instance(&mut self, id: u32, record: Record) {
        self.watched.retain(|watched| watched.slot != id);
        match record.class {
            class_id::KVM_LOCK => {
                self.reader
                    .subjects
                    .end(Kind::Guest, record.object, record.gone_ns);
                self.names.forget(record.object);
                self.end_devices(record.object);
            }
            class_id::KVM_BUSY
            | class_id::DEV_SET_LOCK
            | class_id::GROUP_LOCK
            | class_id::GROUP_RWSEM => {
                self.names.forget(record.object);
                // Where programs see the end they see it begin. Below level 1 it was seen in the list, which has it no more.
                if self.level > 0 {
                    self.leaving.insert(record.object);
                }
            }
            _ => {}
        }
    }

    /// A guest has ended, and with it the kvm-vfio device that has it for its object: no function that ends such a device
    /// is probed.
    fn end_devices(&mut self, kvm: u64) {
        let first = self.adopted.first();
        for slot in (first..self.info.len() as u32).step_by(SLOTS_PER_ADOPTED as usize) {
            let Some(info) = self.info.get(slot as usize) else {
                break;
            };
            let address = info.address.get();
            if address != 0
                && info.class.get() as u8 == class_id::KV_LOCK
                && info.object.get() == kvm
                && info.gone_ns.get() == 0
            {
                self.on_maps(|ebpf| object::end_instance(ebpf, slot, reader::monotonic_ns()));
            }
        }
    }

    /// What an ended lock has counted stays in the description, as far as there is room.
    fn free_instance(&mut self, slot: u32, id: u32) {
        // A program may take the place at once, and count there before the next look.
        for slot in slot..slot + SLOTS_PER_ADOPTED {
            self.reader.forget_instance(slot);
        }
        self.on_maps(|ebpf| object::free_instance(ebpf, slot));
        self.ended.push_back(id);
        if self.ended.len() > MOST_ENDED
            && let Some(oldest) = self.ended.pop_front()
        {
            let ids = oldest..oldest + SLOTS_PER_ADOPTED;
            self.meta.instances.retain(|known| !ids.contains(&known.id));
            self.meta_changed = true;
        }
    }

    /// The kind of a lock that a person named may have shown itself.
    pub(super) fn settle_given(&mut self, frame: &Frame) {
        for given in &mut self.given {
            let Some((shown, said)) = given.look(frame) else {
                continue;
            };
            self.meta
                .instances
                .retain(|known| known.address != given.address);
            self.meta.instances.extend(shown);
            if let Some(said) = said {
                self.log.push("warn", &said);
            }
            self.meta_changed = true;
        }
        for given in &self.given {
            let is = given.watched();
            let was = self.watched.iter().any(|w| Some(*w) == is);
            if !was {
                self.watched.retain(|w| w.address != given.address);
                self.watched.extend(is);
            }
        }
        if self.meta_changed {
            self.list_series();
        }
    }

    /// Lists the series of the instances that there are.
    fn list_series(&mut self) {
        let mut series: Vec<u32> = self.meta.instances.iter().map(|i| i.series).collect();
        series.sort_unstable();
        series.dedup();
        self.meta.series = series;
        self.meta_changed = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_are_named_before_what_is_called_after_them_and_after_their_predecessors_end() {
        let gone = |id, class| Change::Gone {
            id,
            record: Record {
                address: 0x1000,
                class,
                object: 7,
                gone_ns: 5,
            },
        };
        let new = |slot| Change::New {
            slot,
            id: 100 + slot,
        };
        let free = Change::Free { slot: 30, id: 30 };
        // The kvm-vfio device's lock lies before its guest's, which has come and gone since the last look; and the
        // guest that had the address before has a place behind both.
        let (kv, kvm) = (2, 4);
        let mut changes = [
            new(kv),
            new(kvm),
            gone(100 + kvm, class_id::KVM_LOCK),
            free,
            gone(8, class_id::KVM_LOCK),
        ];
        sort(&mut changes, |slot| {
            if slot == kvm {
                class_id::KVM_LOCK
            } else {
                class_id::KV_LOCK
            }
        });
        let expected = [
            gone(8, class_id::KVM_LOCK),
            new(kvm),
            new(kv),
            gone(100 + kvm, class_id::KVM_LOCK),
            free,
        ];
        assert_eq!(changes, expected);
    }
}
