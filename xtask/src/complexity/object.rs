//! Instruction counts of the programs in an eBPF object of either byte order: bytes in, one count for each program out.
//!
//! A program is a function in a section of its own kind (`uprobe`, `fexit/mutex_lock`, ...). What it calls lies in
//! `.text` and counts once, because the loader appends it once to the program.

use std::collections::{HashMap, HashSet};

use object::read::elf::{ElfFile64, FileHeader};
use object::{
    Endian, Endianness, Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget,
    SectionIndex, SymbolKind,
};

/// Bytes of an instruction.
const INSTRUCTION: u64 = 8;
/// `BPF_JMP | BPF_CALL`, and `BPF_LD | BPF_IMM | BPF_DW` (uapi/linux/bpf.h).
const CALL: u8 = 0x85;
const LOAD_64: u8 = 0x18;
/// Source register of a call of a function in the object: `BPF_PSEUDO_CALL`.
const PSEUDO_CALL: u8 = 1;

/// How large a program is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Size {
    pub name: String,
    /// Name of its section, which says what kind of program it is.
    pub section: String,
    /// Instructions of 8 bytes, with those of every function that it calls.
    pub instructions: u64,
}

/// A function: section and offset.
type Place = (SectionIndex, u64);

/// All programs of an object, by name.
pub fn sizes(bytes: &[u8]) -> Result<Vec<Size>, String> {
    let file: ElfFile64<'_, Endianness> = ElfFile64::parse(bytes).map_err(|e| e.to_string())?;
    let endian = file.elf_header().endian().map_err(|e| e.to_string())?;
    let mut functions: HashMap<Place, (String, u64)> = HashMap::new();
    for symbol in file.symbols() {
        if symbol.kind() == SymbolKind::Text
            && symbol.size() > 0
            && let Some(section) = symbol.section_index()
        {
            let name = symbol.name().map_err(|e| e.to_string())?.to_owned();
            functions.insert((section, symbol.address()), (name, symbol.size()));
        }
    }
    let mut sizes = Vec::new();
    for (&place, (name, _)) in &functions {
        let section = file
            .section_by_index(place.0)
            .and_then(|s| s.name().map(str::to_owned))
            .map_err(|e| e.to_string())?;
        if section == ".text" {
            continue;
        }
        sizes.push(Size {
            name: name.clone(),
            section,
            instructions: linked(&file, endian, &functions, place)? / INSTRUCTION,
        });
    }
    sizes.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(sizes)
}

/// Bytes of a function and of everything that it calls.
fn linked(
    file: &ElfFile64<'_, Endianness>,
    endian: Endianness,
    functions: &HashMap<Place, (String, u64)>,
    start: Place,
) -> Result<u64, String> {
    let (mut open, mut reached, mut bytes) = (vec![start], HashSet::new(), 0);
    while let Some(place) = open.pop() {
        if !reached.insert(place) {
            continue;
        }
        let Some((name, size)) = functions.get(&place) else {
            return Err(format!("a call to {:#x}, where no function is", place.1));
        };
        bytes += size;
        open.extend(
            calls(file, endian, place, *size).map_err(|e| format!("in function {name}: {e}"))?,
        );
    }
    Ok(bytes)
}

/// The functions that a function calls or passes on.
fn calls(
    file: &ElfFile64<'_, Endianness>,
    endian: Endianness,
    (section, start): Place,
    size: u64,
) -> Result<Vec<Place>, String> {
    let section = file.section_by_index(section).map_err(|e| e.to_string())?;
    let code = section
        .data_range(start, size)
        .map_err(|e| e.to_string())?
        .ok_or("it reaches beyond its section")?;
    let mut targets: HashMap<u64, Option<Place>> = HashMap::new();
    for (offset, relocation) in section.relocations() {
        if let RelocationTarget::Symbol(symbol) = relocation.target() {
            let symbol = file.symbol_by_index(symbol).map_err(|e| e.to_string())?;
            let code = matches!(symbol.kind(), SymbolKind::Text | SymbolKind::Section);
            let place = symbol.section_index().filter(|_| code);
            targets.insert(offset, place.map(|s| (s, symbol.address())));
        }
    }
    let is_text = |section: SectionIndex| {
        file.section_by_index(section)
            .is_ok_and(|s| s.kind() == object::SectionKind::Text)
    };
    let mut found = Vec::new();
    let mut offset = start;
    for instruction in code.chunks_exact(INSTRUCTION as usize) {
        // The two registers share a byte, whose halves follow the byte order.
        let source = if endian.is_little_endian() {
            instruction[1] >> 4
        } else {
            instruction[1] & 0xf
        };
        let immediate = endian.read_u32([
            instruction[4],
            instruction[5],
            instruction[6],
            instruction[7],
        ]) as i32;
        let immediate = i64::from(immediate);
        match (instruction[0], targets.get(&offset)) {
            // Relative to the next instruction; with a relocation, to the symbol.
            (CALL, target) if source == PSEUDO_CALL => {
                let distance = (immediate + 1) * INSTRUCTION as i64;
                let (section, base) = match target {
                    Some(Some(target)) => *target,
                    Some(None) => return Err(format!("an unknown call at {offset:#x}")),
                    None => (section.index(), offset),
                };
                found.push((section, base.wrapping_add_signed(distance)));
            }
            // The address of a function, for a helper that calls it.
            (LOAD_64, Some(Some((section, base)))) if is_text(*section) => {
                found.push((*section, base.wrapping_add_signed(immediate)));
            }
            _ => {}
        }
        offset += INSTRUCTION;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn committed(machine: &str) -> Vec<Size> {
        let file = crate::root().join(format!("probe-ebpf/objects/apscope-probes-{machine}.o"));
        sizes(&std::fs::read(file).expect("is committed")).expect("is readable")
    }

    #[test]
    fn every_object_has_the_same_programs() {
        let names = |sizes: Vec<Size>| -> Vec<(String, String)> {
            sizes.into_iter().map(|s| (s.name, s.section)).collect()
        };
        let here = names(committed("x86_64"));
        assert!(here.iter().any(|(name, _)| name == "lock_release"));
        assert_eq!(names(committed("aarch64")), here);
        assert_eq!(names(committed("s390x")), here);
    }

    /// Counts by hand: the function, and what it calls, of both byte orders.
    #[test]
    fn what_a_program_calls_counts_once() {
        for machine in ["x86_64", "s390x"] {
            let file = crate::root().join(format!("probe-ebpf/objects/apscope-probes-{machine}.o"));
            let bytes = std::fs::read(file).expect("is committed");
            let elf: ElfFile64<'_, Endianness> = ElfFile64::parse(&*bytes).expect("is ELF");
            let bytes_of = |name: &str| elf.symbol_by_name(name).expect("is there").size();
            let size = |name: &str| {
                let all = sizes(&bytes).expect("is readable");
                all.into_iter()
                    .find(|s| s.name == name)
                    .expect("is there")
                    .instructions
            };
            assert!(
                size("lock_acquired") * 8 >= bytes_of("lock_acquired") + bytes_of("record_edges"),
                "{machine}: lock_acquired calls record_edges"
            );
        }
    }

    /// The loader's own linking, which is of this machine's byte order only, against the counts from the file.
    #[test]
    fn counts_are_those_of_the_loader() {
        if cfg!(target_endian = "big") {
            return;
        }
        for machine in ["x86_64", "aarch64"] {
            let file = crate::root().join(format!("probe-ebpf/objects/apscope-probes-{machine}.o"));
            let bytes = std::fs::read(file).expect("is committed");
            let mut object = aya_obj::Object::parse(&bytes).expect("is an object");
            let text = object
                .functions
                .keys()
                .map(|(section, _)| *section)
                .collect();
            object.relocate_calls(&text).expect("links");
            let counted = sizes(&bytes).expect("is readable");
            assert_eq!(counted.len(), object.programs.len());
            for size in counted {
                let function = object.programs[&size.name].function_key();
                let linked = object.functions[&function].instructions.len();
                assert_eq!(size.instructions, linked as u64, "{machine} {}", size.name);
            }
        }
    }

    #[test]
    fn what_is_no_object_is_an_error() {
        assert!(sizes(b"").is_err());
        let file = crate::root().join("probe-ebpf/objects/apscope-probes-x86_64.o");
        let mut bytes = std::fs::read(file).expect("is committed");
        bytes.truncate(bytes.len() / 2);
        assert!(sizes(&bytes).is_err());
    }
}
