//! Where the tree is mounted: whether that can be, what is there already, and taking it away.

use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::emulator::Problem;

/// Programs that mount and unmount for those who may not do it themselves.
const HELPERS: [&str; 2] = ["fusermount3", "fusermount"];
/// What the source of each mount begins with; the process id follows.
const SOURCE: &str = "apscope-emulator-";

/// Source of the mount of a process, as `findmnt` shows it.
pub fn source(pid: u32) -> String {
    format!("{SOURCE}{pid}")
}

/// A line of /proc/self/mountinfo.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    point: PathBuf,
    source: String,
}

fn mounts() -> io::Result<Vec<Mount>> {
    let text = fs::read("/proc/self/mountinfo")?;
    Ok(text.split(|b| *b == b'\n').filter_map(parse).collect())
}

/// `36 35 98:0 / /mnt rw,nosuid shared:1 - fuse SOURCE rw,…`
fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|b| *b == b' ');
    let point = unescape(fields.nth(4)?);
    let source = fields.skip_while(|field| *field != b"-").nth(2)?;
    Some(Mount {
        point: PathBuf::from(std::ffi::OsString::from_vec(point)),
        source: String::from_utf8_lossy(&unescape(source)).into_owned(),
    })
}

/// Blanks, tabs, line ends and backslashes stand as three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let digits = after
            .get(..3)
            .filter(|_| *first == b'\\')
            .and_then(|d| std::str::from_utf8(d).ok())
            .and_then(|d| u8::from_str_radix(d, 8).ok());
        if let Some(byte) = digits {
            bytes.push(byte);
            rest = &after[3..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    bytes
}

/// Whether `source` is mounted on `point`.
pub fn is_mounted(point: &Path, source: &str) -> bool {
    mounts().is_ok_and(|all| all.iter().any(|m| m.point == point && m.source == source))
}

/// Checks that the tree can be mounted here, and says why not. Looks at the folder itself, so a file system that hangs
/// there makes it hang.
///
/// # Errors
///
/// What is wrong with the folder, or with FUSE on this machine.
pub fn check(folder: &Path) -> Result<PathBuf, Problem> {
    let shown = folder.display();
    let quoted = quoted(folder);
    let cannot = || format!("the emulated sysfs cannot be mounted on {shown}");
    let metadata = fs::metadata(folder).map_err(|error| match error.raw_os_error() {
        Some(libc::ENOENT) => Problem::new(
            cannot(),
            "there is no such directory",
            format!("mkdir -p {quoted}"),
        ),
        Some(libc::ENOTCONN | libc::ECONNABORTED) => Problem::new(
            cannot(),
            "a file system is mounted there whose program is gone",
            format!("umount -l {quoted}, or without privilege fusermount3 -uz {quoted}"),
        ),
        _ => Problem::new(cannot(), error.to_string(), "another directory"),
    })?;
    if !metadata.is_dir() {
        return Err(Problem::new(
            cannot(),
            "it is not a directory",
            "an empty directory",
        ));
    }
    let point = folder
        .canonicalize()
        .map_err(|e| Problem::new(cannot(), e.to_string(), "another directory"))?;
    if let Some(pid) = mounted_by(&point) {
        return Err(Problem::new(
            cannot(),
            format!("the emulated driver of process {pid} is mounted there"),
            format!("another directory, or end process {pid}"),
        ));
    }
    let mut entries = fs::read_dir(&point).map_err(|e| {
        Problem::new(
            cannot(),
            e.to_string(),
            "a directory that you can read and write",
        )
    })?;
    if entries.next().is_some() {
        return Err(Problem::new(
            cannot(),
            "the directory is not empty",
            "an empty directory",
        ));
    }
    fuse(&cannot())?;
    Ok(point)
}

/// Process of the emulator that is mounted there.
fn mounted_by(point: &Path) -> Option<String> {
    mounts()
        .ok()?
        .into_iter()
        .filter(|m| m.point == point)
        .find_map(|m| m.source.strip_prefix(SOURCE).map(str::to_owned))
}

/// FUSE is there and may be used.
fn fuse(what: &str) -> Result<(), Problem> {
    let device = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/fuse");
    if let Err(error) = device {
        let hint = if error.kind() == io::ErrorKind::NotFound {
            "modprobe fuse; in a container, pass /dev/fuse on"
        } else {
            "run as a user who may open /dev/fuse"
        };
        return Err(Problem::new(
            what,
            format!("/dev/fuse cannot be opened: {error}"),
            hint,
        ));
    }
    // SAFETY: geteuid has no precondition.
    let root = unsafe { libc::geteuid() } == 0;
    if !root && helper().is_none() {
        return Err(Problem::new(
            what,
            "only root may mount, and there is no fusermount3 to do it for others",
            "run as root, or install fusermount3 (Debian: apt-get install fuse3)",
        ));
    }
    Ok(())
}

fn helper() -> Option<&'static str> {
    HELPERS.into_iter().find(|name| {
        Command::new(name)
            .arg("-V")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    })
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

/// Why a mount that `check` has let through failed.
pub fn refused(folder: &Path, error: &io::Error) -> Problem {
    Problem::new(
        format!(
            "the emulated sysfs cannot be mounted on {}",
            folder.display()
        ),
        error.to_string(),
        "run as root, with CAP_SYS_ADMIN, or install fusermount3",
    )
}

/// Takes the mount away, whoever still uses it. Nothing happens when it is gone already.
pub fn unmount(point: &Path, source: &str) {
    if !is_mounted(point, source) {
        return;
    }
    let Ok(path) = std::ffi::CString::new(point.as_os_str().as_bytes()) else {
        return;
    };
    let flags = libc::MNT_DETACH | libc::UMOUNT_NOFOLLOW;
    // SAFETY: the path is a NUL-terminated string that lives through the call.
    let done = unsafe { libc::umount2(path.as_ptr(), flags) } == 0;
    if !done && let Some(helper) = helper() {
        // Without privilege. There is nobody left to tell of a failure.
        let _ = Command::new(helper)
            .args(["-u", "-z", "-q", "--"])
            .arg(point)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_is_read() {
        let line = br"98 25 0:44 / /tmp/a\040b\134c rw,nosuid,nodev - fuse apscope-emulator-12 rw,user_id=0";
        assert_eq!(
            parse(line),
            Some(Mount {
                point: "/tmp/a b\\c".into(),
                source: "apscope-emulator-12".into(),
            })
        );
        for line in ["", "1 2 3", r"1 2 3 4 \9 6"] {
            assert_eq!(parse(line.as_bytes()), None, "{line}");
        }
        assert_eq!(unescape(br"\04"), br"\04");
        assert!(mounts().unwrap().iter().any(|m| m.point == Path::new("/")));
    }

    #[test]
    fn what_is_no_place_is_explained() {
        let folder = tempfile::TempDir::new().unwrap();
        let file = folder.path().join("it's a file");
        fs::write(&file, "").unwrap();
        for (path, cause) in [
            (folder.path().to_owned(), "not empty"),
            (file, "not a directory"),
            (folder.path().join("none"), "no such directory"),
        ] {
            let problem = check(&path).unwrap_err();
            assert!(problem.cause.contains(cause), "{problem}");
            assert!(problem.what.contains(&path.display().to_string()));
        }
        assert_eq!(quoted(Path::new("/a b'c")), r"'/a b'\''c'");
    }
}
