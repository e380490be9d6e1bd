//! Support bundles: what is in them, that they can be read anywhere, that no name is left in a redacted one, and that a
//! damaged or hostile archive does no harm.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Cursor, Read};
use std::path::Path;
use std::time::{Duration, Instant};

use apscope_collector::bundle::{Contents, names};
use apscope_collector::frame::Frame;
use apscope_collector::recording::Reader;
use serde_json::Value;
use support::{Place, told};

const STUCK: &str = "--source emulator --probe in-process --generation v5.13 --scenario se-start --guests 4 --seed 7";

/// Takes a bundle, and unpacks it with the readers that anybody has.
fn bundle(place: &Place, arguments: &str) -> BTreeMap<String, Vec<u8>> {
    let begun = Instant::now();
    let output = place
        .command(&format!("bundle {arguments}"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", told(&output));
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "{:?}",
        begun.elapsed()
    );
    unpack(&place.path("case.tar.zst"))
}

fn unpack(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let bytes = zstd::stream::decode_all(fs::File::open(path).unwrap()).unwrap();
    let mut archive = tar::Archive::new(Cursor::new(bytes));
    let mut files = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        files.insert(name, content);
    }
    files
}

fn frames(files: &BTreeMap<String, Vec<u8>>) -> Vec<Frame> {
    let reader = Reader::new(Cursor::new(files[names::FRAMES].as_slice())).unwrap();
    reader.collect::<Result<_, _>>().unwrap()
}

/// Every name that frames have: of mdevs, guests and threads.
/// Addresses of locks in frames; what tasks hold and wait for is among those of all locks.
fn addresses_in(frames: &[Frame]) -> BTreeSet<u64> {
    let metas = frames.iter().filter_map(|frame| frame.meta.as_ref());
    let all: BTreeSet<u64> = metas
        .flat_map(|meta| &meta.instances)
        .map(|i| i.address)
        .collect();
    let tasks = frames
        .iter()
        .flat_map(|frame| &frame.live)
        .flat_map(|live| &live.tasks);
    for task in tasks {
        let holds = task.holds.iter().map(|hold| hold.lock);
        let locks = holds.chain(task.waits.iter().map(|wait| wait.lock));
        assert!(
            locks
                .into_iter()
                .all(|lock| lock == 0 || all.contains(&lock)),
            "{task:?}"
        );
    }
    all
}

fn names_in(frames: &[Frame]) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for frame in frames {
        if let Some(meta) = &frame.meta {
            all.extend(meta.objects.iter().map(|object| object.name.clone()));
            for instance in &meta.instances {
                let owner = instance
                    .name
                    .strip_suffix(']')
                    .and_then(|n| n.split_once('['));
                all.extend(owner.map(|(_, owner)| owner.to_owned()));
            }
        }
        for task in frame.live.iter().flat_map(|live| &live.tasks) {
            all.insert(task.comm.clone());
        }
        if let Some(spans) = &frame.spans {
            all.extend(spans.comms.iter().cloned());
            all.extend(spans.on_behalf_of_comms.iter().cloned());
        }
        all.extend(frame.edges.iter().map(|edge| edge.first_comm.clone()));
    }
    all.remove("");
    all
}

/// A name where it stands alone: `vm` is not in `kvm`.
fn names_it(bytes: &[u8], name: &str) -> bool {
    let is_word = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
    let windows = bytes.windows(name.len()).enumerate();
    let mut found = windows.filter(|(_, window)| *window == name.as_bytes());
    found.any(|(at, _)| {
        let before = at.checked_sub(1).and_then(|at| bytes.get(at));
        name.len() >= 6 || !is_word(before) && !is_word(bytes.get(at + name.len()))
    })
}

fn contains(bytes: &[u8], name: &str) -> bool {
    bytes
        .windows(name.len())
        .any(|window| window == name.as_bytes())
}

#[test]
fn a_bundle_of_a_deadlock_is_diagnosed_anywhere() {
    let place = Place::new();
    let files = bundle(&place, &format!("{STUCK} --duration 6s -o case.tar.zst"));
    let manifest: Value = serde_json::from_slice(&files[names::MANIFEST]).unwrap();
    assert_eq!(manifest["driver"], "EMULATED");
    assert!(
        manifest["verdict"]
            .as_str()
            .unwrap()
            .starts_with("DEADLOCK")
    );
    assert!(
        manifest["clocks"]["boottime_ns"].as_u64() >= manifest["clocks"]["monotonic_ns"].as_u64()
    );
    let items = manifest["items"].as_array().unwrap();
    assert_eq!(items.len() + 1, names::ALL.len());
    for item in items {
        let file = item["file"].as_str().unwrap();
        assert_eq!(item["taken"], files.contains_key(file), "{file}");
        assert!(item["taken"] == true || item["why"].is_string(), "{file}");
        assert!(item["deadline_ms"].as_u64() > Some(0), "{file}");
    }
    // Each item has its own time: frames take what was asked for, what is concluded from them does not.
    let took = |file| {
        let item = items.iter().find(|item| item["file"] == file).unwrap();
        item["took_ms"].as_u64().unwrap()
    };
    assert!(took(names::FRAMES) >= 6000);
    for file in [names::DIAGNOSIS, names::DIAGNOSIS_JSON, names::SYSCTLS] {
        assert!(took(file) < took(names::FRAMES), "{file}");
    }
    for file in [names::DIAGNOSIS, names::DOCTOR] {
        assert!(contains(&files[file], "driver: EMULATED"), "{file}");
    }
    assert!(frames(&files).len() > 20);
    // Neither the emulated driver nor anything of this machine is needed.
    let output = place.command("diagnose case.tar.zst").output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    assert!(output.stdout.starts_with(b"verdict: DEADLOCK"));
    place.run("export case.tar.zst --format json -o out.json");
    let export = place.json("out.json");
    assert_eq!(export["exact"], true);
    assert_eq!(export["verdict"], manifest["verdict"]);
    // No command line and no environment of anybody is in it.
    for (name, content) in &files {
        assert!(
            !contains(content, "--scenario") && !contains(content, "PATH="),
            "{name}"
        );
    }
}

#[test]
fn no_name_is_left_in_a_redacted_bundle() {
    let place = Place::new();
    let open = bundle(&place, &format!("{STUCK} --duration 4s -o case.tar.zst"));
    let mut hidden: BTreeSet<String> = names_in(&frames(&open));
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    hidden.insert(host.trim().to_owned());
    let named = hidden.iter().any(|name| name.starts_with("guest-"));
    assert!(named && hidden.len() > 10, "{hidden:?}");
    let files = bundle(
        &place,
        &format!("{STUCK} --duration 4s --redact -o case.tar.zst"),
    );
    let manifest: Value = serde_json::from_slice(&files[names::MANIFEST]).unwrap();
    assert_eq!(manifest["redacted"], true);
    for (name, content) in &files {
        let content = match name.as_str() {
            names::FRAMES => zstd::stream::decode_all(content.as_slice()).unwrap(),
            _ => content.clone(),
        };
        for original in &hidden {
            assert!(!names_it(&content, original), "{original} is in {name}");
        }
    }
    // Addresses are other ones, which are the same everywhere; those that there are, are of locks on record.
    let (before, after) = (addresses_in(&frames(&open)), addresses_in(&frames(&files)));
    assert!(!before.is_empty() && !after.is_empty());
    let said = String::from_utf8_lossy(&files[names::DIAGNOSIS_JSON]).into_owned();
    let diagnosis: Value = serde_json::from_str(&said).unwrap();
    let locks = diagnosis["locks"].as_array().unwrap();
    let instances = locks
        .iter()
        .flat_map(|lock| lock["by_instance"].as_array().unwrap());
    let mut found = 0;
    for instance in instances.filter_map(|instance| instance["address"].as_str()) {
        let address = u64::from_str_radix(instance.trim_start_matches("0x"), 16).unwrap();
        assert!(after.contains(&address), "{instance}");
        found += 1;
    }
    assert!(found > 0, "{said}");
    // What is concluded is the same.
    let output = place.command("diagnose case.tar.zst").output().unwrap();
    assert!(
        output.stdout.starts_with(b"verdict: DEADLOCK"),
        "{}",
        told(&output)
    );
    // One name is one hash everywhere.
    let all = frames(&files);
    let meta = all.iter().find_map(|frame| frame.meta.as_ref()).unwrap();
    let locks: Vec<&str> = meta.instances.iter().map(|i| i.name.as_str()).collect();
    let guests = locks.iter().filter_map(|name| {
        let guest = name.strip_prefix("kvm->lock[")?.strip_suffix(']')?;
        locks
            .contains(&format!("vcpu->mutex[{guest}/vcpu0]").as_str())
            .then_some(guest)
    });
    assert_eq!(guests.count(), 4, "{locks:?}");
}

/// An archive with these entries: name as it is, size as it is said, content.
fn archive(entries: &[(&str, u64, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, size, content) in entries {
        let mut header = tar::Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(tar::EntryType::Regular);
        header.set_size(*size);
        header.set_mode(0o644);
        header.set_cksum();
        bytes.extend(header.as_bytes());
        bytes.extend(*content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.resize(bytes.len() + 1024, 0);
    zstd::stream::encode_all(bytes.as_slice(), 1).unwrap()
}

#[test]
fn a_hostile_archive_does_no_harm() {
    let content = b"==> /proc/70/task/72/stack <==\n[<0>] handle_pqap+0x52/0x330 [vfio_ap]\n";
    let size = content.len() as u64;
    let bytes = archive(&[
        ("../../outside", 3, b"bad"),
        ("/etc/absolute", 3, b"bad"),
        ("frames.apscope/../manifest.json", 3, b"bad"),
        (names::STACKS, size, content),
        (
            names::SYSCTLS,
            300 << 20,
            b"larger than it is, and than it may be",
        ),
    ]);
    let contents = Contents::read(bytes.as_slice()).unwrap();
    assert_eq!(contents.file(names::STACKS), Some(&content[..]));
    assert!(contents.file(names::SYSCTLS).is_none() && contents.file(names::MANIFEST).is_none());
    let notes = contents.notes.join("\n");
    assert!(
        notes.contains("../../outside") && notes.contains("larger than"),
        "{notes}"
    );
    // Without frames, the stacks are diagnosed.
    let place = Place::new();
    fs::write(place.path("case.tar.zst"), &bytes).unwrap();
    let output = place.command("diagnose case.tar.zst").output().unwrap();
    assert!(output.stdout.starts_with(b"verdict: "), "{}", told(&output));
    assert_eq!(fs::read_dir(place.path(".")).unwrap().count(), 1);
    // Nothing known is in it.
    let none = Contents::read(archive(&[("x", 1, b"x")]).as_slice());
    assert!(
        none.unwrap_err()
            .to_string()
            .contains("no file of a bundle")
    );
    // Less than it says.
    let short = Contents::read(archive(&[(names::SYSCTLS, 200 << 20, b"{}")]).as_slice()).unwrap();
    assert!(short.file(names::SYSCTLS).unwrap().len() < 4096 && short.notes.len() == 1);
}

#[test]
fn a_damaged_archive_gives_the_files_before_the_damage() {
    let bytes = archive(&[(names::STACKS, 5, b"stack"), (names::SYSCTLS, 3, b"{}\n")]);
    for length in 0..bytes.len() {
        if let Ok(contents) = Contents::read(&bytes[..length]) {
            assert!(!contents.notes.is_empty(), "{length}");
        }
        let mut flipped = bytes.clone();
        flipped[length] ^= 0x10;
        let _ = Contents::read(flipped.as_slice());
    }
}
