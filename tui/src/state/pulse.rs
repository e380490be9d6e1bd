//! Rates that the model does not keep: spans a second, and the collector's share of a CPU.

use std::collections::VecDeque;

use apscope_collector::model::Model;

/// Time that a rate is taken over.
const WINDOW_NS: u64 = 2_000_000_000;
/// Time that a rate is taken over at least: what one or two ticks say is the start, and no rate.
const LEAST_NS: u64 = 900_000_000;
/// Samples kept at most.
const SAMPLES: usize = 128;

#[derive(Debug, Clone, Copy)]
struct Sample {
    at_ns: u64,
    emitted: u64,
    cpu_ns: u64,
}

/// Samples of the last seconds.
#[derive(Debug, Clone, Default)]
pub struct Pulse {
    samples: VecDeque<Sample>,
}

impl Pulse {
    /// Remembers where the counters of a model stand.
    pub fn sample(&mut self, model: &Model) {
        let sample = Sample {
            at_ns: model.last.at_ns,
            emitted: model.loss.emitted(),
            cpu_ns: model.overhead.collector_cpu_ns,
        };
        // A restarted run begins anew.
        if self
            .samples
            .back()
            .is_some_and(|last| sample.at_ns < last.at_ns || sample.emitted < last.emitted)
        {
            self.samples.clear();
        }
        self.samples.push_back(sample);
        while self.samples.len() > SAMPLES
            || (self.samples.len() > 2 && sample.at_ns - self.samples[1].at_ns >= WINDOW_NS)
        {
            self.samples.pop_front();
        }
    }

    fn ends(&self) -> Option<(Sample, Sample)> {
        let (first, last) = (*self.samples.front()?, *self.samples.back()?);
        (last.at_ns - first.at_ns >= LEAST_NS).then_some((first, last))
    }

    /// Spans emitted a second; `None` before a second is over.
    #[must_use]
    pub fn events_per_second(&self) -> Option<f64> {
        self.ends().map(|(first, last)| {
            (last.emitted - first.emitted) as f64 * 1e9 / (last.at_ns - first.at_ns) as f64
        })
    }

    /// CPU time of the collector, in percent of one core; `None` before a second is over.
    #[must_use]
    pub fn cpu_percent(&self) -> Option<f64> {
        self.ends().map(|(first, last)| {
            last.cpu_ns.saturating_sub(first.cpu_ns) as f64 * 100.0
                / (last.at_ns - first.at_ns) as f64
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(at_ms: u64, emitted: u64, cpu_ms: u64) -> Model {
        let mut model = Model::default();
        model.last.at_ns = at_ms * 1_000_000;
        model
            .loss
            .programs
            .insert(("lock_release".into(), 0), (emitted, 0));
        model.overhead.collector_cpu_ns = cpu_ms * 1_000_000;
        model
    }

    #[test]
    fn rates_are_those_of_the_last_seconds() {
        let mut pulse = Pulse::default();
        pulse.sample(&model(1_000, 0, 0));
        for n in 1..=5 {
            pulse.sample(&model(1_000 + n, 0, n));
        }
        assert_eq!(pulse.events_per_second(), None);
        assert_eq!(pulse.cpu_percent(), None, "the start is no rate");
        let mut pulse = Pulse::default();
        pulse.sample(&model(1_000, 0, 0));
        for n in 1..=100 {
            // 10 spans a tick at first, then 20.
            let emitted = 10 * n + 10 * u64::saturating_sub(n, 50);
            pulse.sample(&model(1_000 + 100 * n, emitted, 2 * n));
        }
        assert_eq!(pulse.events_per_second(), Some(200.0));
        assert_eq!(pulse.cpu_percent(), Some(2.0));
        pulse.sample(&model(500, 1, 0));
        assert_eq!(pulse.events_per_second(), None, "a restart begins anew");
    }
}
