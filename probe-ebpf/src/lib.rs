//! What crosses the boundary between the probes and the collector, and what the probes do.
//!
//! * [`abi`]: every type in a map, in the ring buffer, or in the read-only configuration. Fixed width, native byte
//!   order, sizes and offsets asserted at compile time.
//! * [`h2`]: the histogram buckets.
//! * [`names`]: the spellings of lock classes, modes and entry points.
//! * [`body`]: the probe bodies, generic over the small trait [`body::Env`] that stands for maps and helpers. The
//!   eBPF programs (`src/main.rs`) implement it with maps and helpers, the in-process source with shared memory.
//!   A body does not know whether it runs as uprobe, kprobe or fentry, nor in a kernel at all.
//!
//! This library has no dependency and no allocator.
#![no_std]
#![cfg_attr(target_arch = "bpf", feature(core_intrinsics))]
#![cfg_attr(
    target_arch = "bpf",
    expect(
        internal_features,
        reason = "the eBPF target has no core::sync::atomic read-modify-write"
    )
)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]
#![expect(
    clippy::inline_always,
    reason = "a probe is one function: a call in eBPF costs registers, and hides bounds from the verifier"
)]

#[cfg(test)]
extern crate std;

pub mod abi;
pub mod body;
pub mod h2;
pub mod names;
