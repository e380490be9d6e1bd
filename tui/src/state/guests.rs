//! Guests: what each is at, who keeps it waiting, and which queues are known of its matrix.
//!
//! What is assigned and what a guest was given is in the description of its mdev, where the driver's memory can be read.
//! Everywhere, frames carry what was seen to happen: the queue that a vCPU named in a PQAP and how it was answered, and the
//! work items that reset a queue.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use apscope_collector::diagnose::chain::Root;
use apscope_collector::diagnose::look::{guest_labels, guest_of};
use apscope_collector::diagnose::{Finding, Severity};
use apscope_collector::frame::{Matrix, Object, TaskState};
use apscope_collector::model::{Model, query};
use probe_ebpf::names::{class_id, entry_id};

use super::Snapshot;
use super::table::{Column, TableState};
use crate::filter::{Filter, Percentile, Row, TextField, TimeField};

/// Columns that guests can be sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "named after the columns on screen")]
pub enum GuestColumn {
    Wait,
    Name,
    State,
    Waiting,
}

impl Column for GuestColumn {
    const ALL: &'static [Self] = &[Self::Wait, Self::Name, Self::State, Self::Waiting];

    fn descending(self) -> bool {
        self != Self::Name
    }
}

/// What a guest is at. Ordered: the worst is the largest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// None of its tasks is at anything.
    Idle,
    /// A vCPU runs.
    Running,
    /// It gets its device, or gives it back.
    Binding,
    /// It becomes a protected guest, or an ordinary one again.
    Converting,
    /// A finding says that it does not go on.
    Stuck,
}

impl State {
    /// One word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Running => "running",
            Self::Binding => "start/stop",
            Self::Converting => "converting",
            Self::Stuck => "STUCK",
        }
    }
}

/// What is known of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum QueueState {
    /// It is assigned to an mdev of the guest, or a work item for it exists; nobody has been seen to use it.
    Known,
    /// The guest was given it; where that cannot be read, a PQAP was answered as one for a queue that it has.
    InGuest,
    /// A PQAP was answered 01 (not available), 03 (deconfigured) or 04 (checkstopped).
    Refused(u8),
    /// It is being reset.
    Resetting,
    /// It has been in a reset for longer than a finding takes.
    Stuck,
}

/// A queue of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queue {
    /// Adapter.
    pub adapter: u8,
    /// Domain.
    pub domain: u8,
    /// What is known of it.
    pub state: QueueState,
    /// PQAPs of the guest that named it.
    pub uses: u64,
}

/// An mdev of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mdev {
    /// UUID.
    pub name: String,
    /// Control domains that are assigned to it.
    pub control_domains: Vec<u32>,
}

/// A guest.
#[derive(Debug, Clone, PartialEq)]
pub struct GuestRow {
    /// Its number.
    pub guest: u32,
    /// Its name.
    pub name: String,
    /// What it is at.
    pub state: State,
    /// The finding that says it is stuck.
    pub finding: Option<String>,
    /// vCPUs whose mutex is known.
    pub vcpus: usize,
    /// vCPUs in KVM_RUN.
    pub running: usize,
    /// vCPUs in the handler of PQAP.
    pub in_pqap: usize,
    /// Tasks of it that wait.
    pub waiting: usize,
    /// The longest of these waits.
    pub wait_ns: Option<u64>,
    /// The lock of the longest wait.
    pub wait_lock: String,
    /// Who is at the root of that.
    pub blocked_by: String,
    /// Queues, by adapter and domain.
    pub queues: Vec<Queue>,
    /// Its mdevs, as far as the driver's memory says what is assigned to them.
    pub mdevs: Vec<Mdev>,
    /// Names of its tasks, for the filter.
    tasks: String,
}

impl Row for GuestRow {
    fn text(&self, field: TextField) -> Option<&str> {
        Some(match field {
            TextField::Name | TextField::Guest => &self.name,
            TextField::Kind => self.state.name(),
            TextField::Class => &self.wait_lock,
            TextField::Holder => &self.blocked_by,
            TextField::Task => &self.tasks,
            TextField::Mdev => return None,
        })
    }

    fn time(&self, field: TimeField, _: Percentile) -> Option<u64> {
        self.wait_ns.filter(|_| field == TimeField::Wait)
    }
}

/// The guests that match, in order.
#[must_use]
pub fn rows(
    shown: &Snapshot,
    filter: &Filter,
    table: &TableState<GuestColumn, u32>,
) -> Vec<GuestRow> {
    let mut rows: Vec<GuestRow> = all(shown)
        .into_iter()
        .filter(|row| filter.matches(row))
        .collect();
    rows.sort_by(|a, b| {
        let order = match table.sort {
            GuestColumn::Wait => {
                (a.state == State::Stuck, a.wait_ns).cmp(&(b.state == State::Stuck, b.wait_ns))
            }
            GuestColumn::Name => a.guest.cmp(&b.guest),
            GuestColumn::State => a.state.cmp(&b.state),
            GuestColumn::Waiting => a.waiting.cmp(&b.waiting),
        };
        let order = if table.descending {
            order.reverse()
        } else {
            order
        };
        order.then(a.guest.cmp(&b.guest))
    });
    rows
}

/// All guests by number.
fn all(shown: &Snapshot) -> Vec<GuestRow> {
    let model = &shown.model;
    let labels = guest_labels(model);
    let mut vcpus: BTreeMap<u32, usize> = BTreeMap::new();
    for instance in model.instances.values().filter(|i| i.guest != 0) {
        let own = vcpus.entry(instance.guest - 1).or_default();
        *own += usize::from(instance.series >> 1 == u32::from(class_id::VCPU_MUTEX));
    }
    let mut tasks: BTreeMap<u32, Vec<&TaskState>> = BTreeMap::new();
    for task in &model.live {
        if let Some(guest) = guest_of(model, task) {
            tasks.entry(guest).or_default().push(task);
        }
    }
    let mut mdevs = mdevs(model);
    let mut queues = queues(shown);
    let known = Known {
        shown,
        owners: owners(model),
    };
    vcpus
        .into_iter()
        .map(|(guest, vcpus)| {
            let own = tasks.remove(&guest).unwrap_or_default();
            row(
                &known,
                guest,
                labels
                    .get(&guest)
                    .cloned()
                    .unwrap_or_else(|| format!("guest-{guest}")),
                vcpus,
                &own,
                queues.remove(&guest).unwrap_or_default(),
                mdevs.remove(&guest).unwrap_or_default(),
            )
        })
        .collect()
}

/// What the rows of all guests are made of.
struct Known<'a> {
    shown: &'a Snapshot,
    /// Of each task that waits, who has held what it is blocked on longest, where one is known.
    owners: HashMap<u32, Option<u32>>,
}

fn row(
    known: &Known<'_>,
    guest: u32,
    name: String,
    vcpus: usize,
    own: &[&TaskState],
    queues: Vec<Queue>,
    mdevs: Vec<Mdev>,
) -> GuestRow {
    let shown = known.shown;
    let now = shown.model.last.at_ns;
    let inside = |task: &TaskState, wanted: &[u8]| {
        task.inside
            .iter()
            .any(|call| wanted.contains(&(call.entry as u8)))
    };
    let count = |wanted: &[u8]| own.iter().filter(|task| inside(task, wanted)).count();
    let running = own
        .iter()
        .filter(|task| {
            task.holds
                .iter()
                .any(|hold| hold.series >> 1 == u32::from(class_id::VCPU_MUTEX))
                && !inside(task, &[entry_id::KVM_S390_HANDLE_PV])
        })
        .count();
    let waits = own
        .iter()
        .filter_map(|task| Some((*task, task.waits.last()?)));
    let longest = waits.clone().min_by_key(|(_, wait)| wait.since_ns);
    let finding = stuck(shown, own);
    let state = if finding.is_some() {
        State::Stuck
    } else if count(&[entry_id::KVM_S390_HANDLE_PV]) > 0 {
        State::Converting
    } else if count(&BINDING) > 0 {
        State::Binding
    } else if running > 0 {
        State::Running
    } else {
        State::Idle
    };
    GuestRow {
        guest,
        name,
        state,
        vcpus,
        running: running.min(vcpus.max(running)),
        in_pqap: count(&[entry_id::HANDLE_PQAP, entry_id::KVM_HANDLE_PQAP]),
        waiting: waits.count(),
        wait_ns: longest.map(|(_, wait)| now.saturating_sub(wait.since_ns)),
        wait_lock: longest.map_or_else(String::new, |(_, wait)| {
            query::lock_name(&shown.model, wait.series as u8, wait.instance).to_owned()
        }),
        blocked_by: blocked_by(
            &shown.model,
            finding,
            longest.map(|(task, _)| task),
            &known.owners,
        ),
        finding: finding.map(|finding| finding.id.to_string()),
        queues,
        mdevs,
        tasks: own
            .iter()
            .flat_map(|task| [task.comm.as_str(), " "])
            .collect(),
    }
}

/// Entry points of a guest that gets its device or gives it back.
const BINDING: [u8; 6] = [
    entry_id::GROUP_NOTIFIER,
    entry_id::KVM_VFIO_SET_ATTR,
    entry_id::OPEN,
    entry_id::OPEN_DEVICE,
    entry_id::RELEASE,
    entry_id::CLOSE_DEVICE,
];

/// The worst finding that stands and that one of these tasks is in.
fn stuck<'a>(shown: &'a Snapshot, own: &[&TaskState]) -> Option<&'a Finding> {
    shown.report.findings.iter().find(|finding| {
        let of = |tid: u32| own.iter().any(|task| task.tid == tid);
        // Of these, whoever is in it does not go on.
        matches!(finding.id.0, 1 | 3 | 4 | 7 | 12)
            && finding.active()
            && finding.seen.severity >= Severity::Warning
            && finding.seen.tasks.iter().any(|task| of(task.tid))
    })
}

/// [`Known::owners`].
fn owners(model: &Model) -> HashMap<u32, Option<u32>> {
    query::waiters(model)
        .into_iter()
        .filter(|waiter| waiter.innermost)
        .map(|waiter| (waiter.tid, waiter.owner_tid))
        .collect()
}

fn blocked_by(
    model: &Model,
    finding: Option<&Finding>,
    waiter: Option<&TaskState>,
    owners: &HashMap<u32, Option<u32>>,
) -> String {
    if let Some((task, root)) = finding
        .and_then(|finding| finding.seen.chain.as_ref())
        .and_then(apscope_collector::diagnose::chain::Chain::root)
    {
        return match root {
            Root::Cycle(_) => "a cycle that it is in".to_owned(),
            Root::PollingHardware { work } => format!("hardware: {work}"),
            _ => format!("{} ({}), {}", task.comm, task.tid, root.name()),
        };
    }
    let Some(waiter) = waiter else {
        return String::new();
    };
    owners.get(&waiter.tid).copied().flatten().map_or_else(
        || "nobody known".to_owned(),
        |tid| {
            let task = model.live.iter().find(|task| task.tid == tid);
            task.map_or_else(|| format!("({tid})"), query::task_name)
        },
    )
}

/// Queues by guest.
fn queues(shown: &Snapshot) -> BTreeMap<u32, Vec<Queue>> {
    let model = &shown.model;
    let mut known: BTreeMap<(u32, u16), Queue> = BTreeMap::new();
    let queue = |apqn: u16, state, uses| Queue {
        adapter: (apqn >> 8) as u8,
        domain: apqn as u8,
        state,
        uses,
    };
    let mut assigned: BTreeSet<u32> = BTreeSet::new();
    for (guest, object) in of_guests(model) {
        assigned.insert(guest);
        for (matrix, state) in [
            (&object.assigned, QueueState::Known),
            (&object.in_guest, QueueState::InGuest),
        ] {
            for apqn in matrix.iter().flat_map(apqns) {
                known.insert((guest, apqn), queue(apqn, state, 0));
            }
        }
    }
    let work = u32::from(class_id::RESET_WORK);
    for instance in model.instances.values() {
        if instance.series >> 1 == work
            && instance.guest != 0
            && let Some(apqn) = apqn_of(&instance.name)
        {
            let key = (instance.guest - 1, apqn);
            known
                .entry(key)
                .or_insert_with(|| queue(apqn, QueueState::Known, 0));
        }
    }
    for (&(guest, apqn), used) in shown.history.queues() {
        // AP_RESPONSE_* of arch/s390/include/asm/ap.h (v5.10 to v7.2).
        let state = match used.response {
            response @ (1 | 3 | 4) => QueueState::Refused(response),
            2 => QueueState::Resetting,
            _ => QueueState::InGuest,
        };
        // An answer of before says nothing of a queue that was taken away since.
        let has = known.get(&(guest, apqn)).map(|queue| queue.state);
        let state = match has {
            Some(now) if state == QueueState::InGuest && assigned.contains(&guest) => now,
            None if state == QueueState::InGuest && assigned.contains(&guest) => continue,
            _ => state,
        };
        known.insert((guest, apqn), queue(apqn, state, used.count));
    }
    let reset_ns = 1_000_000_000;
    for hold in model.live.iter().flat_map(|task| &task.holds) {
        let Some(instance) = model.instances.get(&hold.instance) else {
            continue;
        };
        if hold.series >> 1 != work {
            continue;
        }
        let Some(apqn) = apqn_of(&instance.name) else {
            continue;
        };
        let stuck = model.last.at_ns.saturating_sub(hold.since_ns) >= reset_ns;
        for (_, queue) in known.iter_mut().filter(|((guest, known), _)| {
            *known == apqn && (instance.guest == 0 || instance.guest == guest + 1)
        }) {
            queue.state = if stuck {
                QueueState::Stuck
            } else {
                QueueState::Resetting
            };
        }
    }
    let mut by_guest: BTreeMap<u32, Vec<Queue>> = BTreeMap::new();
    for ((guest, _), queue) in known {
        by_guest.entry(guest).or_default().push(queue);
    }
    by_guest
}

/// Mdevs whose matrix is known, with the number of the guest that has them or had them last.
fn of_guests(model: &Model) -> impl Iterator<Item = (u32, &Object)> {
    let objects = model.objects.values();
    objects.filter_map(|object| {
        let guest = object.guest.checked_sub(1)?;
        object.assigned.is_some().then_some((guest, object))
    })
}

/// Mdevs by guest.
fn mdevs(model: &Model) -> BTreeMap<u32, Vec<Mdev>> {
    let mut mdevs: BTreeMap<u32, Vec<Mdev>> = BTreeMap::new();
    for (guest, object) in of_guests(model) {
        let assigned = object.assigned.as_ref();
        mdevs.entry(guest).or_default().push(Mdev {
            name: object.name.clone(),
            control_domains: assigned.map_or_else(Vec::new, |all| all.control_domains.clone()),
        });
    }
    mdevs
}

/// The queues of a matrix: each adapter with each usage domain.
fn apqns(matrix: &Matrix) -> impl Iterator<Item = u16> {
    matrix.adapters.iter().flat_map(|&adapter| {
        let domains = matrix.domains.iter();
        domains.map(move |&domain| ((adapter & 0xff) << 8 | domain & 0xff) as u16)
    })
}

/// `05.0004` in the name of a lock instance: adapter and domain, in hexadecimal as the kernel prints them.
fn apqn_of(name: &str) -> Option<u16> {
    let (_, queue) = name.strip_suffix(']')?.split_once('[')?;
    let (adapter, domain) = queue.split_once('.')?;
    let adapter = u8::from_str_radix(adapter, 16).ok()?;
    let domain = u8::try_from(u16::from_str_radix(domain, 16).ok()?).ok()?;
    Some(u16::from(adapter) << 8 | u16::from(domain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_are_named_as_the_kernel_does() {
        assert_eq!(apqn_of("reset_work[05.0004]"), Some(0x0504));
        assert_eq!(apqn_of("reset_work[ff.00fe]"), Some(0xfffe));
        for name in [
            "reset_work",
            "reset_work[05]",
            "reset_work[5g.0000]",
            "reset_work[05.0100]",
        ] {
            assert_eq!(apqn_of(name), None, "{name}");
        }
    }
}
