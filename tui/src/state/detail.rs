//! The detail of one lock or of one entry point.

use apscope_collector::model::Model;
use apscope_collector::model::histogram::Histogram;
use apscope_collector::model::query::{self, Summary};
use probe_ebpf::h2;
use probe_ebpf::names::ENTRY_POINTS;

use super::rows::kind_name;

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
