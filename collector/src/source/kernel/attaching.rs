//! From a kernel whose memory is read to one that is measured: what the level costs, loading, attaching.
//!
//! Takes a [`KernelSource`] to which nothing is attached, and the plan; what could be attached, and why the rest was not, is
//! in the source's description afterwards. Where nothing could be, the run ends with the reason; what was read until then
//! has been handed over.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use aya::Ebpf;
use aya_log::EbpfLogger;
use probe_ebpf::abi::gate;

use super::loading;
use super::programs::{self, Attached, Misses};
use super::run::KernelSource;
use super::sample::{self, NotSampled};
use super::{HIDDEN_ADDRESSES, STALLED_HINT, failed, jobs, load, probe_failed, within_deadline};
use crate::frame::LogLine;
use crate::machine::Others;
use crate::options::RunOptions;
use crate::source::ebpf::{Heartbeat, object, sys};
use crate::source::log_lines::LogLines;
use crate::source::reader;
use crate::source::stacks::{Stacks, Whose};
use crate::source::{SourceError, measured_by_others};
use crate::survey::Survey;

/// What is needed to attach.
pub struct Pending {
    /// Of the machine, of whose kernel nothing was tried yet.
    pub survey: Survey,
    pub options: RunOptions,
    /// Why this source.
    pub reason: String,
    pub cpus: u32,
    /// Why not level 2, though it was asked for: what was found out before anything was attached.
    pub refused: Option<String>,
}

impl Pending {
    /// Where tracefs is.
    fn tracefs(&self) -> Option<PathBuf> {
        let tracefs = self.survey.facts.tracing.tracefs.as_ref()?;
        Some(PathBuf::from(&tracefs.path))
    }

    /// The kernel measures run times of programs already.
    fn stats_enabled(&self) -> bool {
        self.survey.facts.settings.bpf_stats_enabled == Some(1)
    }
}

/// What is attached.
#[derive(Default)]
pub struct Attachment {
    /// Names of the programs that were loaded.
    pub programs: Vec<&'static str>,
    /// Hits of kprobes that were missed.
    pub misses: Misses,
    /// Shared with the thread that detaches.
    pub points: Arc<Mutex<Option<Attached>>>,
    pub heartbeat: Option<Heartbeat>,
    /// The kernel measures run times for as long as it is open.
    _stats: Option<OwnedFd>,
    pub logger: Option<Box<EbpfLogger<LogLines>>>,
}

impl KernelSource {
    /// Tries what the kernel allows, where something is to be attached, and plans for that. What tries it attaches, and may
    /// wait for what is stuck: so it comes after the first readings.
    pub(super) fn try_out(&mut self) -> Result<(), SourceError> {
        let Some(pending) = &mut self.pending else {
            return Ok(());
        };
        if pending.options.kernel.level == 0 {
            return Ok(());
        }
        let planned = pending.survey.plan.clone();
        pending.survey.try_out(&pending.options.kernel);
        if pending.survey.plan == planned {
            return Ok(());
        }
        self.load_again()
    }

    /// Finds out what level 2 costs, where it is what was asked for. Returns whether there is something to be said before
    /// anything of it is attached.
    pub(super) fn weigh(&mut self) -> Result<bool, SourceError> {
        let Some(pending) = &mut self.pending else {
            return Ok(false);
        };
        if pending.options.kernel.level < 2 {
            return Ok(false);
        }
        // Given back only by what has come back.
        let Some(ebpf) = self.ebpf.take() else {
            return Ok(false);
        };
        let (mut ebpf, counting) = within_deadline(ebpf, "the sampling program", sample::load)?;
        let tracefs = pending.tracefs();
        let sampled = counting
            .map_err(|e| NotSampled::Failed(e.to_string()))
            .and_then(|counting| {
                counting.expected(&pending.survey.plan, tracefs.as_deref(), pending.cpus)
            });
        // Its beat was not for programs of which only some are attached.
        let closed = object::set_gate(&mut ebpf, gate::UNTIL, 0);
        self.ebpf = Some(ebpf);
        closed.map_err(|e| probe_failed(&e))?;
        let measured = pending.stats_enabled() || sys::enable_run_time_stats().is_ok();
        match judge(sampled, measured, pending.options.kernel.max_overhead)? {
            Judged::Known(note) => {
                self.log.push(LogLine::NOTE, &note);
                self.meta.reason.push_str("; ");
                self.meta.reason.push_str(&note);
                self.meta_changed = true;
            }
            Judged::Governed(warning) => self.log.push("warn", &warning),
            // It is said with the level that is reached.
            Judged::Refused(why) => {
                pending.refused = Some(why);
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Loads and attaches what is pending, up to the level that was asked for.
    pub(super) fn attach(&mut self) -> Result<(), SourceError> {
        let Some(pending) = self.pending.take() else {
            return Ok(());
        };
        self.meta.attaching = false;
        self.meta_changed = true;
        self.attach_pending(*pending)
    }

    /// Begins anew with another plan: what the programs are told of the kernel follows from it. Nothing was attached, so
    /// nothing was counted.
    fn load_again(&mut self) -> Result<(), SourceError> {
        let Some(pending) = self.pending.take() else {
            return Ok(());
        };
        let Pending {
            survey,
            options,
            reason,
            ..
        } = *pending;
        let mut fresh = load(survey, &options, &reason)?;
        fresh.reader.go_on_after(&self.reader);
        fresh.log = std::mem::take(&mut self.log);
        fresh.meta.start_ns = self.meta.start_ns;
        fresh.meta.start_unix_ns = self.meta.start_unix_ns;
        fresh.next_second = self.next_second;
        std::mem::replace(self, fresh).end();
        Ok(())
    }

    fn attach_pending(&mut self, pending: Pending) -> Result<(), SourceError> {
        let tracefs = pending.tracefs();
        let stats_enabled = pending.stats_enabled();
        let Pending {
            survey,
            options,
            refused,
            ..
        } = pending;
        let (plan, kernel, facts) = (survey.plan, options.kernel, survey.facts);
        let others = facts.others;
        // /proc/kallsyms has zeros for addresses.
        let addresses_hidden = facts.tracing.addresses == Some(false);
        // Given back only by what has come back.
        let Some(mut ebpf) = self.ebpf.take() else {
            return Ok(());
        };
        let mut level = if refused.is_some() { 1 } else { kernel.level };
        let mut warnings = Vec::new();
        let mut others_said = None;
        if let Some((severity, others)) = other_collectors(&others) {
            self.log.push(severity, &others);
            others_said = (severity == "warn").then_some(others);
        }
        let stats = sys::enable_run_time_stats();
        let measured = stats.is_ok() || stats_enabled;
        if let Err(e) = &stats
            && !measured
        {
            warnings.push(format!(
                "run times of programs are not measured ({e}), so nothing keeps them to --max-overhead: CAP_SYS_ADMIN is \
                 needed, or sysctl kernel.bpf_stats_enabled=1"
            ));
        }
        let set = |ebpf: &mut Ebpf, word, value| {
            object::set_gate(ebpf, word, value).map_err(|e| probe_failed(&e))
        };
        set(&mut ebpf, gate::LEVEL, u64::from(level))?;
        let over = kernel
            .stacks_over
            .map_or(0, |over| u64::try_from(over.as_nanos()).unwrap_or(u64::MAX));
        set(&mut ebpf, gate::STACKS_OVER, over)?;
        let began = Instant::now();
        let (back, loaded) = loading::load_all(ebpf, &plan)
            .map_err(|e| failed("cannot measure the kernel", e, STALLED_HINT))?;
        ebpf = back;
        let loading = began.elapsed();
        let over_level = refused.as_deref().unwrap_or_default();
        let attached = programs::attach(loaded, &plan, tracefs, level, over_level);
        let attaching = began.elapsed().saturating_sub(loading);
        if attached.level < kernel.level {
            level = attached.level;
            set(&mut ebpf, gate::LEVEL, u64::from(level))?;
            let why = attached
                .stalled
                .clone()
                .or(refused)
                .or_else(|| jobs::why_not_level_2(&plan))
                .unwrap_or_else(|| "nothing of it could be attached".to_owned());
            self.log
                .push("warn", &format!("level {level} was reached: {why}"));
        }
        self.meta.attach.clone_from(&attached.points);
        if level > 0 && attached.points.iter().all(|p| p.mechanism == "none") {
            self.ebpf = Some(ebpf);
            return Err(nothing_attached(&attached));
        }
        let (back, heartbeat) = within_deadline(ebpf, "the heartbeat", Heartbeat::start)?;
        ebpf = back;
        let heartbeat = heartbeat.map_err(|e| probe_failed(&e))?;
        for note in warnings.iter().chain(&attached.notes) {
            self.log.push("warn", note);
        }
        let logger = self.log.attach(&mut ebpf).ok().map(Box::new);
        if level < 2 {
            self.reader.ignore_holds();
        }
        if let Some(forced) = kernel.mechanism
            && !(level > 0 && plan.uses(forced))
        {
            let text = format!(
                "--mechanism {} has no effect at level {level}",
                forced.name()
            );
            self.log.push("warn", &text);
        }
        if over != 0 {
            if addresses_hidden {
                let text = format!("{HIDDEN_ADDRESSES} (CAP_SYSLOG is needed)");
                self.log.push("warn", &text);
            }
            let stacks = Stacks::new(&mut ebpf, Whose::Kernel).map_err(|e| probe_failed(&e))?;
            self.reader.read_stacks(stacks);
        }
        if let Some(note) = others_said {
            self.meta.reason.push_str("; ");
            self.meta.reason.push_str(&note);
        }
        self.meta.level = u32::from(level);
        self.level = level;
        self.stacks_over = over;
        // What was read before is no part of what is measured.
        self.meta.measured_from_ns = reader::monotonic_ns();
        let probed = attached.points.iter().filter(|p| p.mechanism != "none");
        let text = format!(
            "everything of level {level} is attached: {} probes, loaded in {:.2} s, attached in {:.2} s",
            probed.count(),
            loading.as_secs_f64(),
            attaching.as_secs_f64()
        );
        self.log.push("info", &text);
        self.detaches_at = Instant::now().checked_add(kernel.attached_for);
        self.ebpf = Some(ebpf);
        self.attached = Attachment {
            programs: attached.programs.clone(),
            misses: attached.misses(),
            points: Arc::new(Mutex::new(Some(attached))),
            heartbeat: Some(heartbeat),
            _stats: stats.ok(),
            logger,
        };
        Ok(())
    }
}

/// What the sample says of level 2.
#[derive(Debug, PartialEq)]
enum Judged {
    /// Its cost is known, and allowed.
    Known(String),
    /// Its cost is not known, but will be measured, and kept to the limit.
    Governed(String),
    /// Nobody would know what it costs, or the functions that it needs cannot be probed in time.
    Refused(String),
}

/// Whether level 2 may be attached. `measured`: the programs' run times are.
fn judge(
    sampled: Result<sample::Expected, NotSampled>,
    measured: bool,
    max_overhead: f64,
) -> Result<Judged, SourceError> {
    match sampled {
        Ok(expected) if expected.share * 100.0 > max_overhead => Err(failed(
            "level 2 would cost too much",
            format!(
                "{}, and --max-overhead is {max_overhead} %",
                expected.text()
            ),
            "--level 1, which measures contended waits only; or a larger --max-overhead",
        )),
        Ok(expected) => Ok(Judged::Known(expected.text())),
        // What stalls a probe that counts stalls one that measures.
        Err(NotSampled::Stalled(why)) => Ok(Judged::Refused(format!(
            "probing a lock function stalled while its calls were to be counted ({why})"
        ))),
        Err(why) if !measured && max_overhead < 100.0 => Ok(Judged::Refused(format!(
            "what level 2 costs can neither be sampled ({why}) nor be measured while it runs; --max-overhead 100 takes \
             it all the same"
        ))),
        Err(why) => Ok(Judged::Governed(format!(
            "the cost of level 2 could not be sampled: {why}"
        ))),
    }
}

/// What is said of other collectors on this kernel, and how loud.
fn other_collectors(others: &Others) -> Option<(&'static str, String)> {
    match others {
        Others::Attached { kernel: 0, .. } | Others::None => None,
        Others::Attached { kernel, .. } => {
            Some(("warn", measured_by_others(*kernel, "this kernel")))
        }
        Others::Unknown(why) => Some((
            "info",
            format!("whether another collector measures this kernel is not known: {why}"),
        )),
    }
}

fn nothing_attached(attached: &Attached) -> SourceError {
    let reasons: std::collections::BTreeSet<&str> = attached
        .points
        .iter()
        .map(|point| point.reason.as_str())
        .filter(|reason| !reason.is_empty())
        .take(4)
        .collect();
    failed(
        "nothing could be attached to the kernel",
        reasons.into_iter().collect::<Vec<_>>().join("; "),
        "run `apscope doctor`, which lists every point with its reason",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn level_2_is_refused_where_nobody_would_know_what_it_costs() {
        let no_sample = || Err(NotSampled::Failed("tracefs is not mounted".to_owned()));
        let judged = |measured, most| judge(no_sample(), measured, most).unwrap();
        assert!(matches!(judged(false, 1.0), Judged::Refused(why) if why.contains("tracefs")));
        assert!(matches!(judged(true, 1.0), Judged::Governed(_)));
        assert!(matches!(judged(false, 100.0), Judged::Governed(_)));
    }

    #[test]
    fn level_2_is_not_attached_where_the_sample_stalled() {
        let stalled = || NotSampled::Stalled("attaching mutex_lock did not end".to_owned());
        for measured in [false, true] {
            for most in [1.0, 100.0] {
                let judged = judge(Err(stalled()), measured, most).unwrap();
                assert!(matches!(judged, Judged::Refused(why) if why.contains("mutex_lock")));
            }
        }
    }
}
