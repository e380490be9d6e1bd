//! Lists of functions of any content: no panic and bounded memory.
#![no_main]

use apscope_collector::attach::fuzzing;

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzzing::filter_functions(data));
