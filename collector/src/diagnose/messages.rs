//! What the driver says in the kernel's log that a diagnosis can use: answers to the polls of a reset.
//!
//! Takes lines of the log, gives the last answer of each queue. It does not know whether a line comes from a kernel, the
//! emulated driver or a text that somebody saved.

use std::collections::BTreeMap;

use crate::frame::LogLine;

/// `AP_RESET_INTERVAL` (drivers/s390/crypto/vfio_ap_ops.c, v6.6): between two polls, in milliseconds.
const INTERVAL_MS: u64 = 20;
/// Queues whose answers are remembered.
const MAX_QUEUES: usize = 256;

/// An answer to a poll (PQAP(TAPQ)) of a queue's reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// When it was printed, by the clock of the traced machine.
    pub at_ns: u64,
    /// Adapter and domain.
    pub queue: (u8, u16),
    /// How long the reset had been polled, in milliseconds: the driver counts 20 for each poll, and reads no clock.
    pub waited_ms: u64,
    /// The response code.
    pub response: u8,
}

impl Answer {
    /// Number of the poll, from 1.
    pub const fn poll(&self) -> u64 {
        self.waited_ms / INTERVAL_MS
    }

    /// Name of the queue, as lock names have it: `01.0002`.
    pub fn queue(&self) -> String {
        format!("{:02x}.{:04x}", self.queue.0, self.queue.1)
    }

    /// The response code, and what it means.
    pub fn response(&self) -> String {
        format!("{:02x}{}", self.response, meaning_of(self.response))
    }
}

/// Polls of a reset that has been going on for so long, at most: each begins with a sleep of 20 ms.
pub const fn most_polls(for_ns: u64) -> u64 {
    for_ns / (INTERVAL_MS * 1_000_000)
}

/// Reads `Waited 4500ms for reset of queue 01.0002 (2, 0, 0)`: response code, queue empty, interruption enabled
/// (`WAIT_MSG`, drivers/s390/crypto/vfio_ap_ops.c, v6.6 and later). What stands before it does not matter.
pub fn answer(at_ns: u64, text: &str) -> Option<Answer> {
    let (_, rest) = text.split_once("Waited ")?;
    let (waited, rest) = rest.split_once("ms for reset of queue ")?;
    let (queue, rest) = rest.split_once(" (")?;
    let (adapter, domain) = queue.split_once('.')?;
    let (response, _) = rest.split_once(',')?;
    Some(Answer {
        at_ns,
        queue: (
            u8::from_str_radix(adapter, 16).ok()?,
            u16::from_str_radix(domain, 16).ok()?,
        ),
        waited_ms: waited.parse().ok()?,
        response: response.parse().ok()?,
    })
}

/// The last answer of each queue.
#[derive(Debug, Clone, Default)]
pub struct Answers {
    last: BTreeMap<(u8, u16), Answer>,
}

impl Answers {
    /// Reads lines of the log, the oldest first. Only what the driver said counts.
    pub fn read(&mut self, log: &[LogLine]) {
        let said = log.iter().filter(|line| line.level == LogLine::DRIVER);
        for answer in said.filter_map(|line| answer(line.at_ns, &line.text)) {
            if self.last.len() < MAX_QUEUES || self.last.contains_key(&answer.queue) {
                self.last.insert(answer.queue, answer);
            }
        }
    }

    /// Of the queue with this name.
    pub fn of(&self, queue: &str) -> Option<&Answer> {
        let (adapter, domain) = queue.split_once('.')?;
        let adapter = u8::from_str_radix(adapter, 16).ok()?;
        let domain = u16::from_str_radix(domain, 16).ok()?;
        self.last.get(&(adapter, domain))
    }

    /// Of all queues, those that have been polled for longest first.
    pub fn longest(&self) -> Vec<&Answer> {
        let mut all: Vec<&Answer> = self.last.values().collect();
        all.sort_by_key(|answer| std::cmp::Reverse(answer.waited_ms));
        all
    }
}

/// Response codes of PQAP (arch/s390/include/asm/ap.h, drivers/s390/crypto/ap_bus.h, v6.12).
pub const fn meaning_of(code: u8) -> &'static str {
    match code {
        0x00 => " (normal)",
        0x01 => " (queue not available)",
        0x02 => " (reset in progress)",
        0x03 => " (deconfigured)",
        0x04 => " (checkstopped)",
        0x05 => " (busy)",
        0x0a => " (state change in progress)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(level: &str, text: &str) -> LogLine {
        LogLine {
            at_ns: 7,
            level: level.into(),
            text: text.into(),
        }
    }

    #[test]
    fn the_drivers_message_is_read_and_nothing_else() {
        let text = "<5>[ 12.3] Waited 4500ms for reset of queue 0a.00ff (5, 0, 1)";
        let answer = answer(7, text).unwrap();
        assert_eq!((answer.queue(), answer.poll()), ("0a.00ff".into(), 225));
        assert_eq!(answer.response(), "05 (busy)");
        for other in [
            "",
            "Waited 20ms for reset of queue",
            "Waited 20ms for reset of queue 1.2",
            "Waited 20ms for reset of queue 100.0002 (2, 0, 0)",
            "Waited -20ms for reset of queue 01.0002 (2, 0, 0)",
            "Waited 20ms for reset of queue 01.0002 (256, 0, 0)",
            "Waited 99999999999999999999ms for reset of queue 01.0002 (2, 0, 0)",
        ] {
            assert_eq!(super::answer(7, other), None, "{other}");
        }
    }

    #[test]
    fn the_last_answer_of_a_queue_counts() {
        let mut answers = Answers::default();
        let said = |ms: u64, code: u8| {
            line(
                LogLine::DRIVER,
                &format!("Waited {ms}ms for reset of queue 01.0002 ({code}, 0, 0)"),
            )
        };
        answers.read(&[said(20, 2), said(40, 5)]);
        // What somebody else wrote is not the driver's word.
        answers.read(&[line(
            "info",
            "Waited 60ms for reset of queue 01.0002 (2, 0, 0)",
        )]);
        assert_eq!(
            answers.of("01.0002").map(|a| (a.poll(), a.response)),
            Some((2, 5))
        );
        assert!(answers.of("01.0003").is_none() && answers.of("?").is_none());
        for n in 0..1000 {
            answers.read(&[line(
                LogLine::DRIVER,
                &format!("Waited 20ms for reset of queue 02.{n:04x} (2, 0, 0)"),
            )]);
        }
        assert_eq!(answers.longest().len(), MAX_QUEUES);
        assert_eq!(answers.longest()[0].queue(), "01.0002");
    }
}
