//! What a rule may look at: one moment of a run, with how long things have stood.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use probe_ebpf::abi::MAX_NESTED;
use probe_ebpf::names::{ENTRY_POINTS, class_id, entry_id};

use super::finding::TaskRef;
use super::graph::waits::{Waits, innermost};
use super::thresholds::Thresholds;
use crate::frame;
use crate::model::{Model, query};

/// Tasks that a finding lists, where it is about many.
const SHOWN_TASKS: usize = 16;
/// Tasks that a sentence names.
const NAMED_TASKS: usize = 4;

/// What identifies a wait or a hold: thread id, series, and its number within the task.
pub type RecordKey = (u32, u32, u64);

/// For how long a record has been seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stood {
    /// In how many readings in a row.
    pub readings: u32,
    /// Of these, the last so many with the same number of context switches of its task; all, where that is not known.
    pub still: u32,
    switches: u64,
}

/// Waits and holds that have been there before.
#[derive(Debug, Clone, Default)]
pub struct Standing {
    waits: HashMap<RecordKey, Stood>,
    holds: HashMap<RecordKey, Stood>,
    /// By thread id, where its switches are known.
    still: HashMap<u32, Still>,
}

/// A task that has not been switched to.
#[derive(Debug, Clone, Copy)]
struct Still {
    switches: u64,
    /// The first reading with this count, and the last.
    first_ns: u64,
    last_ns: u64,
}

/// Whether a task that sleeps gets on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// It has run a short time ago, or has slept for a short time only.
    Moves,
    /// It has not run for at least so many nanoseconds, which is longer than the threshold.
    Stands(u64),
    /// Nothing that was read says so.
    NotSeen,
}

impl Standing {
    /// Counts another reading, of this moment.
    pub fn read(&mut self, tasks: &[frame::TaskState], now_ns: u64) {
        let before = std::mem::take(&mut self.still);
        self.still = tasks
            .iter()
            .filter_map(|task| {
                let known = before.get(&task.tid);
                // A count that is not known (0) says nothing.
                let still = match known {
                    _ if task.exited => return None,
                    Some(known) if task.switches == 0 => *known,
                    None if task.switches == 0 => return None,
                    Some(known) if known.switches == task.switches => Still {
                        last_ns: now_ns,
                        ..*known
                    },
                    _ => Still {
                        switches: task.switches,
                        first_ns: now_ns,
                        last_ns: now_ns,
                    },
                };
                Some((task.tid, still))
            })
            .collect();
        let waits = tasks
            .iter()
            .flat_map(|task| task.waits.iter().map(move |w| (task, w.series, w.serial)));
        let holds = tasks
            .iter()
            .flat_map(|task| task.holds.iter().map(move |h| (task, h.series, h.serial)));
        self.waits = counted(&self.waits, waits);
        self.holds = counted(&self.holds, holds);
    }

    /// A wait; it has been seen at least once.
    pub fn wait(&self, tid: u32, wait: &frame::Waiting) -> Option<Stood> {
        self.waits.get(&(tid, wait.series, wait.serial)).copied()
    }

    /// A hold.
    pub fn hold(&self, tid: u32, hold: &frame::Holding) -> Option<Stood> {
        self.holds.get(&(tid, hold.series, hold.serial)).copied()
    }

    /// For how long a task is known not to have run; `None` if its switches were never read.
    pub fn still_ns(&self, tid: u32) -> Option<u64> {
        let still = self.still.get(&tid)?;
        Some(still.last_ns.saturating_sub(still.first_ns))
    }
}

fn counted<'a>(
    before: &HashMap<RecordKey, Stood>,
    now: impl Iterator<Item = (&'a frame::TaskState, u32, u64)>,
) -> HashMap<RecordKey, Stood> {
    now.map(|(task, series, serial)| {
        let key = (task.tid, series, serial);
        let stood = match before.get(&key) {
            None => Stood {
                readings: 1,
                still: 1,
                switches: task.switches,
            },
            Some(stood) => Stood {
                readings: stood.readings.saturating_add(1),
                // A count that is not known (0) says nothing.
                still: if task.switches == stood.switches
                    || task.switches == 0
                    || stood.switches == 0
                {
                    stood.still.saturating_add(1)
                } else {
                    1
                },
                // What is not asked for in one reading is compared with the last that was.
                switches: if task.switches == 0 {
                    stood.switches
                } else {
                    task.switches
                },
            },
        };
        (key, stood)
    })
    .collect()
}

/// One moment of a run.
#[derive(Debug)]
pub struct Look<'a> {
    /// Everything known.
    pub model: &'a Model,
    /// The frame that the model was brought up to date with.
    pub frame: &'a frame::Frame,
    /// Who waits for whom.
    pub waits: &'a Waits<'a>,
    /// For how long.
    pub standing: &'a Standing,
    /// From when on something is worth a finding.
    pub thresholds: &'a Thresholds,
    /// The driver is one of these generations; all where nothing is known.
    pub generations: &'a [String],
    /// The guest that somebody asked about, by number.
    pub asked: Option<u32>,
    /// Names of guests, see [`guest_labels`].
    pub labels: &'a HashMap<u32, String>,
    /// Which guest's a process is.
    pub processes: &'a Processes,
    /// Nothing comes after this reading: texts are made anew, also those that are a moment old only.
    pub last: bool,
}

/// Processes that have run a vCPU, and of which guest: a task of such a process works for that guest, whatever it holds.
#[derive(Debug, Clone, Default)]
pub struct Processes {
    /// By process id: the guest; `None` for a process that has run vCPUs of several.
    guests: HashMap<u32, Option<u32>>,
}

/// Processes remembered.
const MAX_PROCESSES: usize = 4096;

impl Processes {
    /// Learns from a reading. All guests of an emulated driver are of one process, which says nothing.
    pub fn read(&mut self, model: &Model) {
        if query::emulated(model) {
            return;
        }
        let vcpus = u32::from(class_id::VCPU_MUTEX);
        for task in model.live.iter().filter(|task| task.pid != 0) {
            let held = task.holds.iter().filter(|hold| hold.series >> 1 == vcpus);
            for instance in held.filter_map(|hold| model.instances.get(&hold.instance)) {
                let Some(guest) = instance.guest.checked_sub(1) else {
                    continue;
                };
                if self.guests.len() >= MAX_PROCESSES && !self.guests.contains_key(&task.pid) {
                    continue;
                }
                let known = self.guests.entry(task.pid).or_insert(Some(guest));
                if *known != Some(guest) {
                    *known = None;
                }
            }
        }
    }

    fn guest(&self, pid: u32) -> Option<u32> {
        self.guests.get(&pid).copied().flatten()
    }
}

impl Look<'_> {
    /// The end of the tick.
    pub const fn now(&self) -> u64 {
        self.model.last.at_ns
    }

    /// Time since then.
    pub const fn ago(&self, since_ns: u64) -> u64 {
        self.now().saturating_sub(since_ns)
    }

    /// It is made from stacks that somebody saved: one moment, of tasks that were saved because they did not go on.
    pub fn from_stacks(&self) -> bool {
        let meta = self.model.meta.as_ref();
        meta.is_some_and(|meta| meta.source == "stacks")
    }

    /// What has begun then has lasted for longer than the threshold. In stacks, where nobody knows since when, it has.
    pub fn lasts(&self, since_ns: u64, threshold: Duration) -> bool {
        self.from_stacks() || self.ago(since_ns) >= self.nanos(threshold)
    }

    /// A threshold in nanoseconds.
    pub fn nanos(&self, threshold: Duration) -> u64 {
        u64::try_from(threshold.as_nanos()).unwrap_or(u64::MAX)
    }

    /// Whether a task that sleeps gets on: by its context switches; in stacks, by the hung-task detector's word.
    pub fn progress(&self, task: &frame::TaskState) -> Progress {
        let calls = task.inside.iter().map(|call| call.since_ns);
        let began = calls.chain(task.holds.iter().map(|hold| hold.since_ns));
        let for_ns = began.min().map_or(0, |since| self.ago(since));
        let stuck_ns = self.nanos(self.thresholds.stuck);
        if self.from_stacks() {
            return if task.state == "D" && for_ns > 0 {
                Progress::Stands(for_ns)
            } else {
                Progress::NotSeen
            };
        }
        match self.standing.still_ns(task.tid) {
            Some(still) if still >= stuck_ns => Progress::Stands(still),
            None if for_ns >= stuck_ns => Progress::NotSeen,
            _ => Progress::Moves,
        }
    }

    /// Whether a task has to do with the driver: it is in a function of the driver, of the AP bus or of KVM's PQAP
    /// handling, or holds or waits for a lock that KVM does not take for itself.
    pub fn involved(&self, task: &frame::TaskState) -> bool {
        let kvms = [class_id::VCPU_MUTEX, class_id::KVM_LOCK].map(u32::from);
        let holds = task.holds.iter().map(|hold| hold.series);
        let mut locks = holds.chain(task.waits.iter().map(|wait| wait.series));
        locks.any(|series| !kvms.contains(&(series >> 1)))
            || task.inside.iter().any(|call| is_drivers(call.entry as u8))
    }

    /// Places of the tasks that are in or behind the driver, or may be: with those who wait for nobody knows whom.
    pub fn concerned(&self) -> BTreeSet<usize> {
        let roots: Vec<usize> = (0..self.waits.tasks.len())
            .filter(|&place| {
                let task = &self.waits.tasks[place];
                let for_nobody = innermost(task).is_some() && self.waits.blockers(place).is_empty();
                for_nobody || self.involved(task)
            })
            .collect();
        self.waits.behind(&roots).into_iter().chain(roots).collect()
    }

    /// Names of the locks that a task holds, once each, without those that are held for long by design.
    pub fn kept(&self, task: &frame::TaskState) -> Vec<String> {
        let holds = task
            .holds
            .iter()
            .filter(|hold| !query::long_hold_is_normal(hold.series as u8));
        let names: BTreeSet<String> = holds
            .map(|hold| self.lock_name(hold.series, hold.instance))
            .collect();
        names.into_iter().collect()
    }

    /// A task holds a lock that it took in a call which is over. Locks taken outside of every traced function are not.
    pub fn left_entry(&self, task: &frame::TaskState, hold: &frame::Holding) -> bool {
        hold.entry != u32::from(entry_id::NONE)
            && task.inside.len() < MAX_NESTED
            && !task
                .inside
                .iter()
                .any(|inside| inside.entry == hold.entry && inside.since_ns <= hold.since_ns)
    }

    /// The driver can only be of one of these generations.
    pub fn only(&self, generations: &[&str]) -> bool {
        !self.generations.is_empty()
            && self
                .generations
                .iter()
                .all(|known| generations.contains(&known.as_str()))
    }

    /// The driver may be of one of these generations.
    pub fn may_be(&self, generations: &[&str]) -> bool {
        self.generations
            .iter()
            .any(|known| generations.contains(&known.as_str()))
    }

    /// A task has been in the same innermost wait for so many readings, without having run meanwhile.
    pub fn waits_still(&self, task: &frame::TaskState, readings: u32) -> bool {
        innermost(task)
            .and_then(|wait| self.standing.wait(task.tid, wait))
            .is_some_and(|stood| stood.still >= readings)
    }

    /// An open-coded lock has been seen to be cleared, and nobody has set it since.
    pub fn flag_is_clear(&self, instance: u32) -> bool {
        let held = self.waits.tasks.iter().flat_map(|task| &task.holds);
        let held = held
            .filter(|hold| query::open_coded(hold.series as u8))
            .any(|hold| hold.instance == instance);
        let read = self.model.clear_flags.contains(&instance);
        !held && (read || self.flag_was_cleared(instance))
    }

    fn flag_was_cleared(&self, instance: u32) -> bool {
        self.model.series.iter().any(|(&series, of)| {
            query::open_coded(series)
                && of.by_instance.get(&instance).is_some_and(|flag| {
                    let matched = flag.releases.saturating_sub(flag.unmatched_releases);
                    flag.releases > 0 && matched >= flag.acquisitions
                })
        })
    }

    /// Acquisitions of the lock that is waited for, since the reading before, in both modes of an rwsem.
    pub fn acquired_since(&self, wait: &frame::Waiting) -> u64 {
        let class = wait.series >> 1;
        let of = self
            .frame
            .series
            .iter()
            .filter(|delta| delta.series >> 1 == class);
        of.map(|delta| {
            if delta.by_instance.is_empty() && self.only_instance(class) {
                return delta.acquisitions;
            }
            let by = delta.by_instance.iter();
            let by = by.filter(|by| self.is_same_lock(wait, by.id));
            by.map(|by| by.acquisitions).fold(0, u64::saturating_add)
        })
        .fold(0, u64::saturating_add)
    }

    /// Whether an instance is the lock that is waited for: both modes of an rwsem are instances with one address.
    pub fn is_same_lock(&self, wait: &frame::Waiting, id: u32) -> bool {
        id == wait.instance
            || self.model.instances.get(&id).is_some_and(|known| {
                wait.lock != 0
                    && (known.address, known.series >> 1) == (wait.lock, wait.series >> 1)
            })
    }

    /// At most one lock of the class is known.
    fn only_instance(&self, class: u32) -> bool {
        let of = self.model.instances.values();
        let mut of = of
            .filter(|known| known.series >> 1 == class)
            .map(|known| known.address);
        let first = of.next();
        of.all(|address| Some(address) == first)
    }

    /// Name of a guest that nothing is known of.
    pub fn unknown_guest(&self, guest: u32) -> Option<String> {
        let emulated = query::emulated(self.model);
        let guests = self.model.meta.as_ref().map_or(0, |meta| meta.guests);
        let known = self.labels.contains_key(&guest) || emulated && guest < guests;
        (!known).then(|| self.guest_label(guest))
    }

    /// Waits for mutexes and rwsems are on record. Below level 2 a kernel shows them through its contention tracepoints,
    /// which it has since v5.19.
    pub fn waits_seen(&self) -> bool {
        let Some(meta) = &self.model.meta else {
            return true;
        };
        let tracepoint = |point: &frame::AttachPoint| {
            point.symbol.contains("contention_begin") && point.mechanism != "none"
        };
        !query::is_kernel(meta)
            || meta.reads_queues
            || meta.level >= 2
            || meta.attach.iter().any(tracepoint)
    }

    /// Why a holder may be missing from live state; `None` where every acquisition is seen.
    pub fn holders_unseen(&self) -> Option<String> {
        let meta = self.model.meta.as_ref()?;
        if meta.source == "stacks" {
            return Some("none of the stacks implies that its task holds it".into());
        }
        match meta.level {
            0 | 1 if query::is_kernel(meta) => Some(format!(
                "at level {} only the owner in a lock's word is seen, and an rwsem's readers are not",
                meta.level
            )),
            _ => None,
        }
    }

    /// Readers that hold a lock, by its count, and that nothing is known of.
    pub fn unseen_readers(&self, lock: u64) -> u64 {
        let all = self.model.unseen_readers.iter();
        all.filter(|unseen| lock != 0 && unseen.lock == lock)
            .map(|unseen| unseen.readers)
            .fold(0, u64::saturating_add)
    }

    /// Name of a lock.
    pub fn lock_name(&self, series: u32, instance: u32) -> String {
        query::lock_name(self.model, series as u8, instance).to_owned()
    }

    /// The task, for a finding.
    pub fn task_ref(&self, task: &frame::TaskState) -> TaskRef {
        TaskRef {
            tid: task.tid,
            comm: task.comm.clone(),
            role: self.role(task),
        }
    }

    /// The first tasks of a list, for a finding.
    pub fn task_refs<'b>(&self, places: impl IntoIterator<Item = &'b usize>) -> Vec<TaskRef> {
        let tasks = places.into_iter().map(|&place| &self.waits.tasks[place]);
        tasks
            .take(SHOWN_TASKS)
            .map(|task| self.task_ref(task))
            .collect()
    }

    /// Names of the first tasks of a list, for a sentence.
    pub fn task_names(&self, places: &[usize]) -> Vec<String> {
        let tasks = places.iter().map(|&place| &self.waits.tasks[place]);
        tasks.take(NAMED_TASKS).map(query::task_name).collect()
    }

    /// What a task holds besides locks, by the functions that it is in, and who waits for that.
    ///
    /// `__vcpu_run` reads `kvm->srcu` around the handling of an intercept (arch/s390/kvm/kvm-s390.c, v5.10 to v7.2);
    /// kernfs holds an active reference to a file's node around its read and write (fs/kernfs/file.c).
    pub fn besides(&self, task: &frame::TaskState) -> Vec<&'static str> {
        let inside = |name: fn(&str) -> bool| {
            let mut calls = task.inside.iter();
            calls.any(|call| name(query::entry_name(call.entry as u8)))
        };
        let mut held = Vec::new();
        if inside(|name| name.starts_with("handle_pqap")) {
            held.push("reads kvm->srcu, which a change of the guest's memory slots waits for");
        }
        if inside(|name| name.ends_with("_store") || name.ends_with("_show")) {
            held.push("has an active kernfs reference, which a removal of the attribute's device waits for");
        }
        held
    }

    /// What a task is at: by the functions that it is in, never by its name.
    pub fn role(&self, task: &frame::TaskState) -> String {
        let at = task
            .inside
            .iter()
            .find_map(|inside| role_of(inside.entry as u8));
        let at = at.or_else(|| {
            let records = task.waits.iter().map(|w| w.entry);
            records
                .chain(task.holds.iter().map(|h| h.entry))
                .find_map(|entry| role_of(entry as u8))
        });
        match (at, self.guest_name(task)) {
            (Some(at), Some(guest)) => format!("{at} of {guest}"),
            (Some(at), None) => at.to_owned(),
            (None, Some(guest)) => format!("a task of {guest}"),
            (None, None) => String::new(),
        }
    }

    /// Number of the guest that a task works for, by the locks that it holds and waits for, else by its process.
    pub fn guest(&self, task: &frame::TaskState) -> Option<u32> {
        guest_of(self.model, task).or_else(|| self.processes.guest(task.pid))
    }

    /// Name of a guest: what instances call it, else its number.
    pub fn guest_label(&self, guest: u32) -> String {
        match self.labels.get(&guest) {
            // Stacks know a guest by its process alone.
            Some(label) if self.from_stacks() => match label.strip_prefix("children of ") {
                Some(parent) => format!("the guest with parent process {parent}"),
                None if label == "?" => "the guest".to_owned(),
                None => format!("the guest of {label}"),
            },
            Some(label) => label.clone(),
            None => format!("guest-{guest}"),
        }
    }

    fn guest_name(&self, task: &frame::TaskState) -> Option<String> {
        self.guest(task).map(|guest| self.guest_label(guest))
    }
}

/// Number of the guest that a task works for, by the locks that it holds and waits for.
pub fn guest_of(model: &Model, task: &frame::TaskState) -> Option<u32> {
    let of = |instance: u32| {
        model
            .instances
            .get(&instance)
            .map(|known| known.guest)
            .filter(|&guest| guest != 0)
    };
    let locks = task.holds.iter().map(|h| (h.series, h.instance));
    let locks = locks.chain(task.waits.iter().map(|w| (w.series, w.instance)));
    locks
        .filter(|(series, _)| series >> 1 != u32::from(class_id::RESET_WORK))
        .find_map(|(_, instance)| of(instance))
        .map(|guest| guest - 1)
}

/// Names of guests by number: what the instances of their `kvm->lock` call them.
pub fn guest_labels(model: &Model) -> HashMap<u32, String> {
    let kvm_lock = u32::from(class_id::KVM_LOCK);
    let of = model.instances.values();
    of.filter(|known| known.series >> 1 == kvm_lock)
        .filter_map(|known| {
            let (_, name) = known.name.strip_suffix(']')?.split_once('[')?;
            Some((known.guest.checked_sub(1)?, name.to_owned()))
        })
        .collect()
}

/// A function of the driver or of the AP bus, or one of KVM's that is there for them.
fn is_drivers(entry: u8) -> bool {
    match entry {
        entry_id::NONE => false,
        entry_id::KVM_HANDLE_PQAP | entry_id::SET_MASKS | entry_id::CLEAR_MASKS => true,
        other => ENTRY_POINTS
            .get(usize::from(other))
            .is_some_and(|point| point.module != "kvm"),
    }
}

/// What somebody in this function is at.
fn role_of(entry: u8) -> Option<&'static str> {
    Some(match entry {
        entry_id::KVM_VCPU_IOCTL | entry_id::HANDLE_PQAP | entry_id::KVM_HANDLE_PQAP => "vCPU",
        entry_id::KVM_S390_HANDLE_PV => "conversion to a protected guest",
        entry_id::GROUP_NOTIFIER | entry_id::KVM_VFIO_SET_ATTR => "start or stop",
        entry_id::OPEN | entry_id::OPEN_DEVICE => "start",
        entry_id::RELEASE | entry_id::CLOSE_DEVICE => "stop",
        entry_id::IOCTL => "device ioctl",
        entry_id::ASSIGN_ADAPTER
        | entry_id::UNASSIGN_ADAPTER
        | entry_id::ASSIGN_DOMAIN
        | entry_id::UNASSIGN_DOMAIN
        | entry_id::ASSIGN_CONTROL_DOMAIN
        | entry_id::UNASSIGN_CONTROL_DOMAIN
        | entry_id::AP_CONFIG_STORE => "writer of the matrix",
        entry_id::MATRIX_SHOW
        | entry_id::CONTROL_DOMAINS_SHOW
        | entry_id::GUEST_MATRIX_SHOW
        | entry_id::AP_CONFIG_SHOW
        | entry_id::STATUS_SHOW => "reader of an attribute",
        entry_id::APMASK_STORE | entry_id::AQMASK_STORE => "writer of the bus masks",
        entry_id::ON_CFG_CHANGED | entry_id::ON_SCAN_COMPLETE => "scan of the AP bus",
        entry_id::QUEUE_DEV_PROBE | entry_id::PROBE_QUEUE => "queue that comes",
        entry_id::QUEUE_DEV_REMOVE | entry_id::REMOVE_QUEUE => "queue that goes",
        entry_id::CREATE | entry_id::PROBE => "creation of an mdev",
        entry_id::REMOVE => "removal of an mdev",
        entry_id::REQUEST => "request to give a device back",
        entry_id::DMA_UNMAP | entry_id::IOMMU_NOTIFIER => "unmapping of memory",
        entry_id::APQ_RESET_CHECK => "worker that polls a queue",
        _ => return None,
    })
}
