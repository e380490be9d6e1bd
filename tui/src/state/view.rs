//! The views, and what lies over them.

use crate::filter::{Fields, TextField, TimeField};

/// The views, in the order of their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum View {
    /// Verdict, findings, busiest locks, slowest entry points.
    #[default]
    Overview,
    /// Locks.
    Locks,
    /// Entry points.
    Entries,
    /// Guests and their matrices.
    Guests,
    /// The order of locks.
    Order,
    /// What tasks have been at.
    Timeline,
    /// Findings.
    Findings,
    /// Spans and messages.
    Log,
}

impl View {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Overview,
        Self::Locks,
        Self::Entries,
        Self::Guests,
        Self::Order,
        Self::Timeline,
        Self::Findings,
        Self::Log,
    ];

    /// Its number on the keyboard, from 1.
    #[must_use]
    pub fn number(self) -> usize {
        self.place() + 1
    }

    /// Its place among [`View::ALL`].
    #[must_use]
    pub const fn place(self) -> usize {
        self as usize
    }

    /// Its name on the screen.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Overview => "Overview",
            Self::Locks => "Locks",
            Self::Entries => "Entries",
            Self::Guests => "Guests",
            Self::Order => "Order",
            Self::Timeline => "Timeline",
            Self::Findings => "Findings",
            Self::Log => "Log",
        }
    }

    /// Its name in file names and JSON.
    #[must_use]
    pub fn name(self) -> String {
        self.title().to_lowercase()
    }

    /// What its rows have, for the filter.
    #[must_use]
    pub const fn fields(self) -> Fields {
        use TextField::{Class, Guest, Holder, Kind, Name, Task};
        use TimeField::{Hold, Latency, Wait};
        match self {
            Self::Overview | Self::Findings | Self::Guests => Fields {
                text: &[Class, Kind, Name, Holder, Task, Guest],
                time: &[Wait],
            },
            Self::Locks => Fields {
                text: &[Class, Kind, Name, Holder, Task, Guest],
                time: &[Wait, Hold],
            },
            Self::Entries => Fields {
                text: &[Class, Name],
                time: &[Latency],
            },
            Self::Order => Fields {
                text: &[Class, Kind, Name, Holder],
                time: &[],
            },
            Self::Timeline => Fields {
                text: &[Name, Holder, Task, Guest],
                time: &[Wait, Hold],
            },
            Self::Log => Fields::ALL,
        }
    }

    /// The view so many places further on, round and round.
    #[must_use]
    pub fn next(self, step: isize) -> Self {
        let count = Self::ALL.len() as isize;
        Self::ALL[(self.place() as isize + step).rem_euclid(count) as usize]
    }
}

/// What lies over the view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overlay {
    /// The keys and columns of the current view.
    Help,
    /// A guided look at the dashboard.
    Guide,
    /// The last accesses to sysfs.
    Writes,
    /// In which form the view is to be exported.
    Export,
}

/// A part of the screen that reacts to the mouse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The tab of a view.
    Tab(View),
    /// A row of the current table, by its place.
    Row(usize),
    /// A line of text that belongs to a moment of a recording, in thousandths of it.
    Scrubber,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_go_round_in_the_order_of_their_numbers() {
        assert_eq!(View::Overview.next(-1), View::Log);
        assert_eq!(View::Log.next(1), View::Overview);
        for (place, view) in View::ALL.into_iter().enumerate() {
            assert_eq!((view.place(), view.number()), (place, place + 1));
        }
    }
}
