//! The committed object against this machine's kernel.

use std::sync::Arc;

use super::*;
use crate::emulator::protocol::Point;
use crate::source::scene::{self, Driver, Pause};

#[test]
fn the_object_has_this_abi_version() {
    object::check_version().expect("the committed object is up to date");
}

#[test]
#[cfg(target_arch = "x86_64")]
fn nops_are_replaced_from_6_18_on() {
    assert!(replaces_nops("6.18.44-fc-v657") && replaces_nops("7.2.0"));
    assert!(!replaces_nops("6.17.3") && !replaces_nops("5.10.0-30-amd64") && !replaces_nops(""));
}

fn permitted() -> bool {
    let missing = missing_capabilities();
    if !missing.is_empty() && std::env::var_os("APSCOPE_REQUIRE_BPF").is_none() {
        eprintln!("skipped: eBPF needs {missing}");
        return false;
    }
    true
}

#[test]
fn every_program_passes_the_verifier() {
    if !permitted() {
        return;
    }
    let hello = scene::hello(Vec::new(), Vec::new());
    let instances = Instances::new(&hello);
    let sizes = Sizes::new(2, 64, 1, 1, 4096).expect("fits the budget");
    let (probes, memory) = Probes::attach(&hello, &instances, &sizes).expect("loads");
    assert_eq!(memory.tasks.len(), 64);
    assert_eq!(probes.runs().len(), UPROBE_PROGRAMS);
    for name in &PROGRAM_NAMES[..UPROBE_PROGRAMS] {
        let program: &UProbe = probes
            .ebpf
            .program(name)
            .expect("is there")
            .try_into()
            .expect("is a uprobe");
        let info = program.info().expect("is loaded");
        // The verifier's work is what delays the start: a program that it must look at from very many sides
        // takes seconds to load.
        let verified = info.verified_instruction_count().unwrap_or(0);
        println!(
            "{name}: {verified} instructions verified, {} bytes translated",
            info.size_translated().unwrap_or(0)
        );
        assert!(
            verified < 60_000,
            "{name}: {verified} instructions verified"
        );
    }
}

/// Functions of this very program, probed as those of the emulated driver are.
mod points {
    use std::hint::black_box;

    use super::Pause;

    #[inline(never)]
    pub extern "C" fn lock_acquired(lock: u64, mode: u64) {
        black_box((1, lock, mode));
    }

    #[inline(never)]
    pub extern "C" fn mutex_unlock(lock: u64) {
        black_box((2, lock));
    }

    #[inline(never)]
    pub extern "C" fn workqueue_execute_start(work: u64) {
        black_box((3, work));
    }

    #[inline(never)]
    pub extern "C" fn workqueue_execute_end(work: u64) {
        black_box((4, work));
    }

    #[inline(never)]
    pub extern "C" fn flush_work(work: u64, pause: &Pause) -> i32 {
        pause.inside();
        black_box((5, work));
        1
    }

    #[inline(never)]
    pub extern "C" fn assign_adapter_store(
        dev: &u64,
        pause: &Pause,
        buf: *const u8,
        count: usize,
        pid: u64,
        comm: *const u8,
    ) -> i64 {
        pause.inside();
        black_box((6, dev, buf, pid, comm));
        count as i64
    }
}

/// Calls the probed functions.
struct Probed;

impl Driver for Probed {
    fn acquire(&self, lock: u64) {
        points::lock_acquired(lock, 0);
    }
    fn release(&self, lock: u64) {
        points::mutex_unlock(lock);
    }
    fn start(&self, work: u64) {
        points::workqueue_execute_start(work);
    }
    fn end(&self, work: u64) {
        points::workqueue_execute_end(work);
    }
    fn flush(&self, work: u64, pause: &Pause) {
        assert_eq!(points::flush_work(work, pause), 1);
    }
    fn store(&self, dev: &u64, text: &[u8], pid: u64, comm: &[u8; 16], pause: &Pause) {
        let written =
            points::assign_adapter_store(dev, pause, text.as_ptr(), text.len(), pid, comm.as_ptr());
        assert_eq!(written, text.len() as i64);
    }
}

/// Offset in the executable of a function of this program.
fn file_offset(address: usize) -> u64 {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("is readable");
    let number = |text| usize::from_str_radix(text, 16).expect("is hexadecimal");
    let offset = maps.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let offset = number(fields.nth(1)?);
        let start = number(start);
        (start..number(end))
            .contains(&address)
            .then(|| address - start + offset)
    });
    offset.expect("the function is in a mapping") as u64
}

#[test]
fn writers_and_work_items_are_seen_through_uprobes() {
    if !permitted() {
        return;
    }
    let point = |module: &str, symbol: &str, address: usize| Point {
        module: module.into(),
        symbol: symbol.into(),
        file_offset: file_offset(address),
        nop5: false,
    };
    let points = vec![
        point(
            "kernel",
            "lock_acquired",
            points::lock_acquired as *const () as usize,
        ),
        point(
            "kernel",
            "mutex_unlock",
            points::mutex_unlock as *const () as usize,
        ),
        point(
            "kernel",
            "workqueue_execute_start",
            points::workqueue_execute_start as *const () as usize,
        ),
        point(
            "kernel",
            "workqueue_execute_end",
            points::workqueue_execute_end as *const () as usize,
        ),
        point(
            "kernel",
            "flush_work",
            points::flush_work as *const () as usize,
        ),
        point(
            "vfio_ap",
            "assign_adapter_store",
            points::assign_adapter_store as *const () as usize,
        ),
    ];
    let memory = Arc::new([0_u64; 2]);
    let hello = scene::hello(points, scene::locks(&memory));
    let instances = Instances::new(&hello);
    let sizes = Sizes::new(2, 64, 8, 8, 4096).expect("fits the budget");
    let (mut probes, view) = Probes::attach(&hello, &instances, &sizes).expect("attaches");
    let mut ring = probes.take_ring().expect("is there");
    scene::play(&Probed, &memory, &instances, view, sizes.shards, &mut ring);
}
