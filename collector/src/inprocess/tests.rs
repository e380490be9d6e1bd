//! The probe bodies on shared memory in this process.

use std::collections::BTreeMap;
use std::os::fd::AsRawFd as _;

use probe_ebpf::abi::{Mode, NO_INSTANCE, series};
use probe_ebpf::body::{entries, locks, works};
use probe_ebpf::names::{class_id, entry_id};

use super::env::InProcess;
use super::hooks::measure;
use crate::source::instances::Instances;
use crate::source::reader::Reader;
use crate::source::scene::{self, Driver, Pause};

impl Driver for InProcess {
    fn acquire(&self, lock: u64) {
        locks::acquired(self, lock, Mode::Exclusive);
    }
    fn release(&self, lock: u64) {
        locks::release(self, lock, || Mode::Exclusive);
    }
    fn start(&self, work: u64) {
        works::work_start(self, work);
    }
    fn end(&self, work: u64) {
        locks::release(self, work, || Mode::Exclusive);
    }
    fn flush(&self, work: u64, pause: &Pause) {
        works::flush_enter(self, work);
        pause.inside();
        works::flush_return(self, true);
    }
    fn store(&self, dev: &u64, text: &[u8], pid: u64, comm: &[u8; 16], pause: &Pause) {
        let args = [
            std::ptr::from_ref(dev) as u64,
            0,
            text.as_ptr() as u64,
            text.len() as u64,
            pid,
            comm.as_ptr() as u64,
        ];
        entries::enter(self, entry_id::ASSIGN_ADAPTER, args);
        pause.inside();
        entries::leave(self, entry_id::ASSIGN_ADAPTER, text.len() as u64);
    }
}

#[test]
fn writers_and_work_items_are_seen_in_process() {
    let words = [0; 2];
    let hello = scene::hello(Vec::new(), scene::locks(&words));
    let (env, file) = measure(&hello, 1 << 16).expect("there is memory");
    let instances = Instances::new(&hello);
    let sizes = crate::source::sizes(&hello, &instances, 1 << 16).expect("fits the budget");
    let (memory, mut ring) =
        super::open(std::process::id(), file.as_raw_fd(), &sizes).expect("maps");
    scene::play(&env, &words, &instances, memory, sizes.shards, &mut ring);
}

/// A lock that is adopted in a slot that was another's is counted by programs before the collector has seen it there.
#[test]
fn what_is_counted_in_a_slot_between_two_locks_is_the_successors() {
    let words = [0_u64; 2];
    let mut locks = scene::locks(&words);
    // Two of one class, so that each has statistics of its own.
    locks[1].class = class_id::KVM_LOCK;
    let address = locks[0].address;
    let hello = scene::hello(Vec::new(), locks);
    let (env, file) = measure(&hello, 1 << 16).expect("there is memory");
    let instances = Instances::new(&hello);
    let sizes = crate::source::sizes(&hello, &instances, 1 << 16).expect("fits the budget");
    let (memory, mut ring) =
        super::open(std::process::id(), file.as_raw_fd(), &sizes).expect("maps");
    let mut reader = Reader::new(memory, sizes.shards, &instances);
    let mut read = |reader: &mut Reader| {
        let frame = reader.frame(&mut ring, 9, 9, &BTreeMap::new());
        let of_class = frame.series.iter();
        let by: Vec<_> = of_class
            .flat_map(|delta| &delta.by_instance)
            .map(|by| (by.id, by.acquisitions))
            .collect();
        let total: u64 = frame.series.iter().map(|delta| delta.acquisitions).sum();
        let spans = frame.spans.unwrap_or_default();
        let of: Vec<u32> = spans.decode(9).map(|span| span.instance).collect();
        (by, total, of)
    };
    let cycle = || {
        env.acquire(address);
        env.release(address);
    };
    cycle();
    assert_eq!(read(&mut reader), (vec![(0, 1)], 1, vec![0]));
    reader.forget_instance(0);
    cycle();
    assert_eq!(read(&mut reader), (vec![], 1, vec![NO_INSTANCE]));
    reader.add_instance(0, 100, series(class_id::KVM_LOCK, Mode::Exclusive));
    cycle();
    assert_eq!(read(&mut reader), (vec![(100, 2)], 1, vec![100]));
}
