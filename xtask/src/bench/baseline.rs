//! The yardstick of `cargo xtask bench programs`: an eBPF program that does nothing but write one record into a ring,
//! attached to the probe points whose programs are measured.
//!
//! It is made of 16 instructions here, as an object file in memory, so that no compiler has a say in what "nothing
//! but" means, and aya can load it like any other. The record has the size of a span, and zeros in it: not even the
//! clock is read.

use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use aya::maps::RingBuf;
use aya::programs::UProbe;
use aya::programs::uprobe::{UProbeAttachLocation, UProbeScope};
use aya::{Ebpf, EbpfLoader};
use aya_obj::generated::{BPF_RB_NO_WAKEUP, bpf_map_type};
use object::build::elf::{Builder, Relocation, SectionData};
use object::{Endianness, elf};

use crate::bpf;
use crate::failure::Failure;

/// Size of a record in bytes: that of a span (`probe_ebpf::abi::Span`).
const RECORD: i32 = 40;
/// Room for what is written while the reader does not get the CPU.
const RING_BYTES: u32 = 64 << 20;
const PROGRAM: &str = "one_record";
const RING: &str = "RECORDS";

/// The attached program and the reader of its ring; both end when dropped.
pub struct Baseline {
    ebpf: Ebpf,
    stop: Arc<AtomicBool>,
    reader: Option<JoinHandle<u64>>,
}

/// Kernel's statistics of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Runs {
    pub runs: u64,
    pub run_time_ns: u64,
}

impl Baseline {
    /// Attaches it to points of a program file, in whichever process, by their offsets in the file.
    pub fn attach(binary: &Path, offsets: &[u64]) -> Result<Self, Failure> {
        let failed = |what: &str, e: &dyn std::error::Error| {
            Failure::new(format!("{what} the program to compare with"))
                .cause(e.to_string())
                .hint("run as root")
        };
        let object = object_file().map_err(|e| failed("making", &e))?;
        let mut ebpf = EbpfLoader::new()
            .map_max_entries(RING, RING_BYTES)
            .load(&object)
            .map_err(|e| failed("loading", &e))?;
        let missing = || Failure::new("the program to compare with is not in its object");
        let ring = ebpf.take_map(RING).ok_or_else(missing)?;
        let mut ring = RingBuf::try_from(ring).map_err(|e| failed("loading", &e))?;
        let program: &mut UProbe = ebpf
            .program_mut(PROGRAM)
            .ok_or_else(missing)?
            .try_into()
            .map_err(|e| failed("loading", &e))?;
        program.load().map_err(|e| failed("loading", &e))?;
        for offset in offsets {
            program
                .attach(
                    UProbeAttachLocation::AbsoluteOffset(*offset),
                    binary,
                    UProbeScope::AllProcesses,
                )
                .map_err(|e| failed("attaching", &e))?;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = Arc::clone(&stop);
        let reader = std::thread::spawn(move || {
            let mut received = 0;
            loop {
                // Asked before the ring is emptied, so that what was written until then is counted.
                let last = stopping.load(Ordering::Acquire);
                while ring.next().is_some() {
                    received += 1;
                }
                if last {
                    return received;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        Ok(Self {
            ebpf,
            stop,
            reader: Some(reader),
        })
    }

    /// What it took. An error where a record found no room: a program that writes nothing is no yardstick.
    pub fn finish(mut self) -> Result<Runs, Failure> {
        self.stop.store(true, Ordering::Release);
        // A panic of the reader is one of this program.
        let received = self
            .reader
            .take()
            .map_or(0, |reader| reader.join().expect("the reader panicked"));
        let failed = |e: String| Failure::new("reading the kernel's run statistics").cause(e);
        let program: &mut UProbe = self
            .ebpf
            .program_mut(PROGRAM)
            .ok_or_else(|| failed("no program".into()))?
            .try_into()
            .map_err(|e: aya::programs::ProgramError| failed(e.to_string()))?;
        let fd = program.fd().map_err(|e| failed(e.to_string()))?;
        let info = bpf::prog_info(fd.as_fd()).map_err(|e| failed(e.to_string()))?;
        if received != info.run_cnt {
            return Err(Failure::new(format!(
                "the program to compare with ran {} times but wrote {received} records",
                info.run_cnt
            ))
            .cause("its ring was full, or run statistics were not enabled all the time"));
        }
        Ok(Runs {
            runs: info.run_cnt,
            run_time_ns: info.run_time_ns,
        })
    }
}

impl Drop for Baseline {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

/// One instruction: code, destination and source register, offset, immediate.
fn instruction(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> [u8; 8] {
    // The two registers share a byte, whose halves follow the byte order.
    let registers = if cfg!(target_endian = "little") {
        from << 4 | to
    } else {
        to << 4 | from
    };
    let (o, i) = (offset.to_ne_bytes(), immediate.to_ne_bytes());
    [code, registers, o[0], o[1], i[0], i[1], i[2], i[3]]
}

/// The program's instructions; the first loads the ring's address and is relocated. Codes are those of
/// uapi/linux/bpf_common.h and bpf.h.
fn code() -> Vec<u8> {
    const LOAD_64: u8 = 0x18;
    const SET: u8 = 0xb7;
    const COPY: u8 = 0xbf;
    const STORE_64: u8 = 0x7a;
    const IF_EQUAL: u8 = 0x15;
    const CALL: u8 = 0x85;
    const EXIT: u8 = 0x95;
    const RINGBUF_RESERVE: i32 = 131;
    const RINGBUF_SUBMIT: i32 = 132;
    let mut code = vec![
        // r0 = bpf_ringbuf_reserve(ring, RECORD, 0)
        instruction(LOAD_64, 1, 0, 0, 0),
        instruction(0, 0, 0, 0, 0),
        instruction(SET, 2, 0, 0, RECORD),
        instruction(SET, 3, 0, 0, 0),
        instruction(CALL, 0, 0, 0, RINGBUF_RESERVE),
        // No room: to the end.
        instruction(IF_EQUAL, 0, 0, 8, 0),
    ];
    for word in 0..RECORD / 8 {
        code.push(instruction(STORE_64, 0, 0, word as i16 * 8, 0));
    }
    code.extend([
        // bpf_ringbuf_submit(r0, BPF_RB_NO_WAKEUP)
        instruction(COPY, 1, 0, 0, 0),
        instruction(SET, 2, 0, 0, BPF_RB_NO_WAKEUP as i32),
        instruction(CALL, 0, 0, 0, RINGBUF_SUBMIT),
        instruction(SET, 0, 0, 0, 0),
        instruction(EXIT, 0, 0, 0, 0),
    ]);
    code.concat()
}

/// The object file: the program, its ring, a licence.
fn object_file() -> Result<Vec<u8>, object::build::Error> {
    let endianness = if cfg!(target_endian = "little") {
        Endianness::Little
    } else {
        Endianness::Big
    };
    let mut builder = Builder::new(endianness, true);
    builder.header.e_type = elf::ET_REL;
    builder.header.e_machine = elf::EM_BPF;
    let mut section = |name: &'static str, kind: u32, flags: u32, align: u64, data| {
        let section = builder.sections.add();
        section.name = name.into();
        section.sh_type = kind;
        section.sh_flags = flags.into();
        section.sh_addralign = align;
        section.data = data;
        section.id()
    };
    let code = code();
    let size = code.len() as u64;
    // struct bpf_map_def: type, sizes of key and value, entries, flags, id, pinning.
    let ring: Vec<u8> = [
        bpf_map_type::BPF_MAP_TYPE_RINGBUF as u32,
        0,
        0,
        RING_BYTES,
        0,
        0,
        0,
    ]
    .iter()
    .flat_map(|word| word.to_ne_bytes())
    .collect();
    let ring_size = ring.len() as u64;
    let program = section(
        "uprobe",
        elf::SHT_PROGBITS,
        elf::SHF_ALLOC | elf::SHF_EXECINSTR,
        8,
        SectionData::Data(code.into()),
    );
    let maps = section(
        "maps",
        elf::SHT_PROGBITS,
        elf::SHF_ALLOC | elf::SHF_WRITE,
        4,
        SectionData::Data(ring.into()),
    );
    section(
        "license",
        elf::SHT_PROGBITS,
        elf::SHF_ALLOC | elf::SHF_WRITE,
        1,
        // The ring's helpers are open to every licence.
        SectionData::Data(b"Dual MIT/GPL\0"[..].into()),
    );
    let symbols = section(".symtab", elf::SHT_SYMTAB, 0, 8, SectionData::Symbol);
    let relocations = section(
        ".reluprobe",
        elf::SHT_REL,
        elf::SHF_INFO_LINK,
        8,
        SectionData::Relocation(Vec::new()),
    );
    section(".strtab", elf::SHT_STRTAB, 0, 1, SectionData::String);
    section(
        ".shstrtab",
        elf::SHT_STRTAB,
        0,
        1,
        SectionData::SectionString,
    );
    let mut symbol = |name: &'static str, section, kind: u8, size| {
        let symbol = builder.symbols.add();
        symbol.name = name.into();
        symbol.section = Some(section);
        symbol.st_info = (elf::STB_GLOBAL << 4) | kind;
        symbol.st_size = size;
        symbol.id()
    };
    symbol(PROGRAM, program, elf::STT_FUNC, size);
    let ring = symbol(RING, maps, elf::STT_OBJECT, ring_size);
    let section = builder.sections.get_mut(relocations);
    section.sh_link_section = Some(symbols);
    section.sh_info_section = Some(program);
    section.data = SectionData::Relocation(vec![Relocation {
        r_offset: 0,
        symbol: Some(ring),
        r_type: elf::R_BPF_64_64,
        r_addend: 0,
    }]);
    let mut bytes = Vec::new();
    builder.write(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_object_is_one_program_and_its_ring() {
        let bytes = object_file().expect("is valid");
        let object = aya_obj::Object::parse(&bytes).expect("is readable");
        let program = &object.programs[PROGRAM];
        let function = &object.functions[&program.function_key()];
        assert_eq!(function.instructions.len(), 16);
        // The jump ends at the last two instructions: r0 = 0, exit.
        assert_eq!(i32::from(function.instructions[5].off) + 6, 14);
        let ring = &object.maps[RING];
        assert_eq!(
            (ring.map_type(), ring.max_entries()),
            (bpf_map_type::BPF_MAP_TYPE_RINGBUF as u32, RING_BYTES)
        );
    }
}
