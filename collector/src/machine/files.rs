//! Files of a machine below a root folder, read with bounds.
//!
//! Takes paths relative to the root, gives text or bytes; what is there and cannot be read is remembered with its
//! reason, because it must not pass for absent. It opens nothing that is not in [`OPENED`]: the driver's and the AP
//! bus's sysfs attributes take locks that are traced (`matrix_show`: `mdevs_lock`; `apmask_show`: `ap_perms_mutex`),
//! and a reader would stand in the queue that it came to look at.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// Places from which files are opened; everything else is at most looked at from outside. `*` is one name.
const OPENED: [&str; 20] = [
    "apscope-probes.json",
    "proc/cpuinfo",
    "proc/kallsyms",
    "proc/self/limits",
    "proc/self/mountinfo",
    "proc/self/status",
    "proc/self/uid_map",
    "proc/sys/kernel/*",
    "proc/sys/net/core/bpf_jit_enable",
    "sys/bus/event_source/devices/*/type",
    "sys/devices/system/cpu/possible",
    "sys/kernel/btf/*",
    "sys/kernel/debug/tracing/available_events",
    "sys/kernel/debug/tracing/available_filter_functions",
    "sys/kernel/notes",
    "sys/kernel/realtime",
    "sys/kernel/security/lockdown",
    "sys/kernel/tracing/available_events",
    "sys/kernel/tracing/available_filter_functions",
    "sys/module/*/notes/.note.gnu.build-id",
];

/// Most bytes of a small file: a setting, a status.
const SMALL: u64 = 256 << 10;

/// A file that is there and could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unreadable {
    /// Its path on the machine, absolute.
    pub path: String,
    /// Why.
    pub reason: String,
}

/// The root folder of a machine: `/`, or a copy of parts of one.
#[derive(Debug)]
pub struct Root {
    path: PathBuf,
    unreadable: Vec<Unreadable>,
}

impl Root {
    /// The machine below a folder.
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            unreadable: Vec::new(),
        }
    }

    /// Whether it is this machine, and not a copy of one.
    pub fn is_live(&self) -> bool {
        self.path == Path::new("/")
    }

    /// Whether there is something at a path. It is not opened.
    pub fn has(&self, path: &str) -> bool {
        self.path.join(path).exists()
    }

    /// A path on this file system.
    pub fn path(&self, path: &str) -> PathBuf {
        self.path.join(path)
    }

    /// Names in a folder, sorted, at most 4,096; none where it is not there or may not be listed.
    pub fn names(&self, path: &str) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.path.join(path)) else {
            return Vec::new();
        };
        let mut names: Vec<String> = entries
            .take(4096)
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        names.sort_unstable();
        names
    }

    /// Text of a small file without white space around it; `None` where it is absent or unreadable.
    pub fn text(&mut self, path: &str) -> Option<String> {
        let bytes = self.bytes(path, SMALL)?;
        if let Ok(text) = String::from_utf8(bytes) {
            return Some(text.trim().to_owned());
        }
        self.note(path, "not UTF-8".into());
        None
    }

    /// A whole number in a file.
    pub fn number(&mut self, path: &str) -> Option<i64> {
        let text = self.text(path)?;
        let number = text.parse().ok();
        if number.is_none() {
            self.note(path, "no number".into());
        }
        number
    }

    /// Bytes of a file of at most `limit` bytes; `None` where it is absent, larger or unreadable.
    pub fn bytes(&mut self, path: &str, limit: u64) -> Option<Vec<u8>> {
        let file = self.open(path)?;
        let mut bytes = Vec::new();
        match file.take(limit + 1).read_to_end(&mut bytes) {
            Ok(_) if bytes.len() as u64 > limit => {
                self.note(path, format!("larger than {limit} bytes"));
                None
            }
            Ok(_) => Some(bytes),
            Err(error) => {
                self.note(path, error.to_string());
                None
            }
        }
    }

    /// At most the first `limit` bytes of a file.
    pub fn start(&mut self, path: &str, limit: u64) -> Option<Vec<u8>> {
        let file = self.open(path)?;
        let mut bytes = Vec::new();
        if let Err(error) = file.take(limit).read_to_end(&mut bytes) {
            self.note(path, error.to_string());
            return None;
        }
        Some(bytes)
    }

    /// Opens a file for a reader that has bounds of its own.
    pub fn open(&mut self, path: &str) -> Option<File> {
        let opened = if may_open(path) {
            plain_file(&self.path.join(path))
        } else {
            Err(io::Error::other(
                "not opened: its read may take a traced lock",
            ))
        };
        match opened {
            Ok(file) => Some(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                self.note(path, error.to_string());
                None
            }
        }
    }

    /// What could not be read so far.
    pub fn unreadable(&self) -> &[Unreadable] {
        &self.unreadable
    }

    fn note(&mut self, path: &str, reason: String) {
        let path = format!("/{path}");
        if self.unreadable.iter().all(|known| known.path != path) {
            self.unreadable.push(Unreadable { path, reason });
        }
    }
}

/// Opens a file without waiting: a pipe in a copied tree is no file.
fn plain_file(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::other("not a plain file"))
    }
}

/// Whether a path is one of those that are opened.
fn may_open(path: &str) -> bool {
    OPENED.iter().any(|pattern| {
        let (mut names, mut parts) = (path.split('/'), pattern.split('/'));
        loop {
            match (names.next(), parts.next()) {
                (None, None) => return true,
                (Some(name), Some(part)) if name == part => {}
                (Some(name), Some("*")) if !matches!(name, "" | "." | "..") => {}
                _ => return false,
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_behind_a_traced_lock_are_not_opened() {
        for path in [
            "sys/bus/ap/apmask",
            "sys/bus/ap/aqmask",
            "sys/bus/ap/devices/card05/status",
            "sys/devices/vfio_ap/matrix/mdev_supported_types",
            "sys/bus/mdev/devices/0/matrix",
            "sys/kernel/debug/kvm/1-2/sie_enter",
            "sys/module/vfio_ap/refcnt",
            "proc/1/cmdline",
            "proc/self/cmdline",
            "proc/modules",
            "sys/kernel/btf/../../bus/ap/apmask",
            "proc/sys/kernel/",
        ] {
            assert!(!may_open(path), "{path}");
        }
        for path in [
            "proc/sys/kernel/kptr_restrict",
            "sys/kernel/btf/vmlinux",
            "sys/module/vfio_ap/notes/.note.gnu.build-id",
        ] {
            assert!(may_open(path), "{path}");
        }
    }

    #[test]
    fn what_is_there_and_unreadable_is_not_absent() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("proc/self")).unwrap();
        std::fs::write(folder.path().join("proc/self/status"), [0xff, 0xfe]).unwrap();
        std::fs::create_dir_all(folder.path().join("proc/kallsyms")).unwrap();
        std::fs::write(folder.path().join("proc/self/limits"), vec![b' '; 300_000]).unwrap();
        let mut root = Root::new(folder.path());
        assert_eq!(root.text("proc/self/uid_map"), None);
        assert_eq!(root.unreadable(), []);
        assert_eq!(root.text("proc/self/status"), None);
        assert_eq!(root.text("proc/kallsyms"), None);
        assert_eq!(root.text("proc/self/limits"), None);
        let paths: Vec<&str> = root.unreadable().iter().map(|u| u.path.as_str()).collect();
        assert_eq!(
            paths,
            ["/proc/self/status", "/proc/kallsyms", "/proc/self/limits"]
        );
    }
}
