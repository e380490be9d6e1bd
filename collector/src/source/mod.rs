//! Sources: where frames come from.
//!
//! A [`Session`] runs a source on a thread of its own and hands over one frame a tick.

use std::sync::Arc;
use std::time::Duration;

use crate::emulator::protocol::Truth;
use crate::frame::Frame;
use crate::options::RunOptions;

/// Why a session could not start or go on: what, why, and what to try.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct SourceError {
    /// What failed.
    pub what: String,
    /// Why.
    pub cause: String,
    /// What to try.
    pub hint: String,
}

/// A running source.
pub struct Session {
    /// One frame a tick, until the channel closes. The last frame has `end`.
    pub frames: tokio::sync::mpsc::Receiver<Arc<Frame>>,
}

/// How a session ended.
#[derive(Debug, Clone, Default)]
pub struct Ended {
    /// The emulator's ground truth, where it was stopped in order.
    pub truth: Option<Truth>,
}

impl Session {
    /// Starts a source: decides between kernel and emulator and between eBPF and in process, starts or attaches to
    /// the emulator, attaches every probe, says *go*.
    pub fn start(_options: &RunOptions) -> Result<Self, SourceError> {
        unimplemented!()
    }

    /// Changes the time between frames.
    pub fn set_interval(&self, _interval: Duration) {}

    /// Asks the source to stop: actors finish their operations, the last frame is read, `frames` closes.
    pub fn stop(&self) {}

    /// After `frames` has closed: how it ended.
    pub fn ended(self) -> Ended {
        Ended::default()
    }
}
