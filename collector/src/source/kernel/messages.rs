//! What the driver says in the kernel's log of resets that it polls: `/dev/kmsg`, from its beginning.
//!
//! Takes records, gives the driver's messages with their times. A read takes no lock of the driver or of its callers, and
//! does not wait. It does not know what a message means.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Records read in one tick at most: the rest comes in the next.
const MAX_RECORDS: usize = 512;
/// A record is no longer (`PRINTK_MESSAGE_MAX`, kernel/printk/internal.h, v6.3 and later; `CONSOLE_EXT_LOG_MAX` before).
const MAX_RECORD: usize = 8192;
/// What tells the driver's message about a reset that it polls (`WAIT_MSG`, drivers/s390/crypto/vfio_ap_ops.c, v6.6): it
/// has no prefix.
const MARK: &str = "ms for reset of queue ";

/// The kernel's log, as far as it has been read.
pub(super) struct Messages {
    file: File,
}

impl Messages {
    /// Opens the log.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(path)?;
        Ok(Self { file })
    }

    /// The driver's messages since the last call, with their times: nanoseconds of the kernel's own clock, which is near
    /// CLOCK_MONOTONIC.
    pub(super) fn read(&mut self) -> Vec<(u64, String)> {
        let mut found = Vec::new();
        let mut record = [0_u8; MAX_RECORD];
        for _ in 0..MAX_RECORDS {
            match self.file.read(&mut record) {
                Ok(0) => break,
                Ok(length) => found.extend(message(&String::from_utf8_lossy(&record[..length]))),
                // Records were overwritten before they were read: the next read goes on behind them.
                Err(e) if e.raw_os_error() == Some(libc::EPIPE) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // Nothing more for now.
                Err(_) => break,
            }
        }
        found
    }
}

/// Reads a record: `5,812,1234567,-;Waited ...`, with the time in microseconds (Documentation/ABI/testing/dev-kmsg).
fn message(record: &str) -> Option<(u64, String)> {
    let (head, text) = record.lines().next()?.split_once(';')?;
    let at_us: u64 = head.split(',').nth(2)?.parse().ok()?;
    text.contains(MARK)
        .then(|| (at_us.saturating_mul(1000), text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drivers_records_are_found() {
        let record =
            "5,812,1234567,-;Waited 20ms for reset of queue 01.0002 (2, 0, 0)\n SUBSYSTEM=x\n";
        assert_eq!(
            message(record),
            Some((
                1_234_567_000,
                "Waited 20ms for reset of queue 01.0002 (2, 0, 0)".to_owned()
            ))
        );
        for other in [
            "",
            "5,812,1,-",
            "6,1,2,-;ap: something",
            "6,1,x,-;Waited 20ms for reset of queue 01.0002 (2, 0, 0)",
            "6;Waited 20ms for reset of queue 01.0002 (2, 0, 0)",
        ] {
            assert_eq!(message(other), None, "{other}");
        }
    }

    #[test]
    fn a_log_that_is_there_does_not_block() {
        // Nobody else's log has the driver's messages in it; that it comes back is what is tested.
        if let Ok(mut log) = Messages::open(Path::new("/dev/kmsg")) {
            let _ = log.read();
        }
        assert!(Messages::open(Path::new("/nowhere/kmsg")).is_err());
    }
}
