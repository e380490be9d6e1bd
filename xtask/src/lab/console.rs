//! What the guest says on its serial console: bytes made into lines, and where those go. Bounded: a line that does not
//! end is cut.

use std::fmt;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use crate::failure::Failure;

/// Longest line, in bytes.
const MOST: usize = 16 << 10;

/// Bytes made into lines, without their line ends.
#[derive(Debug, Default)]
pub struct Lines(Vec<u8>);

impl Lines {
    /// Adds bytes; the lines that are complete.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for &byte in bytes {
            match byte {
                b'\n' => lines.extend(self.take(true)),
                b'\r' => {}
                byte => {
                    self.0.push(byte);
                    if self.0.len() >= MOST {
                        lines.extend(self.take(true));
                    }
                }
            }
        }
        lines
    }

    /// The line that was begun.
    pub fn finish(mut self) -> Option<String> {
        self.take(false)
    }

    fn take(&mut self, empty_too: bool) -> Option<String> {
        if self.0.is_empty() && !empty_too {
            return None;
        }
        let line = String::from_utf8_lossy(&self.0).into_owned();
        self.0.clear();
        Some(line)
    }
}

/// Somebody else who is told each line.
type Watch = Box<dyn Fn(&str) + Send>;

/// Where lines go.
pub struct Sink {
    log: File,
    /// Also to the standard output.
    shown: bool,
    /// And here.
    watch: Option<Watch>,
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { log, shown, watch } = self;
        f.debug_struct("Sink")
            .field("log", log)
            .field("shown", shown)
            .field("watched", &watch.is_some())
            .finish()
    }
}

impl Sink {
    /// A new log, and the standard output too where `shown`.
    pub fn new(log: &Path, shown: bool) -> Result<Self, Failure> {
        let log = File::create(log).map_err(|e| Failure::file("creating", log, &e))?;
        let watch = None;
        Ok(Self { log, shown, watch })
    }

    /// The same, and each line is also given to `watch`.
    pub fn watched(mut self, watch: impl Fn(&str) + Send + 'static) -> Self {
        self.watch = Some(Box::new(watch));
        self
    }

    /// Takes one line.
    pub fn line(&mut self, line: &str) {
        // A full disk shows elsewhere: the console is not what a run is judged by.
        let _ = writeln!(self.log, "{line}");
        if self.shown {
            println!("{line}");
        }
        if let Some(watch) = &self.watch {
            watch(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_where_they_end() {
        let mut lines = Lines::default();
        assert!(lines.push(b"ab").is_empty());
        assert_eq!(lines.push(b"c\r\n\r\nde"), ["abc", ""]);
        assert_eq!(lines.finish().as_deref(), Some("de"));
        assert_eq!(Lines::default().finish(), None);
    }

    #[test]
    fn a_line_without_an_end_is_cut() {
        let mut lines = Lines::default();
        let cut = lines.push(&vec![b'x'; MOST + 1]);
        assert_eq!(cut.len(), 1);
        assert_eq!(cut[0].len(), MOST);
        assert_eq!(lines.finish().as_deref(), Some("x"));
    }
}
