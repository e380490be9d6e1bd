//! The guest on the terminal of this process: a shell, or the dashboard with a workload. The serial console passes every
//! byte, but does not know the size of the terminal: the guest is told.

use std::process::{Command, Stdio};
use std::time::Duration;

use super::guest::{Guest, Hardware};
use crate::failure::Failure;

/// Longest life of a guest that somebody sits in front of.
const DEADLINE: Duration = Duration::from_secs(8 * 60 * 60);
/// Where nobody says how large the terminal is.
const SIZE: (u16, u16) = (40, 120);

/// What the demonstration does: the matrix, the workload, the dashboard.
const DEMO: &str = include_str!("../../lab/demo.sh");

/// A shell of the guest, until it is left.
pub fn shell(guest: &Guest, hardware: &Hardware) -> Result<(), Failure> {
    let script = format!("{}setsid -c sh -i\n", prologue());
    guest.interact(&script, hardware, DEADLINE)
}

/// The dashboard, until it is left. On 5.10 a host that can convert guests is emulated as well.
pub fn demo(guest: &Guest, hardware: &Hardware) -> Result<(), Failure> {
    let mut hardware = hardware.clone();
    if guest.kernel.series() == "5.10" {
        hardware.shim.push("uv=1".into());
    }
    println!("starting; q leaves the dashboard, ctrl-a x ends the machine");
    let script = format!("{}{DEMO}", prologue());
    guest.interact(&script, &hardware, DEADLINE)
}

/// Terminal type and size.
fn prologue() -> String {
    let (rows, columns) = size().unwrap_or(SIZE);
    let name = std::env::var("TERM").unwrap_or_default();
    // It becomes a word of a script.
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.+".contains(c);
    let name = if !name.is_empty() && name.chars().all(plain) {
        &name
    } else {
        "xterm-256color"
    };
    format!("export TERM={name}\nstty rows {rows} cols {columns}\n")
}

/// Rows and columns of the terminal on the standard input.
fn size() -> Option<(u16, u16)> {
    let output = Command::new("stty")
        .arg("size")
        .stdin(Stdio::inherit())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    parse(&String::from_utf8_lossy(&output.stdout))
}

/// What `stty size` says; a terminal without a size says `0 0`.
fn parse(text: &str) -> Option<(u16, u16)> {
    let (rows, columns) = text.trim().split_once(' ')?;
    let (rows, columns) = (rows.parse().ok()?, columns.parse().ok()?);
    (rows > 0 && columns > 0).then_some((rows, columns))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_two_numbers_that_are_not_zero() {
        assert_eq!(parse("24 80\n"), Some((24, 80)));
        assert_eq!(parse("0 0\n"), None);
        assert_eq!(parse(""), None);
    }
}
