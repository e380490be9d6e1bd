//! OTLP over HTTP: metrics at an interval, and a log record when a finding begins or is over.
//!
//! What was counted is sent as it was counted, in OTLP's own messages. What a backend does not take is not lost: metrics are
//! totals, so the next export has them; log records wait, up to a thousand. Collecting never waits for a backend, and
//! stopping no longer than [`LAST`].

mod logs;
mod metrics;
mod send;

use std::sync::Arc;
use std::time::Duration;

use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message as _;
use tokio::sync::watch;
use tokio::time::Instant;

use super::hub::Hub;
use crate::cli::live::note;
use crate::export::driver;
use crate::model::Model;
use logs::Findings;
pub use send::Target;

/// Findings are looked for so often.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Time for the last export, once the collector stops; what is on its way then included.
const LAST: Duration = Duration::from_secs(3);

/// What is exported, and where to.
pub struct Exporter {
    /// The run.
    pub hub: Arc<Hub>,
    /// Where to.
    pub target: Target,
    /// Time between two exports of metrics.
    pub every: watch::Receiver<Duration>,
    /// Becomes true when the collector stops.
    pub stopping: watch::Receiver<bool>,
}

impl Exporter {
    /// Exports until the collector stops, and once more then. What a backend does not take by then is told.
    pub async fn run(mut self) {
        let mut findings = Findings::default();
        let mut stopping = self.stopping.clone();
        let over = async {
            // An error is a collector that is gone.
            let _ = stopping.wait_for(|stopping| *stopping).await;
            tokio::time::sleep(LAST).await;
        };
        let last = tokio::select! {
            last = self.exporting(&mut findings) => last,
            () = over => Err(format!("no answer within {} s of the end", LAST.as_secs())),
        };
        if let Err(cause) = last {
            // Those of the last second may not have been looked for yet.
            let (model, report) = self.hub.now();
            findings.look(&model, &report);
            note(&format!(
                "warning: {} has not taken the last export: {cause}; lost: {}",
                self.target,
                findings.unsent()
            ));
        }
    }

    /// The same without a limit; gives what became of the last export.
    async fn exporting(&mut self, findings: &mut Findings) -> Result<(), String> {
        let mut failing: Option<String> = None;
        let mut exported: Option<Instant> = None;
        loop {
            let every = *self.every.borrow_and_update();
            let last = *self.stopping.borrow();
            let due = last || exported.is_none_or(|at| at.elapsed() >= every);
            let result = self.export(findings, due).await;
            if last {
                return result;
            }
            if due {
                exported = Some(Instant::now());
            }
            match result {
                Ok(()) if failing.take().is_some() => {
                    note(&format!("{} takes what is exported again", self.target));
                }
                Ok(()) => {}
                Err(cause) => {
                    // Said once, and again when it is another.
                    if failing.as_ref() != Some(&cause) {
                        note(&format!("warning: {} takes nothing: {cause}", self.target));
                    }
                    failing = Some(cause);
                }
            }
            // After a failure it is tried again when the next metrics are due.
            let pause = if failing.is_some() { every } else { LOOK_EVERY };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = self.stopping.wait_for(|stopping| *stopping) => {}
            }
        }
    }

    async fn export(&self, findings: &mut Findings, due: bool) -> Result<(), String> {
        let (logs, metrics) = {
            let (model, report) = self.hub.now();
            findings.look(&model, &report);
            let metrics = due.then(|| metrics::request(&model, &report));
            (findings.request(&model), metrics.flatten())
        };
        if let Some(logs) = logs {
            self.target.post("/v1/logs", logs.encode_to_vec()).await?;
            findings.accepted();
        }
        if let Some(metrics) = metrics {
            self.target
                .post("/v1/metrics", metrics.encode_to_vec())
                .await?;
        }
        Ok(())
    }
}

/// What everything exported is of; `None` before the first frame.
fn resource(model: &Model) -> Option<Resource> {
    let meta = model.meta.as_ref()?;
    let host = nix::unistd::gethostname().ok();
    let host = host.and_then(|name| name.into_string().ok());
    let mut attributes = vec![
        attribute("service.name", "apscope"),
        attribute("service.version", env!("CARGO_PKG_VERSION")),
        attribute("apscope.driver", driver(model)),
        attribute("apscope.probe", meta.probe.as_str()),
        attribute("apscope.generation", meta.generation.as_str()),
        attribute("os.version", meta.kernel_release.as_str()),
        attribute("host.arch", meta.arch.as_str()),
    ];
    if let Some(host) = host {
        attributes.push(attribute("host.name", host));
    }
    if !meta.scenario.is_empty() {
        attributes.push(attribute("apscope.scenario", meta.scenario.as_str()));
    }
    Some(Resource {
        attributes,
        ..Resource::default()
    })
}

fn attribute(key: &str, value: impl Into<String>) -> KeyValue {
    KeyValue {
        key: key.into(),
        value: Some(AnyValue {
            value: Some(any_value::Value::StringValue(value.into())),
        }),
        ..KeyValue::default()
    }
}
