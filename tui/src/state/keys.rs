//! What each key, and the mouse, does.
//!
//! A key changes the state and may ask the loop for something that the state cannot do itself.

use std::time::Duration;

use crossterm::event::{
    KeyCode, KeyEvent, KeyEventKind, KeyModifiers, MouseButton, MouseEvent, MouseEventKind,
};

use super::export::Format;
use super::keymap::Action;
use super::{App, INTERVALS, Overlay, Target, View};

/// What a key asks of the loop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Nothing more.
    None,
    /// Leave.
    Quit,
    /// Change the time between frames.
    Interval(Duration),
    /// Write the view to a file.
    Export(Format),
    /// Put a text into the terminal's clipboard.
    Copy(String),
}

/// Rows that a step of the wheel moves.
const WHEEL: isize = 3;

impl App {
    /// Takes a key.
    pub fn key(&mut self, key: KeyEvent) -> Effect {
        if key.kind == KeyEventKind::Release {
            return Effect::None;
        }
        self.refresh();
        self.notice = None;
        self.touched = true;
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        if control && key.code == KeyCode::Char('c') {
            return Effect::Quit;
        }
        if self.filter().typing.is_some() {
            self.filter_key(key.code, control);
            return Effect::None;
        }
        let action = self.settings.keymap.action(key);
        if self.overlay == Some(Overlay::Export)
            && let KeyCode::Char(c) = key.code
            && let Some(format) = Format::of_key(c)
        {
            self.overlay = None;
            return Effect::Export(format);
        }
        action.map_or(Effect::None, |action| self.act(action))
    }

    /// Does what a key stands for.
    pub fn act(&mut self, action: Action) -> Effect {
        match action {
            Action::Quit => return Effect::Quit,
            Action::Help => self.toggle(Overlay::Help),
            Action::Guide => self.toggle(Overlay::Guide),
            Action::Writes => self.toggle(Overlay::Writes),
            Action::Leave => self.back(true),
            Action::Back => self.back(false),
            Action::Pause => self.pause_or_play(),
            Action::Theme => {
                self.theme = self.theme.next();
                self.say(format!("theme: {}", self.theme.name()));
            }
            Action::Longer => return self.longer(true),
            Action::Shorter => return self.longer(false),
            Action::Down => self.step(1),
            Action::Up => self.step(-1),
            Action::HalfPageDown => self.step(half(self.page)),
            Action::HalfPageUp => self.step(-half(self.page)),
            Action::PageDown => self.step(self.page.max(1) as isize),
            Action::PageUp => self.step(-(self.page.max(1) as isize)),
            Action::First => self.step(isize::MIN),
            Action::Last if self.away_from_now() => self.follow_now(),
            Action::Last => self.step(isize::MAX),
            Action::StepBack
            | Action::StepForward
            | Action::SeekBack
            | Action::SeekForward
            | Action::NextFinding => self.seek(action),
            Action::Copy => return self.copy(),
            Action::View(place) => {
                self.overlay = None;
                self.show(View::ALL[place.min(View::ALL.len() - 1)]);
            }
            Action::Left if self.overlay.is_some() || self.detail_open => self.back(false),
            // The rest would change what lies hidden under an overlay.
            _ if self.overlay.is_some() => {}
            Action::NextView => self.show(self.view.next(1)),
            Action::PreviousView => self.show(self.view.next(-1)),
            Action::Export => self.toggle(Overlay::Export),
            Action::Expand => self.expanded = !self.expanded,
            Action::Left if self.view == View::Timeline => self.pan(false),
            Action::Right if self.view == View::Timeline => self.pan(true),
            Action::ZoomIn if self.view == View::Timeline => self.zoom(true),
            Action::ZoomOut if self.view == View::Timeline => self.zoom(false),
            Action::Open if self.view == View::Timeline => self.next_bar(),
            Action::Left => self.back(false),
            Action::Open | Action::Right if !self.detail_open => self.open_detail(),
            Action::Filter if !self.detail_open => self.filter_mut().open(),
            Action::Sort if !self.detail_open => self.sort(false),
            Action::Reverse if !self.detail_open => self.sort(true),
            _ => {}
        }
        Effect::None
    }

    /// Takes what the mouse did.
    pub fn mouse(&mut self, event: MouseEvent) -> Effect {
        self.refresh();
        match event.kind {
            MouseEventKind::ScrollDown => self.step(WHEEL),
            MouseEventKind::ScrollUp => self.step(-WHEEL),
            MouseEventKind::Down(MouseButton::Left) => {
                self.touched = true;
                // What was drawn last lies on top.
                let at = (event.column, event.row);
                let hit = self
                    .targets
                    .iter()
                    .rev()
                    .find(|(area, _)| area.contains(at.into()))
                    .copied();
                match hit {
                    Some((_, Target::Tab(view))) => {
                        self.overlay = None;
                        self.show(view);
                    }
                    Some((_, Target::Row(row))) if self.overlay.is_none() && !self.detail_open => {
                        let again = self.listing().is_some_and(|table| table.index() == row);
                        if again {
                            self.act(Action::Open);
                        } else if let Some(table) = self.listing() {
                            table.select(row);
                        }
                    }
                    Some((area, Target::Scrubber)) => {
                        let share =
                            f64::from(event.column - area.x) / f64::from(area.width.max(2) - 1);
                        if let Some(replay) = &mut self.replay {
                            replay.seek_share(share);
                        }
                    }
                    _ => {}
                }
            }
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
            Some(Overlay::Writes) => usize::MAX,
            _ => self.resting_scroll(),
        };
    }

    /// Where a view's text is read from.
    fn resting_scroll(&self) -> usize {
        if self.view == View::Log && self.overlay.is_none() {
            usize::MAX
        } else {
            0
        }
    }

    /// One step back: out of the overlay, out of the detail, and with Esc out of the filter.
    fn back(&mut self, escape: bool) {
        if self.overlay.take().is_some() || std::mem::take(&mut self.detail_open) {
            self.scroll = self.resting_scroll();
        } else if escape && self.away_from_now() {
            self.follow_now();
        } else if !std::mem::take(&mut self.expanded) && escape {
            self.filter_mut().clear();
        }
        self.stale = true;
    }

    /// Shows a view, from its beginning.
    pub fn show(&mut self, view: View) {
        if self.view != view {
            self.view = view;
            self.detail_open = false;
            self.scroll = self.resting_scroll();
            self.stale = true;
        }
    }

    fn open_detail(&mut self) {
        self.detail_open = self.row_count() > 0 && self.view != View::Log;
        if self.detail_open {
            self.scroll = 0;
            if let Some(table) = self.listing() {
                table.choose();
            }
        }
        self.stale = true;
    }

    fn sort(&mut self, reverse: bool) {
        if let Some(table) = self.listing() {
            if reverse {
                table.reverse();
            } else {
                table.next_sort();
            }
        }
        self.stale = true;
    }

    /// Moves the selection, or scrolls where there is text.
    fn step(&mut self, step: isize) {
        let text = self.overlay.is_some() || self.detail_open;
        match self.listing() {
            Some(table) if !text => table.step(step),
            _ => {
                let last = self.lines.saturating_sub(self.page);
                self.scroll = self.scroll.min(last).saturating_add_signed(step).min(last);
                // At the end of what grows it stays at the end.
                if self.view == View::Log && self.overlay.is_none() && self.scroll == last {
                    self.scroll = usize::MAX;
                }
            }
        }
    }

    fn pause_or_play(&mut self) {
        match &mut self.replay {
            Some(replay) => replay.toggle(),
            None => self.toggle_pause(),
        }
    }

    /// The next longer or shorter of [`INTERVALS`]; of a recording, the next speed.
    fn longer(&mut self, longer: bool) -> Effect {
        if let Some(replay) = &mut self.replay {
            replay.faster(longer);
            return Effect::None;
        }
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

    fn seek(&mut self, action: Action) {
        let Some(replay) = &mut self.replay else {
            self.fail("there is nothing to seek in: this is no recording");
            return;
        };
        match action {
            Action::StepBack => replay.step(false),
            Action::StepForward => replay.step(true),
            Action::SeekBack => replay.seek_by(-0.05),
            Action::SeekForward => replay.seek_by(0.05),
            _ => {
                if !replay.next_mark() {
                    self.fail("no finding begins later");
                }
            }
        }
    }

    fn pan(&mut self, later: bool) {
        let now = self.shown().model.last.at_ns;
        self.window.pan(later, now);
        self.stale = true;
    }

    fn zoom(&mut self, closer: bool) {
        let now = self.shown().model.last.at_ns;
        self.window.zoom(closer, now);
        self.stale = true;
    }

    /// The timeline is looked at elsewhere than at its end.
    fn away_from_now(&self) -> bool {
        self.view == View::Timeline && self.overlay.is_none() && self.window.elsewhere()
    }

    fn follow_now(&mut self) {
        self.window.follow();
        self.stale = true;
    }

    /// The cursor goes on to where the next span of the selected task begins, or back to the first.
    fn next_bar(&mut self) {
        let now = self.shown().model.last.at_ns;
        self.lanes.choose();
        let row = self.rows.lanes.get(self.lanes.index());
        if let Some(at) = row.and_then(|row| row.next_after(self.window.cursor_ns(now))) {
            self.window.look_at(at, now);
            self.stale = true;
        }
    }

    fn copy(&mut self) -> Effect {
        if let Some(text) = super::export::clip(self) {
            self.say("copied to the terminal's clipboard (OSC 52)");
            Effect::Copy(text)
        } else {
            self.fail("nothing is selected");
            Effect::None
        }
    }

    /// A message for the line at the bottom.
    pub fn say(&mut self, text: impl Into<String>) {
        self.notice = Some(super::Notice {
            text: text.into(),
            failed: false,
        });
    }

    /// The same for what could not be done.
    pub fn fail(&mut self, text: impl Into<String>) {
        self.notice = Some(super::Notice {
            text: text.into(),
            failed: true,
        });
    }
}

fn half(page: usize) -> isize {
    (page / 2).max(1) as isize
}
