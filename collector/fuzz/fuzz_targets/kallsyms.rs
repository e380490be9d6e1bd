//! Symbol tables of any content: no panic, bounded memory, and what is found is what was asked for.
#![no_main]

use apscope_collector::attach::fuzzing;

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzzing::kallsyms(data));
