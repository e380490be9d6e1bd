//! What of the current view goes into a file or the clipboard.

use apscope_collector::diagnose::{Finding, text};
use serde_json::{Value, json};

use super::detail::Detail;
use super::matrix::{self, QueueState};
use super::stream::{self, Kind};
use super::{App, View};

/// Forms of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The picture as text.
    Text,
    /// The picture as SVG.
    Svg,
    /// The rows as JSON.
    Json,
}

impl Format {
    /// By its key in the popup.
    #[must_use]
    pub const fn of_key(key: char) -> Option<Self> {
        Some(match key {
            't' => Self::Text,
            's' => Self::Svg,
            'j' => Self::Json,
            _ => return None,
        })
    }

    /// Extension of its files.
    #[must_use]
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Text => "txt",
            Self::Svg => "svg",
            Self::Json => "json",
        }
    }
}

/// The rows of the current view as JSON: `schema`, `view`, `emulated`, `verdict`, `rows` and more. Times
/// `_ns` are those of CLOCK_MONOTONIC of the traced machine; `start_ns` is what the screen counts from.
#[must_use]
pub fn json(app: &mut App) -> Value {
    // Rows wait while a detail hides them.
    let open = std::mem::take(&mut app.detail_open);
    app.touch();
    app.refresh();
    let rows = rows(app);
    app.detail_open = open;
    app.touch();
    app.refresh();
    let shown = app.shown();
    json!({
        "schema": 1,
        "view": app.view.name(),
        "emulated": apscope_collector::model::query::emulated(&shown.model),
        "exact": shown.model.loss.exact(),
        "start_ns": shown.model.meta.as_ref().map(|meta| meta.start_ns),
        "at_ns": shown.model.last.at_ns,
        "filter": app.filter().text,
        "verdict": shown.report.verdict.to_string(),
        "rows": rows,
    })
}

fn finding(finding: &Finding) -> Value {
    json!({
        "id": finding.id.to_string(),
        "severity": finding.seen.severity.name(),
        "summary": finding.seen.summary,
        "active": finding.active(),
        "since_ns": finding.since_ns,
        "until_ns": finding.until_ns,
        "times": finding.times,
        "chain": finding.seen.chain.as_ref().map(apscope_collector::diagnose::chain::Chain::lines),
        "help": finding.seen.help,
        "locks": finding.seen.locks,
        "tasks": finding.seen.tasks,
    })
}

fn rows(app: &App) -> Vec<Value> {
    let rows = app.rows();
    match app.view {
        View::Overview | View::Findings => {
            rows.findings.iter().map(|row| finding(&row.finding)).collect()
        }
        View::Locks => rows
            .locks
            .iter()
            .map(|row| {
                json!({
                    "class": row.facts.class, "kind": row.kind, "acquisitions": row.facts.acquisitions,
                    "contended": row.facts.contended, "per_second": row.facts.per_second,
                    "wait_p50_ns": row.facts.wait.p50_ns, "wait_p99_ns": row.facts.wait.p99_ns,
                    "wait_max_ns": row.facts.wait.max_ns, "hold_p50_ns": row.facts.hold.p50_ns,
                    "hold_p99_ns": row.facts.hold.p99_ns, "hold_max_ns": row.facts.hold.max_ns,
                    "queue": row.facts.queue, "longest_wait_ns": row.facts.longest_wait_ns, "holder": row.holder,
                })
            })
            .collect(),
        View::Entries => rows
            .entries
            .iter()
            .map(|row| {
                json!({
                    "name": row.facts.name, "module": row.module, "calls": row.facts.calls,
                    "in_flight": row.facts.in_flight, "longest_inside_ns": row.inside_ns(), "per_second": row.facts.per_second,
                    "p50_ns": row.facts.latency.p50_ns, "p99_ns": row.facts.latency.p99_ns,
                    "max_ns": row.facts.latency.max_ns,
                    "returns": row.facts.returns.iter().map(|(code, n)| json!({"code": code, "count": n})).collect::<Vec<_>>(),
                })
            })
            .collect(),
        View::Guests => rows
            .guests
            .iter()
            .map(|row| {
                let matrix = matrix::of(app.shown(), row.guest);
                json!({
                    "guest": row.name, "state": row.state.name(), "finding": row.finding, "vcpus": row.vcpus,
                    "running": row.running, "in_pqap": row.in_pqap, "waiting": row.waiting,
                    "wait_ns": row.wait_ns, "wait_lock": row.wait_lock, "blocked_by": row.blocked_by,
                    "queues": matrix.queues.iter().map(|queue| json!({
                        "apqn": format!("{:02x}.{:04x}", queue.adapter, queue.domain),
                        "state": queue_name(queue.state), "pqaps": queue.uses,
                    })).collect::<Vec<_>>(),
                })
            })
            .collect(),
        View::Order => rows
            .edges
            .iter()
            .map(|row| {
                json!({
                    "held": row.held, "acquired": row.acquired, "count": row.joint.count,
                    "lockdep_visible": row.joint.lockdep_visible, "annotated": row.joint.annotated,
                    "in_cycle": row.joint.in_cycle, "held_in": row.functions.0, "acquired_in": row.functions.1,
                })
            })
            .collect(),
        View::Timeline => rows
            .lanes
            .iter()
            .map(|row| {
                json!({
                    "tid": row.tid, "task": row.who, "guest": row.guest, "waiting_ns": row.waiting_ns,
                    "holding_ns": row.holding_ns, "bars": row.bars().count(),
                })
            })
            .collect(),
        View::Log => rows
            .stream
            .iter()
            .filter_map(|line| stream::row(app.shown(), *line))
            .map(|row| {
                let (kind, wait, time) = match &row.kind {
                    Kind::Lock { wait_ns, hold_ns, .. } => ("lock", Some(*wait_ns), Some(*hold_ns)),
                    Kind::Call { latency_ns, .. } => ("call", None, Some(*latency_ns)),
                    Kind::Message => ("message", None, None),
                };
                json!({ "at_ns": row.at_ns, "kind": kind, "who": row.who, "what": row.what,
                        "wait_ns": wait, "duration_ns": time })
            })
            .collect(),
    }
}

/// What is known of a queue, in a word.
#[must_use]
pub fn queue_name(state: QueueState) -> String {
    match state {
        QueueState::Known => "known".into(),
        QueueState::InGuest => "in guest".into(),
        QueueState::Refused(response) => format!("answered {response:02X}"),
        QueueState::Resetting => "resetting".into(),
        QueueState::Stuck => "stuck in reset".into(),
    }
}

/// What `y` copies: the selected finding in full, or the selected row in a line.
#[must_use]
pub fn clip(app: &App) -> Option<String> {
    let rows = app.rows();
    if let Some(Detail::Finding(row)) = app.detail() {
        return Some(of_finding(app, &row.finding));
    }
    Some(match app.view {
        View::Overview | View::Findings => {
            let row = rows.findings.get(app.findings.index())?;
            of_finding(app, &row.finding)
        }
        View::Locks => rows.locks.get(app.locks.index())?.name.clone(),
        View::Entries => rows.entries.get(app.entries.index())?.facts.name.to_owned(),
        View::Guests => {
            let row = rows.guests.get(app.guests.index())?;
            format!("{}: {} {}", row.name, row.state.name(), row.blocked_by)
        }
        View::Order => {
            let row = rows.edges.get(app.edges.index())?;
            format!("{} -> {}", row.held, row.acquired)
        }
        View::Timeline => rows.lanes.get(app.lanes.index())?.who.clone(),
        View::Log => {
            let row = stream::row(app.shown(), *rows.stream.last()?)?;
            format!("{} {}", row.who, row.what)
        }
    })
}

/// A finding as it is pasted into a report.
fn of_finding(app: &App, finding: &Finding) -> String {
    text::one(finding, &app.shown().model)
}
