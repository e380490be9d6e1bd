//! The configuration file: theme, keys and thresholds.
//!
//! TOML, every key optional. What is not understood is an error that names it: a threshold with a typing error must not
//! silently be the default.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use apscope_collector::diagnose::{Thresholds, thresholds};
use serde::Deserialize;

use super::keymap::{Keymap, TABLE, canonical};
use crate::theme::Theme;

/// What can be configured.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Styles.
    pub theme: Theme,
    /// Only ASCII is drawn.
    pub ascii: bool,
    /// The mouse selects and scrolls.
    pub mouse: bool,
    /// Which key does what.
    pub keymap: Keymap,
    /// From when on something is a finding.
    pub thresholds: Thresholds,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            theme: Theme::COLOUR,
            ascii: false,
            mouse: true,
            keymap: Keymap::default(),
            thresholds: Thresholds::default(),
        }
    }
}

/// The file as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    theme: Option<String>,
    ascii: Option<bool>,
    mouse: Option<bool>,
    #[serde(default)]
    keys: BTreeMap<String, Keys>,
    #[serde(default)]
    thresholds: BTreeMap<String, toml::Value>,
}

/// One key, or several.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Keys {
    One(String),
    Several(Vec<String>),
}

impl Settings {
    /// Reads the text of a configuration file.
    ///
    /// # Errors
    ///
    /// One line that says what cannot be understood, and what could.
    pub fn parse(text: &str) -> Result<Self, String> {
        let file: File = toml::from_str(text).map_err(|error| {
            let before = error.span().and_then(|at| text.get(..at.start));
            let line = before.unwrap_or_default().matches('\n').count() + 1;
            format!("line {line}: {}", error.message())
        })?;
        let mut settings = Self::default();
        if let Some(name) = &file.theme {
            settings.theme = Theme::named(name).ok_or_else(|| {
                let all = Theme::ALL.map(Theme::name);
                format!("there is no theme {name}; there are {}", all.join(", "))
            })?;
        }
        settings.ascii = file.ascii.unwrap_or(settings.ascii);
        settings.mouse = file.mouse.unwrap_or(settings.mouse);
        let mut given: BTreeMap<String, String> = BTreeMap::new();
        for (action, keys) in file.keys {
            let keys = match keys {
                Keys::One(key) => vec![key],
                Keys::Several(keys) => keys,
            };
            for key in keys.iter().filter_map(|key| canonical(key)) {
                let other = given.insert(key.clone(), action.clone());
                if let Some(other) = other.filter(|other| *other != action) {
                    return Err(format!("the key {key} is for {other} and for {action}"));
                }
            }
            settings.keymap.set(&action, &keys)?;
        }
        for (name, value) in file.thresholds {
            let value = match value {
                toml::Value::String(text) => text,
                toml::Value::Integer(number) => number.to_string(),
                _ => return Err(format!("{name} must be a text or a number")),
            };
            settings.thresholds.set(&format!("{name}={value}"))?;
        }
        Ok(settings)
    }

    /// A file with everything as it is where nothing is configured, and what it is.
    #[must_use]
    pub fn default_file() -> String {
        let mut text = String::from(
            "# The dashboard's configuration. Every line is optional, and says here what holds without it.\n\n",
        );
        // Writing to a String cannot fail.
        let themes = Theme::ALL.map(Theme::name).join(", ");
        let _ = writeln!(
            text,
            "# Colours: {themes}.\ntheme = \"{}\"",
            Theme::COLOUR.name()
        );
        text.push_str("# Only characters of ASCII.\nascii = false\n");
        text.push_str(
            "# The mouse selects and scrolls; without it the terminal marks text.\nmouse = true\n",
        );
        text.push_str("\n[keys]\n");
        for (action, name, _, what) in TABLE {
            let keys: Vec<String> = Keymap::default()
                .names(*action)
                .iter()
                .map(|key| format!("{key:?}"))
                .collect();
            let _ = writeln!(text, "# {what}\n{name} = [{}]", keys.join(", "));
        }
        text.push_str(
            "\n# From when on something is a finding; docs/findings.md says more.\n[thresholds]\n",
        );
        for (name, value, of, what) in thresholds::table() {
            let _ = writeln!(text, "# {of}: {what}\n{name} = {value:?}");
        }
        text
    }
}

/// Where the file is looked for, by the XDG base directory specification.
#[must_use]
pub fn path(xdg_config_home: Option<PathBuf>, home: Option<PathBuf>) -> Option<PathBuf> {
    // The specification: a relative path is to be ignored.
    let base = xdg_config_home
        .filter(|path| path.is_absolute())
        .or_else(|| Some(home?.join(".config")))?;
    Some(base.join("apscope").join("config.toml"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::keymap::Action;
    use super::*;

    #[test]
    fn the_default_file_changes_nothing() {
        assert_eq!(
            Settings::parse(&Settings::default_file()),
            Ok(Settings::default())
        );
        assert_eq!(Settings::parse(""), Ok(Settings::default()));
    }

    #[test]
    fn what_is_configured_holds() {
        let settings = Settings::parse(
            "theme = \"light\"\nascii = true\nmouse = false\n[keys]\nsort = \"o\"\nquit = [\"Q\"]\n\
             [thresholds]\nstuck = \"500ms\"\nconvoy = 4\n",
        )
        .unwrap();
        assert_eq!(settings.theme.name(), "light");
        assert!(settings.ascii && !settings.mouse);
        assert_eq!(settings.keymap.names(Action::Sort), ["o"]);
        assert_eq!(settings.keymap.names(Action::Quit), ["Q"]);
        assert_eq!(settings.thresholds.stuck.as_millis(), 500);
        assert_eq!(settings.thresholds.convoy, 4);
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (text, part) in [
            ("\ncolour = \"red\"", "line 2: unknown field `colour`"),
            ("theme = \"pink\"", "there is no theme pink; there are dark"),
            ("[keys]\njump = \"j\"", "there is no action jump"),
            ("[keys]\nsort = \"hyper-x\"", "is no key"),
            (
                "[keys]\nquit = \"q\"\nhelp = [\"?\", \"q\"]",
                "the key q is for help and for quit",
            ),
            (
                "[thresholds]\nstick = \"1s\"",
                "there is no threshold stick",
            ),
            ("[thresholds]\nstuck = \"soon\"", "a duration"),
            ("theme = ", "line 1"),
        ] {
            let error = Settings::parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn the_file_is_where_xdg_says() {
        let home = || Some(PathBuf::from("/home/a"));
        let expected = |text: &str| Some(PathBuf::from(text));
        assert_eq!(
            path(None, home()),
            expected("/home/a/.config/apscope/config.toml")
        );
        assert_eq!(
            path(Some("/c".into()), home()),
            expected("/c/apscope/config.toml")
        );
        assert_eq!(
            path(Some("c".into()), home()),
            expected("/home/a/.config/apscope/config.toml")
        );
        assert_eq!(path(None, None), None);
    }

    proptest! {
        #[test]
        fn any_text_is_settings_or_an_error(text in "\\PC{0,80}") {
            let _ = Settings::parse(&text);
        }
    }
}
