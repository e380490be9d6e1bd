//! What the dashboard knows: the model and the diagnosis as folded so far, and what the person looking at it has chosen.
//!
//! Nothing here draws, reads a clock or a terminal. Frames and keys go in; [`crate::view`] reads the result.

pub mod config;
pub mod detail;
mod ending;
pub mod export;
pub mod filtering;
pub mod findings;
pub mod guests;
pub mod history;
pub mod keymap;
pub mod keys;
pub mod lanes;
pub mod matrix;
pub mod order;
pub mod pulse;
mod refresh;
pub mod replay;
pub mod rows;
mod spread;
pub mod stream;
pub mod table;
pub mod timeline;
mod view;
pub mod window;

use std::time::Duration;

use apscope_collector::diagnose::{Diagnosis, Report, Thresholds};
use apscope_collector::frame::Frame;
use apscope_collector::model::Model;
use apscope_collector::source::Link;
use ratatui::layout::Rect;

use config::Settings;
use detail::Detail;
pub use ending::Ending;
use filtering::FilterState;
use findings::{FindingColumn, FindingKey};
use guests::GuestColumn;
use history::History;
use order::EdgeColumn;
use pulse::Pulse;
pub use refresh::Rows;
use replay::Replay;
use rows::{EntryColumn, LockColumn};
use table::{Listing, TableState};
use timeline::LaneColumn;
pub use view::{Overlay, Target, View};
use window::Window;

use crate::theme::Theme;

/// A run at one moment: the model, what is the matter with it, and what the model does not keep.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Everything known about the run.
    pub model: Model,
    /// Verdict and findings.
    pub report: Report,
    /// Rates that the model does not keep.
    pub pulse: Pulse,
    /// Spans and distributions over time.
    pub history: History,
}

impl Snapshot {
    fn new(report: Report) -> Self {
        Self {
            model: Model::default(),
            report,
            pulse: Pulse::default(),
            history: History::default(),
        }
    }
}

/// What was known at a moment of a run, to go back to it.
#[derive(Clone)]
pub struct Known {
    live: Snapshot,
    diagnosis: Diagnosis,
    ending: Option<Ending>,
}

/// Something that was done, or could not be done, for the line at the bottom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// The text.
    pub text: String,
    /// It could not be done.
    pub failed: bool,
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
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a choice of its own: any of them goes with any other"
)]
pub struct App {
    live: Snapshot,
    diagnosis: Diagnosis,
    frozen: Option<Box<Snapshot>>,
    /// The view that is shown.
    pub view: View,
    /// The selected row's detail is shown instead of the table.
    pub detail_open: bool,
    /// Only the focused pane is shown.
    pub expanded: bool,
    /// What lies over the view.
    pub overlay: Option<Overlay>,
    /// First line shown of a detail, the log or the help.
    pub scroll: usize,
    /// Lines that fitted the last time, for half-page steps and for the end of scrolling. Set while drawing.
    pub page: usize,
    /// Lines there were to scroll through. Set while drawing.
    pub lines: usize,
    /// What the mouse can hit. Set while drawing.
    pub targets: Vec<(Rect, Target)>,
    /// The locks table.
    pub locks: TableState<LockColumn>,
    /// The entry points table.
    pub entries: TableState<EntryColumn>,
    /// The guests table.
    pub guests: TableState<GuestColumn, u32>,
    /// The edges table.
    pub edges: TableState<EdgeColumn, (u8, u8)>,
    /// The lanes of the timeline.
    pub lanes: TableState<LaneColumn, u32>,
    /// The findings table.
    pub findings: TableState<FindingColumn, FindingKey>,
    /// The part of time that the timeline shows.
    pub window: Window,
    filters: [FilterState; View::ALL.len()],
    /// Time between frames.
    pub interval: Duration,
    /// Styles.
    pub theme: Theme,
    /// Only characters of ASCII are drawn.
    pub ascii: bool,
    /// Keys, theme and thresholds as configured.
    pub settings: Settings,
    /// Where in a recording it is; `None` for a run that goes on.
    pub replay: Option<Replay>,
    /// Whether the collector elsewhere can be heard, where there is one.
    pub link: Link,
    /// For so long nothing has come from there, while nothing comes.
    pub away: Option<Duration>,
    /// What the last key did.
    pub notice: Option<Notice>,
    /// A key has been pressed: the banner for the first run goes.
    pub touched: bool,
    /// Set when there will be no more frames.
    pub ending: Option<Ending>,
    rows: Rows,
    detail: Option<Box<Detail>>,
    stale: bool,
}

impl App {
    /// An empty dashboard.
    #[must_use]
    pub fn new(theme: Theme, interval: Duration) -> Self {
        Self::with(
            Settings {
                theme,
                ..Settings::default()
            },
            interval,
        )
    }

    /// An empty dashboard with settings of its own.
    #[must_use]
    pub fn with(settings: Settings, interval: Duration) -> Self {
        let diagnosis = Diagnosis::new(settings.thresholds.clone());
        Self {
            live: Snapshot::new(diagnosis.report()),
            diagnosis,
            frozen: None,
            view: View::default(),
            detail_open: false,
            expanded: false,
            overlay: None,
            scroll: 0,
            page: 1,
            lines: 0,
            targets: Vec::new(),
            locks: TableState::new(LockColumn::WaitP99),
            entries: TableState::new(EntryColumn::P99),
            guests: TableState::new(GuestColumn::Wait),
            edges: TableState::new(EdgeColumn::Cycle),
            lanes: TableState::new(LaneColumn::Waiting),
            findings: TableState::new(FindingColumn::Severity),
            window: Window::default(),
            filters: View::ALL.map(|view| FilterState::of(view.fields())),
            interval,
            theme: settings.theme,
            ascii: settings.ascii,
            settings,
            replay: None,
            link: Link::Up,
            away: None,
            notice: None,
            touched: false,
            ending: None,
            rows: Rows::default(),
            detail: None,
            stale: true,
        }
    }

    /// Folds a frame and looks at what has become of the run. While paused the shown snapshot stays as it is.
    pub fn apply(&mut self, frame: &Frame) {
        let before = self.run();
        self.live.model.apply(frame);
        self.diagnosis.observe(&self.live.model, frame);
        self.live.pulse.sample(&self.live.model);
        let anew = self.run() != before;
        self.live.history.sample(frame, &self.live.model, anew);
        self.stale |= self.frozen.is_none();
        if let Some(end) = &self.live.model.end {
            self.ending = Some(Ending::of(end));
        }
    }

    /// What tells a run from another one.
    fn run(&self) -> Option<(u64, u32)> {
        let meta = self.live.model.meta.as_ref()?;
        Some((meta.start_ns, meta.pid))
    }

    /// Forgets the run, to go through it again from its start. What the person has chosen stays.
    pub fn restart(&mut self) {
        self.diagnosis = Diagnosis::new(self.settings.thresholds.clone());
        self.live = Snapshot::new(self.diagnosis.report());
        self.frozen = None;
        self.ending = None;
        self.stale = true;
    }

    /// What is known now, for [`App::go_to`].
    #[must_use]
    pub fn known(&self) -> Known {
        Known {
            live: self.live.clone(),
            diagnosis: self.diagnosis.clone(),
            ending: self.ending.clone(),
        }
    }

    /// Knows what was known at another moment of the same run, and nothing else. What the person has chosen stays.
    pub fn go_to(&mut self, known: &Known) {
        self.live.clone_from(&known.live);
        self.diagnosis.clone_from(&known.diagnosis);
        self.ending.clone_from(&known.ending);
        self.frozen = None;
        self.stale = true;
    }

    /// Everything found up to now.
    #[must_use]
    pub fn report(&self) -> Report {
        self.diagnosis.report()
    }

    /// There will be no more frames. Without a last frame that says so, the source has died.
    pub fn closed(&mut self) {
        self.ending
            .get_or_insert_with(|| Ending::Died("it stopped without a last frame".into()));
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

    /// From when on something is a finding.
    #[must_use]
    pub fn thresholds(&self) -> &Thresholds {
        &self.settings.thresholds
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
        self.frozen = if self.frozen.is_some() {
            None
        } else {
            self.live.report = self.diagnosis.report();
            Some(Box::new(self.live.clone()))
        };
        self.stale = true;
    }

    /// The current view's filter.
    #[must_use]
    pub fn filter(&self) -> &FilterState {
        &self.filters[self.view.place()]
    }

    fn filter_mut(&mut self) -> &mut FilterState {
        &mut self.filters[self.view.place()]
    }

    /// The current view's table; `None` where there is text instead.
    pub fn listing(&mut self) -> Option<&mut dyn Listing> {
        match self.view {
            View::Overview | View::Findings => Some(&mut self.findings),
            View::Locks => Some(&mut self.locks),
            View::Entries => Some(&mut self.entries),
            View::Guests => Some(&mut self.guests),
            View::Order => Some(&mut self.edges),
            View::Timeline => Some(&mut self.lanes),
            View::Log => None,
        }
    }

    /// The picture is older than what is known, or than what was chosen.
    #[must_use]
    pub const fn is_stale(&self) -> bool {
        self.stale
    }

    /// Something was chosen that changes rows or detail.
    pub fn touch(&mut self) {
        self.stale = true;
    }
}

#[cfg(test)]
mod tests;
