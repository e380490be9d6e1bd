//! The emulated kernel's log: what the driver prints, until a collector asks for it.
//!
//! Takes messages, gives those that nobody has taken, with their times; rate-limited as `pr_notice_ratelimited()` is. It
//! does not know what a message means.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::primitives::monotonic_ns;
use super::protocol::Message;

/// `DEFAULT_RATELIMIT_INTERVAL` and `DEFAULT_RATELIMIT_BURST` (include/linux/ratelimit_types.h): so many messages of one
/// place of the source in five seconds.
const INTERVAL_NS: u64 = 5_000_000_000;
const BURST: u32 = 10;

/// Messages kept for a collector; the oldest go first.
const MAX_MESSAGES: usize = 256;

/// The log, with one rate limit: there is one place in the driver that prints.
#[derive(Debug, Default)]
pub struct KernelLog {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    messages: VecDeque<Message>,
    interval_began_ns: u64,
    printed: u32,
}

impl KernelLog {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `pr_notice_ratelimited`.
    pub fn notice_ratelimited(&self, text: impl FnOnce() -> String) {
        self.print_at(monotonic_ns(), text);
    }

    fn print_at(&self, now: u64, text: impl FnOnce() -> String) {
        let mut state = self.state();
        // Of two at the same time, the later may be the first here.
        let passed = now.saturating_sub(state.interval_began_ns);
        if state.interval_began_ns == 0 || passed > INTERVAL_NS {
            (state.interval_began_ns, state.printed) = (now, 0);
        }
        if state.printed >= BURST {
            return;
        }
        state.printed += 1;
        if state.messages.len() >= MAX_MESSAGES {
            state.messages.pop_front();
        }
        state.messages.push_back(Message {
            at_ns: now,
            text: text(),
        });
    }

    /// What nobody has taken yet, the oldest first.
    pub fn take(&self) -> Vec<Message> {
        self.state().messages.drain(..).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_messages_in_five_seconds() {
        let log = KernelLog::default();
        let second = 1_000_000_000;
        for n in 0..20 {
            log.print_at(second + n, || n.to_string());
        }
        let texts = |log: &KernelLog| log.take().into_iter().map(|m| m.text).collect::<Vec<_>>();
        assert_eq!(texts(&log).len(), 10);
        log.print_at(second + INTERVAL_NS, || "still".into());
        assert_eq!(texts(&log), [""; 0]);
        log.print_at(second + INTERVAL_NS + 1, || "again".into());
        assert_eq!(texts(&log), ["again"]);
    }

    #[test]
    fn who_looked_at_the_clock_first_may_come_second() {
        let log = KernelLog::default();
        log.print_at(2_000, || "second".into());
        log.print_at(1_000, || "first".into());
        assert_eq!(log.take().len(), 2);
    }
}
