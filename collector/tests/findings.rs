//! Every finding from frames made by hand: what makes it, and what looks like it and must not.

mod findings_run;

#[path = "findings/deadlock.rs"]
mod deadlock;
#[path = "findings/guests.rs"]
mod guests;
#[path = "findings/locks.rs"]
mod locks;
#[path = "findings/order.rs"]
mod order;
#[path = "findings/sources.rs"]
mod sources;
#[path = "findings/waits.rs"]
mod waits;
