//! A page that is written line by line, of at most 79 columns.
//!
//! What comes from files of a machine may hold anything: control characters never reach the terminal.

use std::fmt::Write as _;

use super::Style;
use crate::doctor::{Report, State};

/// Columns of the page.
const COLUMNS: usize = 79;
/// Column in which values start.
const VALUES: usize = 31;

/// What stands before a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// It is as it should be.
    Yes,
    /// It is missing.
    No,
    /// Neither.
    Plain,
}

/// A page that is being written.
pub struct Page {
    /// What was written so far.
    pub text: String,
    style: Style,
}

impl Page {
    /// An empty one.
    pub const fn new(style: Style) -> Self {
        Self {
            text: String::new(),
            style,
        }
    }

    /// The title of a part.
    pub fn heading(&mut self, title: &str) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        let title = title.to_uppercase();
        self.coloured("1", &title);
        self.text.push('\n');
    }

    /// A name and a value beside it.
    pub fn row(&mut self, name: &str, value: &str) {
        self.marked(Mark::Plain, name, value);
    }

    /// A mark, a name and a value beside it.
    pub fn marked(&mut self, mark: Mark, name: &str, value: &str) {
        self.mark(mark);
        let (name, value) = (self.clean(name), self.clean(value));
        if value.is_empty() {
            self.wrapped(&name, 5);
            return;
        }
        let width = 5 + name.chars().count();
        if width > COLUMNS {
            self.wrapped(&format!("{name}: {value}"), 5);
            return;
        }
        self.text.push_str(&name);
        if width + 1 > VALUES {
            self.text.push('\n');
            self.pad(VALUES);
        } else {
            self.pad(VALUES - width);
        }
        self.wrapped(&value, VALUES);
    }

    /// A mark and a sentence.
    pub fn item(&mut self, mark: Mark, sentence: &str) {
        self.mark(mark);
        let sentence = self.clean(sentence);
        self.wrapped(&sentence, 5);
    }

    /// A line that belongs to the item before.
    pub fn more(&mut self, name: &str, sentence: &str) {
        let start = format!("     {name}: ");
        self.text.push_str(&start);
        let sentence = self.clean(sentence);
        self.wrapped(&sentence, start.len());
    }

    fn mark(&mut self, mark: Mark) {
        let (text, colour) = match (mark, self.style.ascii) {
            (Mark::Yes, true) => ("ok", "32"),
            (Mark::Yes, false) => ("\u{2713} ", "32"),
            (Mark::No, true) => ("NO", "31"),
            (Mark::No, false) => ("\u{2717} ", "31"),
            (Mark::Plain, _) => ("  ", ""),
        };
        self.text.push_str("  ");
        self.coloured(colour, text);
        self.text.push(' ');
    }

    /// The outcome.
    pub fn verdict(&mut self, report: &Report) {
        let verdict = &report.verdict;
        let colour = match verdict.state {
            State::Ready => "1;32",
            State::Degraded => "1;33",
            State::Impossible => "1;31",
        };
        let word = verdict.state.word();
        self.coloured(colour, word);
        self.text.push_str(": ");
        let summary = self.clean(&verdict.summary);
        self.wrapped_from(&summary, word.len() + 2, 2);
    }

    fn coloured(&mut self, code: &str, text: &str) {
        if self.style.colour && !code.is_empty() {
            let _ = write!(self.text, "\u{1b}[{code}m{text}\u{1b}[0m");
        } else {
            self.text.push_str(text);
        }
    }

    fn pad(&mut self, columns: usize) {
        self.text.extend(std::iter::repeat_n(' ', columns));
    }

    /// Words from this column on; further lines start in the same.
    fn wrapped(&mut self, words: &str, indent: usize) {
        self.wrapped_from(words, indent, indent);
    }

    fn wrapped_from(&mut self, words: &str, first: usize, indent: usize) {
        let mut column = first;
        let mut fresh = true;
        for word in words.split(' ').filter(|word| !word.is_empty()) {
            let mut rest: Vec<char> = word.chars().collect();
            if !fresh && column + 1 + rest.len() > COLUMNS {
                self.text.push('\n');
                self.pad(indent);
                column = indent;
                fresh = true;
            }
            if !fresh {
                self.text.push(' ');
                column += 1;
            }
            // A path may be longer than the line.
            while column + rest.len() > COLUMNS {
                let tail = rest.split_off(COLUMNS - column);
                self.text.extend(rest);
                self.text.push('\n');
                self.pad(indent);
                column = indent;
                rest = tail;
            }
            column += rest.len();
            self.text.extend(rest);
            fresh = false;
        }
        self.text.push('\n');
    }

    /// Without control characters, and without what is no ASCII where that is asked for.
    fn clean(&self, text: &str) -> String {
        text.chars()
            .map(|c| match c {
                '\n' | '\t' => ' ',
                c if c.is_control() || (self.style.ascii && !c.is_ascii()) => '?',
                c => c,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(ascii: bool) -> Page {
        Page::new(Style {
            ascii,
            colour: false,
        })
    }

    #[test]
    fn no_line_is_too_long_and_nothing_is_lost() {
        let mut page = page(true);
        let long = "x".repeat(200);
        page.marked(
            Mark::No,
            "a name that is longer than its column",
            &format!("a b {long} c"),
        );
        page.marked(Mark::No, &format!("name {}", "x".repeat(100)), "a value");
        page.item(Mark::Yes, &"word ".repeat(40));
        page.more("lost", &long);
        assert!(
            page.text
                .lines()
                .all(|line| line.chars().count() <= COLUMNS)
        );
        assert_eq!(page.text.matches('x').count(), 500);
        assert_eq!(page.text.matches("word").count(), 40);
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let mut page = page(true);
        page.row("kernel", "6.1\u{1b}[31m\u{7}\u{e9}");
        assert!(page.text.contains("6.1?[31m??"), "{:?}", page.text);
    }
}
