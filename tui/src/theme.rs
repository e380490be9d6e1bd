//! Styles by role: what a thing means, not which colour it has.
//!
//! Only the terminal's own 16 colours are used, never black or white, so that both light and dark backgrounds work.
//! Without colours (`NO_COLOR`, `--color never`) roles are told apart by bold, reverse and dim. No role is carried by
//! a colour alone: each also has a word or a sign of its own on screen.

use ratatui::style::{Color, Modifier, Style};

/// The styles of the dashboard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Theme {
    colour: bool,
}

impl Theme {
    /// With the terminal's 16 colours.
    pub const COLOUR: Self = Self { colour: true };
    /// Without any colour.
    pub const PLAIN: Self = Self { colour: false };

    /// The theme for an environment: `NO_COLOR`, when set to anything but the empty text, turns colours off.
    #[must_use]
    pub fn from_env(no_color: Option<&std::ffi::OsStr>) -> Self {
        if no_color.is_some_and(|v| !v.is_empty()) {
            Self::PLAIN
        } else {
            Self::COLOUR
        }
    }

    const fn of(self, colour: Color, modifier: Modifier) -> Style {
        let style = Style::new().add_modifier(modifier);
        if self.colour { style.fg(colour) } else { style }
    }

    /// The program's name, titles.
    #[must_use]
    pub const fn title(self) -> Style {
        self.of(Color::Cyan, Modifier::BOLD)
    }

    /// The EMULATED mark.
    #[must_use]
    pub const fn emulated(self) -> Style {
        self.of(Color::Yellow, Modifier::REVERSED.union(Modifier::BOLD))
    }

    /// The KERNEL mark.
    #[must_use]
    pub const fn kernel(self) -> Style {
        self.of(Color::Green, Modifier::REVERSED.union(Modifier::BOLD))
    }

    /// The PAUSED mark.
    #[must_use]
    pub const fn paused(self) -> Style {
        self.of(Color::Magenta, Modifier::REVERSED.union(Modifier::BOLD))
    }

    /// Something is wrong: drops, a dead source, an error in the filter.
    #[must_use]
    pub const fn alarm(self) -> Style {
        self.of(Color::Red, Modifier::BOLD)
    }

    /// A line across the screen that something is wrong.
    #[must_use]
    pub const fn banner(self) -> Style {
        self.of(Color::Red, Modifier::BOLD.union(Modifier::REVERSED))
    }

    /// Attention: statistics are "at least", warnings.
    #[must_use]
    pub const fn warning(self) -> Style {
        self.of(Color::Yellow, Modifier::BOLD)
    }

    /// All is well: exact statistics.
    #[must_use]
    pub const fn good(self) -> Style {
        self.of(Color::Green, Modifier::empty())
    }

    /// Labels, hints, what matters less.
    #[must_use]
    pub const fn dim(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    /// Column headers.
    #[must_use]
    pub const fn header(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    /// The selected row.
    #[must_use]
    pub const fn selected(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    /// Open-coded locks.
    #[must_use]
    pub const fn open_coded(self) -> Style {
        self.of(Color::Magenta, Modifier::BOLD)
    }

    /// Waits.
    #[must_use]
    pub const fn wait(self) -> Style {
        self.of(Color::Yellow, Modifier::empty())
    }

    /// Holds and latencies.
    #[must_use]
    pub const fn hold(self) -> Style {
        self.of(Color::Blue, Modifier::empty())
    }

    /// Keys in the footer and the help.
    #[must_use]
    pub const fn key(self) -> Style {
        self.of(Color::Cyan, Modifier::BOLD)
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn no_color_counts_only_when_not_empty() {
        assert_eq!(Theme::from_env(None), Theme::COLOUR);
        assert_eq!(Theme::from_env(Some(OsStr::new(""))), Theme::COLOUR);
        assert_eq!(Theme::from_env(Some(OsStr::new("1"))), Theme::PLAIN);
    }
}
