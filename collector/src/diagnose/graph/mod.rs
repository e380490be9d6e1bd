//! The two graphs of a diagnosis: who waits for whom now ([`waits`]), and which lock is taken under which ([`order`]).
//!
//! Both know lock series and task ids; they know no sentences. [`scc`] has what they share.

pub mod order;
#[cfg(test)]
mod reference;
pub mod scc;
pub mod waits;
