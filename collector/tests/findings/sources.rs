//! The same events give the same diagnosis, wherever they were seen: in process, through uprobes, in a kernel, and in a
//! recording of that.

use apscope_collector::frame::{Edge, Frame};
use probe_ebpf::names::entry_id::{ASSIGN_ADAPTER, GROUP_NOTIFIER, OPEN_DEVICE};
use prost::Message as _;

use crate::deadlock::{crosswise, three_parties};
use crate::findings_run::*;
use crate::locks::stuck_reset;

/// Who sees the events, and with what evidence.
const SOURCES: [(&str, &str, &str); 4] = [
    ("emulator", "in-process", "probe"),
    ("emulator", "ebpf", "probe"),
    ("kernel", "ebpf", "probe"),
    ("kernel", "ebpf", "probe,lock word"),
];

/// Ticks of an event list: tasks, and what else is in each frame.
type Events = Vec<(Vec<Task>, Frame)>;

fn standing(tasks: &[Task], ticks: usize) -> Events {
    vec![(tasks.to_vec(), Frame::default()); ticks]
}

fn lists() -> Vec<(&'static str, &'static str, Events)> {
    let mut leaked = standing(&[task(21, "qemu").holds(MATRIX, GROUP_NOTIFIER, 5)], 4);
    leaked.extend(standing(&[], 15));
    let order = |held, acquired, tid| Edge {
        held_in: u32::from(ASSIGN_ADAPTER),
        acquired_in: u32::from(ASSIGN_ADAPTER),
        ..edge(held, acquired, tid)
    };
    let mut circle = standing(&[], 3);
    circle[0].1.edges = vec![order(MATRIX, KVM, 21), order(KVM, MATRIX, 22)];
    let mut refused = standing(&[], 3);
    refused[0].1.entries = vec![
        returned(ASSIGN_ADAPTER, &[(16, 200)]),
        returned(OPEN_DEVICE, &[(0, 3)]),
    ];
    let mut busy = task(12, "CPU 1/KVM")
        .on_cpu()
        .waits(BUSY, GROUP_NOTIFIER, 0);
    busy.0.waits[0].rounds = 7;
    vec![
        ("two in a circle", "v5.11", standing(&crosswise(), 30)),
        ("the flag", "v5.13", standing(&three_parties(), 30)),
        ("a queue", "v7.3", standing(&stuck_reset(), 30)),
        ("a leak", "rfc-2021-06", leaked),
        ("an order", "v5.11", circle),
        ("refusals", "v5.13", refused),
        ("starved", "v5.13", standing(&[busy], 5)),
    ]
}

/// What a person is told, but for the evidence.
fn told(run: &Run) -> Vec<String> {
    let findings = run.all();
    let mut lines = vec![run.verdict()];
    for finding in &findings {
        lines.push(format!(
            "{} {} {:?} {:?}",
            finding.id,
            finding.seen.severity.name(),
            finding.since_ns,
            finding.until_ns
        ));
        lines.extend(text(finding).lines().map(str::to_owned));
        lines.extend(
            finding
                .upstream
                .iter()
                .map(apscope_collector::diagnose::upstream::History::text),
        );
    }
    let lines = lines.into_iter();
    lines
        .map(|line| line.replace("[probe,lock word]", "[probe]"))
        .collect()
}

fn diagnosed(generation: &str, events: &Events, source: (&str, &str, &str)) -> Vec<String> {
    let (source, probe, evidence) = source;
    let mut run = Run::of(generation).described(|meta| {
        meta.source = source.into();
        meta.probe = probe.into();
    });
    for (tasks, frame) in events {
        let mut tasks = tasks.clone();
        for task in &mut tasks {
            for hold in &mut task.0.holds {
                hold.evidence = evidence.into();
            }
            for wait in &mut task.0.waits {
                wait.evidence = evidence.into();
            }
        }
        run.frame(&tasks, frame.clone());
    }
    told(&run)
}

#[test]
fn all_sources_give_the_same_diagnosis() {
    for (name, generation, events) in lists() {
        let first = diagnosed(generation, &events, SOURCES[0]);
        assert!(first.len() > 1, "{name}: nothing was found");
        for source in &SOURCES[1..] {
            let other = diagnosed(generation, &events, *source);
            // A kernel cannot vouch for what began before it was measured.
            let other: Vec<String> = other
                .into_iter()
                .map(|line| line.replace(", of those that began since measuring did", ""))
                .collect();
            assert_eq!(other, first, "{name} from {source:?}");
        }
    }
}

#[test]
fn a_recording_of_a_kernel_gives_the_same_diagnosis() {
    for (name, generation, events) in lists() {
        let live = diagnosed(generation, &events, SOURCES[3]);
        // Written and read again, tick by tick.
        let recorded: Events = events
            .iter()
            .map(|(tasks, frame)| {
                let again = |task: &Task| {
                    let bytes = task.0.encode_to_vec();
                    Task(apscope_collector::frame::TaskState::decode(bytes.as_slice()).unwrap())
                };
                let bytes = frame.encode_to_vec();
                (
                    tasks.iter().map(again).collect(),
                    Frame::decode(bytes.as_slice()).unwrap(),
                )
            })
            .collect();
        assert_eq!(diagnosed(generation, &recorded, SOURCES[3]), live, "{name}");
    }
}

#[test]
fn without_the_driver_the_verdict_is_about_the_locks_that_were_named() {
    let run = || {
        Run::of("").described(|meta| {
            meta.source = "kernel".into();
            meta.probe = "ebpf".into();
            meta.level = 1;
            meta.reads_queues = true;
        })
    };
    let mut nobody = run();
    nobody.ticks(3, &[]);
    assert_eq!(
        nobody.verdict(),
        "NOT vfio_ap: no vfio_ap driver is measured here; no task waits for the locks that were named"
    );
    let mut pile_up = run();
    pile_up.ticks(
        3,
        &[
            task(11, "dd").waits(MATRIX, 0, 50),
            task(12, "dd").waits(MATRIX, 0, 80),
            task(13, "dd").waits(KVM, 0, 80),
        ],
    );
    let says = "of the locks that were named, matrix_dev->lock has 2 waiters, the longest for 250 ms, and 1 more have waiters";
    assert!(pile_up.verdict().contains(says), "{}", pile_up.verdict());
}
