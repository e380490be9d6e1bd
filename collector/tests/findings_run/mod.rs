//! Runs made by hand: tasks that hold, wait and are inside calls, folded into a model and diagnosed tick by tick.

use apscope_collector::diagnose::chain::Chain;
use apscope_collector::diagnose::upstream::History;
use apscope_collector::diagnose::{Diagnosis, Finding, Id, Thresholds};
use apscope_collector::frame::{
    CoarseDelta, Edge, EntryDelta, Frame, Holding, Inside, Instance, Live, Meta, SeriesDelta,
    TaskState, Waiting,
};
use apscope_collector::model::Model;
use probe_ebpf::names::{class_id, entry_id};

/// Start of every run.
pub const START_NS: u64 = 100_000_000_000;
/// Length of a tick.
pub const TICK_NS: u64 = 100_000_000;

/// A lock of the runs.
#[derive(Clone, Copy)]
pub struct Lock {
    /// Series.
    pub series: u32,
    /// Instance.
    pub id: u32,
    name: &'static str,
    guest: u32,
    address: u64,
}

const fn lock(class: u8, read: bool, id: u32, name: &'static str, guest: u32) -> Lock {
    let series = class as u32 * 2 + read as u32;
    // Both modes of the rwsem have one address.
    let address = 0x5000 + if read { id - 1 } else { id } as u64 * 64;
    Lock {
        series,
        id,
        name,
        guest,
        address,
    }
}

/// `matrix_dev->lock`.
pub const MATRIX: Lock = lock(class_id::MATRIX_DEV_LOCK, false, 0, "matrix_dev->lock", 0);
/// `kvm->lock` of guest 0.
pub const KVM: Lock = lock(class_id::KVM_LOCK, false, 1, "kvm->lock[guest-0]", 1);
/// `kvm->lock` of guest 1.
pub const KVM_1: Lock = lock(class_id::KVM_LOCK, false, 2, "kvm->lock[guest-1]", 2);
/// `vcpu->mutex` of guest 0.
pub const VCPU: Lock = lock(class_id::VCPU_MUTEX, false, 3, "vcpu->mutex[guest-0/0]", 1);
/// `pqap_hook_rwsem` of guest 0, for writing.
pub const HOOK_WRITE: Lock = lock(
    class_id::PQAP_HOOK_RWSEM,
    false,
    4,
    "pqap_hook_rwsem[guest-0]",
    1,
);
/// The same for reading.
pub const HOOK_READ: Lock = lock(
    class_id::PQAP_HOOK_RWSEM,
    true,
    5,
    "pqap_hook_rwsem[guest-0]",
    1,
);
/// `kvm_busy`.
pub const BUSY: Lock = lock(class_id::KVM_BUSY, false, 6, "kvm_busy[mdev-0]", 1);
/// `reset_work` of a queue.
pub const WORK: Lock = lock(class_id::RESET_WORK, false, 7, "reset_work[05.0004]", 1);
/// `matrix_dev->guests_lock`.
pub const GUESTS: Lock = lock(
    class_id::GUESTS_LOCK,
    false,
    8,
    "matrix_dev->guests_lock",
    0,
);
/// `matrix_dev->mdevs_lock`.
pub const MDEVS: Lock = lock(class_id::MDEVS_LOCK, false, 9, "matrix_dev->mdevs_lock", 0);

const LOCKS: [Lock; 10] = [
    MATRIX, KVM, KVM_1, VCPU, HOOK_WRITE, HOOK_READ, BUSY, WORK, GUESTS, MDEVS,
];

/// A task made step by step. Serials count up in the order of its records.
#[derive(Clone)]
pub struct Task(pub TaskState);

/// A task that does nothing yet.
pub fn task(tid: u32, comm: &str) -> Task {
    Task(TaskState {
        tid,
        pid: tid / 10 * 10,
        comm: comm.into(),
        ..TaskState::default()
    })
}

/// Milliseconds after the start of the run.
pub const fn at(ms: u64) -> u64 {
    START_NS + ms * 1_000_000
}

impl Task {
    fn serial(&self) -> u64 {
        (self.0.holds.len() + self.0.waits.len() + 1) as u64
    }

    /// Inside a call since so many milliseconds.
    pub fn inside(mut self, entry: u8, ms: u64) -> Self {
        self.0.inside.push(Inside {
            entry: u32::from(entry),
            since_ns: at(ms),
            ..Inside::default()
        });
        self
    }

    /// Holds a lock that it took in a call.
    pub fn holds(mut self, lock: Lock, entry: u8, ms: u64) -> Self {
        let serial = self.serial();
        self.0.holds.push(Holding {
            series: lock.series,
            instance: lock.id,
            lock: lock.address,
            since_ns: at(ms),
            serial,
            entry: u32::from(entry),
            evidence: "probe".into(),
            ..Holding::default()
        });
        self
    }

    /// A vCPU: in KVM_RUN, with its mutex.
    pub fn on_cpu(mut self) -> Self {
        let call = Inside {
            entry: u32::from(entry_id::KVM_VCPU_IOCTL),
            since_ns: START_NS,
            ..Inside::default()
        };
        self.0.inside.insert(0, call);
        self.holds(VCPU, entry_id::KVM_VCPU_IOCTL, 0)
    }

    /// Waits for a lock.
    pub fn waits(mut self, lock: Lock, entry: u8, ms: u64) -> Self {
        let serial = self.serial();
        self.0.waits.push(Waiting {
            series: lock.series,
            instance: lock.id,
            lock: lock.address,
            since_ns: at(ms),
            serial,
            entry: u32::from(entry),
            evidence: "probe".into(),
            ..Waiting::default()
        });
        self
    }

    /// Asleep, and where.
    pub fn asleep(mut self, state: &str, function: &str) -> Self {
        self.0.state = state.into();
        self.0.asleep_in = function.into();
        self
    }

    /// Context switches so far.
    pub fn switches(mut self, switches: u64) -> Self {
        self.0.switches = switches;
        self
    }

    /// Has ended.
    pub fn exited(mut self) -> Self {
        self.0.exited = true;
        self
    }

    /// The same with all its records new.
    pub fn later(mut self, serial: u64) -> Self {
        for hold in &mut self.0.holds {
            hold.serial += serial;
        }
        for wait in &mut self.0.waits {
            wait.serial += serial;
        }
        self
    }
}

/// A run that is diagnosed as it goes on.
pub struct Run {
    /// The model.
    pub model: Model,
    diagnosis: Diagnosis,
    meta: Option<Meta>,
    number: u64,
}

impl Run {
    /// Of a generation, everything measured.
    pub fn of(generation: &str) -> Self {
        let instances = LOCKS.map(|lock| Instance {
            id: lock.id,
            name: lock.name.into(),
            address: lock.address,
            series: lock.series,
            guest: lock.guest,
        });
        Self::with(Meta {
            source: "emulator".into(),
            probe: "in-process".into(),
            generation: generation.into(),
            start_ns: START_NS,
            level: 2,
            instances: instances.to_vec(),
            ..Meta::default()
        })
    }

    /// With this description.
    pub fn with(meta: Meta) -> Self {
        Self {
            model: Model::default(),
            diagnosis: Diagnosis::new(Thresholds::default()),
            meta: Some(meta),
            number: 0,
        }
    }

    /// Changes the description before the first tick.
    pub fn described(mut self, change: impl FnOnce(&mut Meta)) -> Self {
        if let Some(meta) = &mut self.meta {
            change(meta);
        }
        self
    }

    /// Asks about a guest.
    pub fn asked(mut self, guest: u32) -> Self {
        self.diagnosis.ask(guest);
        self
    }

    /// Milliseconds since the start at the end of the next tick.
    pub const fn next_ms(&self) -> u64 {
        (self.number + 1) * 100
    }

    /// The next tick is the last.
    pub fn next_is_last(&mut self) {
        self.diagnosis.next_is_last();
    }

    /// One tick with these tasks.
    pub fn tick(&mut self, tasks: &[Task]) {
        self.frame(tasks, Frame::default());
    }

    /// So many ticks with the same tasks.
    pub fn ticks(&mut self, count: usize, tasks: &[Task]) {
        for _ in 0..count {
            self.tick(tasks);
        }
    }

    /// One tick with these tasks and what else is in `frame`.
    pub fn frame(&mut self, tasks: &[Task], mut frame: Frame) {
        frame.number = self.number;
        frame.at_ns = START_NS + (self.number + 1) * TICK_NS;
        frame.meta = frame.meta.or_else(|| self.meta.take());
        frame.live = Some(Live {
            tasks: tasks.iter().map(|task| task.0.clone()).collect(),
            ..Live::default()
        });
        self.number += 1;
        self.model.apply(&frame);
        assert_eq!(self.model.ignored, 0, "the frame makes no sense");
        self.diagnosis.observe(&self.model, &frame);
        self.texts_are_plain();
    }

    /// Everything that people read is ASCII, one line each, and says something.
    fn texts_are_plain(&self) {
        let report = self.diagnosis.report();
        let mut texts = vec![report.verdict.to_string()];
        for finding in &report.findings {
            let seen = &finding.seen;
            texts.extend([seen.summary.clone(), seen.meaning.clone()]);
            texts.extend(
                seen.details
                    .iter()
                    .chain(&seen.help)
                    .chain(&seen.locks)
                    .cloned(),
            );
            texts.extend(seen.tasks.iter().map(|task| task.comm.clone()));
            texts.extend(finding.upstream.iter().map(History::text));
            texts.extend(seen.chain.iter().flat_map(Chain::lines));
            assert!(!seen.help.is_empty(), "{}: nothing can help?", finding.id);
        }
        for text in texts {
            assert!(text.is_ascii() && !text.contains('\n'), "{text:?}");
            assert!(!text.trim().is_empty());
            assert!(!text.contains('?') && !text.contains("  by"), "{text:?}");
        }
    }

    /// Findings of a kind that stand.
    pub fn found(&self, kind: u8) -> Vec<Finding> {
        let findings = self.diagnosis.report().findings.into_iter();
        findings
            .filter(|f| f.id == Id(kind) && f.active())
            .collect()
    }

    /// The only finding of a kind that stands.
    pub fn one(&self, kind: u8) -> Finding {
        let mut found = self.found(kind);
        assert_eq!(found.len(), 1, "AP{kind:03}: {:?}", self.kinds());
        found.remove(0)
    }

    /// Kinds of findings that stand, once each.
    pub fn kinds(&self) -> Vec<u8> {
        let mut kinds: Vec<u8> = self
            .diagnosis
            .report()
            .findings
            .iter()
            .filter(|finding| finding.active())
            .map(|finding| finding.id.0)
            .collect();
        kinds.sort_unstable();
        kinds.dedup();
        kinds
    }

    /// All findings, also those that are over.
    pub fn all(&self) -> Vec<Finding> {
        self.diagnosis.report().findings
    }

    /// The verdict.
    pub fn verdict(&self) -> String {
        self.diagnosis.report().verdict.to_string()
    }
}

/// All texts of a finding.
pub fn text(finding: &Finding) -> String {
    let seen = &finding.seen;
    let mut lines = vec![seen.summary.clone()];
    lines.extend(seen.details.clone());
    lines.push(seen.meaning.clone());
    lines.extend(seen.help.clone());
    lines.extend(seen.chain.iter().flat_map(Chain::lines));
    lines.join("\n")
}

/// Lines of a finding's chain.
pub fn chain(finding: &Finding) -> Vec<String> {
    finding
        .seen
        .chain
        .as_ref()
        .map(Chain::lines)
        .unwrap_or_default()
}

/// An edge between two locks, seen by one task.
pub fn edge(held: Lock, acquired: Lock, tid: u32) -> Edge {
    Edge {
        held: held.series,
        acquired: acquired.series,
        count_total: 3,
        first_tid: tid,
        first_comm: "CPU 0/KVM".into(),
        pairs: vec![held.id, acquired.id],
        ..Edge::default()
    }
}

/// So many acquisitions of a lock outside of every entry point.
pub fn acquired(lock: Lock, count: u64) -> SeriesDelta {
    let by = |id| CoarseDelta {
        id,
        acquisitions: count,
        ..CoarseDelta::default()
    };
    SeriesDelta {
        series: lock.series,
        acquisitions: count,
        by_instance: vec![by(lock.id)],
        by_entry: vec![by(0)],
        ..SeriesDelta::default()
    }
}

/// Releases of a lock, and how many of them had no acquisition.
pub fn released(lock: Lock, releases: u64, unmatched: u64) -> SeriesDelta {
    SeriesDelta {
        series: lock.series,
        releases,
        unmatched_releases: unmatched,
        by_instance: vec![CoarseDelta {
            id: lock.id,
            releases,
            unmatched_releases: unmatched,
            ..CoarseDelta::default()
        }],
        ..SeriesDelta::default()
    }
}

/// Returns of an entry point.
pub fn returned(entry: u8, codes: &[(u32, u64)]) -> EntryDelta {
    EntryDelta {
        entry: u32::from(entry),
        calls: codes.iter().map(|c| c.1).sum(),
        code: codes.iter().map(|c| c.0).collect(),
        code_count: codes.iter().map(|c| c.1).collect(),
        ..EntryDelta::default()
    }
}
