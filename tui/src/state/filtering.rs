//! The filter line: the filter in force, and the text being typed.

use crate::filter::{Fields, Filter, MAX_LENGTH};

/// The filter of one view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterState {
    /// What the view's rows have.
    fields: Fields,
    /// What rows must match.
    pub active: Filter,
    /// Its text.
    pub text: String,
    /// The text being typed, while the line is open.
    pub typing: Option<String>,
    /// What is wrong with the text being typed.
    pub error: Option<String>,
    /// In force when the line was opened, for Esc.
    before: String,
}

impl Default for FilterState {
    fn default() -> Self {
        Self::of(Fields::ALL)
    }
}

impl FilterState {
    /// No filter, for rows that have these fields.
    #[must_use]
    pub fn of(fields: Fields) -> Self {
        Self {
            fields,
            active: Filter::default(),
            text: String::new(),
            typing: None,
            error: None,
            before: String::new(),
        }
    }

    /// Opens the line.
    pub fn open(&mut self) {
        self.before.clone_from(&self.text);
        self.typing = Some(self.text.clone());
        self.error = None;
    }

    /// The typed text changes: it takes effect at once if it can be parsed, else the error is kept.
    pub fn edit(&mut self, change: impl FnOnce(&mut String)) {
        if let Some(typing) = &mut self.typing {
            change(typing);
            let text = typing.clone();
            self.set(text);
        }
    }

    /// Types a character; control characters and what would be too long are not taken.
    pub fn push(&mut self, c: char) {
        self.edit(|text| {
            if !c.is_control() && text.len() + c.len_utf8() <= MAX_LENGTH {
                text.push(c);
            }
        });
    }

    /// Closes the line; the filter stays in force. Stays open while the text has an error.
    pub fn accept(&mut self) {
        if self.error.is_none() {
            self.typing = None;
        }
    }

    /// Closes the line; the filter is again what it was.
    pub fn cancel(&mut self) {
        self.typing = None;
        let before = std::mem::take(&mut self.before);
        self.set(before);
    }

    /// Shows every row.
    pub fn clear(&mut self) {
        *self = Self::of(self.fields);
    }

    fn set(&mut self, text: String) {
        match Filter::parse_for(&text, self.fields) {
            Ok(filter) => {
                self.active = filter;
                self.text = text;
                self.error = None;
            }
            Err(error) => self.error = Some(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(state: &mut FilterState, text: &str) {
        for c in text.chars() {
            state.push(c);
        }
    }

    #[test]
    fn what_is_typed_takes_effect_at_once() {
        let mut state = FilterState::default();
        state.open();
        typed(&mut state, "kvm");
        assert_eq!(state.text, "kvm");
        state.accept();
        assert_eq!(state.typing, None);
        assert_eq!(state.active, Filter::parse("kvm").unwrap());
    }

    #[test]
    fn an_error_keeps_the_last_good_filter_and_the_line_open() {
        let mut state = FilterState::default();
        state.open();
        typed(&mut state, "wait>");
        assert!(state.error.is_some());
        assert_eq!(state.text, "wait", "the last text that could be parsed");
        state.accept();
        assert!(state.typing.is_some());
        typed(&mut state, "1ms");
        assert_eq!(state.error, None);
        state.accept();
        assert_eq!(state.text, "wait>1ms");
    }

    #[test]
    fn cancelling_restores_what_was() {
        let mut state = FilterState::default();
        state.open();
        typed(&mut state, "kvm");
        state.accept();
        state.open();
        typed(&mut state, " !");
        state.cancel();
        assert_eq!(
            (state.text.as_str(), &state.typing, &state.error),
            ("kvm", &None, &None)
        );
    }

    #[test]
    fn control_characters_and_floods_are_not_taken() {
        let mut state = FilterState::default();
        state.open();
        typed(&mut state, "a\u{1b}\n");
        typed(&mut state, &"é".repeat(500));
        assert!(state.text.len() <= MAX_LENGTH);
        assert!(!state.text.contains('\u{1b}'));
    }
}
