//! apscope's dashboard.
//!
//! [`state`] is what is known and chosen, [`view`] how it looks, [`app`] the loop between source, terminal and both.
//! The facts all come from `apscope_collector`; nothing is measured or computed from raw data here.
#![forbid(unsafe_code)]

pub mod app;
pub mod cli;
pub mod filter;
#[cfg(test)]
mod fixture;
pub mod format;
pub mod screenshot;
pub mod snapshot;
pub mod state;
pub mod tape;
pub mod terminal;
pub mod theme;
pub mod view;
