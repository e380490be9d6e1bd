//! Frames and models for tests: a v5.13 run in the middle of a contended moment, made by hand and the same every
//! time, folded by the real model.

mod description;
mod kernel;

use apscope_collector::frame::{
    About, ActedOn, CoarseDelta, EntryDelta, Frame, Hist, Holding, Inside, Instance, Live, LogLine,
    Loss, Overhead, ProgramLoss, SeriesDelta, Spans, TaskState, Waiting, Writer,
};
use probe_ebpf::abi::{self, Mode, series};
use probe_ebpf::h2;
use probe_ebpf::names::{class_id, entry_id};

pub use description::meta;
pub use kernel::kernel_frame;

pub const START: u64 = 5_000_000_000_000;
const MS: u64 = 1_000_000;
const US: u64 = 1_000;

pub const KVM_BUSY: u8 = series(class_id::KVM_BUSY, Mode::Exclusive);
pub const VCPU_MUTEX: u8 = series(class_id::VCPU_MUTEX, Mode::Exclusive);
const MATRIX_LOCK: u8 = series(class_id::MATRIX_DEV_LOCK, Mode::Exclusive);
const KVM_LOCK: u8 = series(class_id::KVM_LOCK, Mode::Exclusive);
const NOTIFIER_READ: u8 = series(class_id::GROUP_NOTIFIER_RWSEM, Mode::Read);
const NOTIFIER_WRITE: u8 = series(class_id::GROUP_NOTIFIER_RWSEM, Mode::Write);
const KV_LOCK: u8 = series(class_id::KV_LOCK, Mode::Exclusive);
/// The class with the longest name, which v5.13 does not have: for the width of the table.
const GUESTS_LOCK: u8 = series(class_id::GUESTS_LOCK, Mode::Exclusive);

/// A histogram of `count` values around `middle_ns`, one in a hundred up to `max_ns`, `zeros` of 0.
fn hist(zeros: u64, count: u64, middle_ns: u64, max_ns: u64) -> Hist {
    let mut buckets = std::collections::BTreeMap::new();
    if zeros > 0 {
        buckets.insert(0, zeros);
    }
    let mut sum = 0;
    for i in 0..count {
        // A spread of a power of two to each side, the same every time.
        let value = match i {
            0 => max_ns,
            i if i % 100 == 0 => max_ns / (1 + i % 7),
            i => (middle_ns / 2 + middle_ns * (i * 37 % 64) / 32).min(max_ns),
        };
        *buckets.entry(h2::bucket(value)).or_insert(0) += 1;
        sum += value;
    }
    let min = if zeros > 0 { 0 } else { middle_ns / 2 };
    Hist::from_buckets(buckets, sum, min, max_ns)
}

fn coarse(id: u32, acquisitions: u64, contended: u64, wait_ns: u64, hold_ns: u64) -> CoarseDelta {
    let power = |ns| h2::ilog2(ns) as usize;
    CoarseDelta {
        id,
        acquisitions,
        contended,
        releases: acquisitions,
        wait: Some(Hist::from_buckets(
            [(0, acquisitions - contended), (power(wait_ns), contended)],
            wait_ns * contended,
            0,
            wait_ns,
        )),
        hold: Some(Hist::from_buckets(
            [(power(hold_ns), acquisitions)],
            hold_ns * acquisitions,
            hold_ns,
            hold_ns,
        )),
        ..CoarseDelta::default()
    }
}

struct Lock {
    series: u8,
    per_tick: u64,
    contended: u64,
    wait_ns: u64,
    wait_max_ns: u64,
    hold_ns: u64,
    hold_max_ns: u64,
}

const LOCKS: [Lock; 8] = [
    Lock {
        series: MATRIX_LOCK,
        per_tick: 420,
        contended: 38,
        wait_ns: 900 * US,
        wait_max_ns: 63 * MS,
        hold_ns: 21 * US,
        hold_max_ns: 20_400 * US,
    },
    Lock {
        series: KVM_LOCK,
        per_tick: 61,
        contended: 2,
        wait_ns: 80 * US,
        wait_max_ns: 3_120 * US,
        hold_ns: 55 * US,
        hold_max_ns: 4 * MS,
    },
    Lock {
        series: VCPU_MUTEX,
        per_tick: 160,
        contended: 0,
        wait_ns: 0,
        wait_max_ns: 0,
        hold_ns: 9 * MS,
        hold_max_ns: 812 * MS,
    },
    Lock {
        series: KVM_BUSY,
        per_tick: 12,
        contended: 5,
        wait_ns: 700 * US,
        wait_max_ns: 41 * MS,
        hold_ns: 600 * US,
        hold_max_ns: 44 * MS,
    },
    Lock {
        series: KV_LOCK,
        per_tick: 6,
        contended: 0,
        wait_ns: 0,
        wait_max_ns: 0,
        hold_ns: 700 * US,
        hold_max_ns: 45 * MS,
    },
    Lock {
        series: NOTIFIER_WRITE,
        per_tick: 0,
        contended: 0,
        wait_ns: 0,
        wait_max_ns: 0,
        hold_ns: 0,
        hold_max_ns: 0,
    },
    Lock {
        series: NOTIFIER_READ,
        per_tick: 6,
        contended: 0,
        wait_ns: 0,
        wait_max_ns: 0,
        hold_ns: 690 * US,
        hold_max_ns: 45 * MS,
    },
    Lock {
        series: GUESTS_LOCK,
        per_tick: 1,
        contended: 0,
        wait_ns: 0,
        wait_max_ns: 0,
        hold_ns: 3 * US,
        hold_max_ns: 9 * US,
    },
];

fn lock_delta(lock: &Lock, tick: u64, instances: &[Instance]) -> SeriesDelta {
    // A slow swell, so that there is something to see in the sparkline.
    let n = lock.per_tick * (4 + tick % 9) / 8;
    let contended = lock.contended.min(n);
    let own: Vec<u32> = instances
        .iter()
        .filter(|i| i.series == u32::from(lock.series))
        .map(|i| i.id)
        .collect();
    SeriesDelta {
        series: u32::from(lock.series),
        acquisitions: n,
        contended,
        attempts_failed: u64::from(lock.series == MATRIX_LOCK),
        unmatched_releases: 0,
        releases: n,
        wait: Some(hist(
            n - contended,
            contended,
            lock.wait_ns,
            lock.wait_max_ns,
        )),
        hold: Some(hist(0, n, lock.hold_ns, lock.hold_max_ns)),
        by_instance: own
            .iter()
            .take(n as usize)
            .map(|&id| {
                coarse(
                    id,
                    1,
                    u64::from(contended > 0),
                    lock.wait_ns.max(1),
                    lock.hold_ns,
                )
            })
            .collect(),
        by_entry: vec![coarse(
            u32::from(if lock.series == VCPU_MUTEX {
                entry_id::KVM_VCPU_IOCTL
            } else {
                entry_id::GROUP_NOTIFIER
            }),
            n,
            contended,
            lock.wait_ns.max(1),
            lock.hold_ns.max(1),
        )],
    }
}

fn entry_delta(
    entry: u8,
    calls: u64,
    middle_ns: u64,
    max_ns: u64,
    codes: &[(u32, u64)],
) -> EntryDelta {
    let returned: u64 = codes.iter().map(|c| c.1).sum();
    EntryDelta {
        entry: u32::from(entry),
        calls,
        unmatched_returns: 0,
        latency: Some(hist(0, returned, middle_ns, max_ns)),
        code: codes.iter().map(|c| c.0).collect(),
        code_count: codes.iter().map(|c| c.1).collect(),
        ..EntryDelta::default()
    }
}

fn task(tid: u32, comm: &str) -> TaskState {
    TaskState {
        tid,
        pid: 4242,
        comm: comm.into(),
        ..TaskState::default()
    }
}

fn live(now: u64, instances: &[Instance]) -> Live {
    let instance = |name: &str| {
        instances
            .iter()
            .find(|i| i.name == name)
            .expect("the fixture names an instance it has")
    };
    let hold = |name: &str, since_ms: u64, entry: u8, second_holder| {
        let i = instance(name);
        Holding {
            series: i.series,
            instance: i.id,
            lock: i.address,
            since_ns: now - since_ms * MS,
            wait_ns: 0,
            serial: 1,
            entry: u32::from(entry),
            second_holder,
            adopted: false,
            evidence: "probe".into(),
        }
    };
    let wait = |name: &str, since_ms: u64, entry: u8, rounds| {
        let i = instance(name);
        Waiting {
            series: i.series,
            instance: i.id,
            lock: i.address,
            since_ns: now - since_ms * MS,
            serial: 2,
            entry: u32::from(entry),
            rounds,
            evidence: "probe".into(),
        }
    };
    let inside = |entry: u8, since_ms: u64| Inside {
        entry: u32::from(entry),
        since_ns: now - since_ms * MS,
        ..Inside::default()
    };
    let mut tasks = vec![
        TaskState {
            holds: vec![
                hold("kv->lock[guest-3]", 38, entry_id::NONE, false),
                hold("group notifier rwsem[guest-3]", 38, entry_id::NONE, false),
                hold("kvm_busy[guest-3]", 37, entry_id::GROUP_NOTIFIER, false),
            ],
            waits: vec![wait("kvm->lock[guest-3]", 36, entry_id::GROUP_NOTIFIER, 0)],
            inside: vec![inside(entry_id::GROUP_NOTIFIER, 38)],
            ..task(4301, "qemu/guest-3")
        },
        TaskState {
            holds: vec![hold("kvm->lock[guest-3]", 36, entry_id::NONE, false)],
            ..task(4302, "pv/guest-3")
        },
        TaskState {
            holds: vec![hold("kvm_busy[guest-3]", 2, entry_id::GROUP_NOTIFIER, true)],
            inside: vec![inside(entry_id::GROUP_NOTIFIER, 2)],
            ..task(4303, "qemu2/guest-3")
        },
    ];
    for vcpu in 0..2 {
        tasks.push(TaskState {
            holds: vec![hold(
                &format!("vcpu->mutex[vcpu{vcpu}/guest-3]"),
                120 + u64::from(vcpu),
                entry_id::KVM_VCPU_IOCTL,
                false,
            )],
            waits: vec![wait(
                "kvm_busy[guest-3]",
                30 - u64::from(vcpu),
                entry_id::HANDLE_PQAP,
                1 + u64::from(vcpu) * 3,
            )],
            inside: vec![
                inside(entry_id::KVM_VCPU_IOCTL, 121),
                inside(entry_id::HANDLE_PQAP, 31),
            ],
            ..task(4310 + vcpu, &format!("vcpu{vcpu}/guest-3"))
        });
    }
    tasks.push(TaskState {
        waits: vec![wait("matrix_dev->lock", 1, entry_id::ASSIGN_ADAPTER, 0)],
        inside: vec![inside(entry_id::ASSIGN_ADAPTER, 1)],
        ..task(4320, "sysfs/guest-1")
    });
    // A file system thread that works for somebody at a shell.
    tasks.push(TaskState {
        holds: vec![hold(
            "matrix_dev->lock",
            1,
            entry_id::UNASSIGN_CONTROL_DOMAIN,
            false,
        )],
        inside: vec![Inside {
            on_behalf_of_pid: 5120,
            on_behalf_of_comm: "echo".into(),
            ..inside(entry_id::UNASSIGN_CONTROL_DOMAIN, 2)
        }],
        ..task(4330, "sysfs")
    });
    Live {
        tasks,
        ..Live::default()
    }
}

/// What was written by others, through a file system thread.
fn writes(at_ns: u64) -> Spans {
    let call = |before_ms: u64, text: [u8; 8], what, result, pid, name: &[u8]| {
        let span = abi::Span {
            start_ns: at_ns - before_ms * MS,
            duration_ns: before_ms * 90 * US,
            extra: u64::from_le_bytes(text),
            tid: 4330,
            instance: pid,
            result,
            kind: abi::SPAN_ENTRY,
            what,
            inside: 0,
            flags: 0,
        };
        let mut comm = [0; 16];
        comm[..name.len()].copy_from_slice(name);
        (span, Writer { pid, comm })
    };
    let calls = [
        call(90, [0; 8], entry_id::CREATE, 0, 5101, b"mdevctl"),
        call(
            60,
            *b"0x05\n\0\0\0",
            entry_id::ASSIGN_ADAPTER,
            5,
            5102,
            b"echo",
        ),
        call(
            40,
            *b"0xab\n\0\0\0",
            entry_id::UNASSIGN_CONTROL_DOMAIN,
            -19,
            5103,
            b"sixteen-letters!",
        ),
        call(30, [0; 8], entry_id::MATRIX_SHOW, 12, 5103, b"cat"),
        call(
            20,
            *b"255\n\0\0\0\0",
            entry_id::ASSIGN_ADAPTER,
            -16,
            5104,
            b"tee",
        ),
    ];
    // The first call makes the mdev, which a guest has from the fourth on.
    let about = calls.iter().zip(0..).map(|((_, writer), n)| About {
        writer: Some(*writer),
        on: ActedOn {
            mdev: Some(0),
            guest: (n >= 3).then_some(1),
        },
    });
    Spans::encode_for(at_ns, calls.iter().map(|(span, _)| span).zip(about), |_| {
        "sysfs".into()
    })
}

/// Frame `number` of the run; the first has the description.
pub fn frame(number: u64, guests: u32) -> Frame {
    let meta = meta(guests);
    let at_ns = START + (number + 1) * 100 * MS;
    let instances = &meta.instances;
    let mut pqap = entry_delta(
        entry_id::HANDLE_PQAP,
        81 + u64::from(number == 0) * 2,
        34 * US,
        38 * MS,
        &[(0, 81)],
    );
    pqap.pqap = vec![3 << 8, 3 << 8 | 5, 3 << 8 | 7];
    pqap.pqap_count = vec![76, 3, 2];
    Frame {
        number,
        at_ns,
        at_unix_ns: meta.start_unix_ns + (number + 1) * 100 * MS,
        series: LOCKS
            .iter()
            .map(|lock| lock_delta(lock, number, instances))
            .collect(),
        entries: vec![
            pqap,
            entry_delta(
                entry_id::GROUP_NOTIFIER,
                12 + u64::from(number == 0) * 2,
                640 * US,
                44 * MS,
                &[(1, 12)],
            ),
            entry_delta(entry_id::IOCTL, 4, 90 * US, 21 * MS, &[(0, 4)]),
            entry_delta(
                entry_id::ASSIGN_ADAPTER,
                31 + u64::from(number == 0),
                25 * US,
                63 * MS,
                &[(0, 24), (16, 6), (99, 1)],
            ),
            entry_delta(
                entry_id::UNASSIGN_CONTROL_DOMAIN,
                30,
                18 * US,
                9 * MS,
                &[(0, 30)],
            ),
            entry_delta(
                entry_id::KVM_VCPU_IOCTL,
                160,
                9 * MS,
                812 * MS,
                &[(0, 158), (4, 2)],
            ),
        ],
        live: Some(live(at_ns, instances)),
        spans: (number == 12).then(|| writes(at_ns)),
        loss: Some(Loss {
            received: 1_180,
            programs: vec![ProgramLoss {
                name: "lock_release".into(),
                cpu: 0,
                emitted: 1_180,
                dropped: 0,
            }],
            ..Loss::default()
        }),
        overhead: Some(Overhead {
            collector_cpu_ns: 1_400 * US,
            ring_bytes_max: 61_440,
            ring_bytes_size: 8 << 20,
            ..Overhead::default()
        }),
        log: if number == 7 {
            vec![
                LogLine {
                    at_ns: START + 80 * MS,
                    level: "info".into(),
                    text: "24 probe points attached".into(),
                },
                LogLine {
                    at_ns: START + 700 * MS,
                    level: "warn".into(),
                    text: "kvm_busy[guest-3]: second holder, set by set_kvm without a test".into(),
                },
            ]
        } else {
            Vec::new()
        },
        meta: (number == 0).then_some(meta),
        ..Frame::default()
    }
}
