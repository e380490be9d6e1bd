//! The probe bodies on shared memory in this process.

use std::os::fd::AsRawFd as _;

use probe_ebpf::abi::Mode;
use probe_ebpf::body::{entries, locks, works};
use probe_ebpf::names::entry_id;

use super::env::InProcess;
use super::hooks::measure;
use crate::source::instances::Instances;
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
