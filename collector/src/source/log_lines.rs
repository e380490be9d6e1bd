//! Messages for the dashboard's log: from the eBPF programs (through aya-log) and from the collector.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use aya::Ebpf;
use aya_log::EbpfLogger;

use super::reader::monotonic_ns;
use crate::frame::LogLine;

/// Lines kept until the next frame takes them; more are counted.
const MAX_LINES: usize = 1000;

/// Lines waiting for the next frame.
#[derive(Debug, Clone, Default)]
pub struct LogLines {
    waiting: Arc<Mutex<Waiting>>,
}

#[derive(Debug, Default)]
struct Waiting {
    lines: VecDeque<LogLine>,
    lost: u64,
}

impl LogLines {
    /// Adds a line.
    pub fn push(&self, level: &str, text: &str) {
        self.push_at(monotonic_ns(), level, text);
    }

    /// Adds what the driver has said to the kernel's log, CLOCK_MONOTONIC nanoseconds.
    pub fn push_driver(&self, at_ns: u64, text: &str) {
        self.push_at(at_ns, LogLine::DRIVER, text);
    }

    fn push_at(&self, at_ns: u64, level: &str, text: &str) {
        let Ok(mut waiting) = self.waiting.lock() else {
            return;
        };
        if waiting.lines.len() >= MAX_LINES {
            waiting.lost += 1;
            return;
        }
        waiting.lines.push_back(LogLine {
            at_ns,
            level: level.into(),
            text: text.into(),
        });
    }

    /// Takes all lines.
    pub fn take(&self) -> Vec<LogLine> {
        let Ok(mut waiting) = self.waiting.lock() else {
            return Vec::new();
        };
        let lost = std::mem::take(&mut waiting.lost);
        let mut lines: Vec<LogLine> = waiting.lines.drain(..).collect();
        if lost != 0 {
            let text = format!("{lost} more messages were lost");
            lines.push(LogLine {
                at_ns: monotonic_ns(),
                level: "warn".into(),
                text,
            });
        }
        lines
    }

    /// Receives the programs' messages.
    pub fn attach(&self, ebpf: &mut Ebpf) -> Result<EbpfLogger<Self>, aya_log::Error> {
        EbpfLogger::init_with_logger(ebpf, self.clone())
    }
}

impl log::Log for LogLines {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let level = record.level().as_str().to_ascii_lowercase();
        self.push(&level, &record.args().to_string());
    }

    fn flush(&self) {}
}
