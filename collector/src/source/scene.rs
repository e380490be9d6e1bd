//! A write on behalf of another process and a flushed work item, step by step: what every kind of probe must see of them.

use std::collections::BTreeMap;
use std::sync::Barrier;

use probe_ebpf::names::{class_id, entry_id};

use super::instances::Instances;
use super::memory::Memory;
use super::named::Named;
use super::reader::{Reader, SpanRing, monotonic_ns};
use crate::emulator::protocol::{self, Hello, LockObject, Offsets, Point, SubjectObject};
use crate::frame;
use crate::model::{Model, query};

/// Makes a call stand still: inside, until the test has looked.
pub struct Pause {
    reached: Barrier,
    left: Barrier,
}

impl Pause {
    fn new() -> Self {
        Self {
            reached: Barrier::new(2),
            left: Barrier::new(2),
        }
    }

    /// Called by the function that stands still.
    pub fn inside(&self) {
        self.reached.wait();
        self.left.wait();
    }

    /// Looks while the function stands still.
    fn look<R>(&self, look: impl FnOnce() -> R) -> R {
        self.reached.wait();
        let seen = look();
        self.left.wait();
        seen
    }
}

/// What is probed.
pub trait Driver: Sync {
    /// A mutex was obtained.
    fn acquire(&self, lock: u64);
    /// A mutex is released.
    fn release(&self, lock: u64);
    /// A worker starts to execute a work item.
    fn start(&self, work: u64);
    /// The worker has executed it.
    fn end(&self, work: u64);
    /// A work item is flushed, which takes as long as `pause`.
    fn flush(&self, work: u64, pause: &Pause);
    /// `assign_adapter_store` for another process, which takes as long as `pause`.
    fn store(&self, dev: &u64, text: &[u8], pid: u64, comm: &[u8; 16], pause: &Pause);
}

/// A driver with these points and locks, in this process.
pub fn hello(points: Vec<Point>, locks: Vec<LockObject>) -> Hello {
    Hello {
        version: protocol::VERSION,
        pid: std::process::id(),
        executable: "/proc/self/exe".into(),
        generation: "v5.13".into(),
        scenario: "none".into(),
        seed: 1,
        guests: 1,
        vcpus: 1,
        extra_threads: 0,
        points,
        locks,
        subjects: Vec::new(),
        offsets: Offsets::default(),
        tasks: protocol::TaskLayout::default(),
        collectors: 0,
    }
}

fn address(word: &u64) -> u64 {
    std::ptr::from_ref(word) as u64
}

/// A mutex and a work item, at the addresses of these words.
pub fn locks(words: &[u64; 2]) -> Vec<LockObject> {
    let lock = |word, class, name: &str| LockObject {
        address: address(word),
        class,
        name: name.into(),
        guest: None,
        guards_flag: false,
        wait_queue: None,
    };
    vec![
        lock(&words[0], class_id::KVM_LOCK, "kvm->lock[guest-0]"),
        lock(&words[1], class_id::RESET_WORK, "reset_work[00.0001]"),
    ]
}

/// Address of the guest, which nobody reads.
const GUEST: u64 = 0x5000;

/// The mdev at this address, and the guest that it points to.
fn objects(mdev: u64) -> Vec<SubjectObject> {
    let object = |address, is_guest, name: &str| SubjectObject {
        address,
        is_guest,
        name: name.into(),
        guest: Some(0),
        uuid_at: None,
    };
    vec![
        object(mdev, false, "mdev-of-0"),
        object(GUEST, true, "guest-0"),
    ]
}

/// Names what is new as the source of an emulated driver does.
fn named(
    objects: &[SubjectObject],
    reader: &mut Reader,
    described: &mut Vec<frame::Object>,
) -> bool {
    let mut hello = hello(Vec::new(), Vec::new());
    hello.subjects = objects.to_vec();
    Named::new(&hello).name(&mut reader.subjects, described, 0)
}

/// Plays the scene and checks what is seen of it.
pub fn play(
    driver: &impl Driver,
    words: &[u64; 2],
    instances: &Instances,
    memory: Memory,
    shards: u32,
    ring: &mut dyn SpanRing,
) {
    let (lock, work) = (address(&words[0]), address(&words[1]));
    // With all offsets 0, a device points to its mdev, and that to its guest.
    let mdev = GUEST;
    let dev = address(&mdev);
    let objects = objects(address(&mdev));
    let mut described = Vec::new();
    let mut reader = Reader::new(memory, shards, instances);
    let mut model = Model::default();
    let mut read = |model: &mut Model| {
        let now = monotonic_ns();
        let mut frame = reader.frame(ring, now, now, &BTreeMap::new());
        let new = named(&objects, &mut reader, &mut described);
        frame.meta = (frame.number == 0 || new).then(|| frame::Meta {
            objects: described.clone(),
            instances: instances.all.clone(),
            series: instances.series(),
            arch: std::env::consts::ARCH.into(),
            ..frame::Meta::default()
        });
        model.apply(&frame);
    };
    let (write, flush) = (Pause::new(), Pause::new());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            driver.acquire(lock);
            driver.store(
                &dev,
                b"0x05\n",
                4711,
                b"echo\0\0\0\0\0\0\0\0\0\0\0\0",
                &write,
            );
            driver.flush(work, &flush);
            driver.release(lock);
        });
        write.look(|| {
            read(&mut model);
            let [call] = &query::inside(&model)[..] else {
                panic!("one call, but {:?}", model.live);
            };
            assert_eq!(
                (call.entry, call.who()),
                (entry_id::ASSIGN_ADAPTER, "echo (4711)".into())
            );
            assert_eq!(call.on.guest.as_deref(), Some("guest-0"));
            driver.start(work);
        });
        flush.look(|| {
            read(&mut model);
            let [waiter] = &query::waiters(&model)[..] else {
                panic!("one waiter, but {:?}", model.live);
            };
            assert_eq!(waiter.lock, "reset_work[00.0001]");
            let holders = query::holders(&model);
            let worker = holders.iter().find(|h| h.address == work);
            assert_eq!(waiter.owner_tid, worker.map(|w| w.tid));
            assert!(waiter.owner_tid.is_some_and(|tid| tid != waiter.tid));
            driver.end(work);
        });
    });
    read(&mut model);
    let series = &model.series[&(class_id::RESET_WORK << 1)];
    assert_eq!(
        (
            series.acquisitions,
            series.contended,
            series.wait.count,
            series.hold.count,
            series.releases,
            series.unmatched_releases
        ),
        (1, 1, 1, 1, 1, 0)
    );
    let [edge] = &query::order_edges(&model)[..] else {
        panic!("one edge, but {:?}", model.edges);
    };
    assert_eq!(
        (edge.id.held >> 1, edge.id.acquired >> 1),
        (class_id::KVM_LOCK, class_id::RESET_WORK)
    );
    assert!(edge.lockdep_visible);
    let writes: Vec<_> = model.writes.iter().collect();
    let [write] = writes[..] else {
        panic!("one write, but {writes:?}");
    };
    assert_eq!(
        (write.entry, write.pid, write.comm.as_str()),
        (entry_id::ASSIGN_ADAPTER, 4711, "echo")
    );
    assert_eq!(
        (write.text.as_deref(), write.returns.as_str()),
        (Some("0x05"), "ok")
    );
    let on = query::Names::of(&model, write.on);
    assert_eq!(
        (on.mdev.as_deref(), on.guest.as_deref()),
        (Some("mdev-of-0"), Some("guest-0"))
    );
    // Two lock cycles and a call, and a record that names the writer.
    assert_eq!((model.span_count, model.loss.received), (3, 4));
    assert_eq!((model.loss.emitted(), model.loss.dropped()), (4, 0));
    assert!(model.live.is_empty() && model.ignored == 0 && model.loss.exact());
}
