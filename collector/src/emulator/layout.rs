//! Which adapters, domains and queues each guest has.
//!
//! The 256 × 256 queues are cut into 1024 cells of 16 adapters and 4 domains, one for each guest, so that guests can
//! share none by accident. In a cell there are queues for the first [`CELL_CARDS`] adapters and [`BOUND_DOMAINS`]
//! domains. Those of the first [`BOUND_ADAPTERS`] adapters are for the driver, those of the others for the host's own
//! drivers. The guest starts with 2 adapters and 2 domains, that is 4 queues.

use super::hardware::{Script, mkqid};
use super::objects::ApMatrix;
use crate::options::MAX_GUESTS;

/// Adapters of a cell.
pub const CELL_ADAPTERS: u16 = 16;
/// Domains of a cell.
pub const CELL_DOMAINS: u16 = 4;
/// Adapters of a cell that are bound to the driver.
pub const BOUND_ADAPTERS: u16 = 4;
/// Adapters of a cell that there are.
pub const CELL_CARDS: u16 = 5;
/// Domains of a cell that are bound to the driver.
pub const BOUND_DOMAINS: u16 = 3;

const _: () = assert!(MAX_GUESTS <= (256 / CELL_ADAPTERS as u32) * (256 / CELL_DOMAINS as u32));

/// Queues that sometimes need a 20 ms poll: for an interruption to be off, or for a reset to have taken effect, and
/// sometimes find a reset going on.
pub const STEADY_SCRIPT: Script = Script {
    slow_disable_period: 61,
    slow_disable_tests: 1,
    slow_reset_period: 23,
    slow_reset_tests: 1,
    reset_in_progress_period: 97,
    reset_response: 0,
    reset_response_tests: 0,
    fixed_response: None,
};

/// Queues that do everything at once, for scenarios of many operations.
pub const STORM_SCRIPT: Script = Script {
    slow_disable_period: 0,
    slow_disable_tests: 0,
    slow_reset_period: 0,
    slow_reset_tests: 0,
    reset_in_progress_period: 0,
    reset_response: 0,
    reset_response_tests: 0,
    fixed_response: None,
};

/// Queues that need a poll for every other interruption that is turned off, so that others queue behind a vCPU in PQAP.
pub const SE_SCRIPT: Script = Script {
    slow_disable_period: 2,
    ..STEADY_SCRIPT
};

/// First adapter of a guest's cell.
pub fn first_adapter(guest: u32) -> u16 {
    (guest % 16) as u16 * CELL_ADAPTERS
}

/// First domain of a guest's cell.
pub fn first_domain(guest: u32) -> u16 {
    (guest / 16 % 64) as u16 * CELL_DOMAINS
}

/// The adapter belongs to the host's own drivers.
pub const fn is_hosts(adapter: u16) -> bool {
    adapter % CELL_ADAPTERS >= BOUND_ADAPTERS
}

/// Guests up to which every cell has all its queues. With more of them there are only those of three adapters and two
/// domains each, so that the statistics of all stay within the memory that a collector allows itself.
const FULL_CELLS: u32 = 500;

/// Queues of a guest's cell, on a machine with so many guests.
pub fn queues(guest: u32, guests: u32) -> impl Iterator<Item = u16> {
    let (adapter, domain) = (first_adapter(guest), first_domain(guest));
    let (cards, domains) = if guests > FULL_CELLS {
        (3, 2)
    } else {
        (CELL_CARDS, BOUND_DOMAINS)
    };
    (adapter..adapter + cards)
        .flat_map(move |a| (domain..domain + domains).map(move |d| mkqid(a, d)))
}

/// Assigns what a guest starts with.
pub fn assign_initial(guest: u32, matrix: &ApMatrix) {
    let (adapter, domain) = (first_adapter(guest), first_domain(guest));
    for n in 0..2 {
        matrix.apm.set(adapter + n);
        matrix.aqm.set(domain + n);
        matrix.adm.set(domain + n);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_guests_share_a_queue() {
        let mut seen = std::collections::BTreeSet::new();
        for guest in 0..MAX_GUESTS {
            for apqn in queues(guest, 1) {
                assert!(seen.insert(apqn), "guest {guest} queue {apqn:#06x}");
            }
        }
        assert_eq!(
            seen.len(),
            MAX_GUESTS as usize * usize::from(CELL_CARDS * BOUND_DOMAINS)
        );
    }
}
