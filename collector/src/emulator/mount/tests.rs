//! The tree on a driver that is a few lists.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::backend::{Backend, File, Mask, Mdev, Negative, Writer};
use super::node::{Kind, Node, ROOT};
use super::tree::{Errno, PAGE_SIZE, Tree};

const FILES: [File; 3] = [
    File {
        name: "assign_adapter",
        mode: 0o200,
    },
    File {
        name: "matrix",
        mode: 0o444,
    },
    File {
        name: "ap_config",
        mode: 0o644,
    },
];

const WRITER: Writer = Writer {
    pid: 77,
    comm: *b"test\0\0\0\0\0\0\0\0\0\0\0\0",
};

#[derive(Debug, Default)]
struct Fake {
    mdevs: Mutex<Vec<Mdev>>,
    /// What the store functions were given.
    stored: Mutex<Vec<(usize, Vec<u8>, u32)>>,
    /// What the next function of the driver returns, unless it is 0.
    fails: Mutex<i64>,
    created: AtomicU64,
    status: bool,
}

impl Fake {
    fn failure(&self) -> i64 {
        std::mem::take(&mut self.fails.lock().unwrap())
    }
}

impl Backend for Fake {
    fn enter(&self) {}

    fn mdevs(&self) -> Vec<Mdev> {
        self.mdevs.lock().unwrap().clone()
    }

    fn attributes(&self) -> &[File] {
        &FILES
    }

    fn show(&self, _mdev: u64, _attribute: usize, _reader: &Writer) -> Result<Vec<u8>, Negative> {
        match self.failure() {
            0 => Ok(vec![b'x'; 2 * PAGE_SIZE]),
            failure => Err(failure),
        }
    }

    fn store(&self, _mdev: u64, attribute: usize, bytes: &[u8], writer: &Writer) -> i64 {
        let mut stored = self.stored.lock().unwrap();
        stored.push((attribute, bytes.to_vec(), writer.pid));
        match self.failure() {
            0 => bytes.len() as i64,
            failure => failure,
        }
    }

    fn create(&self, uuid: &str, _writer: &Writer) -> i32 {
        let mut mdevs = self.mdevs.lock().unwrap();
        if mdevs.iter().any(|m| m.uuid == uuid) {
            return -libc::EEXIST;
        }
        let id = 0x7f00_0000_1000 + self.created.fetch_add(1, Ordering::Relaxed);
        mdevs.push(Mdev {
            id,
            uuid: uuid.to_owned(),
        });
        0
    }

    fn remove(&self, mdev: u64, _writer: &Writer) -> i32 {
        let failure = self.failure();
        if failure == 0 {
            self.mdevs.lock().unwrap().retain(|m| m.id != mdev);
        }
        failure as i32
    }

    fn available_instances(&self) -> u32 {
        65536 - self.mdevs().len() as u32
    }

    fn show_mask(&self, mask: Mask, _reader: &Writer) -> Result<Vec<u8>, Negative> {
        Ok(format!("{mask:?}\n").into_bytes())
    }

    fn store_mask(&self, _mask: Mask, bytes: &[u8], _writer: &Writer) -> i64 {
        bytes.len() as i64
    }

    fn cards(&self) -> Vec<u8> {
        vec![0x03, 0x0a]
    }

    fn queues(&self) -> Vec<u16> {
        vec![0x0306, 0x0a06, 0x0a47]
    }

    fn driver_of(&self, apqn: u16) -> Option<&'static str> {
        match apqn {
            0x0306 => Some("cex4queue"),
            0x0a06 => Some("vfio_ap"),
            _ => None,
        }
    }

    fn has_status(&self) -> bool {
        self.status
    }

    fn show_status(&self, _apqn: u16, _reader: &Writer) -> Result<Vec<u8>, Negative> {
        Ok(b"unassigned\n".to_vec())
    }
}

const UUID: &str = "0123abcd-4567-89ab-cdef-0123456789ab";
const TYPE: &str = "devices/vfio_ap/matrix/mdev_supported_types/vfio_ap-passthrough";

fn tree() -> Tree<Fake> {
    Tree::new(Fake {
        status: true,
        ..Fake::default()
    })
}

/// Walks a path as the kernel does: through links, relative to the folder that they are in.
fn walk(tree: &Tree<Fake>, path: &str) -> Result<Node, Errno> {
    let mut at = vec![ROOT];
    let mut left: Vec<String> = path.split('/').rev().map(str::to_owned).collect();
    while let Some(name) = left.pop() {
        match name.as_str() {
            "" | "." => {}
            ".." => {
                at.pop();
            }
            _ => {
                let node = tree.lookup(*at.last().expect("inside the tree"), &name)?;
                if tree.kind(node)? == Kind::Link {
                    left.extend(tree.target(node)?.split('/').rev().map(str::to_owned));
                } else {
                    at.push(node);
                }
            }
        }
    }
    Ok(*at.last().expect("inside the tree"))
}

fn write(tree: &Tree<Fake>, path: &str, bytes: impl AsRef<[u8]>) -> Result<usize, i32> {
    let node = walk(tree, path).map_err(|Errno(e)| e)?;
    tree.open(node, false, true).map_err(|Errno(e)| e)?;
    tree.write(node, bytes.as_ref(), &WRITER)
        .map_err(|Errno(e)| e)
}

fn read(tree: &Tree<Fake>, path: &str) -> Result<String, i32> {
    let node = walk(tree, path).map_err(|Errno(e)| e)?;
    tree.open(node, true, false).map_err(|Errno(e)| e)?;
    let bytes = tree.show(node, &WRITER).map_err(|Errno(e)| e)?;
    Ok(String::from_utf8(bytes).unwrap())
}

fn names(tree: &Tree<Fake>, path: &str) -> Vec<String> {
    let all = tree.list(walk(tree, path).unwrap()).unwrap();
    all.into_iter().map(|(name, _)| name).collect()
}

#[test]
fn everything_that_is_listed_is_found_under_its_name() {
    let tree = tree();
    write(&tree, &format!("{TYPE}/create"), UUID).unwrap();
    let mut left = vec![ROOT];
    let mut seen = 0;
    while let Some(folder) = left.pop() {
        for (name, node) in tree.list(folder).unwrap() {
            assert_eq!(tree.lookup(folder, &name), Ok(node), "{name}");
            if let Some(parent) = node.parent() {
                assert_eq!(parent, folder, "{name}");
            }
            match tree.kind(node).unwrap() {
                Kind::Folder => left.push(node),
                Kind::Link => assert!(!tree.target(node).unwrap().is_empty()),
                Kind::File(mode) => assert!(mode & 0o600 != 0),
            }
            seen += 1;
        }
    }
    assert_eq!(seen, 24 + 1 + 5 + 2 + 2 + 2 + 2 + 3 + 3 + 2 + 3);
}

#[test]
fn a_device_is_where_mdevctl_looks_for_it() {
    let tree = tree();
    assert_eq!(
        write(
            &tree,
            &format!("{TYPE}/create"),
            format!("{}\n", UUID.to_uppercase())
        ),
        Ok(37)
    );
    let folder = walk(&tree, &format!("devices/vfio_ap/matrix/{UUID}")).unwrap();
    for path in [
        format!("bus/mdev/devices/{UUID}"),
        format!("{TYPE}/devices/{UUID}"),
        format!("class/mdev_bus/matrix/{UUID}"),
    ] {
        assert_eq!(walk(&tree, &path), Ok(folder), "{path}");
    }
    let of_type = walk(&tree, &format!("bus/mdev/devices/{UUID}/mdev_type"));
    assert_eq!(of_type, walk(&tree, TYPE));
    assert_eq!(
        names(&tree, &format!("bus/mdev/devices/{UUID}")),
        [
            "assign_adapter",
            "matrix",
            "ap_config",
            "remove",
            "mdev_type"
        ]
    );
    assert_eq!(
        read(&tree, &format!("{TYPE}/name")).unwrap(),
        "VFIO AP Passthrough Device\n"
    );
    assert_eq!(
        read(&tree, &format!("{TYPE}/device_api")).unwrap(),
        "vfio-ap\n"
    );
    assert_eq!(
        read(&tree, &format!("{TYPE}/available_instances")).unwrap(),
        "65535\n"
    );
}

#[test]
fn queues_are_where_the_bus_has_them() {
    let tree = tree();
    assert_eq!(
        names(&tree, "bus/ap/devices"),
        ["card03", "card0a", "03.0006", "0a.0006", "0a.0047"]
    );
    let queue = walk(&tree, "devices/ap/card0a/0a.0006");
    assert_eq!(walk(&tree, "bus/ap/devices/0a.0006"), queue);
    assert_eq!(walk(&tree, "bus/ap/drivers/vfio_ap/0a.0006"), queue);
    assert_eq!(
        walk(&tree, "bus/ap/drivers/cex4queue/0a.0006"),
        Err(Errno(libc::ENOENT))
    );
    assert_eq!(
        walk(&tree, "devices/ap/card03/0a.0006"),
        Err(Errno(libc::ENOENT))
    );
    assert_eq!(
        walk(&tree, "bus/ap/devices/0a.0006/driver"),
        walk(&tree, "bus/ap/drivers/vfio_ap")
    );
    assert_eq!(names(&tree, "bus/ap/devices/0a.0006"), ["driver", "status"]);
    assert_eq!(names(&tree, "bus/ap/devices/03.0006"), ["driver"]);
    assert!(names(&tree, "bus/ap/devices/0a.0047").is_empty());
    assert_eq!(
        read(&tree, "bus/ap/devices/0a.0006/status").unwrap(),
        "unassigned\n"
    );
}

#[test]
fn create_takes_a_uuid_and_a_line_end() {
    let tree = tree();
    let create = |text: &str| write(&tree, &format!("{TYPE}/create"), text);
    for text in [
        "",
        "1",
        &UUID[1..],
        &format!("{UUID}\n\n"),
        &UUID.replace('-', "_"),
        &UUID.replace('a', "g"),
    ] {
        let expected = if text.is_empty() {
            Ok(0)
        } else {
            Err(libc::EINVAL)
        };
        assert_eq!(create(text), expected, "{text:?}");
    }
    assert_eq!(create(UUID), Ok(36));
    assert_eq!(create(&format!("{UUID}\n")), Err(libc::EEXIST));
}

#[test]
fn a_write_is_a_page_at_most_and_nothing_is_no_call() {
    let tree = tree();
    write(&tree, &format!("{TYPE}/create"), UUID).unwrap();
    let file = format!("bus/mdev/devices/{UUID}/assign_adapter");
    assert_eq!(write(&tree, &file, ""), Ok(0));
    assert_eq!(write(&tree, &file, "5\n"), Ok(2));
    assert_eq!(write(&tree, &file, vec![b'7'; 5000]), Ok(4096));
    *tree.backend().fails.lock().unwrap() = -i64::from(libc::EADDRNOTAVAIL);
    assert_eq!(write(&tree, &file, "5"), Err(libc::EADDRNOTAVAIL));
    // ERESTARTSYS.
    *tree.backend().fails.lock().unwrap() = -512;
    assert_eq!(write(&tree, &file, "5"), Err(libc::EINTR));
    // More than was given.
    *tree.backend().fails.lock().unwrap() = 99;
    assert_eq!(write(&tree, &file, "5"), Ok(1));
    let stored = tree.backend().stored.lock().unwrap();
    let lengths: Vec<_> = stored.iter().map(|(a, b, p)| (*a, b.len(), *p)).collect();
    assert_eq!(
        lengths,
        [
            (0, 2, 77),
            (0, 4096, 77),
            (0, 1, 77),
            (0, 1, 77),
            (0, 1, 77)
        ]
    );
}

#[test]
fn a_show_function_has_a_page() {
    let tree = tree();
    write(&tree, &format!("{TYPE}/create"), UUID).unwrap();
    let file = format!("bus/mdev/devices/{UUID}/matrix");
    assert_eq!(read(&tree, &file).unwrap().len(), PAGE_SIZE - 1);
    *tree.backend().fails.lock().unwrap() = -i64::from(libc::EIO);
    assert_eq!(read(&tree, &file), Err(libc::EIO));
}

#[test]
fn what_nobody_may_read_root_may_not_read_either() {
    let tree = tree();
    write(&tree, &format!("{TYPE}/create"), UUID).unwrap();
    let device = format!("bus/mdev/devices/{UUID}");
    for file in ["assign_adapter", "remove"] {
        assert_eq!(read(&tree, &format!("{device}/{file}")), Err(libc::EACCES));
    }
    assert_eq!(
        write(&tree, &format!("{device}/matrix"), "1"),
        Err(libc::EACCES)
    );
    assert_eq!(
        write(&tree, &format!("{TYPE}/name"), "1"),
        Err(libc::EACCES)
    );
    assert!(read(&tree, &format!("{device}/ap_config")).is_ok());
    assert!(write(&tree, &format!("{device}/ap_config"), "0,0,0").is_ok());
}

#[test]
fn a_device_that_is_removed_is_gone_for_those_who_have_it_open() {
    let tree = tree();
    write(&tree, &format!("{TYPE}/create"), UUID).unwrap();
    let device = format!("bus/mdev/devices/{UUID}");
    let open = walk(&tree, &format!("{device}/assign_adapter")).unwrap();
    let shown = walk(&tree, &format!("{device}/matrix")).unwrap();
    let remove = format!("{device}/remove");
    for (text, expected) in [
        ("0\n", Ok(2)),
        ("no", Err(libc::EINVAL)),
        ("99999999999999999999", Err(libc::EINVAL)),
    ] {
        assert_eq!(write(&tree, &remove, text), expected);
        assert!(walk(&tree, &device).is_ok());
    }
    *tree.backend().fails.lock().unwrap() = -i64::from(libc::EBUSY);
    assert_eq!(write(&tree, &remove, "1"), Err(libc::EBUSY));
    let again = walk(&tree, &remove).unwrap();
    assert_eq!(write(&tree, &remove, "0x1\n\0junk"), Ok(9));
    assert_eq!(walk(&tree, &device), Err(Errno(libc::ENOENT)));
    assert_eq!(tree.write(open, b"5", &WRITER), Err(Errno(libc::ENODEV)));
    assert_eq!(tree.show(shown, &WRITER), Err(Errno(libc::ENODEV)));
    assert_eq!(tree.write(again, b"1", &WRITER), Err(Errno(libc::ENODEV)));
    // The same UUID is another device.
    write(&tree, &format!("{TYPE}/create"), UUID).unwrap();
    assert!(write(&tree, &format!("{device}/assign_adapter"), "5").is_ok());
    assert_eq!(tree.write(open, b"5", &WRITER), Err(Errno(libc::ENODEV)));
}
