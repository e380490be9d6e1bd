//! Time that `Diagnosis::observe` takes for a tick: 1,000 tasks, 500 locks, 5,000 order edges. Run by `cargo xtask bench
//! diagnose`; prints one JSON object a line and case, times in nanoseconds.
#![forbid(unsafe_code)]

use std::time::Instant;

use apscope_collector::diagnose::{Diagnosis, Report};
use apscope_collector::frame::{
    CoarseDelta, Edge, Frame, Holding, Inside, Instance, Live, Meta, SeriesDelta, TaskState,
    Waiting,
};
use apscope_collector::model::Model;
use probe_ebpf::names::{class_id, entry_id};

const TASKS: u32 = 1_000;
const LOCKS: u32 = 500;
const EDGES: usize = 5_000;
const TICKS: u64 = 200;
const TICK_NS: u64 = 100_000_000;
const START_NS: u64 = 1_000_000_000;

/// Locks are instances of `kvm->lock`, one a guest.
const MUTEX: u32 = class_id::KVM_LOCK as u32 * 2;
/// One rwsem.
const READ: u32 = class_id::PQAP_HOOK_RWSEM as u32 * 2 + 1;
const WRITE: u32 = class_id::PQAP_HOOK_RWSEM as u32 * 2;

/// What a case does in a tick.
struct Case {
    name: &'static str,
    live: fn(u64) -> Vec<TaskState>,
    /// Edges in each frame, of all 5,000: which ones.
    edges: fn(u64) -> std::ops::Range<usize>,
    /// The last so many edges close cycles.
    closing: usize,
    /// Findings of these kinds must stand at the end, so that it is known that they were looked for.
    expect: &'static [u8],
}

const CASES: [Case; 5] = [
    Case {
        name: "busy, counts of 500 edges grow in each tick",
        live: busy,
        edges: |tick| {
            if tick == 0 {
                return 0..EDGES;
            }
            let from = (tick as usize * 500) % EDGES;
            from..from + 500
        },
        closing: 20,
        expect: &[2],
    },
    Case {
        name: "busy, 10 new edges in each tick",
        live: busy,
        edges: |tick| {
            if tick == 0 {
                return 0..EDGES - 10 * (TICKS as usize - 1);
            }
            let from = EDGES - 10 * (TICKS as usize - tick as usize);
            from..from + 10
        },
        closing: 20,
        expect: &[2],
    },
    Case {
        name: "a circle of 500 tasks, 500 behind it",
        live: ring,
        edges: |tick| if tick == 0 { 0..EDGES } else { 0..500 },
        closing: 0,
        expect: &[1, 12],
    },
    Case {
        name: "a writer and 499 readers in a knot, 500 readers queued",
        live: readers,
        edges: |tick| if tick == 0 { 0..EDGES } else { 0..500 },
        closing: 0,
        expect: &[1, 12],
    },
    Case {
        name: "a queue of 1,000 for one lock that does not move",
        live: queue,
        edges: |tick| if tick == 0 { 0..EDGES } else { 0..500 },
        closing: 0,
        expect: &[12],
    },
];

fn meta() -> Meta {
    let instance = |id: u32, name: String, series, guest| Instance {
        id,
        name,
        address: address(id),
        series,
        guest,
    };
    let mut instances: Vec<Instance> = (0..LOCKS - 1)
        .map(|id| instance(id, format!("kvm->lock[guest-{id}]"), MUTEX, id + 1))
        .collect();
    instances.push(instance(
        LOCKS - 1,
        "pqap_hook_rwsem[guest-0]".into(),
        WRITE,
        1,
    ));
    Meta {
        source: "emulator".into(),
        generation: "v5.15".into(),
        start_ns: START_NS,
        level: 2,
        instances,
        ..Meta::default()
    }
}

fn address(lock: u32) -> u64 {
    0x10_0000 + u64::from(lock) * 64
}

/// A task in PQAP since the beginning.
fn task(number: u32) -> TaskState {
    TaskState {
        tid: 10_000 + number,
        pid: 10_000 + number / 8,
        comm: format!("CPU {}/KVM", number % 8),
        inside: vec![
            Inside {
                entry: u32::from(entry_id::KVM_VCPU_IOCTL),
                since_ns: START_NS,
                ..Inside::default()
            },
            Inside {
                entry: u32::from(entry_id::HANDLE_PQAP),
                since_ns: START_NS + 1,
                ..Inside::default()
            },
        ],
        state: "D".into(),
        switches: 5,
        ..TaskState::default()
    }
}

fn hold(series: u32, lock: u32, serial: u64) -> Holding {
    Holding {
        series,
        instance: lock,
        lock: address(lock),
        since_ns: START_NS + 2,
        serial,
        entry: u32::from(entry_id::HANDLE_PQAP),
        evidence: "probe".into(),
        ..Holding::default()
    }
}

fn wait(series: u32, lock: u32, serial: u64) -> Waiting {
    Waiting {
        series,
        instance: lock,
        lock: address(lock),
        since_ns: START_NS + 3,
        serial,
        entry: u32::from(entry_id::HANDLE_PQAP),
        evidence: "probe".into(),
        ..Waiting::default()
    }
}

/// Half of the tasks hold a lock, the other half waits for one; all of them other ones in each tick.
fn busy(tick: u64) -> Vec<TaskState> {
    (0..TASKS)
        .map(|number| {
            let mut task = task(number);
            let lock = (number / 2 + tick as u32) % (LOCKS - 1);
            for inside in &mut task.inside {
                inside.since_ns = START_NS + tick * TICK_NS;
            }
            if number % 2 == 0 {
                task.holds = vec![hold(MUTEX, lock, tick), hold(MUTEX + 2, lock, tick + 1)];
            } else {
                task.waits = vec![wait(MUTEX, lock, tick)];
            }
            task
        })
        .collect()
}

fn ring(_tick: u64) -> Vec<TaskState> {
    (0..TASKS)
        .map(|number| {
            let mut task = task(number);
            let ring = LOCKS - 1;
            if number < ring {
                task.holds = vec![hold(MUTEX, number, 1)];
                task.waits = vec![wait(MUTEX, (number + 1) % ring, 2)];
            } else {
                task.waits = vec![wait(MUTEX, number % ring, 1)];
            }
            task
        })
        .collect()
}

fn readers(_tick: u64) -> Vec<TaskState> {
    (0..TASKS)
        .map(|number| {
            let mut task = task(number);
            match number {
                0 => {
                    task.holds = vec![hold(MUTEX, 0, 1)];
                    task.waits = vec![wait(WRITE, LOCKS - 1, 2)];
                }
                1..500 => {
                    task.holds = vec![hold(READ, LOCKS - 1, 1)];
                    task.waits = vec![wait(MUTEX, 0, 2)];
                }
                _ => task.waits = vec![wait(READ, LOCKS - 1, 1)],
            }
            task
        })
        .collect()
}

fn queue(_tick: u64) -> Vec<TaskState> {
    (0..TASKS)
        .map(|number| {
            let mut task = task(number);
            if number == 0 {
                task.holds = vec![hold(MUTEX, 0, 1)];
            } else {
                task.waits = vec![wait(MUTEX, 0, 1)];
            }
            task
        })
        .collect()
}

/// An order of 5,000 edges that has no cycle, but for the last `closing`.
fn edges(closing: usize) -> Vec<Edge> {
    let classes = [
        class_id::GUESTS_LOCK,
        class_id::MDEVS_LOCK,
        class_id::KVM_LOCK,
        class_id::VCPU_MUTEX,
        class_id::PQAP_HOOK_RWSEM,
        class_id::AP_PERMS_MUTEX,
        class_id::RESET_WORK,
        class_id::KV_LOCK,
    ];
    let mut all = Vec::new();
    for entries in 0..40_u32 * 40 {
        for (place, &held) in classes.iter().enumerate() {
            if let Some(&acquired) = classes.get(place + 1 + entries as usize % 3) {
                all.push(edge(held, acquired, entries % 40, entries / 40));
            }
        }
    }
    all.truncate(EDGES - closing);
    for back in 0..closing as u32 {
        all.push(edge(classes[7], classes[back as usize % 7], 41, back));
    }
    all
}

fn edge(held: u8, acquired: u8, held_in: u32, acquired_in: u32) -> Edge {
    Edge {
        held: u32::from(held) * 2,
        acquired: u32::from(acquired) * 2,
        held_in,
        acquired_in,
        count_total: 1,
        first_tid: 10_000 + held_in,
        first_comm: "CPU 0/KVM".into(),
        pairs: vec![1, 2, 3, 4],
        ..Edge::default()
    }
}

fn frame(case: &Case, tick: u64, all: &mut [Edge]) -> Frame {
    let edges = (case.edges)(tick);
    for edge in &mut all[edges.clone()] {
        edge.count_total += 1;
    }
    Frame {
        number: tick,
        at_ns: START_NS + (tick + 1) * TICK_NS,
        meta: (tick == 0).then(meta),
        edges: all[edges].to_vec(),
        live: Some(Live {
            tasks: (case.live)(tick),
            ..Live::default()
        }),
        series: vec![SeriesDelta {
            series: MUTEX,
            acquisitions: 1_000,
            releases: 1_000,
            by_entry: (0..43)
                .map(|id| CoarseDelta {
                    id,
                    acquisitions: 20,
                    ..CoarseDelta::default()
                })
                .collect(),
            ..SeriesDelta::default()
        }],
        ..Frame::default()
    }
}

fn stands(report: &Report, kind: u8) -> bool {
    let mut findings = report.findings.iter();
    findings.any(|finding| finding.active() && finding.id.0 == kind)
}

fn main() {
    for case in &CASES {
        let mut all = edges(case.closing);
        let (mut model, mut diagnosis) = (Model::default(), Diagnosis::default());
        let mut times: Vec<u64> = Vec::new();
        for tick in 0..TICKS {
            let frame = frame(case, tick, &mut all);
            model.apply(&frame);
            let start = Instant::now();
            diagnosis.observe(&model, &frame);
            times.push(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
        }
        let report = diagnosis.report();
        for &kind in case.expect {
            assert!(stands(&report, kind), "{}: no AP{kind:03}", case.name);
        }
        assert_eq!(model.edges.len(), EDGES, "{}", case.name);
        assert_eq!(model.ignored, 0, "{}", case.name);
        times.sort_unstable();
        println!(
            "{}",
            serde_json::json!({
                "case": case.name,
                "ticks": TICKS,
                "tasks": model.live.len(),
                "locks": model.instances.len(),
                "edges": model.edges.len(),
                "findings": report.findings.len(),
                "median_ns": times[times.len() / 2],
                "max_ns": times[times.len() - 1],
            })
        );
    }
}
