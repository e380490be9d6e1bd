//! Values of options: how they are written, and what to say of one that is not.

use std::fmt;
use std::time::Duration;

use crate::emulator::MAX_RATE;
use crate::options::{GivenLock, MAX_GUESTS, MAX_VCPUS};

/// Why a value cannot be used, and one that can.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadValue {
    /// Why.
    pub cause: String,
    /// What to try.
    pub hint: String,
}

impl BadValue {
    fn new(cause: impl Into<String>, hint: &str) -> Self {
        Self {
            cause: cause.into(),
            hint: hint.to_owned(),
        }
    }
}

impl fmt::Display for BadValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.cause)
    }
}

impl std::error::Error for BadValue {}

/// A number of guests.
pub fn guests(text: &str) -> Result<u32, BadValue> {
    count(text, MAX_GUESTS, "--guests 8")
}

/// A number of vCPUs.
pub fn vcpus(text: &str) -> Result<u32, BadValue> {
    count(text, MAX_VCPUS, "--vcpus 2")
}

/// A count; whether it is too large is looked at when all options are known.
fn count(text: &str, max: u32, hint: &str) -> Result<u32, BadValue> {
    text.parse()
        .map_err(|_| BadValue::new(format!("it must be a whole number, 1 to {max}"), hint))
}

/// A level.
pub fn level(text: &str) -> Result<u8, BadValue> {
    match text.parse() {
        Ok(level @ 0..=2) => Ok(level),
        _ => Err(BadValue::new("it must be 0, 1 or 2", "--level 1")),
    }
}

/// A share in percent.
pub fn percent(text: &str) -> Result<f64, BadValue> {
    match text.trim_end_matches('%').parse() {
        Ok(percent) if percent > 0.0 && percent <= 100.0 => Ok(percent),
        _ => Err(BadValue::new(
            "it must be a number above 0 and at most 100",
            "--max-overhead 1",
        )),
    }
}

/// A lock's address, or its name and address.
pub fn given_lock(text: &str) -> Result<GivenLock, BadValue> {
    let hint = "--lock ffff888012345678, or --lock pipe=ffff888012345678";
    let (name, address) = text.rsplit_once('=').unwrap_or(("", text));
    let digits = address.trim_start_matches("0x");
    let address = u64::from_str_radix(digits, 16)
        .map_err(|_| BadValue::new("it must be an address in hexadecimal digits", hint))?;
    if address == 0 || !address.is_multiple_of(8) {
        return Err(BadValue::new(
            "a lock's address is a multiple of 8, and not 0",
            hint,
        ));
    }
    let name = if name.is_empty() {
        format!("{address:#x}")
    } else {
        name.to_owned()
    };
    Ok(GivenLock { address, name })
}

/// The speed of a scenario.
pub fn rate(text: &str) -> Result<f64, BadValue> {
    match text.parse() {
        Ok(rate) if rate > 0.0 && rate <= MAX_RATE => Ok(rate),
        _ => Err(BadValue::new(
            format!("it must be a number above 0 and at most {MAX_RATE}"),
            "--rate 1",
        )),
    }
}

/// A duration as humantime reads it: `30s`, `1m 30s`, `250ms`.
pub fn duration(text: &str) -> Result<Duration, BadValue> {
    humantime::parse_duration(text).map_err(|error| {
        BadValue::new(
            error.to_string(),
            "a number with a unit, for example 30s or 250ms",
        )
    })
}

/// A number of bytes, plain or with the suffix k, m or g (powers of 1024).
pub fn bytes(text: &str) -> Result<u64, BadValue> {
    let shift = match text.bytes().last().map(|b| b.to_ascii_lowercase()) {
        Some(b'k') => 10,
        Some(b'm') => 20,
        Some(b'g') => 30,
        _ => 0,
    };
    let digits = if shift == 0 {
        text
    } else {
        &text[..text.len() - 1]
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(1 << shift))
        .ok_or_else(|| {
            BadValue::new(
                "it is not a number of bytes",
                "a number of bytes, for example 65536, 64k or 8m",
            )
        })
}
