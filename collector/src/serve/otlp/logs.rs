//! Findings as OTLP log records: one when a finding begins, one when it is over.

use std::collections::{BTreeMap, VecDeque};

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, any_value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber};

use super::{attribute, metrics};
use crate::diagnose::{Finding, Report, Severity};
use crate::model::Model;

/// Records that wait to be accepted.
const MAX_WAITING: usize = 1_000;

/// What a finding is told apart by: kind, key, and when it was found.
type Key = (u8, String, u64);

/// What was told of findings, and what is still to be accepted.
#[derive(Debug, Default)]
pub struct Findings {
    /// The run they are of: its start by both clocks, and the traced process.
    run: Option<(u64, u64, u32)>,
    /// True: its end was told too.
    told: BTreeMap<Key, bool>,
    waiting: VecDeque<LogRecord>,
    /// Records that found no room, since the start.
    pub lost: u64,
}

impl Findings {
    /// Looks what has begun, and what is over.
    pub fn look(&mut self, model: &Model, report: &Report) {
        let meta = model.meta.as_ref();
        let run = meta.map(|meta| (meta.start_ns, meta.start_unix_ns, meta.pid));
        if run != self.run {
            self.told.clear();
            self.run = run;
        }
        let emulated = meta.is_some_and(|meta| meta.source == "emulator");
        let mut known = BTreeMap::new();
        for finding in &report.findings {
            let key = (finding.id.0, finding.seen.key.clone(), finding.found_ns);
            let told = self.told.get(&key).copied();
            if told.is_none() {
                self.push(record(finding, model, finding.found_ns, "begins", emulated));
            }
            let over = told.unwrap_or(false);
            if let (false, Some(until_ns)) = (over, finding.until_ns) {
                self.push(record(finding, model, until_ns, "is over", emulated));
            }
            known.insert(key, finding.until_ns.is_some());
        }
        // As many as a diagnosis remembers.
        self.told = known;
    }

    fn push(&mut self, record: LogRecord) {
        if self.waiting.len() >= MAX_WAITING {
            self.waiting.pop_front();
            self.lost += 1;
        }
        self.waiting.push_back(record);
    }

    /// The request for what waits; `None` where nothing does.
    pub fn request(&self, model: &Model) -> Option<ExportLogsServiceRequest> {
        let resource = super::resource(model)?;
        (!self.waiting.is_empty()).then(|| ExportLogsServiceRequest {
            resource_logs: vec![ResourceLogs {
                resource: Some(resource),
                scope_logs: vec![ScopeLogs {
                    scope: Some(metrics::scope()),
                    log_records: self.waiting.iter().cloned().collect(),
                    schema_url: String::new(),
                }],
                schema_url: String::new(),
            }],
        })
    }

    /// What is lost where nothing more is accepted.
    pub fn unsent(&self) -> String {
        let records = self.waiting.len() as u64 + self.lost;
        match records {
            0 => "the last totals".to_owned(),
            1 => "the last totals, and 1 log record of a finding".to_owned(),
            _ => format!("the last totals, and {records} log records of findings"),
        }
    }

    /// What was sent has been accepted.
    pub fn accepted(&mut self) {
        self.waiting.clear();
    }
}

fn record(
    finding: &Finding,
    model: &Model,
    at_ns: u64,
    what: &'static str,
    emulated: bool,
) -> LogRecord {
    let age = model.last.at_ns.saturating_sub(at_ns);
    let label = if emulated { "EMULATED: " } else { "" };
    let body = format!("{label}{} {what}: {}", finding.id, finding.seen.summary);
    let (number, text) = match finding.seen.severity {
        _ if finding.until_ns.is_some() && what == "is over" => (SeverityNumber::Info, "INFO"),
        Severity::Critical => (SeverityNumber::Error, "ERROR"),
        Severity::Warning => (SeverityNumber::Warn, "WARN"),
        Severity::Info => (SeverityNumber::Info, "INFO"),
    };
    let mut attributes = vec![
        attribute("event.name", "apscope.finding"),
        attribute("apscope.finding.id", finding.id.to_string()),
        attribute("apscope.finding.severity", finding.seen.severity.name()),
        attribute("apscope.finding.state", what),
    ];
    for (name, values) in [
        ("apscope.finding.locks", finding.seen.locks.clone()),
        (
            "apscope.finding.tasks",
            finding
                .seen
                .tasks
                .iter()
                .map(|task| format!("{} {} ({})", task.tid, task.comm, task.role))
                .collect(),
        ),
    ] {
        if !values.is_empty() {
            attributes.push(attribute(name, values.join(", ")));
        }
    }
    LogRecord {
        time_unix_nano: model.last.at_unix_ns.saturating_sub(age),
        observed_time_unix_nano: model.last.at_unix_ns,
        severity_number: number.into(),
        severity_text: text.into(),
        body: Some(AnyValue {
            value: Some(any_value::Value::StringValue(body)),
        }),
        attributes,
        ..LogRecord::default()
    }
}
