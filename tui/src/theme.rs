//! Styles by role: what a thing means, not which colour it has.
//!
//! Only the terminal's own 16 colours are used, never black or white, so that both light and dark backgrounds work.
//! Without colours (`NO_COLOR`, `--color never`) roles are told apart by bold, reverse and dim. No role is carried by
//! a colour alone: each also has a word or a sign of its own on screen.

use apscope_collector::diagnose::Severity;
use apscope_collector::diagnose::verdict::Kind;
use ratatui::style::{Color, Modifier, Style};

/// The styles of the dashboard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Theme {
    palette: Palette,
}

/// Which colours stand for the roles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Palette {
    Dark,
    Light,
    Safe,
    None,
}

impl Theme {
    /// With the terminal's 16 colours, for a dark background.
    pub const COLOUR: Self = Self {
        palette: Palette::Dark,
    };
    /// For a light background: nothing is yellow or cyan.
    pub const LIGHT: Self = Self {
        palette: Palette::Light,
    };
    /// For eyes that do not tell red from green: blue and yellow carry what differs.
    pub const SAFE: Self = Self {
        palette: Palette::Safe,
    };
    /// Without any colour.
    pub const PLAIN: Self = Self {
        palette: Palette::None,
    };
    /// All of them, in the order that `t` goes through.
    pub const ALL: [Self; 4] = [Self::COLOUR, Self::LIGHT, Self::SAFE, Self::PLAIN];

    /// The theme for an environment: `NO_COLOR`, when set to anything but the empty text, turns colours off.
    #[must_use]
    pub fn from_env(self, no_color: Option<&std::ffi::OsStr>) -> Self {
        if no_color.is_some_and(|v| !v.is_empty()) {
            Self::PLAIN
        } else {
            self
        }
    }

    /// Its name in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self.palette {
            Palette::Dark => "dark",
            Palette::Light => "light",
            Palette::Safe => "colour-blind",
            Palette::None => "none",
        }
    }

    /// The theme with a name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|theme| theme.name() == name)
    }

    /// The one after it.
    #[must_use]
    pub fn next(self) -> Self {
        let at = Self::ALL
            .iter()
            .position(|theme| *theme == self)
            .unwrap_or(0);
        Self::ALL[(at + 1) % Self::ALL.len()]
    }

    /// A colour on a dark background stands for these on the others.
    const fn of(self, colour: Color, modifier: Modifier) -> Style {
        let style = Style::new().add_modifier(modifier);
        let colour = match (self.palette, colour) {
            (Palette::None, _) => return style,
            (Palette::Light, Color::Yellow) => Color::Magenta,
            (Palette::Light, Color::Cyan) | (Palette::Safe, Color::Green) => Color::Blue,
            (Palette::Safe, Color::Red | Color::Magenta) => Color::Yellow,
            (Palette::Safe, Color::Blue) => Color::Cyan,
            (_, colour) => colour,
        };
        style.fg(colour)
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

    /// A task that runs in a traced function.
    #[must_use]
    pub const fn inside(self) -> Style {
        self.of(Color::Green, Modifier::DIM)
    }

    /// A finding, by how bad it is.
    #[must_use]
    pub const fn severity(self, severity: Severity) -> Style {
        match severity {
            Severity::Critical => self.alarm(),
            Severity::Warning => self.warning(),
            Severity::Info => self.header(),
        }
    }

    /// The verdict, by what it says.
    #[must_use]
    pub const fn verdict(self, kind: Kind) -> Style {
        match kind {
            Kind::Deadlock => self.banner(),
            Kind::Hardware | Kind::Slow => {
                self.of(Color::Yellow, Modifier::REVERSED.union(Modifier::BOLD))
            }
            Kind::NotHere => self.of(Color::Green, Modifier::BOLD),
            Kind::CannotTell => self.header(),
        }
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
        for theme in Theme::ALL {
            assert_eq!(theme.from_env(None), theme);
            assert_eq!(theme.from_env(Some(OsStr::new(""))), theme);
            assert_eq!(theme.from_env(Some(OsStr::new("1"))), Theme::PLAIN);
            assert_eq!(Theme::named(theme.name()), Some(theme));
        }
        assert_eq!(Theme::PLAIN.next(), Theme::COLOUR);
    }
}
