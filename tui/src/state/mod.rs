//! What the dashboard knows: the model as folded so far, and what the person looking at it has chosen.
//!
//! Nothing here draws, reads a clock or a terminal. Frames and keys go in; [`crate::view`] reads the result.

pub mod detail;
pub mod filtering;
pub mod keys;
pub mod pulse;
pub mod rows;
pub mod table;

use std::time::Duration;

use apscope_collector::frame::Frame;
use apscope_collector::model::Model;

use filtering::FilterState;
use pulse::Pulse;
use rows::{Detail, EntryColumn, EntryRow, LockColumn, LockRow};
use table::TableState;

use crate::theme::Theme;

/// The views that Tab goes round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// Locks.
    Locks,
    /// Entry points.
    Entries,
}

/// What lies over the view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overlay {
    /// The keys and columns of the current view.
    Help,
    /// The log.
    Log,
    /// The last accesses to sysfs that were made for other processes.
    Writes,
}

/// The model at one moment, with the rates that belong to it.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Everything known about the run.
    pub model: Model,
    /// Rates that the model does not keep.
    pub pulse: Pulse,
}

/// How the source came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// As asked: the time was over, or it was told to stop.
    InOrder,
    /// A kernel is measured no more, as it was to be: what was measured stays on the screen.
    Detached(String),
    /// By itself, unasked.
    Died(String),
}

/// Times between frames that `+` and `-` go through.
pub const INTERVALS: [Duration; 7] = [
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
];

/// The dashboard's state.
pub struct App {
    live: Snapshot,
    frozen: Option<Box<Snapshot>>,
    /// The view that is shown.
    pub view: View,
    /// The selected row's detail is shown instead of the table.
    pub detail_open: bool,
    /// What lies over the view.
    pub overlay: Option<Overlay>,
    /// First line shown of a detail, the log or the help.
    pub scroll: usize,
    /// Lines that fitted the last time, for half-page steps and for the end of scrolling. Set while drawing.
    pub page: usize,
    /// Lines there were to scroll through. Set while drawing.
    pub lines: usize,
    /// The locks table.
    pub locks: TableState<LockColumn>,
    /// The entry points table.
    pub entries: TableState<EntryColumn>,
    /// Filter of the locks view.
    pub lock_filter: FilterState,
    /// Filter of the entry points view.
    pub entry_filter: FilterState,
    /// Time between frames.
    pub interval: Duration,
    /// Styles.
    pub theme: Theme,
    /// Set when there will be no more frames.
    pub ending: Option<Ending>,
    lock_rows: Vec<LockRow>,
    entry_rows: Vec<EntryRow>,
    detail: Option<Box<Detail>>,
    stale: bool,
}

impl App {
    /// An empty dashboard.
    #[must_use]
    pub fn new(theme: Theme, interval: Duration) -> Self {
        Self {
            live: Snapshot::default(),
            frozen: None,
            view: View::Locks,
            detail_open: false,
            overlay: None,
            scroll: 0,
            page: 1,
            lines: 0,
            locks: TableState::new(LockColumn::WaitP99),
            entries: TableState::new(EntryColumn::P99),
            lock_filter: FilterState::default(),
            entry_filter: FilterState::default(),
            interval,
            theme,
            ending: None,
            lock_rows: Vec::new(),
            entry_rows: Vec::new(),
            detail: None,
            stale: true,
        }
    }

    /// Folds a frame. While paused the shown snapshot stays as it is.
    pub fn apply(&mut self, frame: &Frame) {
        self.live.model.apply(frame);
        self.live.pulse.sample(&self.live.model);
        self.stale |= self.frozen.is_none();
        if let Some(end) = &self.live.model.end {
            self.ending = Some(match end.how.as_str() {
                "source died" => Ending::Died(end.detail.clone()),
                "detached" | "driver unloaded" => Ending::Detached(end.detail.clone()),
                _ => Ending::InOrder,
            });
        }
    }

    /// There will be no more frames. Without a last frame that says so, the source has died.
    pub fn closed(&mut self) {
        self.ending
            .get_or_insert_with(|| Ending::Died("it stopped without a last frame".into()));
    }

    /// Replaces the folded state, for a picture of a model that was made elsewhere.
    pub fn set_model(&mut self, model: Model) {
        self.live.pulse.sample(&model);
        self.live.model = model;
        self.stale = true;
    }

    /// What is shown: the live state, or the snapshot taken when the picture was paused.
    #[must_use]
    pub fn shown(&self) -> &Snapshot {
        self.frozen.as_deref().unwrap_or(&self.live)
    }

    /// The state as folded up to now.
    #[must_use]
    pub fn live(&self) -> &Snapshot {
        &self.live
    }

    /// While paused: how far the picture is behind, in nanoseconds.
    #[must_use]
    pub fn behind_ns(&self) -> Option<u64> {
        self.frozen.as_ref().map(|frozen| {
            self.live
                .model
                .last
                .at_ns
                .saturating_sub(frozen.model.last.at_ns)
        })
    }

    /// Holds the picture, or lets it go on.
    pub fn toggle_pause(&mut self) {
        self.frozen = match self.frozen.take() {
            Some(_) => None,
            None => Some(Box::new(self.live.clone())),
        };
        self.stale = true;
    }

    /// The current view's filter.
    #[must_use]
    pub fn filter(&self) -> &FilterState {
        match self.view {
            View::Locks => &self.lock_filter,
            View::Entries => &self.entry_filter,
        }
    }

    fn filter_mut(&mut self) -> &mut FilterState {
        match self.view {
            View::Locks => &mut self.lock_filter,
            View::Entries => &mut self.entry_filter,
        }
    }

    /// Brings rows and detail up to date; costs nothing where nothing changed. Call before drawing and before keys.
    pub fn refresh(&mut self) {
        if !self.stale {
            return;
        }
        self.stale = false;
        let shown = self.frozen.as_deref().unwrap_or(&self.live);
        let selected = match self.view {
            View::Locks => self.locks.selected,
            View::Entries => self.entries.selected,
        };
        // The table is hidden while a detail is open: its rows wait until it is closed.
        self.detail = match (self.detail_open, selected) {
            (true, Some(id)) => rows::detail(&shown.model, self.view, id).map(Box::new),
            _ => None,
        };
        self.detail_open = self.detail.is_some();
        if self.detail_open {
            return;
        }
        match self.view {
            View::Locks => {
                self.lock_rows = rows::locks(&shown.model, &self.lock_filter.active, &self.locks);
                self.locks
                    .follow(self.lock_rows.iter().map(|row| row.facts.series));
            }
            View::Entries => {
                self.entry_rows =
                    rows::entries(&shown.model, &self.entry_filter.active, &self.entries);
                self.entries
                    .follow(self.entry_rows.iter().map(|row| row.facts.entry));
            }
        }
    }

    /// The locks that match, in order. Of the last [`App::refresh`].
    #[must_use]
    pub fn lock_rows(&self) -> &[LockRow] {
        &self.lock_rows
    }

    /// The entry points that match, in order. Of the last [`App::refresh`].
    #[must_use]
    pub fn entry_rows(&self) -> &[EntryRow] {
        &self.entry_rows
    }

    /// The open detail. Of the last [`App::refresh`].
    #[must_use]
    pub fn detail(&self) -> Option<&Detail> {
        self.detail.as_deref()
    }

    /// Rows in the current table.
    #[must_use]
    pub fn row_count(&self) -> usize {
        match self.view {
            View::Locks => self.lock_rows.len(),
            View::Entries => self.entry_rows.len(),
        }
    }
}

#[cfg(test)]
mod tests;
