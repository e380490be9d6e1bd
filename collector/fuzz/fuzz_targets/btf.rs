//! Types of any content, alone and split: no panic, no endless search, bounded memory.
#![no_main]

use apscope_collector::attach::fuzzing;

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzzing::btf(data));
