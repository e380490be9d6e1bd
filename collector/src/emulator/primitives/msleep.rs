//! `msleep`: an uninterruptible sleep.

use std::time::Duration;

use super::trace::{self, Event};

/// Sleeps for at least `ms` milliseconds.
pub(crate) fn msleep(ms: u32) {
    trace::note(Event::Msleep(ms));
    std::thread::sleep(Duration::from_millis(ms.into()));
}
