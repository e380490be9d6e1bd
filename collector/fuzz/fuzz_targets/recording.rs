//! Recordings of any content: no panic, bounded memory, and what was read folds into a model. The bytes are read as a file,
//! as what follows a header, and as the content of a flush whose checksum is right.
#![no_main]

use apscope_collector::recording::fuzzing;

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzzing::recording(data));
