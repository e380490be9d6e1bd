//! The tests of the lab: scripts that a guest executes, and what must be true of what they leave behind. Each file here is
//! one subject. A check says what it measured, also when it is as it must be.

mod cost;
mod counts;
mod events;
mod evidence;
mod exports;
mod hang;
mod life;
mod lockdep;
mod order;
mod paths;
mod pile;
mod plan;
pub mod processes;
mod programs;
mod queues;
mod reset;
mod sequences;
mod snapshots;
mod sysrq;

use std::fmt::Display;
use std::time::Duration;

pub use evidence::{Evidence, build_examples};

use super::kernels::Kernel;
use crate::failure::Failure;

/// One fact that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// What must be true.
    pub what: String,
    /// Whether it is.
    pub passed: bool,
    /// The numbers that were seen.
    pub measured: String,
}

/// What the checks of one run of a guest found.
#[derive(Debug, Default)]
pub struct Findings {
    /// In the order in which they were looked at.
    pub lines: Vec<Line>,
}

impl Findings {
    /// Adds a fact.
    pub fn add(&mut self, what: impl Into<String>, passed: bool, measured: impl Into<String>) {
        self.lines.push(Line {
            what: what.into(),
            passed,
            measured: measured.into(),
        });
    }

    /// Adds a fact that consists of two things being the same.
    pub fn equal<T: PartialEq + Display>(
        &mut self,
        what: impl Into<String>,
        got: &T,
        expected: &T,
    ) {
        let measured = if got == expected {
            got.to_string()
        } else {
            format!("{got}, expected {expected}")
        };
        self.add(what, got == expected, measured);
    }

    /// Adds a fact that consists of a list being empty; `of` says what was looked at.
    pub fn none(&mut self, what: impl Into<String>, of: impl Display, wrong: &[String]) {
        let measured = if wrong.is_empty() {
            of.to_string()
        } else {
            wrong.join("; ")
        };
        self.add(what, wrong.is_empty(), measured);
    }
}

/// Looks at what a script has left.
pub type Judge = fn(&Evidence, &mut Findings) -> Result<(), Failure>;

/// Whether other machines may run beside one. In ascending order of what is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Alone {
    /// They may.
    Never,
    /// Not before the console has a line with this: times before it are judged.
    Until(&'static str),
    /// Not at all: times are what is measured.
    Always,
}

/// One start of a guest.
#[derive(Debug)]
pub struct Boot {
    /// Name, of the script and of the folder of its results.
    pub name: &'static str,
    /// What the guest executes, after what all scripts share.
    pub script: &'static str,
    /// Whether it is for a kernel.
    pub is_for: fn(&Kernel) -> bool,
    /// Options of the shim.
    pub shim: &'static [&'static str],
    /// Whether grace periods are expedited; without that, attaching and detaching take up to ten times as long.
    pub expedited: bool,
    /// Longest life of the machine.
    pub deadline: Duration,
    /// Whether it has the processors for itself.
    pub alone: fn(&Kernel) -> Alone,
    /// Subjects, and who looks at them.
    pub judges: &'static [(&'static str, Judge)],
    /// Judges run examples of the collector.
    pub examples: bool,
    /// Whether `--runs` repeats it.
    pub repeated: bool,
}

/// What all scripts begin with.
pub const LIBRARY: &str = include_str!("../../../lab/checks/lib.sh");

/// Longest life of a machine. The longest takes two minutes, beside another on two processors; on a slow machine `snapshots`
/// makes more recordings, and takes up to six.
const DEADLINE: Duration = Duration::from_secs(15 * 60);

/// All starts, in the order of the results.
pub const BOOTS: [Boot; 9] = [
    Boot {
        name: "trace",
        script: include_str!("../../../lab/checks/trace.sh"),
        is_for: |kernel| !kernel.has_lockdep(),
        shim: &[],
        expedited: true,
        deadline: DEADLINE,
        alone: |_| Alone::Never,
        judges: &[
            ("plan", plan::judge),
            ("counts", counts::judge),
            ("queues", queues::judge),
            ("events", events::judge),
            ("order", order::judge),
            ("emulator", sequences::judge),
            ("exports", exports::judge),
        ],
        examples: true,
        repeated: true,
    },
    Boot {
        name: "programs",
        script: include_str!("../../../lab/checks/programs.sh"),
        // Those with types, a JIT and the processor's trampolines: everything can be loaded.
        is_for: |kernel| ["6.12", "7.2"].contains(&kernel.name.as_str()),
        shim: &[],
        expedited: true,
        deadline: DEADLINE,
        alone: |_| Alone::Never,
        judges: &[("programs", programs::judge)],
        examples: false,
        repeated: false,
    },
    Boot {
        name: "life",
        script: include_str!("../../../lab/checks/life.sh"),
        is_for: |kernel| !kernel.has_lockdep(),
        shim: &[],
        expedited: true,
        deadline: DEADLINE,
        alone: |_| Alone::Never,
        judges: &[("life", life::judge)],
        examples: false,
        repeated: false,
    },
    Boot {
        name: "snapshots",
        script: include_str!("../../../lab/checks/snapshots.sh"),
        // The oldest driver, and the newest, whose lists of waiters differ.
        is_for: |kernel| ["5.10", "7.2"].contains(&kernel.name.as_str()),
        shim: &[],
        expedited: true,
        deadline: DEADLINE,
        alone: |_| Alone::Never,
        judges: &[("snapshots", snapshots::judge)],
        examples: true,
        repeated: false,
    },
    Boot {
        name: "reset",
        script: include_str!("../../../lab/checks/reset.sh"),
        // Before Linux 6.6 a reset is given up after a few polls.
        is_for: |kernel| ["6.12", "7.2"].contains(&kernel.series()),
        shim: &[],
        expedited: true,
        deadline: DEADLINE,
        alone: |_| Alone::Never,
        judges: &[("reset", reset::judge)],
        examples: false,
        repeated: false,
    },
    Boot {
        name: "hang",
        script: include_str!("../../../lab/checks/hang.sh"),
        // The kernel with lockdep has no types: stacks say who waits.
        is_for: |kernel| ["5.10", "5.10-lockdep"].contains(&kernel.name.as_str()),
        shim: &["uv=1"],
        expedited: false,
        deadline: DEADLINE,
        // With lockdep it takes a minute until it hangs, and no other machine could run meanwhile.
        alone: |kernel| {
            if kernel.has_lockdep() {
                Alone::Never
            } else {
                Alone::Until("lab: it hangs")
            }
        },
        judges: &[
            ("deadlock", hang::judge),
            ("the kernel's word", sysrq::judge),
            ("system calls", paths::judge),
        ],
        examples: false,
        repeated: false,
    },
    Boot {
        name: "lockdep",
        script: include_str!("../../../lab/checks/lockdep.sh"),
        is_for: Kernel::has_lockdep,
        shim: &["uv=1"],
        expedited: true,
        deadline: DEADLINE,
        alone: |_| Alone::Never,
        judges: &[("plan", plan::judge_lockdep), ("lockdep", lockdep::judge)],
        examples: false,
        repeated: true,
    },
    Boot {
        name: "pile",
        script: include_str!("../../../lab/checks/pile.sh"),
        is_for: |kernel| kernel.name == "7.2",
        shim: &[],
        expedited: true,
        deadline: DEADLINE,
        alone: |_| Alone::Never,
        judges: &[("misses", pile::judge)],
        examples: false,
        repeated: false,
    },
    Boot {
        name: "cost",
        script: include_str!("../../../lab/checks/cost.sh"),
        is_for: |kernel| kernel.series() == "6.12",
        shim: &[],
        expedited: true,
        deadline: DEADLINE,
        alone: |_| Alone::Always,
        judges: &[("cost", cost::judge)],
        examples: false,
        repeated: false,
    },
];
