//! Which queues guests have named in PQAP, by the spans of a recording, for `cargo xtask lab`: one line of JSON.
//!
//! Argument: a recording. For each queue (APQN) and function code, how many spans there are of KVM's handler and of the
//! driver's.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::Path;

use apscope_collector::model::query;
use apscope_collector::recording::Reader;
use probe_ebpf::abi::SPAN_ENTRY;
use probe_ebpf::names::ENTRY_POINTS;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let Some(file) = std::env::args_os().nth(1) else {
        return Err("argument: a recording".into());
    };
    let mut counts: BTreeMap<(&str, u16, u8), u64> = BTreeMap::new();
    for frame in Reader::open(Path::new(&file))? {
        let frame = frame?;
        let spans = frame.spans.iter().flat_map(|s| s.decode(frame.at_ns));
        for span in spans.filter(|span| span.kind == SPAN_ENTRY) {
            let Some(entry) = ENTRY_POINTS.get(usize::from(span.what)) else {
                continue;
            };
            if entry.pqap {
                // GR0: the function code in bits 32 to 39, the APQN in the last 16.
                let gr0 = span.extra as u32;
                let key = (entry.name, gr0 as u16, (gr0 >> 24) as u8);
                *counts.entry(key).or_default() += 1;
            }
        }
    }
    let lines: Vec<String> = counts
        .iter()
        .map(|((entry, apqn, function), count)| {
            let [adapter, domain] = apqn.to_be_bytes();
            let name = query::pqap_function(*function);
            format!(
                "{{\"entry_point\":\"{entry}\",\"apqn\":\"{adapter:02x}.{domain:04x}\",\"function\":\"{name}\",\"count\":{count}}}"
            )
        })
        .collect();
    println!("{{\"pqap\":[{}]}}", lines.join(","));
    Ok(())
}
