//! The readers of a kernel's lists and types under arbitrary input: bytes in, nothing out but a panic. What is read must
//! agree with itself, and may not take more memory than a small multiple of the input.

use super::btf::Btf;
use super::functions::FilterFunctions;
use super::offsets::{BuildIds, Field, Offsets, Types};
use super::points::points;
use super::symbols::Symbols;

/// Bytes of memory for each byte of input. A symbol takes 24 bytes and the shortest line has 5; a function takes some
/// 100 and the shortest line has 2.
const FACTOR: usize = 96;
/// Bytes of memory beyond that.
const BASE: usize = 4096;

fn check(what: &str, memory: usize, input: usize) {
    assert!(
        memory <= FACTOR * input + BASE,
        "{what}: {memory} bytes of memory for {input} of input"
    );
}

/// `/proc/kallsyms`.
pub fn kallsyms(data: &[u8]) {
    let Ok(symbols) = Symbols::parse(data) else {
        return;
    };
    check("symbols", symbols.memory(), data.len());
    let lines = data.split(|byte| *byte == b'\n').count();
    assert!(symbols.len() + symbols.malformed() <= lines);
    for name in points().flat_map(|point| point.names) {
        if let Some(found) = symbols.function(name.module, name.symbol) {
            assert!(found.symbol.name.starts_with(name.symbol));
            assert_eq!(found.symbol.module, name.module);
            assert!(found.symbol.is_function());
            assert!(found.in_module >= 1 && found.everywhere >= found.in_module);
            assert_eq!(found.suffix.is_some(), found.note().is_some());
            assert!(!found.symbol.name.ends_with(".cold"));
        }
    }
}

/// tracefs' `available_filter_functions`.
pub fn filter_functions(data: &[u8]) {
    let Ok(list) = FilterFunctions::parse(data) else {
        return;
    };
    check("functions", list.memory(), data.len());
    let lines = data.split(|byte| *byte == b'\n').count();
    assert!(list.len() + list.malformed() <= lines);
    for name in points().flat_map(|point| point.names) {
        let count = list.count(name.module, name.symbol);
        assert!(count <= list.everywhere(name.symbol));
    }
}

/// BTF: the input as a whole, and as the types of a module after those of vmlinux, whose length its first two bytes are.
pub fn btf(data: &[u8]) {
    let mut types = Types::default();
    types.add_vmlinux(data.to_vec());
    use_types(&types, data.len());
    let [a, b, rest @ ..] = data else { return };
    let length = usize::from(u16::from_be_bytes([*a, *b])).min(rest.len());
    let (base, module) = rest.split_at(length);
    let mut types = Types::default();
    types.add_vmlinux(base.to_vec());
    types.add_module("vfio_ap", module.to_vec());
    use_types(&types, data.len());
}

fn use_types(types: &Types, input: usize) {
    let offsets = Offsets::resolve(types, &BuildIds::default());
    for field in Field::ALL {
        assert_eq!(
            offsets.get(*field).is_some(),
            offsets.has(*field) == Some(true)
        );
    }
    let all = types.modules.values().chain(types.vmlinux.as_deref());
    for btf in all {
        check("types", Btf::memory(btf), input);
        _ = btf.has_enum("ap_dev_state");
        _ = btf.has_function("mutex_lock");
    }
}
