//! The emulated driver.

pub mod protocol;
