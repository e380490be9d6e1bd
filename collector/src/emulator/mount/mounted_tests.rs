//! The file system, mounted, on a driver whose store function waits until it is told to go on.

use std::fs::{self, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use fuser::{Config, MountOption, Session, SessionACL};
use tempfile::TempDir;

use super::backend::{Backend, File, Mask, Mdev, Negative, Writer};
use super::filesystem::Sysfs;
use super::place;
use super::tree::Tree;
use super::writers::Writers;

const UUID: &str = "0123abcd-4567-89ab-cdef-0123456789ab";
const FILES: [File; 1] = [File {
    name: "both",
    mode: 0o644,
}];

/// Calls of the store function that have begun, and whether they may end.
#[derive(Debug, Default)]
struct Gate {
    begun: Mutex<(Vec<Writer>, bool)>,
    changed: Condvar,
    shown: Mutex<u32>,
}

impl Gate {
    fn wait_for(&self, calls: usize) -> Vec<Writer> {
        let begun = self.begun.lock().unwrap();
        let begun = self.changed.wait_while(begun, |b| b.0.len() < calls);
        begun.unwrap().0.clone()
    }

    fn open(&self) {
        self.begun.lock().unwrap().1 = true;
        self.changed.notify_all();
    }
}

struct Slow(Arc<Gate>);

impl Backend for Slow {
    fn enter(&self) {}

    fn mdevs(&self) -> Vec<Mdev> {
        vec![Mdev {
            id: 1,
            uuid: UUID.into(),
        }]
    }

    fn attributes(&self) -> &[File] {
        &FILES
    }

    fn show(&self, _mdev: u64, _attribute: usize, _reader: &Writer) -> Result<Vec<u8>, Negative> {
        let mut shown = self.0.shown.lock().unwrap();
        *shown += 1;
        Ok(format!("{:04}\n", *shown).into_bytes())
    }

    fn store(&self, _mdev: u64, _attribute: usize, bytes: &[u8], writer: &Writer) -> i64 {
        let mut begun = self.0.begun.lock().unwrap();
        begun.0.push(*writer);
        self.0.changed.notify_all();
        drop(self.0.changed.wait_while(begun, |b| !b.1).unwrap());
        bytes.len() as i64
    }

    fn create(&self, _uuid: &str, _writer: &Writer) -> i32 {
        -libc::EPERM
    }

    fn remove(&self, _mdev: u64, _writer: &Writer) -> i32 {
        -libc::EPERM
    }

    fn available_instances(&self) -> u32 {
        0
    }

    fn show_mask(&self, _mask: Mask, _reader: &Writer) -> Result<Vec<u8>, Negative> {
        Ok(Vec::new())
    }

    fn store_mask(&self, _mask: Mask, bytes: &[u8], _writer: &Writer) -> i64 {
        bytes.len() as i64
    }

    fn cards(&self) -> Vec<u8> {
        Vec::new()
    }

    fn queues(&self) -> Vec<u16> {
        Vec::new()
    }

    fn driver_of(&self, _apqn: u16) -> Option<&'static str> {
        None
    }

    fn has_status(&self) -> bool {
        false
    }

    fn show_status(&self, _apqn: u16, _reader: &Writer) -> Result<Vec<u8>, Negative> {
        Ok(Vec::new())
    }
}

struct Mounted {
    folder: TempDir,
    source: String,
}

impl Drop for Mounted {
    fn drop(&mut self) {
        place::unmount(self.folder.path(), &self.source);
    }
}

/// Mounts, or says why not.
fn mount(gate: &Arc<Gate>) -> Option<Mounted> {
    let folder = TempDir::new().unwrap();
    if let Err(problem) = place::check(folder.path()) {
        assert!(
            std::env::var_os("APSCOPE_REQUIRE_BPF").is_none(),
            "APSCOPE_REQUIRE_BPF is set, and nothing can be mounted: {problem}"
        );
        eprintln!("skipped: {problem}");
        return None;
    }
    let tree = Arc::new(Tree::new(Slow(Arc::clone(gate))));
    let filesystem = Sysfs::new(tree, Writers::new(Arc::new(|| ())), (0, 0));
    let source = format!("apscope-test-{}", folder.path().display());
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName(source.clone()),
        MountOption::DefaultPermissions,
    ];
    config.acl = SessionACL::Owner;
    let session = Session::new(filesystem, folder.path(), &config).and_then(Session::spawn);
    std::mem::forget(session.unwrap());
    Some(Mounted { folder, source })
}

fn attribute(folder: &Path) -> std::path::PathBuf {
    folder.join("bus/mdev/devices").join(UUID).join("both")
}

#[test]
fn writers_of_one_attribute_are_in_the_driver_together() {
    let gate = Arc::new(Gate::default());
    let Some(mounted) = mount(&gate) else { return };
    let file = attribute(mounted.folder.path());
    std::thread::scope(|scope| {
        for _ in 0..3 {
            // Truncates, as the shell does.
            scope.spawn(|| fs::write(&file, "5\n").unwrap());
        }
        let begun = gate.wait_for(3);
        // While they are, everything else goes on.
        assert_eq!(fs::read_to_string(&file).unwrap(), "0001\n");
        let folder = file.parent().unwrap();
        let names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(names, ["both", "remove", "mdev_type"]);
        assert!(
            fs::canonicalize(folder)
                .unwrap()
                .ends_with(format!("devices/vfio_ap/matrix/{UUID}"))
        );
        let process = format!("/proc/{}/task", std::process::id());
        for writer in begun {
            let comm = fs::read(format!("{process}/{}/comm", writer.pid)).unwrap();
            assert_eq!(comm.trim_ascii_end(), writer.comm.trim_ascii_end_nul());
        }
        gate.open();
    });
}

trait TrimNul {
    fn trim_ascii_end_nul(&self) -> &[u8];
}

impl TrimNul for [u8; 16] {
    fn trim_ascii_end_nul(&self) -> &[u8] {
        let end = self.iter().position(|b| *b == 0).unwrap_or(self.len());
        &self[..end]
    }
}

#[test]
fn a_killed_writer_stays_until_the_driver_is_done_with_it() {
    let gate = Arc::new(Gate::default());
    let Some(mounted) = mount(&gate) else { return };
    let file = attribute(mounted.folder.path());
    let mut shell = Command::new("sh")
        .args(["-c", "echo 5 > \"$1\"", "-"])
        .arg(&file)
        .spawn()
        .unwrap();
    let writer = gate.wait_for(1)[0];
    assert_eq!(writer.pid, shell.id());
    assert_eq!(writer.comm.trim_ascii_end_nul(), b"sh");
    shell.kill().unwrap();
    // As a task in the kernel's mutex_lock.
    std::thread::sleep(Duration::from_millis(100));
    assert!(shell.try_wait().unwrap().is_none());
    assert!(fs::read(&file).is_ok());
    gate.open();
    assert!(!shell.wait().unwrap().success());
}

#[test]
fn files_are_read_and_written_as_in_sysfs() {
    let gate = Arc::new(Gate::default());
    let Some(mounted) = mount(&gate) else { return };
    gate.open();
    let path = attribute(mounted.folder.path());
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    let mut two = [0; 2];
    let mut text = String::new();
    file.read_exact(&mut two).unwrap();
    file.read_to_string(&mut text).unwrap();
    // One call of the show function, though there were several reads.
    assert_eq!((&two, text.as_str()), (b"00", "01\n"));
    file.seek(SeekFrom::Start(100)).unwrap();
    assert_eq!(file.read(&mut two).unwrap(), 0);
    file.rewind().unwrap();
    text.clear();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "0002\n");
    // A page at a time, wherever the file stands.
    for length in [0, 1, 4095, 4096, 4097, 10_000, 3 << 20] {
        let written = file.write(&vec![b'1'; length]).unwrap();
        assert_eq!(written, length.min(4096), "{length}");
    }
    let (a, b) = (fs::metadata(&path).unwrap(), file.metadata().unwrap());
    assert_eq!((a.ino(), a.size(), a.mode()), (b.ino(), 4096, 0o100_644));
    for (result, expected) in [
        (fs::create_dir(path.with_file_name("new")), libc::EPERM),
        (fs::remove_file(&path), libc::EPERM),
        (fs::rename(&path, path.with_file_name("new")), libc::EPERM),
        (fs::write(path.with_file_name("new"), ""), libc::EACCES),
        (fs::write(path.with_file_name("remove"), "1"), libc::EPERM),
        (
            fs::read(path.with_file_name("remove")).map(drop),
            libc::EACCES,
        ),
    ] {
        assert_eq!(result.unwrap_err().raw_os_error(), Some(expected));
    }
}
