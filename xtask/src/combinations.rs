//! Which generations and scenarios of the emulated driver there are, and how each combination ends. A test of the
//! collector compares this with the emulator's own word.

/// Driver generations, oldest first.
pub const GENERATIONS: [&str; 11] = [
    "v5.10",
    "v5.11",
    "v5.13",
    "v5.15-rc",
    "rfc-2021-06",
    "rfc-2021-07",
    "v5.15",
    "v5.19",
    "v6.0",
    "v6.6",
    "v7.3",
];

/// Scenarios in which something happens.
pub const SCENARIOS: [&str; 17] = [
    "steady",
    "boot-storm",
    "hotplug",
    "pqap-storm",
    "se-start",
    "se-serial",
    "slow-reset",
    "stuck-reset",
    "lost-wakeup",
    "remove-in-use",
    "churn",
    "set-unset",
    "starved-vcpu",
    "write-retry",
    "two-mdevs",
    "lock-cycle",
    "known-holds",
];

/// Generations on which a conversion against a release deadlocks.
pub const DEADLOCKING: [&str; 6] = [
    "v5.10",
    "v5.11",
    "v5.13",
    "v5.15-rc",
    "rfc-2021-06",
    "rfc-2021-07",
];

/// Generations with the open-coded lock.
const WITH_FLAG: [&str; 2] = ["v5.13", "v5.15-rc"];

/// All actors stop when they are told to; otherwise the combination hangs by design, or is refused.
pub fn ends(generation: &str, scenario: &str) -> bool {
    match scenario {
        "se-start" => !DEADLOCKING.contains(&generation),
        "stuck-reset" => !["v6.6", "v7.3"].contains(&generation),
        "lost-wakeup" => false,
        "two-mdevs" => !["rfc-2021-06", "rfc-2021-07"].contains(&generation),
        "set-unset" => WITH_FLAG.contains(&generation),
        "starved-vcpu" => generation == "v5.13",
        _ => true,
    }
}
