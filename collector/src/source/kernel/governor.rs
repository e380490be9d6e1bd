//! The governor: what the programs cost is measured, and when it is more than was allowed, what costs most is dropped:
//! stacks, then spans, then level 2.

use std::collections::BTreeMap;

use crate::source::reader::ProgramRuns;

/// Seconds above the limit before something is dropped.
const PATIENCE: u32 = 2;
/// What a probe costs outside of its program (the trap or trampoline, and saving registers), which the kernel's
/// statistics do not count: measured figures for kprobes and trampolines lie between 10 and 150 ns.
pub const OUTSIDE_NS: u64 = 100;

/// What is dropped, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Drop {
    /// Stacks of long waits and holds.
    Stacks,
    /// Spans.
    Spans,
    /// Level 2.
    Level2,
    /// Nothing: all of that is dropped, and it still costs too much.
    Nothing,
}

/// Keeps the cost below a limit.
#[derive(Debug)]
pub struct Governor {
    /// Share of all CPUs' time.
    limit: f64,
    cpus: f64,
    before: Option<(u64, u64)>,
    above: u32,
    dropped: Option<Drop>,
}

impl Governor {
    /// A limit in percent of all CPUs' time.
    pub fn new(percent: f64, cpus: u32) -> Self {
        Self {
            limit: percent / 100.0,
            cpus: f64::from(cpus.max(1)),
            before: None,
            above: 0,
            dropped: None,
        }
    }

    /// Looks at what the programs have cost, once a second. Returns what is to be dropped now, and the share that it
    /// was too much with.
    pub fn look(
        &mut self,
        runs: &BTreeMap<&'static str, ProgramRuns>,
        now_ns: u64,
        level: u8,
        stacks: bool,
    ) -> Option<(Drop, f64)> {
        let cost: u64 = runs
            .values()
            .map(|program| program.run_time_ns + program.runs * OUTSIDE_NS)
            .sum();
        let (before, at) = self.before.replace((cost, now_ns))?;
        let share = share(
            cost.saturating_sub(before),
            now_ns.saturating_sub(at),
            self.cpus,
        );
        if share <= self.limit {
            self.above = 0;
            return None;
        }
        self.above += 1;
        if self.above < PATIENCE {
            return None;
        }
        self.above = 0;
        let next = match self.dropped {
            None if stacks => Drop::Stacks,
            None | Some(Drop::Stacks) => Drop::Spans,
            Some(Drop::Spans) if level == 2 => Drop::Level2,
            Some(Drop::Spans | Drop::Level2) => Drop::Nothing,
            Some(Drop::Nothing) => return None,
        };
        self.dropped = Some(next);
        Some((next, share))
    }
}

/// Share of all CPUs' time.
pub fn share(cost_ns: u64, time_ns: u64, cpus: f64) -> f64 {
    if time_ns == 0 {
        return 0.0;
    }
    cost_ns as f64 / (time_ns as f64 * cpus)
}

/// The expected share of level 2: each sampled call is a lock operation, which is seen twice (taken and released), by
/// programs that look one address up and return.
pub fn expected_share(calls: u64, sampled_ns: u64, program_ns: u64, cpus: u32) -> f64 {
    let each = 2 * (OUTSIDE_NS + 2 * program_ns);
    share(calls * each, sampled_ns, f64::from(cpus.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(runs: u64, run_time_ns: u64) -> BTreeMap<&'static str, ProgramRuns> {
        BTreeMap::from([(
            "k_enter",
            ProgramRuns {
                runs,
                run_time_ns,
                missed: 0,
            },
        )])
    }

    #[test]
    fn what_costs_too_much_for_two_seconds_is_dropped_in_order() {
        const SECOND: u64 = 1_000_000_000;
        let mut governor = Governor::new(1.0, 1);
        let mut dropped = Vec::new();
        for second in 0..12 {
            let runs = cost(0, second * SECOND / 10);
            dropped.extend(
                governor
                    .look(&runs, second * SECOND, 2, true)
                    .map(|(what, _)| what),
            );
        }
        assert_eq!(
            dropped,
            [Drop::Stacks, Drop::Spans, Drop::Level2, Drop::Nothing]
        );
    }

    #[test]
    fn a_moment_above_the_limit_drops_nothing() {
        const SECOND: u64 = 1_000_000_000;
        let mut governor = Governor::new(1.0, 2);
        let mut total = 0;
        for second in 0..20 {
            // Every other second is too much.
            total += if second % 2 == 0 { SECOND / 10 } else { 0 };
            assert_eq!(
                governor.look(&cost(0, total), second * SECOND, 2, true),
                None
            );
        }
    }

    #[test]
    fn calls_cost_even_where_their_run_time_is_not_measured() {
        let mut governor = Governor::new(0.1, 1);
        governor.look(&cost(0, 0), 0, 1, false);
        let second = 1_000_000_000;
        governor.look(&cost(100_000, 0), second, 1, false);
        let (what, share) = governor
            .look(&cost(200_000, 0), 2 * second, 1, false)
            .expect("1 % of the time");
        assert_eq!(what, Drop::Spans);
        assert!((share - 0.01).abs() < 1e-9, "{share}");
    }

    #[test]
    fn the_expected_cost_grows_with_the_rate() {
        // A million operations a second on one CPU, at 2 * (100 + 2 * 50) ns each.
        let share = expected_share(200_000, 200_000_000, 50, 1);
        assert!((share - 0.4).abs() < 1e-9, "{share}");
        assert!(expected_share(0, 200_000_000, 50, 1).abs() < f64::EPSILON);
    }
}
