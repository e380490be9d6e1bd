//! Exports: a model in the formats that other tools read.

pub mod json;
