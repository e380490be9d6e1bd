//! What each key does.
//!
//! A key changes the state and may ask the loop for something that the state cannot do itself.

use std::time::Duration;

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::{App, INTERVALS, Overlay, View};

/// What a key asks of the loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing more.
    None,
    /// Leave.
    Quit,
    /// Change the time between frames.
    Interval(Duration),
}

impl App {
    /// Takes a key.
    pub fn key(&mut self, key: KeyEvent) -> Effect {
        if key.kind == KeyEventKind::Release {
            return Effect::None;
        }
        self.refresh();
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        if control && key.code == KeyCode::Char('c') {
            return Effect::Quit;
        }
        if self.filter().typing.is_some() {
            self.filter_key(key.code, control);
            return Effect::None;
        }
        if control {
            match key.code {
                KeyCode::Char('d') => self.step(half(self.page)),
                KeyCode::Char('u') => self.step(-half(self.page)),
                _ => {}
            }
            return Effect::None;
        }
        match key.code {
            KeyCode::Char('q') => return Effect::Quit,
            KeyCode::Char('?') => self.toggle(Overlay::Help),
            KeyCode::Char('l') => self.toggle(Overlay::Log),
            KeyCode::Char('w') => self.toggle(Overlay::Writes),
            KeyCode::Esc | KeyCode::Backspace | KeyCode::Left | KeyCode::Char('h') => {
                self.back(key.code == KeyCode::Esc);
            }
            KeyCode::Char(' ') => self.toggle_pause(),
            KeyCode::Char('+' | '=') => return self.change_interval(true),
            KeyCode::Char('-') => return self.change_interval(false),
            KeyCode::Down | KeyCode::Char('j') => self.step(1),
            KeyCode::Up | KeyCode::Char('k') => self.step(-1),
            KeyCode::PageDown => self.step(self.page.max(1) as isize),
            KeyCode::PageUp => self.step(-(self.page.max(1) as isize)),
            KeyCode::Home | KeyCode::Char('g') => self.step(isize::MIN),
            KeyCode::End | KeyCode::Char('G') => self.step(isize::MAX),
            // The rest would change what lies hidden under an overlay.
            _ if self.overlay.is_some() => {}
            KeyCode::Tab | KeyCode::BackTab => self.show(match self.view {
                View::Locks => View::Entries,
                View::Entries => View::Locks,
            }),
            KeyCode::Char('1') => self.show(View::Locks),
            KeyCode::Char('2') => self.show(View::Entries),
            KeyCode::Enter | KeyCode::Right if !self.detail_open => self.open_detail(),
            KeyCode::Char('/') if !self.detail_open => self.filter_mut().open(),
            KeyCode::Char('s') if !self.detail_open => self.sort(false),
            KeyCode::Char('r') if !self.detail_open => self.sort(true),
            _ => {}
        }
        Effect::None
    }

    fn filter_key(&mut self, code: KeyCode, control: bool) {
        let filter = self.filter_mut();
        match code {
            KeyCode::Enter => filter.accept(),
            KeyCode::Esc => filter.cancel(),
            KeyCode::Backspace => filter.edit(|text| {
                text.pop();
            }),
            KeyCode::Char('u') if control => filter.edit(String::clear),
            KeyCode::Char('w') if control => filter.edit(|text| {
                let kept = text.trim_end().rfind(char::is_whitespace).map_or(0, |at| {
                    at + text[at..].chars().next().map_or(0, char::len_utf8)
                });
                text.truncate(kept);
            }),
            KeyCode::Char(c) if !control => filter.push(c),
            _ => {}
        }
        self.stale = true;
    }

    fn toggle(&mut self, overlay: Overlay) {
        self.overlay = if self.overlay == Some(overlay) {
            None
        } else {
            Some(overlay)
        };
        // What grows at its end is read from there.
        self.scroll = match self.overlay {
            Some(Overlay::Log | Overlay::Writes) => usize::MAX,
            _ => 0,
        };
    }

    /// One step back: out of the overlay, out of the detail, and with Esc out of the filter.
    fn back(&mut self, escape: bool) {
        if self.overlay.take().is_some() || std::mem::take(&mut self.detail_open) {
            self.scroll = 0;
        } else if escape {
            self.filter_mut().clear();
        }
        self.stale = true;
    }

    fn show(&mut self, view: View) {
        if self.view != view {
            self.view = view;
            self.detail_open = false;
            self.scroll = 0;
            self.stale = true;
        }
    }

    fn open_detail(&mut self) {
        self.detail_open = self.row_count() > 0;
        self.scroll = 0;
        self.stale = true;
    }

    fn sort(&mut self, reverse: bool) {
        match (self.view, reverse) {
            (View::Locks, false) => self.locks.next_sort(),
            (View::Locks, true) => self.locks.reverse(),
            (View::Entries, false) => self.entries.next_sort(),
            (View::Entries, true) => self.entries.reverse(),
        }
        self.stale = true;
    }

    /// Moves the selection, or scrolls where there is text.
    fn step(&mut self, step: isize) {
        if self.overlay.is_some() || self.detail_open {
            let last = self.lines.saturating_sub(self.page);
            self.scroll = self.scroll.min(last).saturating_add_signed(step).min(last);
            return;
        }
        match self.view {
            View::Locks => self.locks.step(step),
            View::Entries => self.entries.step(step),
        }
    }

    /// The next longer or shorter of [`INTERVALS`].
    fn change_interval(&mut self, longer: bool) -> Effect {
        let next = if longer {
            INTERVALS.iter().find(|i| **i > self.interval)
        } else {
            INTERVALS.iter().rfind(|i| **i < self.interval)
        };
        if let Some(next) = next {
            self.interval = *next;
        }
        Effect::Interval(self.interval)
    }
}

fn half(page: usize) -> isize {
    (page / 2).max(1) as isize
}
