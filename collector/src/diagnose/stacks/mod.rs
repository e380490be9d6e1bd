//! Stacks that somebody saved, made into a frame: what each task holds and waits for, as its functions imply.
//!
//! `text.rs` reads what people paste; `generation.rs` finds which driver it may be; `table.rs` has the evidence table, and
//! applies it to one task; `frame.rs` puts the tasks together, and gives a [`Frame`](crate::frame::Frame) as a source
//! does. Pure: a text in, a frame out. Does not judge what it finds.
#![forbid(unsafe_code)]

pub mod frame;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod generation;
pub mod table;
#[cfg(test)]
mod tests;
pub mod text;
