//! Stacks that somebody saved, made into a frame: what each task holds and waits for, as its functions imply.
#![forbid(unsafe_code)]

pub mod text;
