//! The part of time that the timeline shows, and the cursor in it.

/// Shortest and longest part of time that is shown.
const LIMITS_NS: (u64, u64) = (10_000, 600_000_000_000);

/// The part of time on the screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Its length.
    pub length_ns: u64,
    /// Its end; `None`: the last frame.
    pub end_ns: Option<u64>,
    /// Place of the cursor, in thousandths of the window.
    pub cursor: u32,
    /// The moment that the cursor was put on, exactly; `None` once it has been moved by hand.
    pub picked_ns: Option<u64>,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            length_ns: 2_000_000_000,
            end_ns: None,
            cursor: 1000,
            picked_ns: None,
        }
    }
}

impl Window {
    /// Begin and end, where the last frame ended at `now_ns`.
    #[must_use]
    pub fn range(self, now_ns: u64) -> (u64, u64) {
        let end = self.end_ns.unwrap_or(now_ns);
        (end.saturating_sub(self.length_ns), end)
    }

    /// The moment under the cursor.
    #[must_use]
    pub fn cursor_ns(self, now_ns: u64) -> u64 {
        let (from, to) = self.range(now_ns);
        if let Some(picked) = self.picked_ns {
            return picked.clamp(from, to);
        }
        from + ((to - from) / 1000).saturating_mul(u64::from(self.cursor.min(1000)))
    }

    /// Moves the cursor a fortieth; at the edge the window moves.
    pub fn pan(&mut self, later: bool, now_ns: u64) {
        const STEP: u32 = 25;
        self.picked_ns = None;
        if later && self.cursor < 1000 {
            self.cursor = (self.cursor + STEP).min(1000);
        } else if !later && self.cursor > 0 {
            self.cursor = self.cursor.saturating_sub(STEP);
        } else {
            let step = self.length_ns / 4;
            let end = self.end_ns.unwrap_or(now_ns);
            let end = if later {
                end.saturating_add(step)
            } else {
                end.saturating_sub(step)
            };
            self.end_ns = (end < now_ns).then_some(end);
        }
    }

    /// Half or twice the time, about the cursor.
    pub fn zoom(&mut self, closer: bool, now_ns: u64) {
        let at = self.cursor_ns(now_ns);
        self.picked_ns = None;
        let length = if closer {
            self.length_ns / 2
        } else {
            self.length_ns.saturating_mul(2)
        };
        self.length_ns = length.clamp(LIMITS_NS.0, LIMITS_NS.1);
        if self.end_ns.is_none() && self.cursor == 1000 {
            return;
        }
        let after = (self.length_ns / 1000).saturating_mul(u64::from(1000 - self.cursor.min(1000)));
        let end = at.saturating_add(after);
        self.end_ns = (end < now_ns).then_some(end);
    }

    /// It shows another part of time than the last one, or the cursor has been moved.
    #[must_use]
    pub const fn elsewhere(self) -> bool {
        self.end_ns.is_some() || self.cursor != 1000
    }

    /// Goes on with the last frame again, as long as it is.
    pub fn follow(&mut self) {
        *self = Self {
            length_ns: self.length_ns,
            ..Self::default()
        };
    }

    /// Puts the cursor on a moment, and moves the window where it is not in it. It stays there while time goes on.
    pub fn look_at(&mut self, at_ns: u64, now_ns: u64) {
        let (from, to) = self.range(now_ns);
        if !(from..=to).contains(&at_ns) {
            let end = at_ns.saturating_add(self.length_ns / 2);
            self.end_ns = (end < now_ns).then_some(end);
        }
        if at_ns < now_ns {
            self.end_ns.get_or_insert(now_ns);
            self.picked_ns = Some(at_ns);
        } else {
            self.picked_ns = None;
        }
        let (from, to) = self.range(now_ns);
        let share = u128::from(at_ns.saturating_sub(from)) * 1000 / u128::from((to - from).max(1));
        self.cursor = share.min(1000) as u32;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::state::timeline::{Bar, Doing, LaneRow};

    #[test]
    fn the_window_follows_until_it_is_moved() {
        let mut window = Window::default();
        let now = 100_000_000_000;
        assert_eq!(window.range(now), (98_000_000_000, now));
        assert_eq!(window.range(now + 5), (98_000_000_005, now + 5));
        window.pan(true, now);
        assert_eq!(window.end_ns, None, "there is nothing later");
        for _ in 0..41 {
            window.pan(false, now);
        }
        assert_eq!((window.cursor, window.end_ns), (0, Some(99_500_000_000)));
        window.look_at(now, now);
        assert_eq!((window.cursor, window.end_ns), (1000, None));
    }

    #[test]
    fn the_next_bar_is_gone_to_by_its_begin_and_back_to_now() {
        let now = 100_000_000_000;
        let bar = |from_ns, to_ns| Bar {
            from_ns,
            to_ns,
            doing: Doing::Waiting,
            what: 0,
            instance: 0,
            span: 0,
            inside: 0,
            open: to_ns == now,
        };
        let row = LaneRow {
            tid: 1,
            who: "vcpu0".into(),
            guest: String::new(),
            window: (90_000_000_000, now),
            open: vec![
                bar(92_000_000_001, now),
                bar(91_999_999_999, 92_000_000_000),
            ],
            ..LaneRow::default()
        };
        let mut window = Window::default();
        // Nothing begins after now: the first of all, though it is not in the window; then each once.
        for begin in [91_999_999_999, 92_000_000_001, 91_999_999_999] {
            window.look_at(row.next_after(window.cursor_ns(now)).unwrap(), now);
            assert_eq!(window.cursor_ns(now), begin);
            assert!(window.elsewhere());
        }
        assert_eq!(window.cursor_ns(now + 7_000_000_000), 91_999_999_999);
        window.follow();
        assert_eq!(window, Window::default());
        // A moment in the window holds it there too.
        window.look_at(now - 1, now);
        assert_eq!(window.cursor_ns(now + 1_000_000_000), now - 1);
    }

    proptest! {
        #[test]
        fn whatever_is_done_to_a_window_it_is_one(steps in proptest::collection::vec(0_u8..6, 0..80), now: u64) {
            let mut window = Window::default();
            for step in steps {
                match step {
                    0 => window.pan(false, now),
                    1 => window.pan(true, now),
                    2 => window.zoom(true, now),
                    3 => window.zoom(false, now),
                    _ => window.look_at(now / u64::from(step), now),
                }
                let (from, to) = window.range(now);
                prop_assert!(from <= to && to <= now);
                prop_assert!(window.cursor <= 1000);
                prop_assert!((from..=to).contains(&window.cursor_ns(now)));
            }
        }
    }
}
