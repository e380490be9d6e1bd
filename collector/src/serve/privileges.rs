//! What each thread of the daemon may do.
//!
//! Everything is opened, and attached, with what the daemon was started with. Then the source's threads keep what reading
//! needs ([`confine`]), the thread that talks to clients keeps nothing and can open no file and connect to nobody, and
//! the others keep nothing. Where the kernel has no Landlock, that is said.

use std::fmt;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, Ruleset, RulesetAttr as _,
    RulesetStatus,
};

use crate::machine::Capability;
use crate::source::confine;

/// How far a thread's access to files and connections was taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Files {
    /// It can open nothing.
    Closed,
    /// The kernel knows only some of the accesses.
    Partly,
    /// The kernel has no Landlock, or does not use it.
    Open,
}

impl fmt::Display for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "opens no file and connects to nobody over TCP (Landlock)",
            Self::Partly => "opens no file (Landlock of this kernel knows no more)",
            Self::Open => "could open files: this kernel does not use Landlock",
        })
    }
}

/// Before anything is attached: what attaching never needs goes.
pub fn before_attaching() -> Result<(), String> {
    confine::keep(&confine::ATTACHING)
        .map(drop)
        .map_err(|error| error.to_string())
}

/// For a thread that needs no privilege any more. What it starts has none either.
pub fn give_up() -> Result<(), String> {
    confine::keep(&[]).map_err(|error| error.to_string())?;
    confine::no_new_privileges().map_err(|error| error.to_string())
}

/// For the thread that talks to clients: besides privileges, files and connections of its own.
pub fn close_everything() -> Result<Files, String> {
    give_up()?;
    // The newest ABI that this crate knows; the kernel does what it can of it.
    let restricted = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ABI::V5))
        .and_then(|ruleset| ruleset.handle_access(AccessNet::from_all(ABI::V5)))
        .and_then(Ruleset::create)
        .and_then(landlock::RulesetCreated::restrict_self);
    // A filter of system calls may refuse even to ask.
    let status = restricted.map(|status| status.ruleset);
    Ok(match status.unwrap_or(RulesetStatus::NotEnforced) {
        RulesetStatus::FullyEnforced => Files::Closed,
        RulesetStatus::PartiallyEnforced => Files::Partly,
        RulesetStatus::NotEnforced => Files::Open,
    })
}

/// The names of capabilities, as they are printed.
pub fn names(capabilities: &[Capability]) -> String {
    if capabilities.is_empty() {
        return "none".to_owned();
    }
    let names: Vec<&str> = capabilities.iter().map(|one| one.name()).collect();
    names.join(", ")
}
