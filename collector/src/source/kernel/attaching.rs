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

use super::programs::{self, Attached, Misses};
use super::run::KernelSource;
use super::{STALLED_HINT, failed, jobs, load, probe_failed, sample, within_deadline};
use crate::machine::Others;
use crate::options::RunOptions;
use crate::source::SourceError;
use crate::source::ebpf::{Heartbeat, object, sys};
use crate::source::log_lines::LogLines;
use crate::source::stacks::{Stacks, Whose};
use crate::survey::Survey;

/// What is needed to attach.
pub struct Pending {
    /// Of the machine, of whose kernel nothing was tried yet.
    pub survey: Survey,
    pub options: RunOptions,
    /// Why this source.
    pub reason: String,
    pub cpus: u32,
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
    /// Loads and attaches what is pending, up to the level that was asked for.
    pub(super) fn attach(&mut self) -> Result<(), SourceError> {
        let Some(mut pending) = self.pending.take() else {
            return Ok(());
        };
        // Only now: what tries the kernel attaches, and may wait for what is stuck.
        if pending.options.kernel.level > 0 {
            let planned = pending.survey.plan.clone();
            pending.survey.try_out(&pending.options.kernel);
            if pending.survey.plan != planned {
                pending = self.load_again(*pending)?;
            }
        }
        self.meta.attaching = false;
        self.meta_changed = true;
        self.attach_pending(*pending)
    }

    /// Begins anew with another plan: what the programs are told of the kernel follows from it. Nothing was attached, so
    /// nothing was counted.
    fn load_again(&mut self, pending: Pending) -> Result<Box<Pending>, SourceError> {
        let Pending {
            survey,
            options,
            reason,
            ..
        } = pending;
        let mut fresh = load(survey, &options, &reason)?;
        fresh.reader.go_on_after(&self.reader);
        fresh.log = std::mem::take(&mut self.log);
        fresh.meta.start_ns = self.meta.start_ns;
        fresh.meta.start_unix_ns = self.meta.start_unix_ns;
        fresh.next_second = self.next_second;
        let pending = fresh.pending.take();
        std::mem::replace(self, fresh).end();
        pending.ok_or_else(|| {
            failed(
                "cannot measure the kernel",
                "there is nothing to attach",
                "report this",
            )
        })
    }

    fn attach_pending(&mut self, pending: Pending) -> Result<(), SourceError> {
        let Pending {
            survey,
            options,
            cpus,
            ..
        } = pending;
        let (plan, kernel, facts) = (survey.plan, options.kernel, survey.facts);
        let tracefs = facts.tracing.tracefs.as_ref();
        let tracefs = tracefs.map(|tracefs| PathBuf::from(&tracefs.path));
        let stats_enabled = facts.settings.bpf_stats_enabled == Some(1);
        let others = facts.others;
        // Given back only by what has come back.
        let Some(mut ebpf) = self.ebpf.take() else {
            return Ok(());
        };
        let mut level = kernel.level;
        let (mut notes, mut warnings) = (Vec::new(), Vec::new());
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
        let mut refused = None;
        if level == 2 {
            let (back, counting) = within_deadline(ebpf, "the sampling program", sample::load)?;
            ebpf = back;
            let sampled = counting
                .map_err(|e| e.to_string())
                .and_then(|counting| counting.expected(&plan, tracefs.as_deref(), cpus));
            match judge(sampled, measured, kernel.max_overhead) {
                Ok(Judged::Known(note)) => notes.push(note),
                Ok(Judged::Governed(warning)) => warnings.push(warning),
                Ok(Judged::Refused(why)) => {
                    level = 1;
                    refused = Some(why);
                }
                Err(e) => {
                    self.ebpf = Some(ebpf);
                    return Err(e);
                }
            }
        }
        let set = |ebpf: &mut Ebpf, word, value| {
            object::set_gate(ebpf, word, value).map_err(|e| probe_failed(&e))
        };
        set(&mut ebpf, gate::LEVEL, u64::from(level))?;
        let over = kernel
            .stacks_over
            .map_or(0, |over| u64::try_from(over.as_nanos()).unwrap_or(u64::MAX));
        set(&mut ebpf, gate::STACKS_OVER, over)?;
        let (back, loaded) = programs::load_all(ebpf, &plan)
            .map_err(|e| failed("cannot measure the kernel", e, STALLED_HINT))?;
        ebpf = back;
        let over_level = refused.as_deref().unwrap_or_default();
        let attached = programs::attach(loaded, &plan, tracefs, level, over_level);
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
        for note in &notes {
            self.log.push("info", note);
        }
        for note in warnings.iter().chain(&attached.notes) {
            self.log.push("warn", note);
        }
        let logger = self.log.attach(&mut ebpf).ok().map(Box::new);
        if level < 2 {
            self.reader.ignore_holds();
        }
        if over != 0 {
            let stacks = Stacks::new(&mut ebpf, Whose::Kernel).map_err(|e| probe_failed(&e))?;
            self.reader.read_stacks(stacks);
        }
        notes.extend(others_said);
        for note in notes {
            self.meta.reason.push_str("; ");
            self.meta.reason.push_str(&note);
        }
        self.meta.level = u32::from(level);
        self.level = level;
        self.stacks_over = over;
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
    /// Nobody would know what it costs.
    Refused(String),
}

/// Whether level 2 may be attached. `measured`: the programs' run times are.
fn judge(
    sampled: Result<sample::Expected, String>,
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
        Others::Attached { kernel, .. } => Some((
            "warn",
            format!(
                "{kernel} more collector(s) measure this kernel: what is probed twice costs twice"
            ),
        )),
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
        let no_sample = || Err("tracefs is not mounted".to_owned());
        let judged = |measured, most| judge(no_sample(), measured, most).unwrap();
        assert!(matches!(judged(false, 1.0), Judged::Refused(why) if why.contains("tracefs")));
        assert!(matches!(judged(true, 1.0), Judged::Governed(_)));
        assert!(matches!(judged(false, 100.0), Judged::Governed(_)));
    }
}
