//! Frames that are not there: a file that begins in the middle of a run, or has a hole.
//!
//! A frame has increments, so that what is missing would be missing in every total. A [`frame::Base`] has the totals
//! themselves, and stands for all that came before it. Where there is none, the totals are "at least".

use std::collections::{BTreeMap, VecDeque};

use super::{Loss, Model, Overhead, Tick};
use crate::frame;

impl Model {
    /// Puts these totals in the place of what was added up so far. It is no tick: every rate stays as it is.
    pub(super) fn fold_base(&mut self, base: &frame::Base, frame: &frame::Frame) {
        let mut of_series = BTreeMap::new();
        for (id, series) in &mut self.series {
            let series = std::mem::take(series);
            of_series.insert(*id, (series.rates, series.contended_rates));
        }
        let mut of_entries = BTreeMap::new();
        for (id, entry) in &mut self.entries {
            of_entries.insert(*id, std::mem::take(entry).rates);
        }
        self.edges.clear();
        self.loss = Loss::default();
        self.overhead = Overhead::default();
        for delta in &base.series {
            self.fold_series(delta);
        }
        for delta in &base.entries {
            self.fold_entry(delta);
        }
        for edge in &base.edges {
            self.fold_edge(edge);
        }
        if let Some(loss) = &base.loss {
            self.fold_loss(loss);
        }
        if let Some(overhead) = &base.overhead {
            self.fold_overhead(overhead);
        }
        let none = || VecDeque::from(vec![0; self.ticks.len()]);
        for (id, series) in &mut self.series {
            let rates = of_series.remove(id);
            (series.rates, series.contended_rates) = rates.unwrap_or_else(|| (none(), none()));
        }
        for (id, entry) in &mut self.entries {
            entry.rates = of_entries.remove(id).unwrap_or_else(none);
        }
        // Where the frame that it stands behind was there, so are its details: they begin where they began.
        if self.last == Tick::default() || self.last.number != frame.number {
            self.detail_from = Some(Tick::of(frame));
        }
        self.last = Tick::of(frame);
    }

    /// Notes the frames between the last one and this one, which are not there.
    pub(super) fn miss(&mut self, frame: &frame::Frame) {
        let expected = if self.last == Tick::default() {
            0
        } else {
            self.last.number.saturating_add(1)
        };
        let missing = frame.number.saturating_sub(expected);
        if frame.uncarried.is_some() {
            // It has what the frames in between had, but for details.
            self.detail_from = Some(Tick::of(frame));
        } else if missing > 0 {
            self.loss.missing_frames = self.loss.missing_frames.saturating_add(missing);
            self.detail_from = Some(Tick::of(frame));
        }
    }
}

impl Tick {
    fn of(frame: &frame::Frame) -> Self {
        Self {
            number: frame.number,
            at_ns: frame.at_ns,
            at_unix_ns: frame.at_unix_ns,
            length_ns: 0,
        }
    }
}
