//! apscope's library: sources of frames, the model they are folded into, exports, recordings, and the emulated
//! driver.
//!
//! Data flows one way: a [`source`] produces one [`frame::Frame`] a tick, [`model::Model`] folds frames into state,
//! and [`export`], [`recording`] and the dashboard show that state. See ARCHITECTURE.md for the map.

pub mod attach;
pub mod bundle;
pub mod cli;
pub mod compare;
pub mod diagnose;
pub mod doctor;
pub mod emulator;
pub mod export;
pub mod frame;
pub mod inprocess;
pub mod machine;
pub mod model;
pub mod options;
mod page;
pub mod recording;
pub mod report;
pub mod serve;
pub mod service;
pub mod source;
pub mod survey;
