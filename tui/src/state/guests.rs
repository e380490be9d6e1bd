//! Guests: what each is at, and who keeps it waiting. What is known of their queues is in [`super::matrix`].

use std::collections::BTreeMap;

use apscope_collector::diagnose::chain::Root;
use apscope_collector::diagnose::look::guest_of;
use apscope_collector::diagnose::{Finding, Severity};
use apscope_collector::frame::TaskState;
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
    let known = Known {
        shown,
        owners: query::Owners::of(model),
    };
    vcpus
        .into_iter()
        .map(|(guest, vcpus)| {
            let own = tasks.remove(&guest).unwrap_or_default();
            row(&known, guest, shown.history.guest_name(guest), vcpus, &own)
        })
        .collect()
}

/// What the rows of all guests are made of.
struct Known<'a> {
    shown: &'a Snapshot,
    owners: query::Owners,
}

fn row(known: &Known<'_>, guest: u32, name: String, vcpus: usize, own: &[&TaskState]) -> GuestRow {
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
        running,
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

fn blocked_by(
    model: &Model,
    finding: Option<&Finding>,
    waiter: Option<&TaskState>,
    owners: &query::Owners,
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
    let wait = waiter.waits.last();
    let owner = wait.and_then(|wait| owners.owner(waiter.tid, wait));
    owner.map_or_else(
        || "nobody known".to_owned(),
        |tid| {
            let task = model.live.iter().find(|task| task.tid == tid);
            task.map_or_else(|| format!("({tid})"), query::task_name)
        },
    )
}
