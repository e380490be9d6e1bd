//! What systemd is told, where it has started the daemon: ready, alive, reloading, stopping. Elsewhere nothing happens.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

/// The service manager.
pub struct Manager {
    /// How often it wants to hear that the daemon is alive, halved.
    every: Option<Duration>,
    told: Option<Instant>,
}

impl Manager {
    /// Asks the environment.
    pub fn new() -> Self {
        Self {
            every: sd_notify::watchdog_enabled().map(|timeout| timeout / 2),
            told: None,
        }
    }

    /// Everything is attached, and this is measured, as `systemctl status` shows it.
    pub fn measuring(what: &str) {
        tell(&[NotifyState::Ready, NotifyState::Status(what)]);
    }

    /// The configuration was read.
    pub fn ready() {
        tell(&[NotifyState::Ready]);
    }

    /// A frame came and was published.
    pub fn alive(&mut self) {
        let due = self
            .every
            .is_some_and(|every| self.told.is_none_or(|told| told.elapsed() >= every));
        if due {
            self.told = Some(Instant::now());
            tell(&[NotifyState::Watchdog]);
        }
    }

    /// The configuration is read again.
    pub fn reloading() {
        if let Ok(now) = NotifyState::monotonic_usec_now() {
            tell(&[NotifyState::Reloading, now]);
        }
    }

    /// The last frame is being waited for.
    pub fn stopping() {
        tell(&[NotifyState::Stopping, NotifyState::Status("stopped")]);
    }
}

/// A manager that has gone needs to be told nothing.
fn tell(states: &[NotifyState]) {
    let _ = sd_notify::notify(states);
}
