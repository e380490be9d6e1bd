//! Diagnosis: from the state of a run to who waits for whom, why, and what upstream did about it.
//!
//! Pure, like the model: no clock, no I/O, no async. It takes a [`Model`](crate::model::Model) after each frame and
//! gives a [`Report`]; what came before is remembered in [`Diagnosis`] alone. It does not know where frames come from.

pub mod stacks;
