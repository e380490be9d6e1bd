//! Values of options: how they are written, and what to say of one that is not.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::serve::Metrics;
use crate::emulator::MAX_RATE;
use crate::options::{Endpoint, GivenKind, GivenLock, MAX_GUESTS, MAX_VCPUS};

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

/// A guest, by its number or its name.
pub fn guest(text: &str) -> Result<u32, BadValue> {
    let number = text.strip_prefix("guest-").unwrap_or(text);
    number.parse().map_err(|_| {
        BadValue::new(
            "it must be the number of a guest, as in guest-3",
            "--guest 3",
        )
    })
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

/// Longest path of a unix socket, in bytes: `sun_path`, with its end.
const MAX_SOCKET_PATH: usize = 107;

/// A socket: `unix:PATH`.
pub fn endpoint(text: &str) -> Result<Endpoint, BadValue> {
    let hint = "unix:/run/apscope.sock; from another host: ssh -L /tmp/apscope.sock:/run/apscope.sock HOST";
    let path = text
        .strip_prefix("unix:")
        .filter(|path| !path.is_empty())
        .ok_or_else(|| {
            BadValue::new(
                "it must be unix: and the path of a socket; there is no other kind",
                hint,
            )
        })?;
    if path.len() > MAX_SOCKET_PATH {
        return Err(BadValue::new(
            format!("the path of a socket has at most {MAX_SOCKET_PATH} bytes"),
            hint,
        ));
    }
    Ok(Endpoint { path: path.into() })
}

/// Where `/metrics` is: `ADDR:PORT`, `PORT` on loopback, or `off`.
pub fn metrics_address(text: &str) -> Result<Metrics, BadValue> {
    if text == "off" {
        return Ok(Metrics::Off);
    }
    let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    text.parse()
        .ok()
        .or_else(|| text.trim_start_matches(':').parse().ok().map(loopback))
        .map(Metrics::At)
        .ok_or_else(|| {
            BadValue::new(
                "it must be an address with a port, a port, or off",
                "127.0.0.1:9929, 9929, [::1]:9929, or off",
            )
        })
}

/// A lock: `[mutex:|rwsem:]ADDRESS[=NAME]`, or `NAME=ADDRESS`.
pub fn given_lock(text: &str) -> Result<GivenLock, BadValue> {
    let hint = "--lock ffff888012345678, --lock mutex:ffff888012345678, or --lock rwsem:ffff888012345678=pipe";
    let kinds = [GivenKind::Mutex, GivenKind::Rwsem];
    let prefixed = kinds.iter().find_map(|kind| {
        let rest = text.strip_prefix(kind.name())?.strip_prefix(':')?;
        Some((*kind, rest))
    });
    let (kind, rest) = match prefixed {
        Some((kind, rest)) => (Some(kind), rest),
        None => (None, text),
    };
    let is_address = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).is_ok();
    if let Some((unknown, more)) = rest.split_once(':')
        && kind.is_none()
        && !unknown.contains('=')
        && more.split('=').any(is_address)
    {
        return Err(BadValue::new(
            format!("{unknown} is no kind of lock that is measured: mutexes and rwsems are"),
            hint,
        ));
    }
    // NAME=ADDRESS is taken too, and is what is meant where both sides could be an address and no kind stands before.
    let (name, address) = match (rest.split_once('='), rest.rsplit_once('=')) {
        (Some((address, name)), _)
            if is_address(address) && (kind.is_some() || !is_address(name)) =>
        {
            (name, address)
        }
        (_, Some((name, address))) => (name, address),
        _ => ("", rest),
    };
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
    Ok(GivenLock {
        address,
        kind,
        name,
    })
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

/// The time after which a kernel is detached from.
pub fn attached_for(text: &str) -> Result<Duration, BadValue> {
    let time = duration(text)?;
    if time.is_zero() {
        return Err(BadValue::new(
            "nothing would be attached for that time",
            "--for 15m, or --level 0, which attaches nothing",
        ));
    }
    Ok(time)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_and_addresses() {
        assert_eq!(
            endpoint("unix:/a b").unwrap().path,
            std::path::Path::new("/a b")
        );
        for text in [
            "",
            "unix:",
            "/run/x",
            "tcp:127.0.0.1:1",
            &format!("unix:/{}", "x".repeat(107)),
        ] {
            assert!(endpoint(text).is_err(), "{text}");
        }
        let at = |text: &str| Metrics::At(text.parse().unwrap());
        assert_eq!(metrics_address("9929"), Ok(at("127.0.0.1:9929")));
        assert_eq!(metrics_address(":9929"), Ok(at("127.0.0.1:9929")));
        assert_eq!(metrics_address("[::1]:1"), Ok(at("[::1]:1")));
        assert_eq!(metrics_address("off"), Ok(Metrics::Off));
        assert!(metrics_address("somewhere").is_err());
    }

    #[test]
    fn a_lock_has_a_kind_and_a_name_if_they_are_given() {
        let lock = |text: &str| {
            let lock = given_lock(text).expect(text);
            (lock.kind, lock.address, lock.name)
        };
        let address = 0xffff_8880_1234_5678;
        for (text, kind, name) in [
            ("ffff888012345678", None, "0xffff888012345678"),
            ("0xffff888012345678=pipe", None, "pipe"),
            ("pipe=ffff888012345678", None, "pipe"),
            ("add=ffff888012345678", None, "add"),
            ("ffff888012345678=a:b", None, "a:b"),
            (
                "mutex:ffff888012345678",
                Some(GivenKind::Mutex),
                "0xffff888012345678",
            ),
            ("mutex:ffff888012345678=add", Some(GivenKind::Mutex), "add"),
            ("rwsem:ffff888012345678=a=b", Some(GivenKind::Rwsem), "a=b"),
            (
                "rwsem:pipe=ffff888012345678",
                Some(GivenKind::Rwsem),
                "pipe",
            ),
        ] {
            assert_eq!(lock(text), (kind, address, name.to_owned()), "{text}");
        }
        for text in [
            "",
            "mutex:",
            "mutex:pipe",
            "flag:ffff888012345678",
            "spin:0xffff888012345678",
            "0",
            "rwsem:4",
        ] {
            assert!(given_lock(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_unknown_kind_of_lock_is_named() {
        for text in ["spin:0xffff", "spin:ffff888012345678=queue"] {
            let error = given_lock(text).unwrap_err().to_string();
            assert!(error.contains("spin is no kind of lock"), "{error}");
        }
    }

    #[test]
    fn no_time_is_no_time_to_be_attached() {
        assert!(attached_for("0s").is_err());
        assert_eq!(attached_for("1s"), Ok(Duration::from_secs(1)));
    }
}
