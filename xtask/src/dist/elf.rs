//! Is a program what an archive may hold: for the right machine, and static?

use object::elf::{PT_DYNAMIC, PT_INTERP};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, FileKind, elf};

/// Says what is wrong with a program. A static one asks for no program interpreter, and so loads no library; one that
/// may be placed anywhere (static-pie) still has a dynamic section, for its own relocations.
pub fn check(bytes: &[u8], machine: u16) -> Result<(), String> {
    match FileKind::parse(bytes) {
        Ok(FileKind::Elf64) => {}
        Ok(other) => return Err(format!("is no 64-bit ELF file but {other:?}")),
        Err(e) => return Err(e.to_string()),
    }
    let header = elf::FileHeader64::<Endianness>::parse(bytes).map_err(|e| e.to_string())?;
    let endian = header.endian().map_err(|e| e.to_string())?;
    let found = header.e_machine(endian);
    if found != machine {
        return Err(format!("is for machine {found}, not {machine}"));
    }
    let segments = header
        .program_headers(endian, bytes)
        .map_err(|e| e.to_string())?;
    for segment in segments {
        if segment.p_type(endian) == PT_INTERP {
            return Err("asks for a program interpreter: it is not static".into());
        }
        if segment.p_type(endian) == PT_DYNAMIC
            && let Some(entries) = segment.dynamic(endian, bytes).map_err(|e| e.to_string())?
            && entries
                .iter()
                .any(|entry| entry.d_tag.get(endian) == elf::DT_NEEDED)
        {
            return Err("needs a library: it is not static".into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dynamic_program_is_refused() {
        // The test itself is linked dynamically.
        let own = std::fs::read("/proc/self/exe").expect("is readable");
        let machine = u16::from_le_bytes([own[18], own[19]]);
        if cfg!(target_endian = "little") {
            let said = check(&own, machine).expect_err("is not static");
            assert!(said.ends_with("it is not static"), "{said}");
            let said = check(&own, machine + 1).expect_err("is another machine");
            assert!(said.starts_with("is for machine"), "{said}");
        }
        assert!(check(b"#!/bin/sh\n", machine).is_err());
        assert!(check(&own[..100], machine).is_err());
    }
}
