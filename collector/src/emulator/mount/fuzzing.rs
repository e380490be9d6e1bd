//! The tree under arbitrary input: bytes in, operations on the tree of a machine, nothing out but a panic.
//!
//! The first byte chooses the generation, the second whether two threads take turns or run at once. Then come
//! operations: a byte for the operation, a byte for the file, for writes a byte for the length and as many bytes. No
//! mount, no FUSE: the functions called are those that the file system calls.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::backend::{Backend, Writer};
use super::machine::Driver;
use super::node::{FIXED, Fixed, Kind, Node, ROOT};
use super::tree::Tree;
use crate::emulator::driver::GENERATIONS;
use crate::emulator::layout;
use crate::emulator::machine::{Machine, Plan};

/// Guests of the machine: enough to be in each other's way.
const GUESTS: u32 = 2;
/// Most operations of one input: more of them find nothing that fewer do not.
const OPERATIONS: usize = 64;

/// The writer's repetitions of a length byte: most writes are short, some are longer than a page.
const LONG: u8 = 250;

/// What is done.
#[derive(Debug)]
enum Operation<'a> {
    Read(u8),
    Write(u8, Vec<u8>),
    List(u8),
    Lookup(u8, &'a [u8]),
}

/// Takes the operations from the input.
fn operations(mut input: &[u8]) -> Vec<Operation<'_>> {
    let mut all = Vec::new();
    while let [what, file, rest @ ..] = input
        && all.len() < OPERATIONS
    {
        let (length, rest) = rest.split_first().map_or((0, rest), |(n, rest)| (*n, rest));
        let taken = usize::from(length).min(rest.len());
        let (bytes, after) = rest.split_at(taken);
        all.push(match what % 8 {
            0 => Operation::Read(*file),
            1 => Operation::List(*file),
            2 => Operation::Lookup(*file, bytes),
            // Longer than a page, to see it cut.
            _ if length >= LONG => Operation::Write(*file, bytes.repeat(20)),
            _ => Operation::Write(*file, bytes.to_vec()),
        });
        input = after;
    }
    all
}

/// Everything below the root that is a file (or a folder), in the order of the tree.
fn nodes(tree: &Tree<Driver>, files: bool) -> Vec<Node> {
    let mut all = Vec::new();
    let mut left = vec![ROOT];
    while let Some(folder) = left.pop() {
        // A folder that has gone in the meantime has nothing in it.
        for (_, node) in tree.list(folder).unwrap_or_default() {
            match tree.kind(node) {
                Ok(Kind::Folder) => {
                    left.push(node);
                    if !files {
                        all.push(node);
                    }
                }
                // Queues are many, and all alike.
                Ok(Kind::File(_)) if files && !matches!(node, Node::Status(q) if q & 3 != 0) => {
                    all.push(node);
                }
                _ => {}
            }
        }
    }
    all
}

/// Files that change something are chosen half of the time.
fn choose(tree: &Tree<Driver>, number: u8) -> Option<Node> {
    let all = nodes(tree, true);
    let written: Vec<Node> = all
        .iter()
        .copied()
        .filter(|node| tree.open(*node, false, true).is_ok())
        .collect();
    let from = if number & 0x80 == 0 { &written } else { &all };
    let place = usize::from(number & 0x7f).checked_rem(from.len())?;
    from.get(place).copied()
}

fn perform(tree: &Tree<Driver>, operation: &Operation<'_>, writer: &Writer) {
    match operation {
        Operation::Read(file) => {
            if let Some(node) = choose(tree, *file)
                && tree.open(node, true, false).is_ok()
                && let Ok(bytes) = tree.show(node, writer)
            {
                assert!(bytes.len() < super::tree::PAGE_SIZE);
            }
        }
        Operation::Write(file, bytes) => {
            if let Some(node) = choose(tree, *file)
                && tree.open(node, false, true).is_ok()
            {
                match tree.write(node, bytes, writer) {
                    Ok(count) => assert!(count <= bytes.len()),
                    Err(errno) => assert!((1..512).contains(&errno.0), "{errno:?}"),
                }
            }
        }
        Operation::List(folder) => {
            let all = nodes(tree, false);
            if let Some(place) = usize::from(*folder).checked_rem(all.len())
                && let Ok(children) = tree.list(all[place])
            {
                for (name, node) in children {
                    // Both may fail when another thread removes the device.
                    if let Ok(found) = tree.lookup(all[place], &name) {
                        assert_eq!(found, node, "{name}");
                    }
                    let _ = tree.target(node);
                }
            }
        }
        Operation::Lookup(folder, name) => {
            let all = nodes(tree, false);
            if let Some(place) = usize::from(*folder).checked_rem(all.len())
                && let Ok(name) = std::str::from_utf8(name)
                && let Ok(node) = tree.lookup(all[place], name)
            {
                assert_eq!(node.parent().unwrap_or(all[place]), all[place], "{name}");
            }
        }
    }
}

/// What holds whatever was written, as far as the files tell it.
fn check(tree: &Tree<Driver>, writer: &Writer) {
    let mdevs = tree.backend().mdevs();
    let uuids: BTreeSet<_> = mdevs.iter().map(|mdev| &mdev.uuid).collect();
    assert_eq!(uuids.len(), mdevs.len(), "a UUID twice");
    let matrix = tree
        .backend()
        .attributes()
        .iter()
        .position(|file| file.name == "matrix");
    let mut owned = BTreeSet::new();
    for mdev in &mdevs {
        let node = Node::Attribute(mdev.id, matrix.expect("every generation has it") as u8);
        let text = tree.show(node, writer).unwrap_or_default();
        for line in String::from_utf8_lossy(&text).lines() {
            if !line.starts_with('.')
                && !line.ends_with('.')
                && text.len() < super::tree::PAGE_SIZE - 1
            {
                assert!(
                    owned.insert(line.to_owned()),
                    "{line} belongs to two devices"
                );
            }
        }
    }
    let fixed = (0..FIXED.len() as u8).map(Node::Fixed);
    for node in fixed.filter(|node| matches!(node.fixed(), Some(Fixed::Text(_)))) {
        assert!(tree.show(node, writer).is_ok());
    }
    if let Err(broken) = tree.backend().machine().check_invariants() {
        panic!("{broken}");
    }
}

fn writer(pid: u32) -> Writer {
    Writer {
        pid,
        comm: *b"fuzz\0\0\0\0\0\0\0\0\0\0\0\0",
    }
}

/// Does what the input says to a machine of its own. With APSCOPE_FUZZ_TRACE in the environment, prints it first.
pub fn sysfs(input: &[u8]) {
    let [generation, threads, rest @ ..] = input else {
        return;
    };
    let generation = &GENERATIONS[usize::from(*generation) % GENERATIONS.len()];
    let machine = Machine::build(&Plan {
        generation,
        guests: GUESTS,
        vcpus: 1,
        spare_mdevs: 2,
        script: |_| layout::STEADY_SCRIPT,
    });
    let tree = Tree::new(Driver::new(machine));
    tree.backend().enter();
    let operations = operations(rest);
    let together = threads % 4 == 3;
    if std::env::var_os("APSCOPE_FUZZ_TRACE").is_some() {
        eprintln!("generation {}, two threads: {together}", generation.name);
        for operation in &operations {
            eprintln!("{operation:?}");
        }
    }
    if together {
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for pid in 1..=2 {
                let (tree, next, operations) = (&tree, &next, &operations);
                scope.spawn(move || {
                    tree.backend().enter();
                    while let Some(operation) = operations.get(next.fetch_add(1, Ordering::Relaxed))
                    {
                        perform(tree, operation, &writer(pid));
                    }
                });
            }
        });
        check(&tree, &writer(1));
    } else {
        for operation in &operations {
            perform(&tree, operation, &writer(1));
            check(&tree, &writer(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_do_something_and_break_nothing() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/sysfs");
        let mut seen = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let input = std::fs::read(entry.unwrap().path()).unwrap();
            assert!(!operations(&input[2..]).is_empty());
            sysfs(&input);
            seen += 1;
        }
        assert!(seen > 3);
    }

    #[test]
    fn input_of_any_length_is_taken() {
        let input: Vec<u8> = (0..600_u32).map(|n| (n * 37 % 251) as u8).collect();
        for end in 0..input.len() {
            assert!(operations(&input[..end]).len() <= OPERATIONS);
        }
        sysfs(&input);
        sysfs(&[0]);
    }
}
