//! The detail of one row: a lock, an entry point, an edge of the order, a finding, a guest.

use apscope_collector::model::Model;
use apscope_collector::model::histogram::Histogram;
use apscope_collector::model::query::{self, Summary};
use probe_ebpf::h2;
use probe_ebpf::names::ENTRY_POINTS;

use super::Snapshot;
use super::findings::{self, FindingKey, FindingRow};
use super::guests::{self, GuestColumn, GuestRow};
use super::matrix::{self, GuestMatrix};
use super::order::{Graph, Joint};
use super::rows::kind_name;
use super::table::TableState;
use crate::filter::Filter;

/// Powers of two that [`Distribution::octaves`] has.
pub const OCTAVES: usize = h2::COARSE_BUCKETS;

/// Most frames of a stack.
pub const MAX_FRAMES: usize = 32;

/// Most lines in a list of instances.
pub const MAX_LISTED: usize = 200;

/// What a detail is about.
#[derive(Debug, Clone, PartialEq)]
pub enum Detail {
    /// A lock class in one mode.
    Lock(LockDetail),
    /// An entry point.
    Entry(EntryDetail),
    /// The edges between two lock classes.
    Edge(EdgeDetail),
    /// A finding.
    Finding(Box<FindingRow>),
    /// A guest.
    Guest(Box<(GuestRow, GuestMatrix)>),
}

impl Detail {
    /// Of a lock class in one mode; `None` where the run does not have it.
    #[must_use]
    pub fn lock(shown: &Snapshot, series: u8) -> Option<Self> {
        LockDetail::of(&shown.model, series).map(Self::Lock)
    }

    /// Of an entry point; `None` where the run does not have it.
    #[must_use]
    pub fn entry(shown: &Snapshot, entry: u8) -> Option<Self> {
        EntryDetail::of(&shown.model, entry).map(Self::Entry)
    }

    /// Of the edges between two classes; `None` where there are none.
    #[must_use]
    pub fn edge(shown: &Snapshot, (held, acquired): (u8, u8)) -> Option<Self> {
        EdgeDetail::of(&shown.model, held, acquired).map(Self::Edge)
    }

    /// Of a finding; `None` where it has been forgotten.
    #[must_use]
    pub fn finding(shown: &Snapshot, key: &FindingKey) -> Option<Self> {
        let table = TableState::new(findings::FindingColumn::Severity);
        findings::rows(&shown.report, &shown.model, &Filter::default(), &table)
            .into_iter()
            .find(|row| row.key() == *key)
            .map(|row| Self::Finding(Box::new(row)))
    }

    /// Of a guest; `None` where it is not known.
    #[must_use]
    pub fn guest(shown: &Snapshot, guest: u32) -> Option<Self> {
        let table = TableState::new(GuestColumn::Name);
        guests::rows(shown, &Filter::default(), &table)
            .into_iter()
            .find(|row| row.guest == guest)
            .map(|row| Self::Guest(Box::new((row, matrix::of(shown, guest)))))
    }
}

/// The edges between two lock classes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EdgeDetail {
    /// The two classes.
    pub joint: Joint,
    /// Cycles that it is a step of: names of their classes in order.
    pub cycles: Vec<Vec<&'static str>>,
    /// Each edge, the most frequent first.
    pub edges: Vec<EdgeLine>,
}

/// An edge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EdgeLine {
    /// Series held, and acquired: with their modes.
    pub series: (String, String),
    /// Functions in which the one was taken, and the other.
    pub functions: (&'static str, &'static str),
    /// How often.
    pub count: u64,
    /// A flag that was tested and found clear: no probe sees that, the entry point is annotated.
    pub annotated: bool,
    /// lockdep could see it.
    pub lockdep_visible: bool,
    /// The first task that did it.
    pub first: String,
    /// So long ago.
    pub first_ago_ns: u64,
    /// And the last time.
    pub last_ago_ns: u64,
    /// Pairs of instances, held and acquired.
    pub pairs: Vec<(String, String)>,
}

impl EdgeDetail {
    fn of(model: &Model, held: u8, acquired: u8) -> Option<Self> {
        let graph = Graph::of(model);
        let joint = graph.joint(held, acquired)?.clone();
        let cycles = graph
            .cycles
            .iter()
            .filter(|cycle| {
                let mut steps = cycle.steps.iter();
                steps.any(|step| (step.held >> 1, step.acquired >> 1) == (held, acquired))
            })
            .map(|cycle| {
                cycle
                    .classes()
                    .into_iter()
                    .map(super::order::class_name)
                    .collect()
            })
            .collect();
        let edges = joint
            .edges
            .iter()
            .filter_map(|id| Some((id, model.edges.get(id)?)))
            .map(|(id, edge)| EdgeLine {
                series: (query::series_name(id.held), query::series_name(id.acquired)),
                functions: (
                    query::entry_name(id.held_in),
                    query::entry_name(id.acquired_in),
                ),
                count: edge.count_total,
                annotated: id.annotated,
                lockdep_visible: query::lockdep_visible(id.held, id.acquired),
                first: format!("{} ({})", edge.first_comm, edge.first_tid),
                first_ago_ns: model.last.at_ns.saturating_sub(edge.first_ns),
                last_ago_ns: model.last.at_ns.saturating_sub(edge.last_ns),
                pairs: edge
                    .pairs
                    .chunks_exact(2)
                    .map(|pair| {
                        let name =
                            |series, instance| query::lock_name(model, series, instance).to_owned();
                        (name(id.held, pair[0]), name(id.acquired, pair[1]))
                    })
                    .collect(),
            })
            .collect();
        Some(Self {
            joint,
            cycles,
            edges,
        })
    }
}

/// A distribution of nanoseconds.
#[derive(Debug, Clone, PartialEq)]
pub struct Distribution {
    /// Number of values.
    pub count: u64,
    /// Values of exactly 0.
    pub zero: u64,
    /// Mean.
    pub mean_ns: Option<u64>,
    /// Median.
    pub p50_ns: Option<u64>,
    /// 90th percentile.
    pub p90_ns: Option<u64>,
    /// 99th percentile.
    pub p99_ns: Option<u64>,
    /// 99.9th percentile.
    pub p999_ns: Option<u64>,
    /// Largest.
    pub max_ns: Option<u64>,
    /// Values by power of two, without those of 0.
    pub octaves: Box<[u64; OCTAVES]>,
}

impl Distribution {
    /// Of a full-resolution histogram.
    #[must_use]
    pub fn of(histogram: &Histogram) -> Self {
        let zero = histogram.counts.first().copied().unwrap_or(0);
        let mut octaves = histogram.octaves();
        octaves[0] = octaves[0].saturating_sub(zero);
        Self {
            count: histogram.count,
            zero,
            mean_ns: histogram.mean_ns(),
            p50_ns: histogram.quantile(0.5),
            p90_ns: histogram.quantile(0.9),
            p99_ns: histogram.quantile(0.99),
            p999_ns: histogram.quantile(0.999),
            max_ns: histogram.max(),
            octaves: Box::new(octaves),
        }
    }
}

/// Somebody who holds or waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Party {
    /// Name and number: of the thread, or of the process for which the thread works.
    pub who: String,
    /// The instance, without the name of its class; empty where there is but one.
    pub instance: String,
    /// How long already, in nanoseconds.
    pub for_ns: u64,
    /// In which entry point.
    pub entry: &'static str,
    /// Another holder was there already, the acquisition was not seen, rounds of a wait loop.
    pub remark: String,
}

/// A share of a lock's acquisitions: by one entry point, or of one instance.
#[derive(Debug, Clone, PartialEq)]
pub struct Share {
    /// Entry point or instance.
    pub name: String,
    /// Locks obtained.
    pub acquisitions: u64,
    /// Slow paths entered.
    pub contended: u64,
    /// 99th percentile of waits.
    pub wait_p99_ns: Option<u64>,
    /// 99th percentile of holds.
    pub hold_p99_ns: Option<u64>,
}

/// A lock class in one mode.
#[derive(Debug, Clone, PartialEq)]
pub struct LockDetail {
    /// Series.
    pub series: u8,
    /// Class.
    pub class: &'static str,
    /// Kind and mode.
    pub kind: &'static str,
    /// A flag with a wait queue.
    pub open_coded: bool,
    /// Locks obtained.
    pub acquisitions: u64,
    /// Slow paths entered.
    pub contended: u64,
    /// All releases.
    pub releases: u64,
    /// Failed trylocks and interrupted waits.
    pub attempts_failed: u64,
    /// Releases whose acquisition was not seen.
    pub unmatched_releases: u64,
    /// Waits.
    pub wait: Distribution,
    /// Holds.
    pub hold: Distribution,
    /// Who holds it, the longest first.
    pub holders: Vec<Party>,
    /// Who waits for it, the longest first.
    pub waiters: Vec<Party>,
    /// By entry point, the most frequent first.
    pub by_entry: Vec<Share>,
    /// By instance, the most contended first; at most [`MAX_LISTED`].
    pub by_instance: Vec<Share>,
    /// Instances there are.
    pub instances: usize,
    /// Acquisitions are only those that had to wait (a kernel at level 1).
    pub contended_only: bool,
    /// Where the latest long wait or hold was.
    pub stack: Option<Box<Trace>>,
}

/// A stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// Thread: name and number.
    pub who: String,
    /// `held`, `waited`, or `waits` where that went on.
    pub what: &'static str,
    /// How long, in nanoseconds.
    pub for_ns: u64,
    /// The instance, without the name of its class.
    pub instance: String,
    /// Functions, the innermost first; at most [`MAX_FRAMES`].
    pub frames: Vec<String>,
}

impl Trace {
    fn of(model: &Model, series: u8) -> Option<Self> {
        let stack = query::latest_stack(model, series)?;
        let what = match (stack.hold, stack.ended) {
            (true, _) => "held",
            (false, true) => "waited",
            (false, false) => "waits",
        };
        let lock = query::lock_name(model, series, stack.instance.wrapping_sub(1));
        Some(Self {
            who: format!("{} ({})", stack.comm, stack.tid),
            what,
            for_ns: stack.duration_ns,
            instance: instance(series, lock),
            frames: stack.frames.iter().take(MAX_FRAMES).cloned().collect(),
        })
    }
}

/// An entry point.
#[derive(Debug, Clone, PartialEq)]
pub struct EntryDetail {
    /// Name.
    pub name: &'static str,
    /// Kernel module.
    pub module: &'static str,
    /// Calls started.
    pub calls: u64,
    /// Calls that have not returned.
    pub in_flight: u64,
    /// Returns whose call was not seen.
    pub unmatched_returns: u64,
    /// Latencies.
    pub latency: Distribution,
    /// Returns by code, the most frequent first.
    pub returns: Vec<(String, u64)>,
    /// PQAP responses: function, response code, count.
    pub pqap: Vec<(String, u8, u64)>,
    /// Who is inside, the longest first.
    pub inside: Vec<Party>,
}

impl LockDetail {
    /// Of a series; `None` where the run does not have it.
    #[must_use]
    pub fn of(model: &Model, series: u8) -> Option<Self> {
        let detail = query::lock_detail(model, series)?;
        let releases = model.series.get(&series).map_or(0, |s| s.releases);
        Some(Self {
            series,
            class: detail.row.class,
            kind: kind_name(series),
            open_coded: detail.row.open_coded,
            acquisitions: detail.row.acquisitions,
            contended: detail.row.contended,
            releases,
            attempts_failed: detail.attempts_failed,
            unmatched_releases: detail.unmatched_releases,
            wait: Distribution::of(detail.wait),
            hold: Distribution::of(detail.hold),
            holders: detail.holders.iter().take(MAX_LISTED).map(holder).collect(),
            waiters: detail
                .waiters
                .iter()
                .take(MAX_LISTED)
                .map(|w| waiter(model, w))
                .collect(),
            by_entry: detail
                .by_entry
                .into_iter()
                .map(|e| {
                    share(
                        entry_label(e.entry).into(),
                        e.acquisitions,
                        e.contended,
                        &e.wait,
                        &e.hold,
                    )
                })
                .collect(),
            contended_only: query::contended_only(model),
            stack: Trace::of(model, series).map(Box::new),
            instances: detail.instances.len(),
            by_instance: detail
                .instances
                .into_iter()
                .take(MAX_LISTED)
                .map(|i| share(i.name, i.acquisitions, i.contended, &i.wait, &i.hold))
                .collect(),
        })
    }
}

fn share(name: String, acquisitions: u64, contended: u64, wait: &Summary, hold: &Summary) -> Share {
    Share {
        name,
        acquisitions,
        contended,
        wait_p99_ns: wait.p99_ns,
        hold_p99_ns: hold.p99_ns,
    }
}

/// An entry point, or in words that there is none.
fn entry_label(entry: u8) -> &'static str {
    if entry == 0 {
        "outside traced code"
    } else {
        query::entry_name(entry)
    }
}

/// `guest-3` of `kvm->lock[guest-3]`.
fn instance(series: u8, name: &str) -> String {
    name.strip_prefix(query::class_name(series))
        .map_or(name, |rest| rest.trim_matches(['[', ']']))
        .to_owned()
}

fn holder(holder: &query::Holder) -> Party {
    let mut remarks = Vec::new();
    if holder.second_holder {
        remarks.push("SECOND HOLDER".to_owned());
    }
    if holder.adopted {
        remarks.push("acquisition not seen".to_owned());
    }
    Party {
        who: holder.who(),
        instance: instance(holder.series, &holder.lock),
        for_ns: holder.for_ns,
        entry: entry_label(holder.entry),
        remark: remarks.join(", "),
    }
}

fn waiter(model: &Model, waiter: &query::Waiter) -> Party {
    let mut remarks = Vec::new();
    if let Some(owner) = waiter.owner_tid {
        let task = model.live.iter().find(|task| task.tid == owner);
        let who = task.map_or_else(|| format!("({owner})"), query::task_name);
        remarks.push(format!("behind {who}"));
    }
    if waiter.rounds > 1 {
        remarks.push(format!("woken {}×", waiter.rounds - 1));
    }
    if !waiter.innermost {
        remarks.push("now queues for the guard".to_owned());
    }
    Party {
        who: waiter.who(),
        instance: instance(waiter.series, &waiter.lock),
        for_ns: waiter.for_ns,
        entry: entry_label(waiter.entry),
        remark: remarks.join(", "),
    }
}

impl EntryDetail {
    /// Of an entry point; `None` where the run does not have it.
    #[must_use]
    pub fn of(model: &Model, entry: u8) -> Option<Self> {
        let facts = model.entries.get(&entry)?;
        let row = query::entry_rows(model)
            .into_iter()
            .find(|row| row.entry == entry)?;
        Some(Self {
            name: row.name,
            module: ENTRY_POINTS
                .get(usize::from(entry))
                .map_or("?", |e| e.module),
            calls: row.calls,
            in_flight: row.in_flight,
            unmatched_returns: facts.unmatched_returns,
            latency: Distribution::of(&facts.latency),
            returns: row.returns,
            pqap: row.pqap,
            inside: query::inside(model)
                .into_iter()
                .filter(|call| call.entry == entry)
                .take(MAX_LISTED)
                .map(|call| Party {
                    who: call.who(),
                    instance: call.on.short().to_owned(),
                    for_ns: call.for_ns,
                    entry: "",
                    remark: String::new(),
                })
                .collect(),
        })
    }
}
