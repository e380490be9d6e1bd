//! The functions that ftrace can patch: tracefs' `available_filter_functions` as data.
//!
//! Takes the text; answers whether a function of a module is in it, and how often. A probe on any other address needs
//! a breakpoint, whose placing may stop the machine.

use std::collections::HashMap;
use std::io::BufRead;

use super::lines::{self, Modules, ReadError, bracketed};

/// The list.
#[derive(Debug, Default)]
pub struct FilterFunctions {
    counts: HashMap<Box<str>, Vec<(u16, u32)>>,
    modules: Modules,
    length: usize,
    malformed: usize,
}

impl FilterFunctions {
    /// Reads lines `name [module]`; what follows (flags, in `enabled_functions`) is ignored. Lines of another form are
    /// counted and left out, and so are functions without a name (`__ftrace_invalid_address___N`, since v6.0: weak
    /// functions that were overridden).
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn parse(text: impl BufRead) -> Result<Self, ReadError> {
        let mut list = Self::default();
        lines::for_each(text, |line| list.add(line))?;
        Ok(list)
    }

    fn add(&mut self, line: &str) {
        let mut words = line.split_ascii_whitespace();
        let Some(name) = words.next() else { return };
        if name.starts_with("__ftrace_invalid_address___") || name.starts_with('[') {
            self.malformed += 1;
            return;
        }
        let module = self.modules.number(words.next().and_then(bracketed));
        self.length += 1;
        let counts = match self.counts.get_mut(name) {
            Some(counts) => counts,
            None => self.counts.entry(name.into()).or_default(),
        };
        match counts.iter_mut().find(|(of, _)| *of == module) {
            Some((_, count)) => *count += 1,
            None => counts.push((module, 1)),
        }
    }

    /// How many functions of this name a module has; `None` is vmlinux.
    #[must_use]
    pub fn count(&self, module: Option<&str>, name: &str) -> u32 {
        let Some(module) = self.modules.find(module) else {
            return 0;
        };
        self.counts
            .get(name)
            .and_then(|counts| counts.iter().find(|(of, _)| *of == module))
            .map_or(0, |(_, count)| *count)
    }

    /// How many functions of this name there are in vmlinux and all modules.
    #[must_use]
    pub fn everywhere(&self, name: &str) -> u32 {
        self.counts
            .get(name)
            .map_or(0, |counts| counts.iter().map(|(_, count)| count).sum())
    }

    /// Bytes of memory, about, the modules' names apart.
    #[cfg(feature = "fuzzing")]
    pub(super) fn memory(&self) -> usize {
        let entry = size_of::<(Box<str>, Vec<(u16, u32)>)>() + 1;
        let names = self.counts.keys().map(|name| name.len());
        let counts = self.counts.values().map(|counts| 8 * counts.capacity());
        self.counts.capacity() * entry + names.sum::<usize>() + counts.sum::<usize>()
    }

    /// Number of functions in the list.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.length
    }

    /// Whether the list is empty.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Lines that were left out.
    #[must_use]
    pub const fn malformed(&self) -> usize {
        self.malformed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_and_duplicates_are_counted() {
        let text = "mutex_lock\nname_show\nname_show [mdev]\nrequest_count_store [ap]\n\
                    request_count_store [ap]\n__ftrace_invalid_address___64\nup_read (1) R\n";
        let list = FilterFunctions::parse(text.as_bytes()).unwrap();
        assert_eq!(list.count(None, "mutex_lock"), 1);
        assert_eq!(list.count(Some("mdev"), "mutex_lock"), 0);
        assert_eq!(list.count(Some("nothing"), "mutex_lock"), 0);
        assert_eq!(list.count(Some("ap"), "request_count_store"), 2);
        assert_eq!(list.everywhere("name_show"), 2);
        assert_eq!(list.count(None, "up_read"), 1);
        assert_eq!((list.len(), list.malformed()), (6, 1));
        assert_eq!(list.everywhere("mutex_unlock"), 0);
    }
}
