//! The emulated sysfs, mounted: what `echo` meets, and what `mdevctl` meets.

mod mount_support;
mod support;

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Output};

use apscope_collector::emulator;
use mount_support::{Mounted, TYPE, UUID, guest, mounts_are_permitted, number, skip};

fn attributes(generation: &str) -> BTreeSet<String> {
    let mut all: BTreeSet<String> = [
        "assign_adapter",
        "assign_control_domain",
        "assign_domain",
        "control_domains",
        "matrix",
        "mdev_type",
        "remove",
        "unassign_adapter",
        "unassign_control_domain",
        "unassign_domain",
    ]
    .map(str::to_owned)
    .into();
    if matches!(generation, "v6.0" | "v6.6" | "v7.3") {
        all.insert("guest_matrix".into());
    }
    if matches!(generation, "v6.6" | "v7.3") {
        all.insert("ap_config".into());
    }
    all
}

#[test]
fn each_generation_has_its_files_with_the_kernels_permissions() {
    if !mounts_are_permitted() {
        return;
    }
    for generation in emulator::generations() {
        let mounted = Mounted::start(generation);
        let device = guest(0);
        assert_eq!(
            mounted.names(&device),
            attributes(generation),
            "{generation}"
        );
        let mode = |path: &str| fs::symlink_metadata(mounted.path(path)).unwrap().mode();
        for name in mounted.names(&device) {
            let expected = match name.as_str() {
                "matrix" | "control_domains" | "guest_matrix" => 0o100_444,
                "ap_config" => 0o100_644,
                "mdev_type" => 0o120_777,
                _ => 0o100_200,
            };
            assert_eq!(mode(&format!("{device}/{name}")), expected, "{name}");
        }
        assert_eq!(mode(&format!("{TYPE}/create")), 0o100_200);
        assert_eq!(mode(&format!("{TYPE}/name")), 0o100_444);
        assert_eq!(mode("bus/ap/apmask"), 0o100_644);
        assert_eq!(mode(&guest(0)), 0o120_777);
        assert_eq!(
            fs::metadata(mounted.path("bus/ap/apmask")).unwrap().size(),
            4096
        );
        // v5.17 has the status of queues, so that the first with it here is v5.19.
        let has_status = attributes(generation).contains("guest_matrix") || generation == "v5.19";
        let queues = mounted.names("bus/ap/drivers/vfio_ap");
        let queue = queues.first().unwrap();
        let status = mounted.read(&format!("bus/ap/devices/{queue}/status"));
        assert_eq!(status.is_ok(), has_status, "{generation}: {status:?}");
        // Every link leads somewhere.
        let dangling = Command::new("find")
            .arg(mounted.sys())
            .args(["-xtype", "l"])
            .output();
        assert_eq!(dangling.unwrap().stdout, b"");
    }
}

#[test]
fn numbers_and_errors_are_the_kernels() {
    if !mounts_are_permitted() {
        return;
    }
    for generation in ["v5.13", "v6.6"] {
        let mounted = Mounted::start(generation);
        let matrix = |device: &str| mounted.read(&format!("{device}/matrix")).unwrap();
        let (first, second) = (guest(0), guest(1));
        assert_eq!(matrix(&first), "00.0000\n00.0001\n01.0000\n01.0001\n");
        for (text, adapters) in [("0x02\n", 3), ("3", 4), ("02", 4)] {
            assert_eq!(
                mounted.write(&format!("{first}/assign_adapter"), text),
                Ok(()),
                "{text}"
            );
            assert_eq!(matrix(&first).lines().count(), adapters * 2, "{text}");
        }
        assert_eq!(
            mounted.write(&format!("{first}/unassign_adapter"), "003\n"),
            Ok(())
        );
        assert_eq!(
            mounted.write(&format!("{first}/unassign_adapter"), "+2"),
            Ok(())
        );
        for (file, text, expected) in [
            ("assign_adapter", "", Ok(())),
            ("assign_adapter", "\n", Err(libc::EINVAL)),
            ("assign_adapter", "two", Err(libc::EINVAL)),
            ("assign_adapter", "0x", Err(libc::EINVAL)),
            ("assign_adapter", "08", Err(libc::EINVAL)),
            ("assign_adapter", "-1", Err(libc::EINVAL)),
            ("assign_adapter", "1 ", Err(libc::EINVAL)),
            ("assign_adapter", "256", Err(libc::ENODEV)),
            ("assign_adapter", "18446744073709551616", Err(libc::ERANGE)),
            ("unassign_domain", "256", Err(libc::ENODEV)),
            ("assign_control_domain", "256", Err(libc::ENODEV)),
            ("matrix", "1", Err(libc::EACCES)),
        ] {
            let result = mounted.write(&format!("{first}/{file}"), text);
            assert_eq!(result, expected, "{generation}: {file} {text:?}");
        }
        assert_eq!(
            mounted.read(&format!("{first}/assign_adapter")),
            Err(libc::EACCES)
        );
        // Guest 1 has domains 0 and 1 too, of other adapters.
        let taken = mounted.write(&format!("{second}/assign_adapter"), "0");
        assert_eq!(taken, Err(libc::EADDRINUSE));
        // Adapters 4 to 7 are the host's.
        let hosts = mounted.write(&format!("{second}/assign_adapter"), "4");
        assert_eq!(hosts, Err(libc::EADDRNOTAVAIL));
        assert_eq!(
            mounted.write(&format!("{first}/assign_control_domain"), "0x1f"),
            Ok(())
        );
        let control = mounted.read(&format!("{first}/control_domains"));
        assert_eq!(control.unwrap(), "0000\n0001\n001f\n");
    }
}

#[test]
fn a_page_is_the_limit() {
    if !mounts_are_permitted() {
        return;
    }
    let mounted = Mounted::start("v5.15");
    let path = mounted.path(&format!("{}/unassign_adapter", guest(0)));
    let mut file = OpenOptions::new().write(true).open(&path).unwrap();
    // Zeros with a number behind them: a page of it is taken, and is the number 0.
    let mut long = vec![b'0'; 9000];
    for (length, expected) in [(4095, 4095), (4096, 4096), (4097, 4096), (9000, 4096)] {
        long[length - 1] = b'7';
        assert_eq!(file.write(&long[..length]).unwrap(), expected, "{length}");
        long[length - 1] = b'0';
    }
    // What follows a NUL is not read.
    assert_eq!(file.write(b"7\0junk").unwrap(), 6);
    let mut shown = fs::File::open(mounted.path(&format!("{}/matrix", guest(1)))).unwrap();
    let mut text = String::new();
    let mut byte = [0];
    shown.read_exact(&mut byte).unwrap();
    shown.read_to_string(&mut text).unwrap();
    assert_eq!(
        (byte[0], text.as_str()),
        (b'1', "0.0000\n10.0001\n11.0000\n11.0001\n")
    );
    assert_eq!(shown.read(&mut byte).unwrap(), 0);
}

#[test]
fn devices_are_created_and_removed() {
    if !mounts_are_permitted() {
        return;
    }
    for generation in ["v5.10", "v7.3"] {
        let mounted = Mounted::start(generation);
        let create = format!("{TYPE}/create");
        let device = format!("bus/mdev/devices/{UUID}");
        let instances = || {
            mounted
                .read(&format!("{TYPE}/available_instances"))
                .unwrap()
        };
        assert_eq!(instances(), "65534\n");
        for (text, expected) in [
            ("not a uuid", Err(libc::EINVAL)),
            (&UUID[1..], Err(libc::EINVAL)),
            (&UUID.replace('-', "0"), Err(libc::EINVAL)),
            (&UUID.to_uppercase(), Ok(())),
            (UUID, Err(libc::EEXIST)),
        ] {
            assert_eq!(mounted.write(&create, text), expected, "{text}");
        }
        assert_eq!(instances(), "65533\n");
        let folder = mounted.path(&format!("devices/vfio_ap/matrix/{UUID}"));
        let folder = folder.canonicalize().unwrap();
        for link in [
            &device,
            &format!("{TYPE}/devices/{UUID}"),
            &format!("class/mdev_bus/matrix/{UUID}"),
        ] {
            assert_eq!(mounted.path(link).canonicalize().unwrap(), folder, "{link}");
        }
        let of_type = mounted.path(&format!("{device}/mdev_type")).canonicalize();
        assert_eq!(of_type.unwrap(), mounted.path(TYPE).canonicalize().unwrap());
        assert_eq!(
            mounted.write(&format!("{device}/assign_adapter"), "2"),
            Ok(())
        );
        assert_eq!(mounted.read(&format!("{device}/matrix")).unwrap(), "02.\n");
        // Whoever has a file of it open keeps nothing but the descriptor.
        let mut open = OpenOptions::new()
            .write(true)
            .open(mounted.path(&format!("{device}/assign_domain")))
            .unwrap();
        for (text, expected) in [("0", Ok(())), ("yes", Err(libc::EINVAL)), ("1\n", Ok(()))] {
            assert_eq!(
                mounted.write(&format!("{device}/remove"), text),
                expected,
                "{text}"
            );
        }
        assert!(!mounted.path(&device).exists());
        assert_eq!(number(&open.write(b"0").unwrap_err()), libc::ENODEV);
        assert_eq!(instances(), "65534\n");
        // The same place, another device, and nothing left of the first.
        assert_eq!(mounted.write(&create, &format!("{UUID}\n")), Ok(()));
        assert_eq!(mounted.read(&format!("{device}/matrix")).unwrap(), "");
        assert_eq!(number(&open.write(b"0").unwrap_err()), libc::ENODEV);
    }
}

#[test]
fn queues_change_hands_with_the_masks() {
    if !mounts_are_permitted() {
        return;
    }
    let mounted = Mounted::start("v6.6");
    let all = || mounted.names("bus/ap/drivers/vfio_ap").len();
    let before = all();
    assert!(before > 0);
    let mask = mounted.read("bus/ap/apmask").unwrap();
    assert_eq!((mask.len(), &mask[..2]), (67, "0x"));
    // Adapter 2 is the driver's and nobody has it; adapter 0 a guest has.
    assert_eq!(mounted.write("bus/ap/apmask", "+0x02"), Ok(()));
    assert_eq!(all(), before - 3);
    let of_host = mounted.names("bus/ap/drivers/cex4queue");
    assert!(of_host.contains("02.0000"), "{of_host:?}");
    let driver = mounted
        .path("bus/ap/devices/02.0000/driver")
        .canonicalize()
        .unwrap();
    assert!(driver.ends_with("bus/ap/drivers/cex4queue"));
    assert_eq!(mounted.write("bus/ap/apmask", "+0"), Err(libc::EBUSY));
    assert_eq!(mounted.write("bus/ap/apmask", "adapter"), Err(libc::EINVAL));
    assert_eq!(mounted.write("bus/ap/apmask", &mask), Ok(()));
    assert_eq!(all(), before);
}

#[test]
fn writers_in_parallel_share_what_there_is() {
    if !mounts_are_permitted() {
        return;
    }
    let mounted = Mounted::start("v6.0");
    let (first, second) = (guest(0), guest(1));
    for device in [&first, &second] {
        for adapter in ["0", "1", "0x10", "0x11"] {
            let _ = mounted.write(&format!("{device}/unassign_adapter"), adapter);
        }
    }
    // Both want the same four adapters, again and again.
    std::thread::scope(|scope| {
        for device in [&first, &second, &first, &second] {
            let mounted = &mounted;
            scope.spawn(move || {
                for round in 0..40 {
                    let adapter = (round % 4).to_string();
                    match mounted.write(&format!("{device}/assign_adapter"), &adapter) {
                        Ok(()) => {}
                        // The other one has it.
                        Err(error) => assert_eq!(error, libc::EADDRINUSE),
                    }
                    if round % 3 == 0 {
                        let _ = mounted.write(&format!("{device}/unassign_adapter"), &adapter);
                    }
                }
            });
        }
    });
    let lines = |device: &str| -> BTreeSet<String> {
        let text = mounted.read(&format!("{device}/matrix")).unwrap();
        text.lines().map(str::to_owned).collect()
    };
    let shared: Vec<_> = lines(&first)
        .intersection(&lines(&second))
        .cloned()
        .collect();
    assert!(shared.is_empty(), "{shared:?}");
}

/// mdevctl as it is on a machine whose /sys this is: in a mount namespace of its own.
fn mdevctl(mounted: &Mounted, arguments: &str) -> Output {
    let script = format!(
        "mount --bind {sys} /sys && mount --bind {etc} /etc/mdevctl.d && exec mdevctl {arguments}",
        sys = mounted.sys().display(),
        etc = mounted.root.path().join("mdevctl.d").display(),
    );
    Command::new("unshare")
        .args(["--mount", "sh", "-c", &script])
        .output()
        .unwrap()
}

fn succeeds(mounted: &Mounted, arguments: &str) -> String {
    let output = mdevctl(mounted, arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "mdevctl {arguments}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn mdevctl_works_on_it() {
    if !mounts_are_permitted() {
        return;
    }
    if Command::new("mdevctl").arg("--version").output().is_err() {
        return skip("there is no mdevctl (Debian: apt-get install mdevctl)");
    }
    for generation in ["v5.13", "v7.3"] {
        let mounted = Mounted::start(generation);
        for folder in ["callouts", "notifiers"] {
            fs::create_dir_all(mounted.root.path().join("mdevctl.d/scripts.d").join(folder))
                .unwrap();
        }
        let types = succeeds(&mounted, "types");
        for line in [
            "matrix",
            "vfio_ap-passthrough",
            "Available instances: 65534",
            "Device API: vfio-ap",
            "Name: VFIO AP Passthrough Device",
        ] {
            assert!(types.contains(line), "{types}");
        }
        let name = format!("-u {UUID}");
        succeeds(
            &mounted,
            &format!("define {name} -p matrix -t vfio_ap-passthrough"),
        );
        for (attribute, value) in [
            ("assign_adapter", "0x02"),
            ("assign_domain", "0"),
            ("assign_control_domain", "0"),
        ] {
            succeeds(
                &mounted,
                &format!("modify {name} --addattr={attribute} --value={value}"),
            );
        }
        succeeds(&mounted, &format!("start {name}"));
        let list = succeeds(&mounted, "list");
        let line = format!("{UUID} matrix vfio_ap-passthrough manual (defined)");
        assert!(list.contains(&line), "{list}");
        let device = format!("bus/mdev/devices/{UUID}");
        assert_eq!(
            mounted.read(&format!("{device}/matrix")).unwrap(),
            "02.0000\n"
        );
        assert_eq!(
            mounted.read(&format!("{device}/control_domains")).unwrap(),
            "0000\n"
        );
        succeeds(&mounted, &format!("stop {name}"));
        assert!(!mounted.path(&device).exists());
        // What the driver refuses, mdevctl undoes: queue 00.0000 is another device's.
        succeeds(
            &mounted,
            &format!("modify {name} --addattr=assign_adapter --value=0"),
        );
        let refused = mdevctl(&mounted, &format!("start {name}"));
        assert!(!refused.status.success());
        let errors = String::from_utf8_lossy(&refused.stderr);
        assert!(errors.contains("Address already in use"), "{errors}");
        assert!(!mounted.path(&device).exists());
        // The emulated devices of the guests can be stopped as well.
        succeeds(
            &mounted,
            &format!("stop -u {}", &guest(1)["bus/mdev/devices/".len()..]),
        );
        assert!(!mounted.path(&guest(1)).exists());
    }
}
