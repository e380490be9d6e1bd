//! Progress on the standard error: a line that changes on a terminal, one line at the end elsewhere.

use std::io::{self, IsTerminal, Write};

use super::sink::Recorder;
use crate::cli::Globals;
use crate::cli::live::note;

pub(super) struct Progress {
    name: String,
    wanted: bool,
    terminal: bool,
    shown: String,
}

impl Progress {
    pub fn new(globals: &Globals, name: String) -> Self {
        Self {
            name,
            wanted: !globals.quiet,
            terminal: io::stderr().is_terminal(),
            shown: String::new(),
        }
    }

    /// Shows where it is, when that has changed: with each flush.
    pub fn show(&mut self, recorder: &Recorder) {
        if !self.wanted || !self.terminal {
            return;
        }
        let now = recorder.progress();
        if now == self.shown {
            return;
        }
        let blanks = self.shown.len().saturating_sub(now.len());
        let text = format!("\rrecording to {}: {now}{:blanks$}", self.name, "");
        self.shown = now;
        let mut stderr = io::stderr().lock();
        let _ = stderr
            .write_all(text.as_bytes())
            .and_then(|()| stderr.flush());
    }

    /// Says what there is at the end.
    pub fn end(&self, recorder: &Recorder) {
        if self.wanted {
            let start = if self.shown.is_empty() { "" } else { "\n" };
            note(&format!("{start}{}", recorder.summary(&self.name)));
        }
    }
}
