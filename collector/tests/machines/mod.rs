//! Copies of machines: the trees of `fixtures/machines` with the kernel tables of `fixtures/kernels`.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// A host with the kernel of this release, changed by trees that are laid over it.
pub fn machine(kernel: &str, changes: &[&str]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let machines = fixtures().join("machines");
    lay_over(&machines.join(format!("s390x-{kernel}")), root);
    tables(&fixtures().join("kernels").join(kernel), root);
    for change in changes {
        let tree = machines.join(change);
        lay_over(&tree, root);
        for path in fs::read_to_string(tree.join("REMOVED"))
            .unwrap_or_default()
            .lines()
        {
            fs::remove_dir_all(root.join(path)).unwrap();
        }
    }
    folder
}

fn lay_over(tree: &Path, root: &Path) {
    for entry in fs::read_dir(tree).unwrap_or_else(|error| panic!("{}: {error}", tree.display())) {
        let entry = entry.unwrap();
        let target = root.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir_all(&target).unwrap();
            lay_over(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Puts the recordings of another kernel there.
pub fn tables_of(kernel: &str, root: &Path) {
    tables(&fixtures().join("kernels").join(kernel), root);
}

/// Makes all addresses zero, as the kernel shows them to a process without CAP_SYSLOG.
pub fn hide_addresses(root: &Path) {
    let path = root.join("proc/kallsyms");
    let text = fs::read_to_string(&path).unwrap();
    let lines = text.lines().map(|line| {
        let (address, rest) = line.split_once(' ').unwrap();
        format!("{} {rest}\n", "0".repeat(address.len()))
    });
    fs::write(path, lines.collect::<String>()).unwrap();
}

/// Puts the recordings of a kernel where the kernel has them.
fn tables(recording: &Path, root: &Path) {
    for entry in fs::read_dir(recording).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let mut content = fs::read(&path).unwrap();
        let name = match name.strip_suffix(".zst") {
            Some(name) => {
                content = zstd::decode_all(&content[..]).unwrap();
                name
            }
            None => name,
        };
        let place = match name.split_once('-') {
            Some(("btf", object)) => format!("sys/kernel/btf/{object}"),
            Some(("build", module)) => {
                let module = module.strip_prefix("id-").unwrap();
                format!("sys/module/{module}/notes/.note.gnu.build-id")
            }
            _ => match name {
                "kallsyms" => "proc/kallsyms".into(),
                "notes" => "sys/kernel/notes".into(),
                list => format!("sys/kernel/tracing/{list}"),
            },
        };
        let place = root.join(place);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::write(place, content).unwrap();
    }
}
