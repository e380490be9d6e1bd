//! Rows of the tables and the open detail, brought up to date with the run and with what was chosen.

use apscope_collector::diagnose::Severity;

use super::detail::Detail;
use super::findings::{self, FindingRow};
use super::guests::{self, GuestRow};
use super::lanes::Lanes;
use super::order::{self, EdgeRow, Graph};
use super::rows::{self, EntryColumn, EntryRow, LockColumn, LockRow};
use super::stream::{self, StreamLine};
use super::table::TableState;
use super::{App, View};

/// The rows of the tables as of the last [`App::refresh`]; those of hidden views may be older.
#[derive(Debug, Default)]
pub struct Rows {
    /// Locks that match.
    pub locks: Vec<LockRow>,
    /// Entry points that match.
    pub entries: Vec<EntryRow>,
    /// Guests that match.
    pub guests: Vec<GuestRow>,
    /// Edges of the order that match.
    pub edges: Vec<EdgeRow>,
    /// The graph of all edges.
    pub graph: Graph,
    /// Tasks that match.
    pub lanes: Lanes,
    /// Findings that match.
    pub findings: Vec<FindingRow>,
    /// Findings that would be there without the filter.
    pub hidden_findings: usize,
    /// Spans and messages that match, oldest first.
    pub stream: Vec<StreamLine>,
}

impl App {
    /// Brings rows and detail up to date; costs nothing where nothing changed. Call before drawing and before keys.
    pub fn refresh(&mut self) {
        if !self.stale {
            return;
        }
        self.stale = false;
        if self.frozen.is_none() {
            self.live.report = self.diagnosis.report();
        }
        let shown = self.frozen.as_deref().unwrap_or(&self.live);
        let filter = &self.filters[self.view.place()].active;
        // A table is hidden while a detail is open: its rows wait until it is closed.
        self.detail = if self.detail_open {
            match self.view {
                View::Locks => self.locks.selected.and_then(|id| Detail::lock(shown, id)),
                View::Entries => self
                    .entries
                    .selected
                    .and_then(|id| Detail::entry(shown, id)),
                View::Order => self.edges.selected.and_then(|id| Detail::edge(shown, id)),
                View::Overview | View::Findings => self
                    .findings
                    .selected
                    .as_ref()
                    .and_then(|key| Detail::finding(shown, key)),
                View::Guests => self.guests.selected.and_then(|id| Detail::guest(shown, id)),
                View::Timeline | View::Log => None,
            }
            .map(Box::new)
        } else {
            None
        };
        self.detail_open = self.detail.is_some();
        if self.detail_open {
            return;
        }
        let rows = &mut self.rows;
        let model = &shown.model;
        match self.view {
            View::Overview => {
                let all = crate::filter::Filter::default();
                rows.findings = findings::rows(&shown.report, model, filter, &self.findings);
                rows.findings.retain(FindingRow::recent);
                let standing = findings::standing(&shown.report, Severity::Info);
                let matching = rows.findings.iter().filter(|row| row.finding.active());
                rows.hidden_findings = standing.saturating_sub(matching.count());
                self.findings
                    .follow(rows.findings.iter().map(FindingRow::key));
                rows.locks = rows::locks(model, &all, &TableState::new(LockColumn::Queue));
                rows::busiest_first(&mut rows.locks);
                rows.entries = rows::entries(model, &all, &TableState::new(EntryColumn::P99));
            }
            View::Locks => {
                rows.locks = rows::locks(model, filter, &self.locks);
                self.locks
                    .follow(rows.locks.iter().map(|row| row.facts.series));
            }
            View::Entries => {
                rows.entries = rows::entries(model, filter, &self.entries);
                self.entries
                    .follow(rows.entries.iter().map(|row| row.facts.entry));
            }
            View::Guests => {
                rows.guests = guests::rows(shown, filter, &self.guests);
                self.guests.follow(rows.guests.iter().map(|row| row.guest));
            }
            View::Order => {
                rows.graph = Graph::of(model);
                rows.edges = order::rows(&rows.graph, filter, &self.edges);
                self.edges.follow(rows.edges.iter().map(EdgeRow::key));
            }
            View::Timeline => {
                rows.lanes.update(shown, self.window, filter, &self.lanes);
                self.lanes.follow(rows.lanes.iter().map(|row| row.tid));
            }
            View::Findings => {
                rows.findings = findings::rows(&shown.report, model, filter, &self.findings);
                rows.hidden_findings = shown.report.findings.len() - rows.findings.len();
                self.findings
                    .follow(rows.findings.iter().map(FindingRow::key));
            }
            View::Log => rows.stream = stream::lines(shown, filter),
        }
    }

    /// The rows of the last [`App::refresh`].
    #[must_use]
    pub fn rows(&self) -> &Rows {
        &self.rows
    }

    /// The locks that match, in order. Of the last [`App::refresh`].
    #[must_use]
    pub fn lock_rows(&self) -> &[LockRow] {
        &self.rows.locks
    }

    /// The entry points that match, in order. Of the last [`App::refresh`].
    #[must_use]
    pub fn entry_rows(&self) -> &[EntryRow] {
        &self.rows.entries
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
            View::Overview | View::Findings => self.rows.findings.len(),
            View::Locks => self.rows.locks.len(),
            View::Entries => self.rows.entries.len(),
            View::Guests => self.rows.guests.len(),
            View::Order => self.rows.edges.len(),
            View::Timeline => self.rows.lanes.len(),
            View::Log => self.rows.stream.len(),
        }
    }
}
