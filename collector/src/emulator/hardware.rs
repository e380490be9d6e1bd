//! The simulated AP hardware: queues that answer PQAP functions.
//!
//! Each queue has a script: how the response code, the interruption state and the reset behave over time. Scripts count
//! the queue's own operations and never look at the clock, so a queue's answers depend on its own history only.

use std::collections::BTreeMap;
use std::sync::Mutex;

/// `struct ap_queue_status`, as it stands in the low word of GR1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ApQueueStatus {
    /// The queue holds no request.
    pub queue_empty: bool,
    /// The queue may interrupt.
    pub irq_enabled: bool,
    /// Response code.
    pub response_code: u8,
}

/// Normal.
pub const AP_RESPONSE_NORMAL: u8 = 0x00;
/// No such queue for this guest.
pub const AP_RESPONSE_Q_NOT_AVAIL: u8 = 0x01;
/// A reset is going on.
pub const AP_RESPONSE_RESET_IN_PROGRESS: u8 = 0x02;
/// The adapter is configured off.
pub const AP_RESPONSE_DECONFIGURED: u8 = 0x03;
/// The adapter is checkstopped.
pub const AP_RESPONSE_CHECKSTOPPED: u8 = 0x04;
/// The queue is busy.
pub const AP_RESPONSE_BUSY: u8 = 0x05;
/// The address of the notification indicator byte is not valid.
pub const AP_RESPONSE_INVALID_ADDRESS: u8 = 0x06;
/// The queue is already in the state asked for.
pub const AP_RESPONSE_OTHERWISE_CHANGED: u8 = 0x07;
/// The state of the queue is being changed.
pub const AP_RESPONSE_STATE_CHANGE_IN_PROGRESS: u8 = 0x0a;
/// The association secret is not unique.
pub const AP_RESPONSE_ASSOC_SECRET_NOT_UNIQUE: u8 = 0x35;
/// The association failed.
pub const AP_RESPONSE_ASSOC_FAILED: u8 = 0x36;

impl ApQueueStatus {
    /// A status that says nothing but a response code.
    pub const fn response(response_code: u8) -> Self {
        Self {
            queue_empty: false,
            irq_enabled: false,
            response_code,
        }
    }

    /// The 32-bit status word: flags in the first byte, response code in the second.
    pub const fn word(self) -> u32 {
        let mut flags = 0;
        if self.queue_empty {
            flags |= 0x80;
        }
        if self.irq_enabled {
            flags |= 0x01;
        }
        (flags << 24) | ((self.response_code as u32) << 16)
    }
}

/// How a queue behaves. A period of 0 means never.
#[derive(Debug, Clone, Copy, Default)]
pub struct Script {
    /// Every how many disabled interruptions the disabling takes effect late.
    pub slow_disable_period: u32,
    /// Queue tests (20 ms apart) that still show the interruption enabled after a late disabling.
    pub slow_disable_tests: u32,
    /// Every how many resets the queue is emptied late.
    pub slow_reset_period: u32,
    /// The queue test, counted from 1, that first shows the queue empty after a late reset.
    pub slow_reset_tests: u32,
    /// Every how many resets the first attempt finds a reset going on.
    pub reset_in_progress_period: u32,
    /// Response code of queue tests after a reset, before the reset shows as complete.
    pub reset_response: u8,
    /// How many queue tests after each reset answer so; [`FOREVER`] never ends.
    pub reset_response_tests: u32,
    /// Answered to everything, instead of the normal behaviour.
    pub fixed_response: Option<u8>,
}

/// A number of queue tests that is never reached.
pub const FOREVER: u32 = u32::MAX;

impl Script {
    /// A queue that does everything at once.
    #[cfg(test)]
    pub const IMMEDIATE: Self = Self {
        slow_disable_period: 0,
        slow_disable_tests: 0,
        slow_reset_period: 0,
        slow_reset_tests: 0,
        reset_in_progress_period: 0,
        reset_response: 0,
        reset_response_tests: 0,
        fixed_response: None,
    };
}

/// State of one queue.
#[derive(Debug, Default)]
struct Queue {
    script: Script,
    irq_enabled: bool,
    /// Queue tests for which the old interruption state still shows.
    disable_pending: u32,
    /// Queue tests until the queue is empty, the one that shows it included.
    reset_pending: u32,
    /// Queue tests that are still answered with the script's `reset_response`.
    resetting: u32,
    /// The next reset attempt finds this reset going on.
    reset_in_progress: bool,
    disables: u32,
    resets: u32,
}

fn due(count: u32, period: u32, phase: u32) -> bool {
    period != 0 && count % period == phase % period
}

impl Queue {
    fn status(&self, response_code: u8) -> ApQueueStatus {
        ApQueueStatus {
            queue_empty: self.reset_pending == 0,
            irq_enabled: self.irq_enabled || self.disable_pending != 0,
            response_code,
        }
    }
}

/// The queues of the machine, by APQN.
#[derive(Debug, Default)]
pub struct Hardware {
    queues: BTreeMap<u16, Mutex<Queue>>,
}

/// APQN of an adapter and a domain.
pub const fn mkqid(adapter: u16, domain: u16) -> u16 {
    ((adapter & 0xff) << 8) | (domain & 0xff)
}

impl Hardware {
    /// Adds a queue.
    pub fn insert(&mut self, apqn: u16, script: Script) {
        let queue = Queue {
            script,
            ..Queue::default()
        };
        self.queues.insert(apqn, Mutex::new(queue));
    }

    /// Numbers of all queues, ascending.
    pub fn queues(&self) -> impl Iterator<Item = u16> + '_ {
        self.queues.keys().copied()
    }

    /// Replaces a queue's script; a reset that is going on follows the new one from the next test on.
    pub fn set_script(&self, apqn: u16, script: Script) {
        if let Some(queue) = self.queues.get(&apqn) {
            let mut queue = queue
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            queue.resetting = queue.resetting.min(script.reset_response_tests);
            queue.script = script;
        }
    }

    /// Type of the card of an adapter.
    pub const fn card_type(adapter: u16) -> &'static str {
        match adapter % 4 {
            0 => "CEX8C",
            1 => "CEX8P",
            2 => "CEX7C",
            _ => "CEX8A",
        }
    }

    fn with(&self, apqn: u16, f: impl FnOnce(&mut Queue) -> ApQueueStatus) -> ApQueueStatus {
        let Some(queue) = self.queues.get(&apqn) else {
            return ApQueueStatus::response(AP_RESPONSE_Q_NOT_AVAIL);
        };
        // Nothing below can panic, so poisoning means nothing.
        let mut queue = queue
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(code) = queue.script.fixed_response {
            return queue.status(code);
        }
        f(&mut queue)
    }

    /// PQAP(TAPQ): the state of a queue.
    pub fn ap_tapq(&self, apqn: u16) -> ApQueueStatus {
        self.with(apqn, |q| {
            if q.resetting != 0 {
                if q.resetting != FOREVER {
                    q.resetting -= 1;
                }
                return q.status(q.script.reset_response);
            }
            q.reset_pending = q.reset_pending.saturating_sub(1);
            let status = q.status(AP_RESPONSE_NORMAL);
            q.disable_pending = q.disable_pending.saturating_sub(1);
            status
        })
    }

    /// PQAP(ZAPQ): resets and zeroizes a queue.
    pub fn ap_zapq(&self, apqn: u16) -> ApQueueStatus {
        self.with(apqn, |q| {
            if !q.reset_in_progress {
                q.resets = q.resets.wrapping_add(1);
                if due(q.resets, q.script.reset_in_progress_period, apqn.into()) {
                    q.reset_in_progress = true;
                    return q.status(AP_RESPONSE_RESET_IN_PROGRESS);
                }
            }
            q.reset_in_progress = false;
            q.irq_enabled = false;
            q.disable_pending = 0;
            q.reset_pending = 0;
            q.resetting = q.script.reset_response_tests;
            if due(q.resets, q.script.slow_reset_period, u32::from(apqn) + 1) {
                q.reset_pending = q.script.slow_reset_tests;
            }
            q.status(AP_RESPONSE_NORMAL)
        })
    }

    /// PQAP(AQIC): turns a queue's interruptions on or off.
    pub fn ap_aqic(&self, apqn: u16, enable: bool) -> ApQueueStatus {
        self.with(apqn, |q| {
            if q.irq_enabled == enable {
                return q.status(AP_RESPONSE_OTHERWISE_CHANGED);
            }
            q.irq_enabled = enable;
            q.disable_pending = 0;
            if !enable {
                q.disables = q.disables.wrapping_add(1);
                if due(q.disables, q.script.slow_disable_period, apqn.into()) {
                    q.disable_pending = q.script.slow_disable_tests;
                }
            }
            q.status(AP_RESPONSE_NORMAL)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_word_is_the_architectures() {
        let status = ApQueueStatus {
            queue_empty: true,
            irq_enabled: true,
            response_code: AP_RESPONSE_OTHERWISE_CHANGED,
        };
        assert_eq!(status.word(), 0x8107_0000);
        assert_eq!(
            ApQueueStatus::response(AP_RESPONSE_Q_NOT_AVAIL).word(),
            0x0001_0000
        );
    }

    #[test]
    fn a_script_is_followed() {
        let mut hardware = Hardware::default();
        hardware.insert(
            0,
            Script {
                slow_disable_period: 2,
                slow_disable_tests: 2,
                reset_in_progress_period: 2,
                ..Script::IMMEDIATE
            },
        );
        let enable = |on| hardware.ap_aqic(0, on).response_code;
        assert_eq!(enable(true), AP_RESPONSE_NORMAL);
        assert_eq!(enable(true), AP_RESPONSE_OTHERWISE_CHANGED);
        assert_eq!(enable(false), AP_RESPONSE_NORMAL);
        assert!(!hardware.ap_tapq(0).irq_enabled);
        enable(true);
        enable(false);
        let shown: Vec<bool> = (0..3).map(|_| hardware.ap_tapq(0).irq_enabled).collect();
        assert_eq!(shown, [true, true, false]);
        let codes: Vec<u8> = (0..4).map(|_| hardware.ap_zapq(0).response_code).collect();
        assert_eq!(codes, [0, 2, 0, 0]);
        hardware.insert(
            2,
            Script {
                slow_reset_period: 1,
                slow_reset_tests: 2,
                ..Script::IMMEDIATE
            },
        );
        assert!(!hardware.ap_zapq(2).queue_empty);
        assert!(!hardware.ap_tapq(2).queue_empty);
        assert!(hardware.ap_tapq(2).queue_empty);
        assert_eq!(hardware.ap_tapq(1).response_code, AP_RESPONSE_Q_NOT_AVAIL);
    }
}
