//! The daemon's configuration file: what may change while it runs. It is read at the start, and again at SIGHUP.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use crate::cli::Failure;
use crate::diagnose::Thresholds;
use crate::options::{MAX_INTERVAL, MIN_INTERVAL};

/// Bytes of a file that are read.
const MAX_FILE: u64 = 1 << 20;
/// Most instances of a class with series of their own.
const MAX_INSTANCES: usize = 10_000;
/// Shortest time between two exports over OTLP.
const MIN_OTLP: Duration = Duration::from_secs(1);

/// What may change while the daemon runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Time between frames; `None`: what `--interval` says.
    pub interval: Option<Duration>,
    /// Instances of each lock class with series of their own in `/metrics`.
    pub instances: usize,
    /// Time between two exports over OTLP.
    pub otlp_interval: Duration,
    /// From when on something is a finding.
    pub thresholds: Thresholds,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            interval: None,
            instances: 0,
            otlp_interval: Duration::from_secs(15),
            thresholds: Thresholds::default(),
        }
    }
}

/// The file as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    interval: Option<String>,
    instances: Option<usize>,
    otlp_interval: Option<String>,
    #[serde(default)]
    thresholds: BTreeMap<String, toml::Value>,
}

impl Config {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let failed = |cause: String| {
            Failure::new(
                format!("the configuration {} cannot be used", path.display()),
                cause,
                "docs/serve.md lists what can be in it",
            )
        };
        let mut text = String::new();
        File::open(path)
            .and_then(|file| file.take(MAX_FILE).read_to_string(&mut text))
            .map_err(|error| failed(error.to_string()))?;
        Self::parse(&text).map_err(failed)
    }

    /// Reads a file's text. An error is one line that says what cannot be understood.
    pub fn parse(text: &str) -> Result<Self, String> {
        let file: Written = toml::from_str(text).map_err(|error| {
            let before = error.span().and_then(|at| text.get(..at.start));
            let line = before.unwrap_or_default().matches('\n').count() + 1;
            format!("line {line}: {}", error.message())
        })?;
        let mut config = Self::default();
        if let Some(text) = &file.interval {
            config.interval = Some(span("interval", text, MIN_INTERVAL)?);
        }
        if let Some(text) = &file.otlp_interval {
            config.otlp_interval = span("otlp_interval", text, MIN_OTLP)?;
        }
        config.instances = file.instances.unwrap_or(config.instances);
        if config.instances > MAX_INSTANCES {
            return Err(format!("instances is at most {MAX_INSTANCES}"));
        }
        for (name, value) in file.thresholds {
            let value = match value {
                toml::Value::String(text) => text,
                toml::Value::Integer(number) => number.to_string(),
                _ => return Err(format!("{name} must be a text or a number")),
            };
            config.thresholds.set(&format!("{name}={value}"))?;
        }
        Ok(config)
    }
}

fn span(name: &str, text: &str, least: Duration) -> Result<Duration, String> {
    let bounds = least..=MAX_INTERVAL;
    humantime::parse_duration(text)
        .ok()
        .filter(|span| bounds.contains(span))
        .ok_or_else(|| {
            format!(
                "{name} must be a time from {} to {}, for example 1s",
                humantime::format_duration(least),
                humantime::format_duration(MAX_INTERVAL)
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_what_it_changes() {
        let text = "interval = \"1s\"\ninstances = 20\notlp_interval = \"30s\"\n[thresholds]\nstuck = \"500ms\"\n";
        let config = Config::parse(text).unwrap();
        assert_eq!(config.interval, Some(Duration::from_secs(1)));
        assert_eq!(config.instances, 20);
        assert_eq!(config.otlp_interval, Duration::from_secs(30));
        assert_eq!(config.thresholds.stuck, Duration::from_millis(500));
        assert_eq!(Config::parse("").unwrap(), Config::default());
    }

    #[test]
    fn what_cannot_be_understood_is_said() {
        for (text, said) in [
            ("intervall = \"1s\"", "line 1"),
            ("interval = \"1ns\"", "from 10ms"),
            ("\ninstances = -1", "line 2"),
            ("instances = 100000", "at most"),
            ("[thresholds]\nstuck = [1]", "a text or a number"),
            ("[thresholds]\nstick = \"1s\"", "stick"),
        ] {
            let error = Config::parse(text).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
