//! The terminal: raw mode and the alternate screen, and giving both back whatever happens.
//!
//! [`Guard`] takes the terminal and returns it when dropped. A panic of the thread that draws gives the terminal back
//! before its message is printed. A panic of another thread (a source) must not write over the picture: its message
//! is kept and printed once the terminal is free.

use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, ThreadId};

use crossterm::{cursor, event, execute, terminal};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;

/// Fewest columns the dashboard is drawn on.
pub const MIN_COLUMNS: u16 = 60;

/// The thread that owns the terminal, while one does.
static OWNER: Mutex<Option<ThreadId>> = Mutex::new(None);
/// Messages of panics on other threads, for when the terminal is free.
static KEPT: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn owner() -> Option<ThreadId> {
    *OWNER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Gives the terminal back, if it is taken. Errors are of no use here: there is nothing left to write to.
fn give_back() {
    let taken = OWNER
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take()
        .is_some();
    if taken {
        // Cleared first: some terminals bring lines along when they were resized meanwhile.
        let _ = execute!(
            io::stdout(),
            event::DisableMouseCapture,
            terminal::Clear(terminal::ClearType::All),
            terminal::LeaveAlternateScreen,
            cursor::Show
        );
        let _ = terminal::disable_raw_mode();
        let _ = io::stdout().flush();
    }
    for message in KEPT
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .drain(..)
    {
        eprintln!("{message}");
    }
}

/// Why the dashboard cannot be drawn here, or `None` where it can.
#[must_use]
pub fn unsuitable() -> Option<String> {
    let size = terminal::size().ok();
    unsuitable_for(
        io::stdout().is_terminal() && io::stdin().is_terminal(),
        std::env::var("TERM").ok().as_deref(),
        size.map(|(columns, _)| columns),
    )
}

fn unsuitable_for(tty: bool, term: Option<&str>, columns: Option<u16>) -> Option<String> {
    if !tty {
        return Some("not a terminal".into());
    }
    if term.is_none_or(|t| t.is_empty() || t == "dumb") {
        return Some("TERM is dumb or not set".into());
    }
    match columns {
        Some(n) if n < MIN_COLUMNS => {
            Some(format!("{n} columns; the dashboard needs {MIN_COLUMNS}"))
        }
        _ => None,
    }
}

/// What the locale and the terminal cannot show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lacks {
    /// Characters beyond ASCII.
    pub unicode: bool,
    /// Colours.
    pub colour: bool,
}

/// What cannot be shown here, by the environment: the first of LC_ALL, LC_CTYPE and LANG that is set and not empty names
/// the character set.
#[must_use]
pub fn lacks() -> Lacks {
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
        .iter()
        .filter_map(|name| std::env::var(name).ok())
        .find(|value| !value.is_empty());
    lacks_of(locale.as_deref(), std::env::var("TERM").ok().as_deref())
}

fn lacks_of(locale: Option<&str>, term: Option<&str>) -> Lacks {
    // The ASCII console of an HMC is one: no colours, and 256-colour sequences make its text blink.
    let vt = term.is_some_and(|term| term.starts_with("vt"));
    let utf8 = |locale: &str| {
        let locale = locale.to_ascii_lowercase();
        locale.contains("utf-8") || locale.contains("utf8")
    };
    Lacks {
        // Nothing is set in many containers, on terminals that show everything.
        unicode: locale.map_or(vt, |locale| !utf8(locale)),
        colour: vt,
    }
}

/// A drawable terminal.
pub type Screen = Terminal<CrosstermBackend<io::Stdout>>;

/// The terminal in raw mode on its alternate screen; dropping it gives the terminal back.
pub struct Guard {
    /// Where to draw.
    pub screen: Screen,
}

impl Guard {
    /// Takes the terminal, with the mouse or without it, and installs the panic hook (once a process).
    pub fn take(mouse: bool) -> io::Result<Self> {
        static HOOK: std::sync::Once = std::sync::Once::new();
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| match owner() {
                Some(id) if id != thread::current().id() => {
                    let name = thread::current().name().unwrap_or("?").to_owned();
                    KEPT.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(format!("thread '{name}': {info}"));
                }
                _ => {
                    give_back();
                    before(info);
                }
            }));
        });
        terminal::enable_raw_mode()?;
        *OWNER.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread::current().id());
        let guard = (|| {
            execute!(io::stdout(), terminal::EnterAlternateScreen, cursor::Hide)?;
            if mouse {
                execute!(io::stdout(), event::EnableMouseCapture)?;
            }
            Ok(Self {
                screen: Terminal::new(CrosstermBackend::new(io::stdout()))?,
            })
        })();
        if guard.is_err() {
            give_back();
        }
        guard
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_locale_says_what_can_be_shown() {
        let lacks = |locale, term| {
            let lacks = lacks_of(locale, Some(term));
            (lacks.unicode, lacks.colour)
        };
        for locale in ["C", "POSIX", "de_DE", "de_DE.ISO-8859-1@euro"] {
            assert_eq!(lacks(Some(locale), "xterm"), (true, false), "{locale}");
        }
        for locale in ["C.UTF-8", "en_US.utf8", "de_DE.UTF-8@euro"] {
            assert_eq!(lacks(Some(locale), "xterm"), (false, false), "{locale}");
        }
        assert_eq!(lacks(None, "xterm"), (false, false));
        assert_eq!(lacks(None, "vt220"), (true, true));
        assert_eq!(lacks(Some("C.UTF-8"), "vt220"), (false, true));
    }

    #[test]
    fn the_dashboard_needs_a_capable_terminal() {
        assert_eq!(unsuitable_for(true, Some("xterm"), Some(60)), None);
        assert_eq!(unsuitable_for(true, Some("xterm"), None), None);
        assert!(unsuitable_for(false, Some("xterm"), Some(80)).is_some());
        assert!(unsuitable_for(true, Some("dumb"), Some(80)).is_some());
        assert!(unsuitable_for(true, None, Some(80)).is_some());
        assert!(
            unsuitable_for(true, Some("xterm"), Some(59))
                .unwrap()
                .contains("59 columns")
        );
    }
}
