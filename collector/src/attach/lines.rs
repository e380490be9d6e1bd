//! Lines of a text that somebody else wrote, read with bounds.
//!
//! Takes any reader; gives one line after the other. Does not know what the lines mean. Every file of a kernel that is
//! read here is a few MB; the bounds leave an order of magnitude of room and keep a wrong file from filling the memory.

use std::hash::{DefaultHasher, Hasher as _};
use std::io::{self, BufRead, Read};

/// Bytes of one line. A symbol is at most 512 bytes (`KSYM_NAME_LEN`, include/linux/kallsyms.h, since v6.1), a module's
/// name at most 56.
pub const MAX_LINE: usize = 1024;

/// Bytes of one file.
pub const MAX_BYTES: u64 = 256 << 20;

/// Lines of one file. Debian's kernels have 150,000 symbols, and 250,000 with all modules loaded.
pub const MAX_LINES: usize = 2_000_000;

/// Why a list was not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The reader failed.
    #[error("reading: {0}")]
    Io(#[from] io::Error),
    /// A line is longer than [`MAX_LINE`].
    #[error("line {line} is longer than {MAX_LINE} bytes")]
    LongLine {
        /// Number of the line, from 1.
        line: usize,
    },
    /// There are more than [`MAX_LINES`] lines or [`MAX_BYTES`] bytes.
    #[error("the list is longer than {MAX_LINES} lines or {MAX_BYTES} bytes")]
    TooLong,
}

/// Calls `each` with every line, without its end. Bytes that are not UTF-8 are passed on replaced.
///
/// # Errors
/// The reader's error, or what is beyond the bounds.
pub fn for_each(mut reader: impl BufRead, mut each: impl FnMut(&str)) -> Result<(), ReadError> {
    let mut buffer = Vec::with_capacity(MAX_LINE);
    let mut bytes = 0_u64;
    for line in 1.. {
        buffer.clear();
        let read = (&mut reader)
            .take(MAX_LINE as u64 + 1)
            .read_until(b'\n', &mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        bytes += read as u64;
        if line > MAX_LINES || bytes > MAX_BYTES {
            return Err(ReadError::TooLong);
        }
        if buffer.last() == Some(&b'\n') {
            buffer.pop();
        }
        if buffer.len() > MAX_LINE {
            return Err(ReadError::LongLine { line });
        }
        match std::str::from_utf8(&buffer) {
            Ok(text) => each(text),
            Err(_) => each(&String::from_utf8_lossy(&buffer)),
        }
    }
    Ok(())
}

/// Module names, numbered; number 0 is the kernel itself.
#[derive(Debug, Default)]
pub(super) struct Modules {
    names: Vec<Box<str>>,
}

impl Modules {
    /// Modules that are told apart; more are one. A machine has some hundred.
    const MAX: usize = u16::MAX as usize - 1;

    /// The number of a module, which is added when it is new.
    pub fn number(&mut self, name: Option<&str>) -> u16 {
        let Some(name) = name else { return 0 };
        // Lists are grouped by module, so the last one is asked first.
        if let Some(at) = self.names.iter().rposition(|known| **known == *name) {
            return at as u16 + 1;
        }
        if self.names.len() < Self::MAX {
            self.names.push(name.into());
        }
        self.names.len() as u16
    }

    /// The number of a module that is known.
    pub fn find(&self, name: Option<&str>) -> Option<u16> {
        let Some(name) = name else { return Some(0) };
        let at = self.names.iter().position(|known| **known == *name)?;
        Some(at as u16 + 1)
    }

    /// The module's name; `None` is the kernel itself.
    pub fn name(&self, number: u16) -> Option<&str> {
        self.names
            .get(usize::from(number).checked_sub(1)?)
            .map(|name| &**name)
    }
}

/// A number by which a name is found among hundreds of thousands: sorting numbers takes a tenth of the time that sorting
/// names takes. Different names may have the same.
pub(super) fn key(name: &[u8]) -> u32 {
    let mut hasher = DefaultHasher::new();
    hasher.write(name);
    hasher.finish() as u32
}

/// `[vfio_ap]` without its brackets.
pub(super) fn bracketed(word: &str) -> Option<&str> {
    word.strip_prefix('[')?.strip_suffix(']')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &[u8]) -> Result<Vec<String>, ReadError> {
        let mut all = Vec::new();
        for_each(text, |line| all.push(line.to_owned()))?;
        Ok(all)
    }

    #[test]
    fn the_last_line_needs_no_end() {
        assert_eq!(lines(b"a\n\nb").unwrap(), ["a", "", "b"]);
        assert_eq!(lines(b"").unwrap(), Vec::<String>::new());
        assert_eq!(lines(b"\xff\n").unwrap(), ["\u{fffd}"]);
    }

    #[test]
    fn a_line_is_bounded() {
        let most = vec![b'x'; MAX_LINE];
        assert_eq!(lines(&most).unwrap().len(), 1);
        let mut ended = most.clone();
        ended.push(b'\n');
        assert_eq!(lines(&ended).unwrap().len(), 1);
        let mut over = most;
        over.push(b'x');
        assert!(matches!(lines(&over), Err(ReadError::LongLine { line: 1 })));
    }

    #[test]
    fn the_number_of_lines_is_bounded() {
        let reader = io::BufReader::new(io::repeat(b'\n'));
        assert!(matches!(for_each(reader, |_| {}), Err(ReadError::TooLong)));
    }
}
