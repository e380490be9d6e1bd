//! Rows of the lock table, and the detail of one lock.

use super::live::{Now, by_series};
use super::{
    Holder, Summary, Waiter, class_name, contended_only, contended_percent, entry_name, holders,
    kind, kind_name, listed_series, lock_name, long_hold_is_normal, mode_name, open_coded,
    per_second, sparkline, waiters,
};
use crate::model::histogram::Histogram;
use crate::model::{CoarseSeries, Model, Series};

/// A lock series in one line.
#[derive(Debug, Clone, PartialEq)]
pub struct LockRow {
    /// Series id.
    pub series: u8,
    /// Class name.
    pub class: &'static str,
    /// `-`, `read` or `write`.
    pub mode: &'static str,
    /// `mutex`, `rwsem`, `flag` or `work`.
    pub kind: &'static str,
    /// An open-coded lock, invisible to lockdep.
    pub open_coded: bool,
    /// A hold that lasts is normal: leave it out of hold rankings.
    pub long_hold_is_normal: bool,
    /// Number of instances.
    pub instances: usize,
    /// Acquisitions since the start.
    pub acquisitions: u64,
    /// Acquisitions a second, over the last second.
    pub per_second: f64,
    /// Slow paths entered since the start; for a flag, wait loops that slept.
    pub contended: u64,
    /// The same in percent of the acquisitions, see [`contended_percent`]; `None` where not all of them are seen.
    pub contended_percent: Option<f64>,
    /// Waits.
    pub wait: Summary,
    /// Holds.
    pub hold: Summary,
    /// The task that has held it longest, of those that hold an instance now.
    pub holder: Option<Holder>,
    /// Number of tasks that hold an instance now.
    pub holders: usize,
    /// Number of tasks that wait for an instance now.
    pub queue: usize,
    /// The longest of these waits, up to the last frame.
    pub longest_wait_ns: Option<u64>,
    /// Acquisitions in each of the last ticks, oldest first.
    pub spark: Vec<u64>,
}

/// Everything about one lock series.
#[derive(Debug, Clone)]
pub struct LockDetail<'a> {
    /// Its line.
    pub row: LockRow,
    /// Waits; uncontended acquisitions are waits of 0 (not for flags).
    pub wait: &'a Histogram,
    /// Holds.
    pub hold: &'a Histogram,
    /// Attempts that failed.
    pub attempts_failed: u64,
    /// Releases whose acquisition was not seen.
    pub unmatched_releases: u64,
    /// Instances, the busiest first.
    pub instances: Vec<InstanceRow>,
    /// By the entry point it was taken in, the most contended first.
    pub by_entry: Vec<PerEntry>,
    /// Who holds an instance, the longest first.
    pub holders: Vec<Holder>,
    /// Who waits for an instance, the longest first.
    pub waiters: Vec<Waiter>,
}

/// A lock instance in one line.
#[derive(Debug, Clone, PartialEq)]
pub struct InstanceRow {
    /// Instance id.
    pub id: u32,
    /// For example `kvm->lock[guest-3]`.
    pub name: String,
    /// Guest number, if it belongs to one.
    pub guest: Option<u32>,
    /// Acquisitions since the start.
    pub acquisitions: u64,
    /// Slow paths entered since the start.
    pub contended: u64,
    /// The same in percent of the acquisitions, see [`contended_percent`]; `None` where not all of them are seen.
    pub contended_percent: Option<f64>,
    /// Waits (powers of two).
    pub wait: Summary,
    /// Holds (powers of two).
    pub hold: Summary,
    /// The task that has held it longest, of those that hold it now.
    pub holder: Option<Holder>,
    /// Number of tasks that wait for it now.
    pub queue: usize,
}

/// A lock series as taken in one entry point.
#[derive(Debug, Clone, PartialEq)]
pub struct PerEntry {
    /// Entry point id.
    pub entry: u8,
    /// Its name.
    pub name: &'static str,
    /// Acquisitions since the start.
    pub acquisitions: u64,
    /// Slow paths entered since the start.
    pub contended: u64,
    /// Waits (powers of two).
    pub wait: Summary,
    /// Holds (powers of two).
    pub hold: Summary,
}

/// One row for each series of the run, in the order of the table of names.
pub fn lock_rows(model: &Model) -> Vec<LockRow> {
    let mut now = by_series(model);
    // Counted once for all: there may be thousands.
    let mut instances = [0_usize; 1 << u8::BITS];
    for instance in model.instances.values() {
        if let Some(count) = instances.get_mut(instance.series as usize) {
            *count += 1;
        }
    }
    let of = |id: u8| {
        let place = usize::from(id);
        let now = std::mem::take(&mut now[place]);
        Some(row(
            model,
            id,
            model.series.get(&id)?,
            instances[place],
            now,
        ))
    };
    listed_series(model).into_iter().filter_map(of).collect()
}

/// Everything about one series; `None` where the run does not have it.
pub fn lock_detail(model: &Model, series: u8) -> Option<LockDetail<'_>> {
    let stats = model.series.get(&series)?;
    let mut holders = holders(model);
    let mut waiters = waiters(model);
    holders.retain(|h| h.series == series);
    waiters.retain(|w| w.series == series);
    let mut instances: Vec<InstanceRow> = model
        .instances
        .values()
        .filter(|instance| instance.series == u32::from(series))
        .map(|instance| instance_row(model, series, instance.id, stats, &holders, &waiters))
        .collect();
    instances.sort_by(|a, b| {
        let key = |row: &InstanceRow| (row.queue, row.contended, row.acquisitions);
        key(b).cmp(&key(a)).then(a.id.cmp(&b.id))
    });
    let mut by_entry: Vec<PerEntry> = stats
        .by_entry
        .iter()
        .map(|(&entry, coarse)| PerEntry {
            entry,
            name: entry_name(entry),
            acquisitions: coarse.acquisitions,
            contended: coarse.contended,
            wait: Summary::of_coarse(&coarse.wait, stats.wait.max_ns),
            hold: Summary::of_coarse(&coarse.hold, stats.hold.max_ns),
        })
        .collect();
    by_entry.sort_by_key(|e| std::cmp::Reverse((e.contended, e.acquisitions)));
    let now = Now {
        holder: holders.first().cloned(),
        holders: holders.len(),
        queue: waiters.len(),
        // The longest comes first.
        longest_wait_ns: waiters.first().map(|waiter| waiter.for_ns),
    };
    Some(LockDetail {
        row: row(model, series, stats, instances.len(), now),
        wait: &stats.wait,
        hold: &stats.hold,
        attempts_failed: stats.attempts_failed,
        unmatched_releases: stats.unmatched_releases,
        instances,
        by_entry,
        holders,
        waiters,
    })
}

/// As [`contended_percent`]; `None` too where not every acquisition is seen, so that there is nothing to be a share of.
fn share_contended(model: &Model, contended: u64, acquisitions: u64) -> Option<f64> {
    if contended_only(model) {
        return None;
    }
    contended_percent(contended, acquisitions)
}

fn row(model: &Model, series: u8, stats: &Series, instances: usize, now: Now) -> LockRow {
    LockRow {
        series,
        class: class_name(series),
        mode: mode_name(series),
        kind: kind_name(kind(series)),
        open_coded: open_coded(series),
        long_hold_is_normal: long_hold_is_normal(series),
        instances,
        acquisitions: stats.acquisitions,
        per_second: per_second(model, &stats.rates),
        contended: stats.contended,
        contended_percent: share_contended(model, stats.contended, stats.acquisitions),
        wait: Summary::from(&stats.wait),
        hold: Summary::from(&stats.hold),
        holder: now.holder,
        holders: now.holders,
        queue: now.queue,
        longest_wait_ns: now.longest_wait_ns,
        spark: sparkline(&stats.rates),
    }
}

fn instance_row(
    model: &Model,
    series: u8,
    id: u32,
    stats: &Series,
    holders: &[Holder],
    waiters: &[Waiter],
) -> InstanceRow {
    let nothing = CoarseSeries::default();
    let coarse = stats.by_instance.get(&id).unwrap_or(&nothing);
    InstanceRow {
        id,
        name: lock_name(model, series, id).to_owned(),
        guest: model
            .instances
            .get(&id)
            .and_then(|i| i.guest.checked_sub(1)),
        acquisitions: coarse.acquisitions,
        contended: coarse.contended,
        contended_percent: share_contended(model, coarse.contended, coarse.acquisitions),
        wait: Summary::of_coarse(&coarse.wait, stats.wait.max_ns),
        hold: Summary::of_coarse(&coarse.hold, stats.hold.max_ns),
        holder: holders.iter().find(|h| h.instance == id).cloned(),
        queue: waiters.iter().filter(|w| w.instance == id).count(),
    }
}
