//! Frames for tests: a small sane run, and frames that make no sense.
#![allow(
    dead_code,
    reason = "shared by several tests, each of which uses a part"
)]

use apscope_collector::frame::{
    About, ActedOn, AttachPoint, Base, CallsOn, CoarseDelta, Edge, End, EntryDelta, Frame, Hist,
    Holding, Inside, Instance, Live, LogLine, Loss, Matrix, Meta, Object, Overhead, ProgramCost,
    ProgramLoss, SeriesDelta, Spans, Stack, TaskState, Uncarried, UnseenReaders, Waiting, Writer,
};
use probe_ebpf::abi::{self, NO_INSTANCE};
use probe_ebpf::h2;
use probe_ebpf::names::{class_id, entry_id};

/// `kvm->lock`.
pub const KVM_LOCK: u32 = class_id::KVM_LOCK as u32 * 2;
/// `vcpu->mutex`.
pub const VCPU_MUTEX: u32 = class_id::VCPU_MUTEX as u32 * 2;
/// `kvm_busy`.
pub const KVM_BUSY: u32 = class_id::KVM_BUSY as u32 * 2;
/// `pqap_hook_rwsem`, write and read.
pub const HOOK_WRITE: u32 = class_id::PQAP_HOOK_RWSEM as u32 * 2;
/// The read side.
pub const HOOK_READ: u32 = HOOK_WRITE + 1;

/// Start of the sane run.
pub const START_NS: u64 = 5_000_000_000;
/// 2026-01-02T03:04:05Z.
pub const START_UNIX_NS: u64 = 1_767_323_045_000_000_000;

/// A histogram increment of these values, in H2 buckets.
pub fn hist(values: &[u64]) -> Hist {
    let mut counts = vec![0; h2::BUCKETS];
    for &value in values {
        counts[h2::bucket(value)] += 1;
    }
    Hist::from_buckets(
        counts.into_iter().enumerate(),
        values.iter().sum(),
        values.iter().copied().min().unwrap_or(0),
        values.iter().copied().max().unwrap_or(0),
    )
}

/// A coarse histogram increment of these values.
pub fn coarse(values: &[u64]) -> Hist {
    let mut counts = [0; h2::COARSE_BUCKETS];
    for &value in values {
        counts[h2::ilog2(value) as usize] += 1;
    }
    Hist::from_buckets(counts.into_iter().enumerate(), values.iter().sum(), 0, 0)
}

/// Description of the sane run.
pub fn meta() -> Meta {
    let instance = |id, name: &str, series, guest| Instance {
        id,
        name: name.to_owned(),
        address: 0x5500_0000 + u64::from(id) * 64,
        series,
        guest,
    };
    Meta {
        source: "emulator".into(),
        probe: "in-process".into(),
        generation: "v5.13".into(),
        scenario: "steady".into(),
        seed: 7,
        pid: 4711,
        kernel_release: "6.18.0".into(),
        arch: "x86_64".into(),
        reason: "eBPF not permitted: CAP_BPF missing; measuring in process".into(),
        start_ns: START_NS,
        start_unix_ns: START_UNIX_NS,
        instances: vec![
            instance(0, "kvm->lock[guest-0]", KVM_LOCK, 1),
            instance(1, "kvm->lock[guest-1]", KVM_LOCK, 2),
            instance(2, "kvm_busy[mdev-0]", KVM_BUSY, 1),
            instance(3, "pqap_hook_rwsem[guest-0]", HOOK_WRITE, 1),
            instance(4, "pqap_hook_rwsem[guest-0]", HOOK_READ, 1),
        ],
        attach: vec![
            AttachPoint {
                symbol: "mutex_lock".into(),
                mechanism: "hook".into(),
                reason: String::new(),
            },
            AttachPoint {
                symbol: "flush_work".into(),
                mechanism: "none".into(),
                reason: "this generation has no reset_work".into(),
            },
        ],
        series: vec![KVM_BUSY, KVM_LOCK, VCPU_MUTEX, HOOK_READ, HOOK_WRITE],
        entries: vec![
            u32::from(entry_id::ASSIGN_ADAPTER),
            u32::from(entry_id::HANDLE_PQAP),
            u32::from(entry_id::GROUP_NOTIFIER),
        ],
        guests: 2,
        vcpus: 1,
        version: "0.1.0".into(),
        contended_by: "slow path".into(),
        objects: vec![
            object(0, "mdev", MDEV, 0x6600_0000),
            object(1, "guest", "guest-0", 0x7700_0000),
            object(2, "mdev", "mdev-0", 0x6600_0000),
        ],
        ..Meta::default()
    }
}

/// UUID of the mdev of the sane run.
pub const MDEV: &str = "a9e10000-0000-4000-8000-000000000000";

fn object(id: u32, kind: &str, name: &str, address: u64) -> Object {
    Object {
        id,
        kind: kind.into(),
        name: name.into(),
        address,
        guest: u32::from(id < 2),
        ..Object::default()
    }
}

/// The sane run, as if it were of a kernel at this level.
pub fn kernel_run(count: u64, level: u32) -> Vec<Frame> {
    let mut frames = run(count);
    for frame in &mut frames {
        if let Some(meta) = &mut frame.meta {
            *meta = kernel_meta(std::mem::take(meta), level);
        }
        for task in frame.live.iter_mut().flat_map(|live| &mut live.tasks) {
            for holding in task.holds.iter_mut().filter(|_| level < 2) {
                holding.adopted = true;
                holding.evidence = "lock word".into();
            }
        }
    }
    if let Some(last) = frames.last_mut() {
        last.stacks = vec![
            stack(
                KVM_LOCK,
                1,
                12_000_000,
                "kvm_arch_crypto_set_masks+0x3c [kvm]",
            ),
            stack(KVM_LOCK, 2, 34_000_000, "kvm_s390_handle_pv+0x1f2 [kvm]"),
        ];
    }
    frames
}

fn kernel_meta(meta: Meta, level: u32) -> Meta {
    Meta {
        source: "kernel".into(),
        probe: "ebpf".into(),
        generation: "v6.6|v7.3".into(),
        scenario: String::new(),
        seed: 0,
        pid: 0,
        kernel_release: "6.12.107+deb13-s390x".into(),
        arch: "s390x".into(),
        reason: "this is an s390x machine".into(),
        vcpus: 0,
        level,
        losses: vec!["vfio_ap_mdev_reset_queues: resets (inlined)".into()],
        blind_spots: vec!["NQAP and DQAP".into(), "completions".into()],
        ..meta
    }
}

fn stack(series: u32, instance: u32, duration_ns: u64, caller: &str) -> Stack {
    let frames = ["__mutex_lock.constprop.0+0x4a4", caller, "system_call+0x72"];
    Stack {
        tid: 4100 + instance,
        comm: "CPU 0/KVM".into(),
        series,
        instance,
        entry: u32::from(entry_id::HANDLE_PQAP),
        hold: false,
        ended: true,
        since_ns: START_NS,
        duration_ns,
        frames: frames.map(str::to_owned).to_vec(),
    }
}

fn lock_deltas(waits: &[u64], holds: &[u64]) -> Vec<SeriesDelta> {
    vec![
        SeriesDelta {
            series: KVM_LOCK,
            acquisitions: waits.len() as u64,
            contended: waits.iter().filter(|&&w| w > 0).count() as u64,
            releases: holds.len() as u64,
            wait: Some(hist(waits)),
            hold: Some(hist(holds)),
            by_instance: vec![CoarseDelta {
                id: 1,
                acquisitions: waits.len() as u64,
                contended: waits.iter().filter(|&&w| w > 0).count() as u64,
                releases: holds.len() as u64,
                wait: Some(coarse(waits)),
                hold: Some(coarse(holds)),
                ..CoarseDelta::default()
            }],
            by_entry: vec![CoarseDelta {
                id: u32::from(entry_id::GROUP_NOTIFIER),
                acquisitions: waits.len() as u64,
                wait: Some(coarse(waits)),
                hold: Some(coarse(holds)),
                ..CoarseDelta::default()
            }],
            ..SeriesDelta::default()
        },
        SeriesDelta {
            series: KVM_BUSY,
            acquisitions: 1,
            contended: 2,
            releases: 1,
            wait: Some(hist(&[700, 900])),
            hold: Some(hist(&[1_000])),
            by_instance: vec![CoarseDelta {
                id: 2,
                acquisitions: 1,
                contended: 2,
                releases: 1,
                wakes: 3,
                wait: Some(coarse(&[700, 900])),
                hold: Some(coarse(&[1_000])),
                ..CoarseDelta::default()
            }],
            ..SeriesDelta::default()
        },
    ]
}

fn live(at_ns: u64) -> Live {
    let holding = |series, instance, lock, ago| Holding {
        series,
        instance,
        lock,
        since_ns: at_ns - ago,
        entry: u32::from(entry_id::GROUP_NOTIFIER),
        // Another one in each frame: nobody is stuck.
        serial: at_ns,
        evidence: "probe".into(),
        ..Holding::default()
    };
    Live {
        tasks: vec![
            TaskState {
                tid: 101,
                pid: 100,
                comm: "vcpu0/guest-0".into(),
                holds: vec![holding(VCPU_MUTEX, NO_INSTANCE, 0x10, 9_000)],
                waits: vec![Waiting {
                    series: KVM_BUSY,
                    instance: 2,
                    lock: 0x80,
                    since_ns: at_ns - 400,
                    serial: at_ns,
                    entry: u32::from(entry_id::HANDLE_PQAP),
                    rounds: 1,
                    evidence: "probe".into(),
                }],
                inside: vec![Inside {
                    entry: u32::from(entry_id::HANDLE_PQAP),
                    since_ns: at_ns - 8_000,
                    object: 0x40,
                    arg: 3 << 24,
                    ..Inside::default()
                }],
                ..TaskState::default()
            },
            TaskState {
                tid: 102,
                pid: 100,
                comm: "sysfs/guest-0".into(),
                holds: vec![
                    holding(KVM_BUSY, 2, 0x80, 500),
                    holding(KVM_LOCK, 0, 0x20, 100),
                ],
                ..TaskState::default()
            },
        ],
        ..Live::default()
    }
}

/// Frame `number` of the sane run; 100 ms each, the first describes the run, the last of `count` ends it.
pub fn frame(number: u64, count: u64) -> Frame {
    let at_ns = START_NS + (number + 1) * 100_000_000;
    let edge = |held: u32, acquired: u32| Edge {
        held,
        acquired,
        held_in: u32::from(entry_id::NONE),
        acquired_in: u32::from(entry_id::HANDLE_PQAP),
        annotated: acquired == KVM_BUSY,
        count_total: number + 1,
        first_tid: 101,
        first_comm: "vcpu0/guest-0".into(),
        first_ns: START_NS + 5,
        last_ns: at_ns - 5,
        pairs: vec![0, 2],
        ..Edge::default()
    };
    let span = abi::Span {
        start_ns: at_ns - 1_000,
        duration_ns: 10,
        extra: 3,
        tid: 102,
        instance: 0,
        result: 0,
        kind: abi::SPAN_LOCK,
        what: KVM_LOCK as u8,
        inside: entry_id::GROUP_NOTIFIER,
        flags: 0,
    };
    Frame {
        number,
        at_ns,
        at_unix_ns: START_UNIX_NS + (number + 1) * 100_000_000,
        meta: (number == 0).then(meta),
        series: lock_deltas(&[0, 0, 300 + number], &[10, 20_000]),
        entries: vec![
            EntryDelta {
                entry: u32::from(entry_id::ASSIGN_ADAPTER),
                calls: 3,
                latency: Some(hist(&[1_000, 2_000])),
                code: vec![0, 16],
                code_count: vec![1, 1],
                ..EntryDelta::default()
            },
            EntryDelta {
                entry: u32::from(entry_id::HANDLE_PQAP),
                calls: 1,
                latency: Some(hist(&[50_000])),
                code: vec![0],
                code_count: vec![1],
                pqap: vec![3 << 8, 3 << 8 | 1],
                pqap_count: vec![4, 1],
                ..EntryDelta::default()
            },
            EntryDelta {
                entry: u32::from(entry_id::GROUP_NOTIFIER),
                calls: 1,
                latency: Some(hist(&[70_000])),
                code: vec![1],
                code_count: vec![1],
                ..EntryDelta::default()
            },
        ],
        edges: vec![edge(VCPU_MUTEX, KVM_BUSY), edge(VCPU_MUTEX, KVM_LOCK)],
        live: Some(live(at_ns)),
        spans: Some(Spans::encode(at_ns, [&span, &span], |tid| {
            format!("task {tid}")
        })),
        loss: Some(Loss {
            received: 2,
            programs: vec![ProgramLoss {
                name: "lock_release".into(),
                cpu: 1,
                emitted: 3,
                dropped: 1,
            }],
            ..Loss::default()
        }),
        overhead: Some(Overhead {
            programs: vec![ProgramCost {
                name: "lock_release".into(),
                runs: 3,
                run_time_ns: 1_500,
                missed: 2,
            }],
            collector_cpu_ns: 40_000,
            ring_bytes_max: 128 + number,
            ring_bytes_size: 8 << 20,
        }),
        log: vec![LogLine {
            at_ns,
            level: "warn".into(),
            text: format!("message {number}"),
        }],
        end: (number + 1 == count).then(|| End {
            how: "finished".into(),
            detail: String::new(),
        }),
        ..Frame::default()
    }
}

/// Puts a file system thread into a frame: it is inside `assign_adapter_store` for `echo`, holds one lock and waits
/// for another; and has finished a write for `mdevctl` that was refused.
pub fn add_writers(frame: &mut Frame) {
    let at_ns = frame.at_ns;
    let inside = |entry, since_ns, pid, comm: &str| Inside {
        entry: u32::from(entry),
        since_ns,
        on_behalf_of_pid: pid,
        on_behalf_of_comm: comm.into(),
        ..Inside::default()
    };
    let hold = |since_ns| Holding {
        series: KVM_BUSY,
        instance: 2,
        lock: 0x80,
        since_ns,
        entry: u32::from(entry_id::ASSIGN_ADAPTER),
        evidence: "probe".into(),
        ..Holding::default()
    };
    let task = TaskState {
        tid: 103,
        pid: 100,
        comm: "sysfs".into(),
        // The first was taken before the call.
        holds: vec![hold(at_ns - 9_000), hold(at_ns - 3_000)],
        waits: vec![Waiting {
            series: KVM_LOCK,
            lock: 0x20,
            since_ns: at_ns - 2_000,
            entry: u32::from(entry_id::HANDLE_PQAP),
            evidence: "probe".into(),
            ..Waiting::default()
        }],
        inside: vec![
            inside(entry_id::ASSIGN_ADAPTER, at_ns - 5_000, 1234, "echo"),
            inside(entry_id::HANDLE_PQAP, at_ns - 4_000, 0, ""),
        ],
        ..TaskState::default()
    };
    frame.live.get_or_insert_default().tasks.push(task);
    let mut comm = [0; 16];
    comm[..7].copy_from_slice(b"mdevctl");
    let call = |start_ns, extra: [u8; 8], what, result| abi::Span {
        start_ns,
        duration_ns: 700,
        extra: u64::from_le_bytes(extra),
        tid: 103,
        instance: 77,
        result,
        kind: abi::SPAN_ENTRY,
        what,
        inside: 0,
        flags: 0,
    };
    let spans = [
        call(
            at_ns - 20_000,
            *b"0x05\n\0\0\0",
            entry_id::ASSIGN_ADAPTER,
            -16,
        ),
        call(at_ns - 10_000, [1; 8], entry_id::REMOVE, 0),
    ];
    let writer = Some(Writer { pid: 77, comm });
    let on = [(Some(0), Some(1)), (Some(2), None)].map(|(mdev, guest)| ActedOn { mdev, guest });
    let about = on.map(|on| About { writer, on });
    frame.spans = Some(Spans::encode_for(at_ns, spans.iter().zip(about), |_| {
        "sysfs".into()
    }));
}

/// The sane run.
pub fn run(count: u64) -> Vec<Frame> {
    (0..count).map(|number| frame(number, count)).collect()
}

/// Frames made from bytes, with ids and lengths that are often wrong.
pub struct Wild<'a> {
    bytes: &'a [u8],
}

impl<'a> Wild<'a> {
    /// From these bytes; zeros when they are used up.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// There are bytes left.
    pub fn more(&self) -> bool {
        !self.bytes.is_empty()
    }

    fn byte(&mut self) -> u8 {
        let (first, rest) = self.bytes.split_first().unwrap_or((&0, &[]));
        self.bytes = rest;
        *first
    }

    fn u64(&mut self) -> u64 {
        match self.byte() {
            255 => u64::MAX,
            254 => u64::MAX / 2,
            253 => 1 << 48,
            n => u64::from(n),
        }
    }

    fn u32(&mut self) -> u32 {
        match self.byte() {
            255 => u32::MAX,
            254 => 256,
            253 => 1408,
            n => u32::from(n) % 70,
        }
    }

    fn text(&mut self) -> String {
        match self.byte() {
            255 => "\u{e9}".repeat(900),
            n => format!("text {}", n % 4),
        }
    }

    fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    fn list<T>(&mut self, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let length = self.byte() % 5;
        (0..length).map(|_| make(self)).collect()
    }

    fn maybe<T>(&mut self, mut make: impl FnMut(&mut Self) -> T) -> Option<T> {
        self.flag().then(|| make(self))
    }

    fn hist(&mut self) -> Hist {
        Hist {
            step: self.list(Self::u32),
            count: self.list(Self::u64),
            sum_ns: self.u64(),
            min_ns_total: self.u64(),
            max_ns_total: self.u64(),
        }
    }

    fn coarse(&mut self) -> CoarseDelta {
        CoarseDelta {
            id: self.u32(),
            acquisitions: self.u64(),
            contended: self.u64(),
            attempts_failed: self.u64(),
            unmatched_releases: self.u64(),
            releases: self.u64(),
            wait: self.maybe(Self::hist),
            hold: self.maybe(Self::hist),
            wakes: self.u64(),
        }
    }

    fn series(&mut self) -> SeriesDelta {
        SeriesDelta {
            series: self.u32(),
            acquisitions: self.u64(),
            contended: self.u64(),
            attempts_failed: self.u64(),
            unmatched_releases: self.u64(),
            releases: self.u64(),
            wait: self.maybe(Self::hist),
            hold: self.maybe(Self::hist),
            by_instance: self.list(Self::coarse),
            by_entry: self.list(Self::coarse),
        }
    }

    fn entry(&mut self) -> EntryDelta {
        EntryDelta {
            entry: self.u32(),
            calls: self.u64(),
            unmatched_returns: self.u64(),
            latency: self.maybe(Self::hist),
            code: self.list(Self::u32),
            code_count: self.list(Self::u64),
            pqap: self.list(Self::u32),
            pqap_count: self.list(Self::u64),
        }
    }

    fn meta(&mut self) -> Meta {
        Meta {
            source: if self.flag() {
                "emulator".into()
            } else {
                self.text()
            },
            probe: self.text(),
            generation: self.text(),
            scenario: self.text(),
            seed: self.u64(),
            pid: self.u32(),
            kernel_release: self.text(),
            arch: self.text(),
            reason: self.text(),
            start_ns: self.u64(),
            start_unix_ns: self.u64(),
            instances: self.list(|w| Instance {
                id: w.u32(),
                name: w.text(),
                address: w.u64(),
                series: w.u32(),
                guest: w.u32(),
            }),
            attach: self.list(|w| AttachPoint {
                symbol: w.text(),
                mechanism: w.text(),
                reason: w.text(),
            }),
            series: self.list(Self::u32),
            entries: self.list(Self::u32),
            guests: self.u32(),
            vcpus: self.u32(),
            version: self.text(),
            contended_by: self.text(),
            level: self.u32(),
            evidence: self.list(Self::text),
            losses: self.list(Self::text),
            blind_spots: self.list(Self::text),
            reads_queues: self.flag(),
            attaching: self.flag(),
            timing: self.text(),
            measured_from_ns: self.u64(),
            objects: self.list(|w| Object {
                id: w.u32(),
                kind: w.text(),
                name: w.text(),
                address: w.u64(),
                guest: w.u32(),
                assigned: w.flag().then(|| w.matrix()),
                in_guest: w.flag().then(|| w.matrix()),
            }),
        }
    }

    fn matrix(&mut self) -> Matrix {
        Matrix {
            adapters: self.list(Self::u32),
            domains: self.list(Self::u32),
            control_domains: self.list(Self::u32),
        }
    }

    fn task(&mut self) -> TaskState {
        TaskState {
            tid: self.u32(),
            pid: self.u32(),
            comm: self.text(),
            holds: self.list(|w| Holding {
                series: w.u32(),
                instance: w.u32(),
                lock: w.u64(),
                since_ns: w.u64(),
                wait_ns: w.u64(),
                serial: w.u64(),
                entry: w.u32(),
                second_holder: w.flag(),
                adopted: w.flag(),
                evidence: w.text(),
            }),
            waits: self.list(|w| Waiting {
                series: w.u32(),
                instance: w.u32(),
                lock: w.u64(),
                since_ns: w.u64(),
                serial: w.u64(),
                entry: w.u32(),
                rounds: w.u64(),
                evidence: w.text(),
            }),
            inside: self.list(|w| Inside {
                entry: w.u32(),
                since_ns: w.u64(),
                object: w.u64(),
                arg: w.u64(),
                on_behalf_of_pid: w.u32(),
                on_behalf_of_comm: w.text(),
                mdev: w.u32(),
                guest: w.u32(),
            }),
            ..TaskState::default()
        }
    }

    fn spans(&mut self) -> Spans {
        Spans {
            start_step_ns: self.list(|w| w.u64() as i64),
            duration_ns: self.list(Self::u64),
            extra: self.list(Self::u64),
            task: self.list(Self::u32),
            instance: self.list(Self::u32),
            result: self.list(|w| w.u32() as i32),
            packed: self.list(Self::u32),
            tids: self.list(Self::u32),
            comms: self.list(Self::text),
            on_behalf_of_pids: self.list(Self::u32),
            on_behalf_of_comms: self.list(Self::text),
            mdevs: self.list(Self::u32),
            guests: self.list(Self::u32),
        }
    }

    /// A frame.
    pub fn frame(&mut self) -> Frame {
        Frame {
            number: self.u64(),
            at_ns: self.u64(),
            at_unix_ns: self.u64(),
            meta: self.maybe(Self::meta),
            series: self.list(Self::series),
            entries: self.list(Self::entry),
            edges: self.list(|w| Edge {
                held: w.u32(),
                acquired: w.u32(),
                held_in: w.u32(),
                acquired_in: w.u32(),
                annotated: w.flag(),
                direction: w.u32() % 4,
                count_total: w.u64(),
                first_tid: w.u32(),
                first_comm: w.text(),
                first_ns: w.u64(),
                last_ns: w.u64(),
                pairs: w.list(Self::u32),
            }),
            uncarried: self.maybe(|w| Uncarried {
                spans: w.u64(),
                log_lines: w.u64(),
                stacks: w.u64(),
                calls_on: w.list(|w| CallsOn {
                    object: w.u32(),
                    entry: w.u32(),
                    spans: w.u64(),
                    failed: w.u64(),
                }),
            }),
            live: self.maybe(|w| Live {
                tasks: w.list(Self::task),
                unseen_readers: w.list(|w| UnseenReaders {
                    instance: w.u32(),
                    lock: w.u64(),
                    readers: w.u64(),
                }),
                clear_flags: w.list(Self::u32),
            }),
            spans: self.maybe(Self::spans),
            loss: self.maybe(|w| Loss {
                received: w.u64(),
                programs: w.list(|w| ProgramLoss {
                    name: w.text(),
                    cpu: w.u32(),
                    emitted: w.u64(),
                    dropped: w.u64(),
                }),
                missed: w.u64(),
                no_task_slot: w.u64(),
                no_edge_slot: w.u64(),
                overflowed: w.u64(),
                unreadable: w.u64(),
                unmatched: w.u64(),
                disagreements: w.u64(),
            }),
            overhead: self.maybe(|w| Overhead {
                programs: w.list(|w| ProgramCost {
                    name: w.text(),
                    runs: w.u64(),
                    run_time_ns: w.u64(),
                    missed: w.u64(),
                }),
                collector_cpu_ns: w.u64(),
                ring_bytes_max: w.u64(),
                ring_bytes_size: w.u64(),
            }),
            log: self.list(|w| LogLine {
                at_ns: w.u64(),
                level: w.text(),
                text: w.text(),
            }),
            end: self.maybe(|w| End {
                how: w.text(),
                detail: w.text(),
            }),
            stacks: self.list(|w| Stack {
                tid: w.u32(),
                comm: w.text(),
                series: w.u32(),
                instance: w.u32(),
                entry: w.u32(),
                hold: w.flag(),
                ended: w.flag(),
                since_ns: w.u64(),
                duration_ns: w.u64(),
                frames: w.list(Self::text),
            }),
            base: self.maybe(|w| Base {
                series: w.list(Self::series),
                entries: w.list(Self::entry),
                ..Base::default()
            }),
            packed: None,
        }
    }
}
