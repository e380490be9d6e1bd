//! Reads and writes of the emulated sysfs, in any order and with any content: no panic, no hang, and after each the
//! machine agrees with itself.
#![no_main]

use apscope_collector::emulator::fuzzing;

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzzing::sysfs(data));
