//! `serve`: the daemon.

use std::io::Read as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::values::{BadValue, endpoint, metrics_address};
use super::{Failure, Globals, run_options};
use crate::serve::otlp::Target;
use crate::serve::{self, Settings};

/// Bytes of /etc/group that are read.
const MAX_GROUPS: u64 = 16 << 20;

/// Arguments of `serve`.
#[derive(Debug, Clone, PartialEq, Args)]
pub struct ServeArgs {
    /// Socket to listen at, for `--connect`: unix:PATH. Mode 0600, and 0660 with --group; from elsewhere, ssh -L
    /// forwards it
    #[arg(long, value_name = "unix:PATH", value_parser = socket)]
    pub listen: PathBuf,

    /// Group whose members may connect too: its name in /etc/group, or its number
    #[arg(long, value_name = "GROUP")]
    pub group: Option<String>,

    /// Where /metrics and /healthz are, for Prometheus: ADDR:PORT, PORT on loopback, or off
    #[arg(long, value_name = "ADDR:PORT", value_parser = metrics_address, default_value = "127.0.0.1:9929")]
    pub metrics: Metrics,

    /// Send metrics, and a log record for each finding, to this backend over OTLP: http://ADDRESS[:PORT], 4318 where no
    /// port is given
    #[arg(long, value_name = "URL", value_parser = target)]
    pub otlp: Option<Target>,

    /// Configuration of the daemon, read again at SIGHUP: interval, thresholds, instances; docs/serve.md
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Where `/metrics` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metrics {
    /// Nowhere.
    Off,
    /// There.
    At(SocketAddr),
}

fn target(text: &str) -> Result<Target, BadValue> {
    Target::parse(text).map_err(|cause| BadValue {
        cause,
        hint: "--otlp http://localhost:4318, where a collector of OpenTelemetry listens".into(),
    })
}

fn socket(text: &str) -> Result<PathBuf, BadValue> {
    endpoint(text).map(|endpoint| endpoint.path)
}

pub(super) fn run(args: &ServeArgs, globals: &Globals) -> Result<ExitCode, Failure> {
    let mut options = run_options(globals)?;
    // A daemon is not forgotten as a terminal is.
    options.kernel.attached_for = globals.attached_for.unwrap_or(Duration::MAX);
    let settings = Settings {
        socket: args.listen.clone(),
        gid: args.group.as_deref().map(group).transpose()?,
        metrics: match args.metrics {
            Metrics::Off => None,
            Metrics::At(at) => Some(at),
        },
        otlp: args.otlp.clone(),
        config: args.config.clone(),
    };
    serve::run(&settings, globals, &options).map(|()| ExitCode::SUCCESS)
}

fn group(name: &str) -> Result<u32, Failure> {
    if let Ok(gid) = name.parse() {
        return Ok(gid);
    }
    let failed = |cause: String| {
        Failure::new(
            format!("--group {name} cannot be used"),
            cause,
            "the name of a group in /etc/group, or its number",
        )
    };
    let file = "/etc/group";
    let mut text = String::new();
    std::fs::File::open(file)
        .and_then(|groups| groups.take(MAX_GROUPS).read_to_string(&mut text))
        .map_err(|error| failed(format!("{file}: {error}")))?;
    // name:password:gid:members. Not by the C library, whose name services a static program cannot load.
    let of = |line: &str| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
    };
    text.lines()
        .find_map(of)
        .ok_or_else(|| failed(format!("there is no such group in {file}")))
}
