//! A look at constructed memory and stacks: what goes on record, and what does not.

use probe_ebpf::abi::series;
use probe_ebpf::names::entry_id;

use super::evidence;
use super::fake::Words;
use super::stacks::Slept;
use super::*;
use crate::attach::generation::Generation;
use crate::attach::offsets::{BuildIds, Types};
use crate::diagnose::stacks::text;

const MATRIX_DEV: u64 = 0x10_000;
const KVM_LOCK: u64 = 0x20_000;
const VCPU: u64 = 0x30_000;
const HOOK: u64 = 0x40_000;
/// `task_struct`s: a vCPU's thread, a conversion, a stop.
const VCPU_TASK: u64 = 0xa000;
const PV_TASK: u64 = 0xb000;
const STOP_TASK: u64 = 0xc000;
const QEMU: u32 = 50;
const NOW: u64 = 9_000_000_000;

fn places() -> Places {
    Places::for_tests(0, 4, 8)
}

fn shapes() -> Shapes {
    Shapes::for_tests()
}

fn watched() -> Vec<Watched> {
    let lock = |address, class, kind, slot| Watched {
        address,
        class,
        kind,
        slot,
        tgid: if class == class_id::MATRIX_DEV_LOCK {
            0
        } else {
            QEMU
        },
    };
    vec![
        lock(MATRIX_DEV, class_id::MATRIX_DEV_LOCK, LockKind::Mutex, 1),
        lock(KVM_LOCK, class_id::KVM_LOCK, LockKind::Mutex, 10),
        lock(VCPU, class_id::VCPU_MUTEX, LockKind::Mutex, 20),
        lock(HOOK, class_id::PQAP_HOOK_RWSEM, LockKind::Rwsem, 30),
    ]
}

/// A mutex with an owner and one waiter.
fn mutex(words: &mut Words, lock: u64, owner: u64, waiter: Option<u64>) {
    words.put(lock, owner | u64::from(waiter.is_some()));
    let head = lock + 16;
    // The waiter's record is on its stack.
    let link = waiter.map_or(head, |task| task + 0x800);
    words.put(head, link);
    words.put(head + 8, link);
    if let Some(task) = waiter {
        words.put(link, head);
        words.put(link + 8, head);
        words.put(link + 16, task);
    }
}

fn task(words: &mut Words, at: u64, tid: u32) {
    words.put_u32(at, tid);
    words.put_u32(at + 4, QEMU);
    words.put(at + 8, NOW - 5_000_000_000);
}

/// The hang of v5.10: three tasks, three locks.
fn hang() -> Words {
    let mut words = Words::default();
    task(&mut words, VCPU_TASK, 51);
    task(&mut words, PV_TASK, 52);
    task(&mut words, STOP_TASK, 53);
    mutex(&mut words, MATRIX_DEV, STOP_TASK, Some(VCPU_TASK));
    mutex(&mut words, KVM_LOCK, PV_TASK, Some(STOP_TASK));
    mutex(&mut words, VCPU, VCPU_TASK, Some(PV_TASK));
    words.put(HOOK, 0);
    words
}

fn snapshot() -> Snapshot {
    Snapshot {
        shapes: shapes(),
        works: None,
        stacks: None,
        polls: None,
        next: 0,
        queues: HashMap::new(),
        looked_ns: 0,
        polling: Vec::new(),
        given: HashMap::new(),
    }
}

fn scene<'a>(words: &'a Words, places: &'a Places, watched: &'a [Watched]) -> Scene<'a, Words> {
    Scene {
        memory: words,
        places,
        watched,
        generations: Generations::of(&[Generation::V5_10]),
        now_ns: NOW,
        all: false,
    }
}

fn slept(tid: u32, frames: &str) -> Slept {
    let text = format!("==> /proc/{QEMU}/task/{tid}/stack <==\n{frames}\n");
    let mut task = text::parse(&text).tasks.remove(0);
    task.state = Some('D');
    Slept {
        pid: QEMU,
        switches: 7,
        since_ns: NOW,
        task,
    }
}

const IN_PQAP: &str = "[<0>] __mutex_lock.constprop.0+0x1a/0x2c
[<0>] handle_pqap+0x60/0x330 [vfio_ap]
[<0>] kvm_s390_handle_b2+0x22e/0x1be0 [kvm]
[<0>] kvm_handle_sie_intercept+0x11a/0x4b0 [kvm]
[<0>] kvm_arch_vcpu_ioctl_run+0x5b2/0xd00 [kvm]
[<0>] kvm_vcpu_ioctl+0x2a0/0x820 [kvm]";

fn wait_of(live: &frame::Live, tid: u32) -> Option<(u64, &str, u64)> {
    let task = live.tasks.iter().find(|task| task.tid == tid)?;
    let wait = task.waits.last()?;
    Some((wait.lock, &wait.evidence, wait.since_ns))
}

#[test]
fn queues_show_who_waits_and_since_when_at_least() {
    let (words, places, watched) = (hang(), places(), watched());
    let mut live = frame::Live::default();
    snapshot().look(&scene(&words, &places, &watched), &mut live);
    let since = NOW - 5_000_000_000;
    assert_eq!(wait_of(&live, 51), Some((MATRIX_DEV, "lock word", since)));
    assert_eq!(wait_of(&live, 52), Some((VCPU, "lock word", since)));
    assert_eq!(wait_of(&live, 53), Some((KVM_LOCK, "lock word", since)));
    assert_eq!(live.tasks.len(), 3);
    assert!(live.tasks.iter().all(|task| task.pid == QEMU));
    assert!(live.unseen_readers.is_empty());
}

#[test]
fn what_a_probe_has_seen_is_confirmed_not_repeated() {
    let (words, places, watched) = (hang(), places(), watched());
    let mut live = frame::Live::default();
    live.tasks.push(frame::TaskState {
        tid: 51,
        waits: vec![frame::Waiting {
            lock: MATRIX_DEV,
            since_ns: 3,
            evidence: "probe".into(),
            ..frame::Waiting::default()
        }],
        ..frame::TaskState::default()
    });
    snapshot().look(&scene(&words, &places, &watched), &mut live);
    assert_eq!(wait_of(&live, 51), Some((MATRIX_DEV, "probe,lock word", 3)));
    assert_eq!(live.tasks.len(), 3);
}

#[test]
fn a_stack_names_the_function_and_agrees_with_the_words() {
    let (words, places, watched) = (hang(), places(), watched());
    let scene = scene(&words, &places, &watched);
    let mut snapshot = snapshot();
    let mut live = frame::Live::default();
    snapshot.look(&scene, &mut live);
    live.tasks[0].holds.push(frame::Holding {
        series: u32::from(series(class_id::VCPU_MUTEX, Mode::Exclusive)),
        lock: VCPU,
        since_ns: NOW,
        evidence: "lock word".into(),
        ..frame::Holding::default()
    });
    let tid = live.tasks[0].tid;
    assert_eq!(tid, 51);
    let stack = slept(51, IN_PQAP);
    assert!(evidence::add(
        &scene,
        &snapshot.shapes,
        &snapshot.queues,
        &stack,
        &mut live
    ));
    let task = &live.tasks[0];
    assert_eq!(task.waits[0].evidence, "lock word,stack");
    assert_eq!(task.waits[0].entry, u32::from(entry_id::HANDLE_PQAP));
    assert_eq!(task.holds[0].evidence, "lock word,stack");
    assert_eq!(task.holds[0].entry, u32::from(entry_id::KVM_VCPU_IOCTL));
    let inside: Vec<u32> = task.inside.iter().map(|inside| inside.entry).collect();
    assert_eq!(inside.last(), Some(&u32::from(entry_id::HANDLE_PQAP)));
    assert!(evidence::stack(&stack, &live).is_some_and(|stack| !stack.hold));
}

/// Without types of mutexes nobody knows where their queues are. A conversion asks for two locks in one function: it waits for
/// the one that it does not have.
#[test]
fn where_queues_cannot_be_read_owners_settle_what_a_stack_leaves_open() {
    let (words, places, watched) = (hang(), places(), watched());
    let scene = scene(&words, &places, &watched);
    let shapes = Shapes::new(&Offsets::resolve(&Types::default(), &BuildIds::default()));
    assert!(!shapes.knows(LockKind::Mutex));
    let in_pv = "[<0>] mutex_lock_nested+0x32/0x40\n[<0>] kvm_arch_vm_ioctl+0x1a0a/0x2e60 [kvm]";
    for (owned, waits) in [(Some(KVM_LOCK), Some(VCPU)), (None, Some(KVM_LOCK))] {
        let mut live = frame::Live::default();
        let holds = owned.map(|lock| frame::Holding {
            series: u32::from(series(class_id::KVM_LOCK, Mode::Exclusive)),
            lock,
            since_ns: NOW,
            evidence: "lock word".into(),
            ..frame::Holding::default()
        });
        live.tasks.push(frame::TaskState {
            tid: 52,
            pid: QEMU,
            holds: holds.into_iter().collect(),
            ..frame::TaskState::default()
        });
        let mut slept = slept(52, in_pv);
        slept.task.comm = "pv/0".into();
        evidence::add(&scene, &shapes, &HashMap::new(), &slept, &mut live);
        assert_eq!(live.tasks[0].comm, "pv/0");
        let wait = live.tasks[0].waits.first();
        assert_eq!(wait.map(|wait| wait.lock), waits, "{owned:?}");
    }
}

/// The stack of a task that the lock's word does not have for its owner, nor its queue for a waiter.
#[test]
fn a_stack_that_the_words_contradict_holds_nothing() {
    let (mut words, places, watched) = (hang(), places(), watched());
    mutex(&mut words, MATRIX_DEV, 0, None);
    mutex(&mut words, VCPU, 0, None);
    let scene = scene(&words, &places, &watched);
    let mut snapshot = snapshot();
    let mut live = frame::Live::default();
    snapshot.look(&scene, &mut live);
    let stack = slept(51, IN_PQAP);
    evidence::add(
        &scene,
        &snapshot.shapes,
        &snapshot.queues,
        &stack,
        &mut live,
    );
    let task = live.tasks.iter().find(|task| task.tid == 51).unwrap();
    assert!(task.holds.is_empty() && task.waits.is_empty(), "{task:?}");
    assert!(!task.inside.is_empty());
}

#[test]
fn a_reader_is_taken_from_its_stack_while_the_count_has_readers() {
    let (mut words, places, watched) = (hang(), places(), watched());
    let stack = slept(51, IN_PQAP);
    for readers in [0, 1, 2] {
        words.put(HOOK, readers << 8);
        let scene = Scene {
            generations: Generations::of(&[Generation::V5_15]),
            ..scene(&words, &places, &watched)
        };
        let mut snapshot = snapshot();
        let mut live = frame::Live::default();
        snapshot.look(&scene, &mut live);
        evidence::add(
            &scene,
            &snapshot.shapes,
            &snapshot.queues,
            &stack,
            &mut live,
        );
        let task = live.tasks.iter().find(|task| task.tid == 51).unwrap();
        let read = task.holds.iter().find(|hold| hold.lock == HOOK);
        assert_eq!(read.is_some(), readers != 0, "{readers}");
        let unseen = unseen_readers(&watched, &snapshot.queues, &live);
        let unseen: Vec<u64> = unseen.iter().map(|unseen| unseen.readers).collect();
        assert_eq!(unseen, if readers == 2 { vec![1] } else { vec![] });
    }
}

/// The queue has the task at another lock than its stack: the stack is of another moment, and its reader's hold with it.
#[test]
fn a_stack_of_another_moment_makes_no_reader() {
    let (mut words, places, watched) = (hang(), places(), watched());
    words.put(HOOK, 1 << 8);
    mutex(&mut words, MATRIX_DEV, STOP_TASK, None);
    mutex(&mut words, KVM_LOCK, PV_TASK, Some(VCPU_TASK));
    let scene = Scene {
        generations: Generations::of(&[Generation::V5_15]),
        ..scene(&words, &places, &watched)
    };
    let mut snapshot = snapshot();
    let mut live = frame::Live::default();
    snapshot.look(&scene, &mut live);
    let stack = slept(51, IN_PQAP);
    evidence::add(
        &scene,
        &snapshot.shapes,
        &snapshot.queues,
        &stack,
        &mut live,
    );
    let task = live.tasks.iter().find(|task| task.tid == 51).unwrap();
    assert_eq!(task.waits[0].lock, KVM_LOCK);
    assert_eq!(task.waits[0].evidence, "lock word");
    assert!(task.holds.is_empty(), "{:?}", task.holds);
}

/// A mutex whose first waiter has not been woken has not been released since.
#[test]
fn an_owner_holds_for_as_long_as_the_first_in_the_queue_sleeps() {
    let (words, places, watched) = (hang(), places(), watched());
    let mut live = frame::Live::default();
    live.tasks.push(frame::TaskState {
        tid: 53,
        holds: vec![frame::Holding {
            lock: MATRIX_DEV,
            since_ns: NOW - 1,
            evidence: "lock word".into(),
            ..frame::Holding::default()
        }],
        ..frame::TaskState::default()
    });
    snapshot().look(&scene(&words, &places, &watched), &mut live);
    assert_eq!(live.tasks[0].holds[0].since_ns, NOW - 5_000_000_000);
}

/// The words of locks are read after the records of probes: it has got meanwhile what it had waited for.
#[test]
fn who_owns_a_lock_by_its_word_waits_for_it_no_more() {
    let (words, places, watched) = (hang(), places(), watched());
    let owner = |tid, evidence: &str| frame::TaskState {
        tid,
        holds: vec![frame::Holding {
            lock: MATRIX_DEV,
            evidence: evidence.into(),
            ..frame::Holding::default()
        }],
        waits: vec![frame::Waiting {
            lock: MATRIX_DEV,
            evidence: "probe".into(),
            ..frame::Waiting::default()
        }],
        ..frame::TaskState::default()
    };
    let waits = |tid, evidence| {
        let mut live = frame::Live {
            tasks: vec![owner(tid, evidence)],
            ..frame::Live::default()
        };
        snapshot().look(&scene(&words, &places, &watched), &mut live);
        let waits = live.tasks[0].waits.iter();
        let evidence = waits
            .filter(|wait| wait.lock == MATRIX_DEV)
            .map(|wait| wait.evidence.clone());
        evidence.collect::<Vec<String>>()
    };
    assert!(waits(53, "lock word").is_empty());
    // Those that wait for what they have are in the queue, or had it before they began to wait.
    assert_eq!(waits(51, "lock word"), ["probe,lock word"]);
    assert_eq!(waits(53, "probe,lock word"), ["probe"]);
}

/// Records say that one worker is at a work item, and the kernel's memory, read after them, that another is.
#[test]
fn a_work_item_has_the_worker_that_is_read_last() {
    let (words, places) = (hang(), places());
    let watched = [Watched {
        address: 0x5000,
        class: class_id::RESET_WORK,
        kind: LockKind::Work,
        slot: 1,
        tgid: 0,
    }];
    let mut live = frame::Live {
        tasks: vec![frame::TaskState {
            tid: 52,
            holds: vec![watched[0].holding(Mode::Exclusive, 1, 1, "probe")],
            ..frame::TaskState::default()
        }],
        ..frame::Live::default()
    };
    let scene = scene(&words, &places, &watched);
    show_worker(&scene, &watched[0], STOP_TASK, NOW, &mut live);
    let holders: Vec<u32> = live
        .tasks
        .iter()
        .filter(|task| !task.holds.is_empty())
        .map(|task| task.tid)
        .collect();
    assert_eq!(holders, [53]);
}
