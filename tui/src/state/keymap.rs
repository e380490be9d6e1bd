//! Which key does what: the table of actions with their keys, which a configuration file may change.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// What a key can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "TABLE says what each of them does")]
pub enum Action {
    Quit,
    Help,
    Guide,
    Up,
    Down,
    Left,
    Right,
    HalfPageUp,
    HalfPageDown,
    PageUp,
    PageDown,
    First,
    Last,
    Open,
    Back,
    Leave,
    NextView,
    PreviousView,
    /// The view with this place.
    View(usize),
    Writes,
    Filter,
    Sort,
    Reverse,
    Pause,
    Longer,
    Shorter,
    Expand,
    Theme,
    Export,
    Copy,
    ZoomIn,
    ZoomOut,
    StepBack,
    StepForward,
    SeekBack,
    SeekForward,
    NextFinding,
}

/// Name of the action in the configuration file, its keys where nothing is configured, and what it does.
pub const TABLE: &[(Action, &str, &[&str], &str)] = &[
    (Action::Quit, "quit", &["q", "ctrl-c"], "quit"),
    (
        Action::Help,
        "help",
        &["?"],
        "keys and columns of this view",
    ),
    (
        Action::Guide,
        "guide",
        &["f1"],
        "a guided look, two minutes",
    ),
    (Action::Up, "up", &["up", "k"], "one row up"),
    (Action::Down, "down", &["down", "j"], "one row down"),
    (
        Action::Left,
        "left",
        &["left", "h"],
        "back; in the timeline earlier",
    ),
    (
        Action::Right,
        "right",
        &["right", "l"],
        "open; in the timeline later",
    ),
    (
        Action::HalfPageUp,
        "half-page-up",
        &["ctrl-u"],
        "half a page up",
    ),
    (
        Action::HalfPageDown,
        "half-page-down",
        &["ctrl-d"],
        "half a page down",
    ),
    (Action::PageUp, "page-up", &["pageup"], "a page up"),
    (Action::PageDown, "page-down", &["pagedown"], "a page down"),
    (Action::First, "first", &["g", "home"], "first row"),
    (Action::Last, "last", &["G", "end"], "last row"),
    (Action::Open, "open", &["enter"], "open the selected row"),
    (
        Action::Leave,
        "leave",
        &["esc"],
        "close, go back, clear the filter",
    ),
    (Action::Back, "back", &["backspace"], "close, go back"),
    (Action::NextView, "next-view", &["tab"], "next view"),
    (
        Action::PreviousView,
        "previous-view",
        &["backtab"],
        "previous view",
    ),
    (Action::View(0), "overview", &["1"], "overview"),
    (Action::View(1), "locks", &["2"], "locks"),
    (Action::View(2), "entries", &["3"], "entry points"),
    (Action::View(3), "guests", &["4"], "guests"),
    (Action::View(4), "order", &["5"], "order of locks"),
    (Action::View(5), "timeline", &["6"], "timeline of tasks"),
    (Action::View(6), "findings", &["7"], "findings"),
    (Action::View(7), "log", &["8"], "spans and messages"),
    (
        Action::Writes,
        "writes",
        &["w"],
        "accesses to sysfs: who, what, result",
    ),
    (Action::Filter, "filter", &["/"], "filter the rows"),
    (Action::Sort, "sort", &["s"], "sort by the next column"),
    (Action::Reverse, "reverse", &["r"], "turn the order round"),
    (
        Action::Pause,
        "pause",
        &["space"],
        "hold the picture; of a recording, play and pause",
    ),
    (
        Action::Longer,
        "longer",
        &["+", "="],
        "longer interval; of a recording, faster",
    ),
    (
        Action::Shorter,
        "shorter",
        &["-"],
        "shorter interval; of a recording, slower",
    ),
    (
        Action::Expand,
        "expand",
        &["e"],
        "only the focused pane, and back",
    ),
    (Action::Theme, "theme", &["t"], "next theme"),
    (
        Action::Export,
        "export",
        &["x"],
        "write this view to a file",
    ),
    (
        Action::Copy,
        "copy",
        &["y"],
        "copy the selected finding or row to the clipboard",
    ),
    (Action::ZoomIn, "zoom-in", &["z"], "timeline: half the time"),
    (
        Action::ZoomOut,
        "zoom-out",
        &["Z"],
        "timeline: twice the time",
    ),
    (
        Action::StepBack,
        "step-back",
        &[","],
        "recording: one frame back",
    ),
    (
        Action::StepForward,
        "step-forward",
        &["."],
        "recording: one frame on",
    ),
    (
        Action::SeekBack,
        "seek-back",
        &["["],
        "recording: a twentieth back",
    ),
    (
        Action::SeekForward,
        "seek-forward",
        &["]"],
        "recording: a twentieth on",
    ),
    (
        Action::NextFinding,
        "next-finding",
        &["n"],
        "recording: to the next finding",
    ),
];

/// A key without what does not distinguish it.
type Key = (KeyCode, bool);

/// Keys and what they do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keymap {
    keys: Vec<(Key, Action)>,
}

impl Default for Keymap {
    fn default() -> Self {
        let mut keys = Vec::new();
        for (action, _, names, _) in TABLE {
            // A test proves that every name in the table is a key.
            keys.extend(
                names
                    .iter()
                    .filter_map(|name| Some((parse(name)?, *action))),
            );
        }
        Self { keys }
    }
}

impl Keymap {
    /// What a key does.
    #[must_use]
    pub fn action(&self, key: KeyEvent) -> Option<Action> {
        let wanted = (key.code, key.modifiers.contains(KeyModifiers::CONTROL));
        self.keys
            .iter()
            .find(|(key, _)| *key == wanted)
            .map(|(_, action)| *action)
    }

    /// Gives an action other keys, which do nothing else from then on.
    ///
    /// # Errors
    ///
    /// There is no such action, or no such key; or nothing would quit any more.
    pub fn set(&mut self, action: &str, names: &[String]) -> Result<(), String> {
        let Some((known, ..)) = TABLE.iter().find(|entry| entry.1 == action) else {
            let all: Vec<&str> = TABLE.iter().map(|entry| entry.1).collect();
            return Err(format!(
                "there is no action {action}; there are {}",
                all.join(", ")
            ));
        };
        let mut own = Vec::new();
        for name in names {
            let key = parse(name).ok_or_else(|| {
                format!("{name} is no key; keys are a character, enter, esc, space, tab, up, f1, ctrl-d, ...")
            })?;
            own.push((key, *known));
        }
        if *known == Action::Quit && own.is_empty() {
            return Err("quit needs a key".into());
        }
        self.keys
            .retain(|(key, action)| action != known && !own.iter().any(|(new, _)| new == key));
        self.keys.extend(own);
        // In the order of the table, so that the same keys are the same map.
        let place = |action: Action| TABLE.iter().position(|entry| entry.0 == action);
        self.keys.sort_by_key(|(_, action)| place(*action));
        if !self.keys.iter().any(|(_, action)| *action == Action::Quit) {
            return Err(format!("{action} takes the last key that quits"));
        }
        Ok(())
    }

    /// Names of the keys of an action.
    #[must_use]
    pub fn names(&self, action: Action) -> Vec<String> {
        self.keys
            .iter()
            .filter(|(_, known)| *known == action)
            .map(|(key, _)| name(*key))
            .collect()
    }

    /// The first key of an action, as it is shown; empty where it has none.
    #[must_use]
    pub fn first(&self, action: Action) -> String {
        self.names(action).into_iter().next().unwrap_or_default()
    }
}

const NAMED: &[(&str, KeyCode)] = &[
    ("enter", KeyCode::Enter),
    ("esc", KeyCode::Esc),
    ("space", KeyCode::Char(' ')),
    ("tab", KeyCode::Tab),
    ("backtab", KeyCode::BackTab),
    ("backspace", KeyCode::Backspace),
    ("delete", KeyCode::Delete),
    ("insert", KeyCode::Insert),
    ("up", KeyCode::Up),
    ("down", KeyCode::Down),
    ("left", KeyCode::Left),
    ("right", KeyCode::Right),
    ("pageup", KeyCode::PageUp),
    ("pagedown", KeyCode::PageDown),
    ("home", KeyCode::Home),
    ("end", KeyCode::End),
];

/// A key by its name.
/// A key by its one name: `ctrl-a` and the like; `None` for what is no key.
#[must_use]
pub fn canonical(text: &str) -> Option<String> {
    parse(text).map(name)
}

fn parse(text: &str) -> Option<Key> {
    let (control, text) = match text.strip_prefix("ctrl-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    if let Some((_, code)) = NAMED.iter().find(|(name, _)| *name == text) {
        return Some((*code, control));
    }
    let mut chars = text.chars();
    match (chars.next()?, chars.as_str()) {
        (c, "") if !c.is_control() => Some((KeyCode::Char(c), control)),
        ('f', number) => match number.parse() {
            Ok(n @ 1..=12) => Some((KeyCode::F(n), control)),
            _ => None,
        },
        _ => None,
    }
}

fn name((code, control): Key) -> String {
    let named = NAMED.iter().find(|(_, known)| *known == code);
    let plain = match (named, code) {
        (Some((name, _)), _) => (*name).to_owned(),
        (None, KeyCode::Char(c)) => c.to_string(),
        (None, KeyCode::F(n)) => format!("f{n}"),
        (None, _) => "?".to_owned(),
    };
    if control {
        format!("ctrl-{plain}")
    } else {
        plain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press(code: KeyCode, modifiers: KeyModifiers) -> KeyEvent {
        KeyEvent::new(code, modifiers)
    }

    #[test]
    fn every_key_of_the_table_is_a_key_of_one_action() {
        let mut seen = Vec::new();
        for (action, _, names, what) in TABLE {
            assert!(!what.is_empty());
            for text in *names {
                let key = parse(text).unwrap_or_else(|| panic!("{text}"));
                assert_eq!(name(key), *text);
                assert!(!seen.contains(&key), "{text} twice");
                seen.push(key);
                let modifiers = if key.1 {
                    KeyModifiers::CONTROL
                } else {
                    KeyModifiers::NONE
                };
                let found = Keymap::default().action(press(key.0, modifiers));
                assert_eq!(found, Some(*action), "{text}");
            }
        }
    }

    #[test]
    fn a_key_that_is_given_away_does_nothing_else() {
        let mut map = Keymap::default();
        map.set("sort", &["o".into(), "ctrl-o".into()]).unwrap();
        assert_eq!(map.names(Action::Sort), ["o", "ctrl-o"]);
        let s = press(KeyCode::Char('s'), KeyModifiers::NONE);
        assert_eq!(map.action(s), None);
        map.set("reverse", &["o".into()]).unwrap();
        assert_eq!(map.names(Action::Sort), ["ctrl-o"]);
    }

    #[test]
    fn what_cannot_be_configured_is_said() {
        let mut map = Keymap::default();
        assert!(map.set("jump", &[]).unwrap_err().contains("there are quit"));
        assert!(
            map.set("sort", &["f13".into()])
                .unwrap_err()
                .contains("no key")
        );
        assert!(map.set("quit", &[]).unwrap_err().contains("needs a key"));
        let error = map.set("sort", &["q".into(), "ctrl-c".into()]).unwrap_err();
        assert!(error.contains("last key"), "{error}");
    }
}
