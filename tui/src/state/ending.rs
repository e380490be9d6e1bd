//! How a run came to its end.

use apscope_collector::frame::End;
use apscope_collector::source::END_LINK_DOWN;

/// How the source came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// As asked: the time was over, or it was told to stop.
    InOrder,
    /// A kernel is measured no more, as it was to be: what was measured stays on the screen.
    Detached(String),
    /// Elsewhere, as it was to be: another run is waited for there.
    Over,
    /// By itself, unasked.
    Died(String),
}

impl Ending {
    /// As the last frame says.
    pub(super) fn of(end: &End) -> Self {
        match end.how.as_str() {
            "source died" | END_LINK_DOWN => Self::Died(end.detail.clone()),
            "detached" | "driver unloaded" => Self::Detached(end.detail.clone()),
            _ => Self::InOrder,
        }
    }
}
