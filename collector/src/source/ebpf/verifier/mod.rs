//! What this kernel's verifier makes of each of the object's programs: loads them all, and keeps what it says. Nothing
//! is attached.
//!
//! Maps are as small as they load. Read-only data is not frozen, unlike in the collector: its values are then unknown
//! to the verifier, which has to walk both sides of every branch on them, so that its count is the worst of all
//! configurations.

use std::collections::{HashMap, HashSet};
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use aya::maps::MapData;
use aya_obj::btf::{Btf, BtfKind};
use aya_obj::generated::{bpf_attach_type, bpf_map_type, bpf_prog_type};
use aya_obj::{Function, Object, ProgramSection};
use object::{Object as _, ObjectSection as _, ObjectSymbol as _};
use serde::Serialize;

use super::loading::spread;
use super::object::{OBJECT, loadable, page_size};
use super::{chain, sys};
use bpf::Kind;

mod bpf;

/// A program and how it fared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tried {
    /// Its name.
    pub name: String,
    /// Its section in the object, which says what kind of program it is.
    pub section: String,
    /// What the verifier says.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// What the verifier says of a program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It loads.
    Accepted(Accepted),
    /// Why it does not load.
    Refused(String),
}

/// A program that loads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Accepted {
    /// Bytes of stack of the program and of each function that it calls.
    pub stack_bytes: Vec<u32>,
    /// Instructions that the verifier looked at: `verified_insns` of bpf_prog_info (since Linux 5.16), which is
    /// "processed" in its log. The limit is 1,000,000.
    pub verified_instructions: u64,
    /// The most states it kept at once.
    pub peak_states: u64,
    /// Bytes of machine code; 0 without a JIT.
    pub jited_bytes: u64,
}

/// Loads every program of the object for this machine.
///
/// # Errors
///
/// Why not even its maps can be made, in words.
pub fn try_all() -> Result<Vec<Tried>, String> {
    loadable().map_err(|e| e.to_string())?;
    let mut object = Object::parse(OBJECT).map_err(|e| e.to_string())?;
    let mut btf = None;
    if let Some(features) = aya::features().btf()
        && let Some(of_object) = object
            .fixup_and_sanitize_btf(features)
            .map_err(|e| e.to_string())?
    {
        let bytes = of_object.to_bytes();
        btf = Some(bpf::load_btf(&bytes).map_err(|e| format!("loading BTF: {e}"))?);
    }
    let maps = create_maps(&object)?;
    let text: HashSet<usize> = object
        .functions
        .keys()
        .map(|(section, _)| *section)
        .collect();
    object
        .relocate_maps(
            maps.iter()
                .map(|(name, map, data)| (name.as_str(), data.fd().as_fd().as_raw_fd(), map)),
            &text,
        )
        .map_err(|e| e.to_string())?;
    object.relocate_calls(&text).map_err(|e| e.to_string())?;
    object.sanitize_functions(aya::features());
    let sections = section_names(OBJECT)?;
    let kernel = Btf::from_sys_fs().ok();
    let mut programs: Vec<_> = object.programs.iter().collect();
    programs.sort_by_key(|(name, _)| *name);
    Ok(spread(programs, |(name, program)| {
        let section = sections.get(name).map_or("", String::as_str);
        let verdict = match (
            object.functions.get(&program.function_key()),
            kind_of(name, section, &program.section, kernel.as_ref()),
        ) {
            (Some(function), Ok(kind)) => load(function, &kind, &program.license, btf.as_ref()),
            (None, _) => Verdict::Refused("has no function".into()),
            (_, Err(e)) => Verdict::Refused(e),
        };
        Tried {
            name: name.clone(),
            section: section.to_owned(),
            verdict,
        }
    }))
}

/// Creates the object's maps, as small as they load, with their initial contents.
fn create_maps(object: &Object) -> Result<Vec<(String, aya_obj::Map, MapData)>, String> {
    let mut maps = Vec::new();
    let page = u32::try_from(page_size()).unwrap_or(4096);
    for (name, map) in &object.maps {
        let mut map = map.clone();
        if map.map_type() == bpf_map_type::BPF_MAP_TYPE_RINGBUF as u32 {
            map.set_max_entries(page);
            // aya-ebpf gives the size of a record, which the kernel does not take.
            map.set_value_size(0);
        }
        let data = MapData::create(map.clone(), name, None)
            .map_err(|e| format!("creating the map {name}: {}", chain(&e)))?;
        maps.push((name.clone(), map, data));
    }
    Ok(maps)
}

/// The section that each function is in, by the function's name.
fn section_names(bytes: &[u8]) -> Result<HashMap<String, String>, String> {
    let file = object::File::parse(bytes).map_err(|e| e.to_string())?;
    Ok(file
        .symbols()
        .filter_map(|symbol| {
            let section = file.section_by_index(symbol.section_index()?).ok()?;
            Some((
                symbol.name().ok()?.to_owned(),
                section.name().ok()?.to_owned(),
            ))
        })
        .collect())
}

/// How a program is loaded; an error says why it cannot be.
fn kind_of(
    name: &str,
    section: &str,
    kind: &ProgramSection,
    kernel: Option<&Btf>,
) -> Result<Kind, String> {
    let plain = |program| {
        Ok(Kind {
            program,
            attach: None,
            target: 0,
        })
    };
    let traced = |attach, prefix: &str, kind| {
        let target = target(name, section);
        let kernel = kernel.ok_or("the kernel has no BTF")?;
        let id = kernel
            .id_by_type_name_kind(&format!("{prefix}{target}"), kind)
            .map_err(|_| format!("the kernel's BTF has no {prefix}{target}"))?;
        Ok(Kind {
            program: bpf_prog_type::BPF_PROG_TYPE_TRACING,
            attach: Some(attach),
            target: id,
        })
    };
    match kind {
        ProgramSection::KProbe
        | ProgramSection::KRetProbe
        | ProgramSection::UProbe { .. }
        | ProgramSection::URetProbe { .. } => plain(bpf_prog_type::BPF_PROG_TYPE_KPROBE),
        ProgramSection::TracePoint => plain(bpf_prog_type::BPF_PROG_TYPE_TRACEPOINT),
        ProgramSection::RawTracePoint => plain(bpf_prog_type::BPF_PROG_TYPE_RAW_TRACEPOINT),
        ProgramSection::PerfEvent => plain(bpf_prog_type::BPF_PROG_TYPE_PERF_EVENT),
        ProgramSection::BtfTracePoint => traced(
            bpf_attach_type::BPF_TRACE_RAW_TP,
            "btf_trace_",
            BtfKind::Typedef,
        ),
        ProgramSection::FEntry { .. } => {
            traced(bpf_attach_type::BPF_TRACE_FENTRY, "", BtfKind::Func)
        }
        ProgramSection::FExit { .. } => traced(bpf_attach_type::BPF_TRACE_FEXIT, "", BtfKind::Func),
        other => Err(format!("a kind of program that is not known: {other:?}")),
    }
}

/// What a tracing program is for: the section says it after a slash (`fexit/mutex_lock`), or else the program's name
/// after a prefix of one letter (`x_mutex_lock`).
fn target<'a>(name: &'a str, section: &'a str) -> &'a str {
    if let Some((_, target)) = section.split_once('/') {
        return target;
    }
    match name.split_once('_') {
        Some((prefix, target)) if prefix.len() == 1 => target,
        _ => name,
    }
}

/// Loads one program, and asks the kernel what became of it.
fn load(function: &Function, kind: &Kind, license: &CStr, btf: Option<&OwnedFd>) -> Verdict {
    let (program, log) = bpf::load(function, kind, license, btf);
    match program.map(|program| sys::program_info(program.as_fd())) {
        Ok(Ok(info)) => accepted(
            &log,
            u64::from(info.verified_insns),
            info.jited_prog_len.into(),
        ),
        Ok(Err(e)) => Verdict::Refused(format!("loads, but has no information: {e}")),
        Err(e) => Verdict::Refused(reason(&e, &log)),
    }
}

/// A cause that fits into the table: the error, and the log's first line that is not statistics.
fn reason(error: &io::Error, log: &str) -> String {
    let name = match error.raw_os_error() {
        Some(libc::EPERM) => "EPERM".into(),
        Some(libc::EINVAL) => "EINVAL".into(),
        Some(libc::EACCES) => "EACCES".into(),
        // The kernel's own ENOTSUPP, which user space has no name for.
        Some(524) => "ENOTSUPP".into(),
        _ => error.to_string(),
    };
    let said = log.lines().find(|line| {
        !["verification time", "stack depth", "processed "]
            .iter()
            .any(|start| line.starts_with(start))
            && !line.trim().is_empty()
    });
    match said {
        Some(line) => format!("{name}: {}", line.trim().replace('|', "/")),
        None => name,
    }
}

/// Reads the verifier's summary.
fn accepted(log: &str, verified: u64, jited_bytes: u64) -> Verdict {
    let stack = log
        .lines()
        .find_map(|line| line.strip_prefix("stack depth "));
    let stack = stack.and_then(|line| line.split_whitespace().next());
    let stack = stack.and_then(|depths| depths.split('+').map(|n| n.parse().ok()).collect());
    let (Some(stack_bytes), Some((processed, peak_states))) = (stack, processed(log)) else {
        return Verdict::Refused(format!("loads, but its log is not known: {}", log.trim()));
    };
    Verdict::Accepted(Accepted {
        stack_bytes,
        // 0 before Linux 5.16.
        verified_instructions: if verified > 0 { verified } else { processed },
        peak_states,
        jited_bytes,
    })
}

/// Instructions processed and the most states kept, of `processed N insns (limit N) max_states_per_insn N total_states
/// N peak_states N mark_read N`.
fn processed(log: &str) -> Option<(u64, u64)> {
    let line = log.lines().find(|line| line.starts_with("processed "))?;
    let after = |word: &str| {
        let mut words = line.split_whitespace().skip_while(|w| *w != word);
        words.nth(1)?.parse().ok()
    };
    Some((after("processed")?, after("peak_states")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "verification time 812 usec\nstack depth 208+0+64\n\
        processed 1234 insns (limit 1000000) max_states_per_insn 4 total_states 60 peak_states 58 mark_read 10\n";

    #[test]
    fn the_summary_is_read() {
        let Verdict::Accepted(accepted) = accepted(LOG, 1234, 5000) else {
            panic!("is a summary");
        };
        assert_eq!(accepted.stack_bytes, [208, 0, 64]);
        assert_eq!(accepted.verified_instructions, 1234);
        assert_eq!(accepted.peak_states, 58);
        // Before Linux 5.16, only the log says it.
        assert!(matches!(
            super::accepted(LOG, 0, 0),
            Verdict::Accepted(Accepted {
                verified_instructions: 1234,
                ..
            })
        ));
        assert!(matches!(
            super::accepted("stack depth 8\n", 1, 1),
            Verdict::Refused(_)
        ));
    }

    #[test]
    fn a_refusal_names_error_and_cause() {
        let error = io::Error::from_raw_os_error(libc::EINVAL);
        assert_eq!(reason(&error, LOG), "EINVAL");
        assert_eq!(
            reason(&error, "stack depth 8\nR1 | invalid mem access\n"),
            "EINVAL: R1 / invalid mem access"
        );
        let unsupported = io::Error::from_raw_os_error(524);
        assert_eq!(reason(&unsupported, ""), "ENOTSUPP");
    }

    #[test]
    fn targets_come_from_the_section_or_the_name() {
        assert_eq!(target("anything", "fexit/mutex_lock"), "mutex_lock");
        assert_eq!(target("x_mutex_lock", "fexit"), "mutex_lock");
        assert_eq!(target("mutex_lock", "fexit"), "mutex_lock");
    }
}
