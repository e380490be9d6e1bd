//! Counts of instances and entry points, as columns. Nearly every histogram of a tick is one of few kinds.

use probe_ebpf::h2;

use super::{MAX_ROWS, Way};
use crate::frame::{CoarseDelta, Counts, Hist, Hists, SeriesDelta};

/// Kinds of histograms. Those that are none of these say how many buckets they have, in larger numbers.
mod kind {
    /// There is none.
    pub const ABSENT: u32 = 0;
    /// It is empty.
    pub const EMPTY: u32 = 1;
    /// As many values as there were acquisitions, or releases, all 0.
    pub const ZEROS: u32 = 2;
    /// One value, which is the sum.
    pub const ONE: u32 = 3;
    /// No bucket; one more for each.
    pub const BUCKETS: u32 = 4;
}

/// Takes the rows out of each series; `None`, and nothing is changed, where there are none, or one is not as a collector
/// makes it.
pub(super) fn pack(
    series: &mut [SeriesDelta],
    rows_of: impl Fn(&mut SeriesDelta) -> &mut Vec<CoarseDelta>,
) -> Option<Counts> {
    let mut counts = Counts::default();
    let mut total = 0;
    for of in &mut *series {
        let rows = rows_of(of);
        total += rows.len();
        let regular = |hist: &Option<Hist>| hist.as_ref().is_none_or(is_regular);
        let mut all = rows.iter();
        if total > MAX_ROWS || !all.all(|row| regular(&row.wait) && regular(&row.hold)) {
            return None;
        }
    }
    if total == 0 {
        return None;
    }
    let (mut waits, mut holds) = (Hists::default(), Hists::default());
    for of in series {
        let rows = std::mem::take(rows_of(of));
        counts.rows.push(rows.len() as u32);
        let mut id = u32::MAX;
        for row in rows {
            let mut step = row.id;
            id = Way::There.u32(&mut step, id.wrapping_add(1));
            counts.id_step.push(step);
            counts.acquisitions.push(row.acquisitions);
            counts.contended.push(row.contended);
            counts.attempts_failed.push(row.attempts_failed);
            counts.unmatched_releases.push(row.unmatched_releases);
            counts.releases.push(row.releases);
            counts.wakes.push(row.wakes);
            add(&mut waits, row.wait, row.acquisitions);
            add(&mut holds, row.hold, row.releases);
        }
    }
    let rare = [
        &mut counts.contended,
        &mut counts.attempts_failed,
        &mut counts.unmatched_releases,
        &mut counts.wakes,
    ];
    for column in rare {
        if column.iter().all(|count| *count == 0) {
            column.clear();
        }
    }
    (counts.wait, counts.hold) = (Some(waits), Some(holds));
    Some(counts)
}

/// Puts the rows back; `None` where columns do not fit together.
pub(super) fn unpack(
    counts: &Counts,
    series: &mut [SeriesDelta],
    rows_of: impl Fn(&mut SeriesDelta) -> &mut Vec<CoarseDelta>,
) -> Option<()> {
    let total = counts.id_step.len();
    let always = [&counts.acquisitions, &counts.releases];
    let rare = [
        &counts.contended,
        &counts.attempts_failed,
        &counts.unmatched_releases,
        &counts.wakes,
    ];
    let sum: u64 = counts.rows.iter().map(|rows| u64::from(*rows)).sum();
    let fits = total <= MAX_ROWS
        && sum == total as u64
        && counts.rows.len() == series.len()
        && always.iter().all(|column| column.len() == total)
        && rare.iter().all(|column| [0, total].contains(&column.len()));
    if !fits {
        return None;
    }
    let mut waits = Reading::of(counts.wait.as_ref()?);
    let mut holds = Reading::of(counts.hold.as_ref()?);
    let at = |column: &[u64], row: usize| column.get(row).copied().unwrap_or(0);
    let mut row = 0;
    for (of, count) in series.iter_mut().zip(&counts.rows) {
        let mut id = u32::MAX;
        let mut rows = Vec::with_capacity(*count as usize);
        for _ in 0..*count {
            let mut step = *counts.id_step.get(row)?;
            id = Way::Back.u32(&mut step, id.wrapping_add(1));
            let (acquisitions, releases) = (counts.acquisitions[row], counts.releases[row]);
            rows.push(CoarseDelta {
                id,
                acquisitions,
                contended: at(&counts.contended, row),
                attempts_failed: at(&counts.attempts_failed, row),
                unmatched_releases: at(&counts.unmatched_releases, row),
                releases,
                wait: waits.next(acquisitions).ok()?,
                hold: holds.next(releases).ok()?,
                wakes: at(&counts.wakes, row),
            });
            row += 1;
        }
        *rows_of(of) = rows;
    }
    Some(())
}

fn is_regular(hist: &Hist) -> bool {
    hist.step.len() == hist.count.len()
        && hist.step.len() < MAX_ROWS
        && (hist.min_ns_total, hist.max_ns_total) == (0, 0)
}

fn bucket(ns: u64) -> u32 {
    h2::ilog2(ns)
}

/// A histogram of values that are all 0.
fn zeros(count: u64) -> Hist {
    Hist {
        step: vec![0],
        count: vec![count],
        ..Hist::default()
    }
}

/// A histogram of one value.
fn one(ns: u64) -> Hist {
    Hist {
        step: vec![bucket(ns)],
        count: vec![1],
        sum_ns: ns,
        ..Hist::default()
    }
}

fn add(to: &mut Hists, hist: Option<Hist>, count: u64) {
    let Some(hist) = hist else {
        return to.kind.push(kind::ABSENT);
    };
    if hist == Hist::default() {
        to.kind.push(kind::EMPTY);
    } else if hist == zeros(count) {
        to.kind.push(kind::ZEROS);
    } else if hist == one(hist.sum_ns) {
        to.kind.push(kind::ONE);
        to.sum_ns.push(hist.sum_ns);
    } else {
        to.kind.push(kind::BUCKETS + hist.step.len() as u32);
        to.sum_ns.push(hist.sum_ns);
        to.step.extend(hist.step);
        to.count.extend(hist.count);
    }
}

/// A column of histograms has ended.
struct TooShort;

/// Histograms, one after the other.
struct Reading<'a> {
    kinds: std::slice::Iter<'a, u32>,
    sums: std::slice::Iter<'a, u64>,
    step: &'a [u32],
    count: &'a [u64],
}

impl<'a> Reading<'a> {
    fn of(hists: &'a Hists) -> Self {
        Self {
            kinds: hists.kind.iter(),
            sums: hists.sum_ns.iter(),
            step: &hists.step,
            count: &hists.count,
        }
    }

    /// The next one, of a row with so many acquisitions or releases.
    fn next(&mut self, count: u64) -> Result<Option<Hist>, TooShort> {
        Ok(match *self.kinds.next().ok_or(TooShort)? {
            kind::ABSENT => None,
            kind::EMPTY => Some(Hist::default()),
            kind::ZEROS => Some(zeros(count)),
            kind::ONE => Some(one(*self.sums.next().ok_or(TooShort)?)),
            buckets => {
                let buckets = (buckets - kind::BUCKETS) as usize;
                let (step, rest) = self.step.split_at_checked(buckets).ok_or(TooShort)?;
                self.step = rest;
                let (count, rest) = self.count.split_at_checked(buckets).ok_or(TooShort)?;
                self.count = rest;
                Some(Hist {
                    step: step.to_vec(),
                    count: count.to_vec(),
                    sum_ns: *self.sums.next().ok_or(TooShort)?,
                    ..Hist::default()
                })
            }
        })
    }
}
