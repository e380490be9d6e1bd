//! An emulated driver with its sysfs mounted, for tests: started, read, written, and waited for at the end.
#![allow(
    dead_code,
    reason = "shared by several tests, each of which uses a part"
)]

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::support::process::{Background, wait_for};

pub const TYPE: &str = "devices/vfio_ap/matrix/mdev_supported_types/vfio_ap-passthrough";
pub const UUID: &str = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";

/// Why nothing can be mounted here, or a program is missing: printed, and a failure with `APSCOPE_REQUIRE_BPF` set.
pub fn skip(reason: &str) {
    assert!(
        std::env::var_os("APSCOPE_REQUIRE_BPF").is_none(),
        "APSCOPE_REQUIRE_BPF is set, and {reason}"
    );
    eprintln!("skipped: {reason}");
}

pub fn mounts_are_permitted() -> bool {
    let id = Command::new("id").arg("-u").output();
    if !id.is_ok_and(|output| output.stdout == b"0\n") {
        skip("only root can mount");
        return false;
    }
    if let Err(error) = OpenOptions::new().read(true).write(true).open("/dev/fuse") {
        skip(&format!("/dev/fuse cannot be opened: {error}"));
        return false;
    }
    true
}

pub fn apscope(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_apscope-collector"));
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

pub fn is_mounted(folder: &Path) -> bool {
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts
        .lines()
        .any(|line| line.split(' ').nth(4) == folder.to_str())
}

/// An emulated driver with its sysfs on a folder of its own. The folder outlives it.
pub struct Mounted {
    pub process: Background,
    pub root: TempDir,
}

impl Mounted {
    pub fn start(generation: &str) -> Self {
        let root = TempDir::new().unwrap();
        let sys = root.path().join("sys");
        fs::create_dir(&sys).unwrap();
        let process = apscope(&["emulate", "--scenario", "none", "--guests", "2"])
            .args(["--generation", generation, "--mount"])
            .arg(&sys)
            .spawn();
        let mut process = Background(process.unwrap());
        wait_for("the sysfs is mounted", || {
            let ended = process.0.try_wait().unwrap();
            assert!(ended.is_none(), "{ended:?}: {}", said(&mut process.0));
            is_mounted(&sys).then_some(())
        });
        Self { process, root }
    }

    pub fn sys(&self) -> PathBuf {
        self.root.path().join("sys")
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.sys().join(path)
    }

    pub fn read(&self, path: &str) -> Result<String, i32> {
        fs::read_to_string(self.path(path)).map_err(|error| number(&error))
    }

    /// As `echo -n` writes it.
    pub fn write(&self, path: &str, text: &str) -> Result<(), i32> {
        fs::write(self.path(path), text).map_err(|error| number(&error))
    }

    pub fn names(&self, path: &str) -> BTreeSet<String> {
        let entries = fs::read_dir(self.path(path)).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = self.process.0.kill();
        let _ = self.process.0.wait();
        let sys = self.sys();
        // The folder cannot be removed before.
        wait_for("the guard unmounts", || (!is_mounted(&sys)).then_some(()));
    }
}

pub fn said(child: &mut Child) -> String {
    let mut text = String::new();
    if let Some(stderr) = &mut child.stderr {
        let _ = stderr.read_to_string(&mut text);
    }
    text
}

pub fn number(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(0)
}

/// A guest's device, which exists from the start.
pub fn guest(number: u32) -> String {
    format!("bus/mdev/devices/a9e10000-0000-4000-8000-{number:012x}")
}
