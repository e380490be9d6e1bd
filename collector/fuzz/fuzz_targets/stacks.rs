//! Saved stacks of any content: no panic, bounded memory, and a frame that a model takes whole.
#![no_main]

use apscope_collector::diagnose::stacks::fuzzing;

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzzing::stacks(data));
