//! The in-process source's memory and hooks: the same probe bodies as the eBPF programs, run by the emulator's own
//! threads into memory that the collector maps.

pub mod hooks;
