//! From when on something is worth a finding.

use std::time::Duration;

/// Thresholds of all findings. The defaults are for a host in service; `docs/findings.md` says what each is for.
#[derive(Debug, Clone, PartialEq)]
pub struct Thresholds {
    /// AP000, AP012: a call or a wait that lasts so long is stuck.
    pub stuck: Duration,
    /// AP007: a queue reset that is polled for so long has outrun its budget. v6.3 to v6.5 gave up after about 200 ms.
    pub reset: Duration,
    /// AP006: shorter holds are not looked at.
    pub slept_hold: Duration,
    /// AP008: times that a waiter went back to sleep.
    pub rounds: u64,
    /// AP009: tasks that wait for one lock.
    pub convoy: usize,
    /// AP009: for so long without a break.
    pub convoy_for: Duration,
    /// AP010: refusals of one attribute with one errno.
    pub refused: u64,
    /// AP010: within so long.
    pub refused_within: Duration,
    /// AP013: a removal that lasts so long is blocked.
    pub removal: Duration,
    /// A finding that is seen no more stays for so long, so that nothing flickers.
    pub stays: Duration,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            stuck: Duration::from_secs(2),
            reset: Duration::from_secs(1),
            slept_hold: Duration::from_millis(200),
            rounds: 6,
            convoy: 8,
            convoy_for: Duration::from_secs(2),
            refused: 100,
            refused_within: Duration::from_secs(5),
            removal: Duration::from_secs(1),
            stays: Duration::from_secs(1),
        }
    }
}

/// A threshold that a person can set.
struct Setting {
    name: &'static str,
    /// Findings that it is of.
    of: &'static str,
    /// What it is.
    what: &'static str,
    get: fn(&Thresholds) -> String,
    set: fn(&mut Thresholds, &str) -> Option<()>,
}

fn span(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

/// Name, default, findings and meaning of every threshold that can be set.
pub fn table() -> Vec<(&'static str, String, &'static str, &'static str)> {
    let defaults = Thresholds::default();
    SETTINGS
        .iter()
        .map(|s| (s.name, (s.get)(&defaults), s.of, s.what))
        .collect()
}

fn duration(text: &str) -> Option<Duration> {
    humantime::parse_duration(text).ok()
}

/// A count of at least one.
fn count(text: &str) -> Option<u64> {
    text.parse().ok().filter(|&n| n > 0)
}

const SETTINGS: [Setting; 9] = [
    Setting {
        name: "stuck",
        of: "AP000, AP012",
        what: "a call or a wait that lasts so long is stuck",
        get: |all| span(all.stuck),
        set: |all, text| duration(text).map(|d| all.stuck = d),
    },
    Setting {
        name: "reset",
        of: "AP007",
        what: "a queue reset that is polled for so long has outrun its budget",
        get: |all| span(all.reset),
        set: |all, text| duration(text).map(|d| all.reset = d),
    },
    Setting {
        name: "slept-hold",
        of: "AP006",
        what: "shorter holds are not looked at",
        get: |all| span(all.slept_hold),
        set: |all, text| duration(text).map(|d| all.slept_hold = d),
    },
    Setting {
        name: "rounds",
        of: "AP008",
        what: "times that a waiter went back to sleep",
        get: |all| all.rounds.to_string(),
        set: |all, text| count(text).map(|n| all.rounds = n),
    },
    Setting {
        name: "convoy",
        of: "AP009",
        what: "tasks that wait for one lock",
        get: |all| all.convoy.to_string(),
        set: |all, text| count(text).map(|n| all.convoy = n as usize),
    },
    Setting {
        name: "convoy-for",
        of: "AP009",
        what: "for so long without a break",
        get: |all| span(all.convoy_for),
        set: |all, text| duration(text).map(|d| all.convoy_for = d),
    },
    Setting {
        name: "refused",
        of: "AP010",
        what: "refusals of one attribute with one errno",
        get: |all| all.refused.to_string(),
        set: |all, text| count(text).map(|n| all.refused = n),
    },
    Setting {
        name: "refused-within",
        of: "AP010",
        what: "within so long",
        get: |all| span(all.refused_within),
        set: |all, text| duration(text).map(|d| all.refused_within = d),
    },
    Setting {
        name: "removal",
        of: "AP013",
        what: "a removal that lasts so long is blocked",
        get: |all| span(all.removal),
        set: |all, text| duration(text).map(|d| all.removal = d),
    },
];

impl Thresholds {
    /// Sets one threshold from `name=value`; an error says which names there are, or what the value should be.
    pub fn set(&mut self, text: &str) -> Result<(), String> {
        let names = || SETTINGS.map(|s| s.name).join(", ");
        let Some((name, value)) = text.split_once('=') else {
            return Err(format!(
                "a threshold is NAME=VALUE, with NAME one of {}",
                names()
            ));
        };
        let Some(setting) = SETTINGS.iter().find(|s| s.name == name) else {
            return Err(format!(
                "there is no threshold {name}; there are {}",
                names()
            ));
        };
        (setting.set)(self, value).ok_or_else(|| {
            format!(
                "{name}={value}: the value is a duration such as 500ms, or a count of at least 1"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_sets_something() {
        for setting in &SETTINGS {
            let mut all = Thresholds::default();
            let set = ["7", "7s"]
                .iter()
                .filter(|value| all.set(&format!("{}={value}", setting.name)).is_ok())
                .count();
            assert_eq!(set, 1, "{}", setting.name);
            assert_ne!(all, Thresholds::default(), "{}", setting.name);
        }
    }

    #[test]
    fn what_is_no_threshold_is_said() {
        let mut all = Thresholds::default();
        for (text, part) in [
            ("stuck", "NAME=VALUE"),
            ("stick=1s", "there are stuck, reset"),
            ("stuck=never", "a duration"),
            ("convoy=0", "at least 1"),
        ] {
            let error = all.set(text).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
        assert_eq!(all, Thresholds::default());
    }
}
