//! How the emulated sysfs comes and goes: with its process however that ends, under a collector, without privilege, and
//! where it cannot be.

mod mount_support;
mod support;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use mount_support::{
    Mounted, TYPE, UUID, apscope, guest, is_mounted, mounts_are_permitted, number, said, skip,
};
use support::process::{Background, is_alive, kill, wait_for};
use support::truth::differences;
use support::{PROBES, bpf};
use tempfile::TempDir;

/// A guard's process, which is the emulator's child.
fn guard_of(emulator: u32) -> u32 {
    wait_for("the guard runs", || {
        let children = fs::read_to_string(format!("/proc/{emulator}/task/{emulator}/children"));
        let of_threads = children.unwrap_or_default();
        of_threads
            .split_whitespace()
            .filter_map(|pid| pid.parse().ok())
            .find(|pid: &u32| {
                let line = fs::read_to_string(format!("/proc/{pid}/cmdline"));
                line.is_ok_and(|line| line.contains("unmount-guard"))
            })
    })
}

#[test]
fn however_it_ends_the_mount_goes() {
    if !mounts_are_permitted() {
        return;
    }
    for signal in ["-KILL", "-ABRT", "-TERM", "-INT"] {
        let mut mounted = Mounted::start("v5.13");
        let pid = mounted.process.0.id();
        let guard = guard_of(pid);
        // Somebody is inside.
        let inside = fs::File::open(mounted.path("bus/ap/apmask")).unwrap();
        let status = Command::new("kill")
            .args([signal, &pid.to_string()])
            .status();
        assert!(status.unwrap().success());
        mounted.process.0.wait().unwrap();
        let sys = mounted.sys();
        wait_for("it is unmounted", || (!is_mounted(&sys)).then_some(()));
        wait_for("the guard ends", || (!is_alive(guard)).then_some(()));
        assert_eq!(fs::read_dir(&sys).unwrap().count(), 0, "{signal}");
        drop(inside);
    }
}

/// Runs a command that must fail; returns its three lines.
fn fails(mut command: Command) -> [String; 3] {
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    let lines: Vec<&str> = text.lines().collect();
    let starts = ["error: ", "cause: ", "try: "];
    assert_eq!(lines.len(), 3, "{text}");
    std::array::from_fn(|n| {
        lines[n]
            .strip_prefix(starts[n])
            .unwrap_or_else(|| panic!("{text}"))
            .to_owned()
    })
}

#[test]
fn a_place_that_is_none_is_explained() {
    if !mounts_are_permitted() {
        return;
    }
    let mounted = Mounted::start("v5.13");
    let root = mounted.root.path();
    let file = root.join("file");
    fs::write(&file, "").unwrap();
    let full = root.join("full");
    fs::create_dir_all(full.join("something")).unwrap();
    let link = root.join("link");
    symlink(mounted.sys(), &link).unwrap();
    let pid = mounted.process.0.id().to_string();
    for (path, cause, hint) in [
        (root.join("none"), "no such directory", "mkdir -p"),
        (file, "not a directory", "empty directory"),
        (full, "not empty", "empty directory"),
        (mounted.sys(), pid.as_str(), "another directory"),
        (link, pid.as_str(), "another directory"),
    ] {
        for arguments in [
            &["emulate", "--mount"][..],
            &[
                "record",
                "-o",
                "/dev/null",
                "--source",
                "emulator",
                "--mount",
            ],
        ] {
            let mut command = apscope(arguments);
            command.arg(&path);
            let [what, said, tried] = fails(command);
            assert!(what.contains(path.to_str().unwrap()), "{what}");
            assert!(said.contains(cause), "{said}");
            assert!(tried.contains(hint), "{tried}");
        }
    }
    assert!(is_mounted(&mounted.sys()));
}

#[test]
fn a_stale_mount_is_explained_and_the_advice_helps() {
    if !mounts_are_permitted() {
        return;
    }
    let mut mounted = Mounted::start("v5.13");
    let pid = mounted.process.0.id();
    // Without the guard nobody unmounts.
    kill(guard_of(pid));
    kill(pid);
    mounted.process.0.wait().unwrap();
    let sys = mounted.sys();
    assert!(is_mounted(&sys));
    assert_eq!(number(&fs::read_dir(&sys).unwrap_err()), libc::ENOTCONN);
    let mut command = apscope(&["emulate", "--mount"]);
    command.arg(&sys);
    let [_, cause, hint] = fails(command);
    assert!(cause.contains("program is gone"), "{cause}");
    let advice = hint.split(", or").next().unwrap();
    assert_eq!(advice, format!("umount -l {}", sys.display()));
    let status = Command::new("sh").args(["-c", advice]).status();
    assert!(status.unwrap().success());
    assert!(!is_mounted(&sys));
}

#[test]
fn what_is_written_is_measured() {
    if !mounts_are_permitted() {
        return;
    }
    for probe in PROBES {
        let Some(_permit) = bpf::permitted_with(probe) else {
            continue;
        };
        let root = TempDir::new().unwrap();
        let sys = root.path().join("sys");
        fs::create_dir(&sys).unwrap();
        let (out, truth) = (root.path().join("out.json"), root.path().join("truth.json"));
        let mut collector = apscope(&["export", "--source", "emulator", "--probe", probe]);
        collector
            .args(["--generation", "v6.6", "--scenario", "none"])
            .args(["--duration", "5m", "--format", "json", "-o"])
            .arg(&out)
            .arg("--truth")
            .arg(&truth)
            .arg("--mount")
            .arg(&sys);
        let mut collector = Background(collector.spawn().unwrap());
        wait_for("the sysfs is mounted", || {
            let ended = collector.0.try_wait().unwrap();
            assert!(ended.is_none(), "{}", said(&mut collector.0));
            is_mounted(&sys).then_some(())
        });
        let device = sys.join(guest(0));
        for _ in 0..5 {
            fs::write(device.join("assign_adapter"), "2\n").unwrap();
            fs::write(device.join("unassign_adapter"), "2\n").unwrap();
            fs::read(device.join("matrix")).unwrap();
        }
        assert!(fs::write(device.join("assign_domain"), "two").is_err());
        fs::write(sys.join(TYPE).join("create"), UUID).unwrap();
        fs::write(sys.join("bus/mdev/devices").join(UUID).join("remove"), "1").unwrap();
        let pid = collector.0.id().to_string();
        let status = Command::new("kill").args(["-INT", &pid]).status();
        assert!(status.unwrap().success());
        let status = collector.0.wait().unwrap();
        assert!(status.success(), "{}", said(&mut collector.0));
        assert!(!is_mounted(&sys));
        let json = |path: &Path| -> serde_json::Value {
            serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
        };
        let (out, truth) = (json(&out), json(&truth));
        assert_eq!(differences(&out, &truth), Vec::<String>::new(), "{probe}");
        let entries = out["entry_points"].as_array().unwrap();
        for (name, returned, calls) in [
            ("assign_adapter_store", "ok", 5),
            ("unassign_adapter_store", "ok", 5),
            ("matrix_show", "ok", 5),
            ("assign_domain_store", "-EINVAL", 1),
            ("vfio_ap_mdev_probe", "ok", 1),
            ("vfio_ap_mdev_remove", "ok", 1),
        ] {
            let entry = entries.iter().find(|e| e["name"] == name).unwrap();
            assert_eq!(entry["calls"], calls, "{probe}: {name}");
            assert_eq!(entry["returns"][returned], calls, "{probe}: {name}");
        }
    }
}

/// Debian's user and group `nobody`.
const NOBODY: u32 = 65_534;

#[test]
fn without_privilege_fusermount_mounts_and_unmounts() {
    if !mounts_are_permitted() {
        return;
    }
    for program in ["fusermount3", "setpriv"] {
        if Command::new(program).arg("--version").output().is_err() {
            return skip(&format!("there is no {program}"));
        }
    }
    let as_nobody = |program: &Path| {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(program)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command
    };
    let root = TempDir::new().unwrap();
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let sys = root.path().join("sys");
    fs::create_dir(&sys).unwrap();
    // The build folder need not be everybody's.
    let program = root.path().join("apscope");
    fs::copy(env!("CARGO_BIN_EXE_apscope-collector"), &program).unwrap();
    let mut command = as_nobody(&program);
    command
        .args(["emulate", "--scenario", "none", "--mount"])
        .arg(&sys);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        text.contains("cannot be mounted"),
        "the folder is root's: {text}"
    );
    chown(&sys, Some(NOBODY), Some(NOBODY)).unwrap();
    let mut process = Background(command.spawn().unwrap());
    wait_for("the sysfs is mounted", || {
        let ended = process.0.try_wait().unwrap();
        assert!(ended.is_none(), "{ended:?}: {}", said(&mut process.0));
        is_mounted(&sys).then_some(())
    });
    let file = sys.join(guest(0)).join("assign_adapter");
    let written = as_nobody(Path::new("sh"))
        .args(["-c", "echo 2 > \"$1\"", "-"])
        .arg(&file)
        .status();
    assert!(written.unwrap().success());
    kill(process.0.id());
    process.0.wait().unwrap();
    wait_for("it is unmounted", || (!is_mounted(&sys)).then_some(()));
}
