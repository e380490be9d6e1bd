//! A real Prometheus scrapes the daemon for a minute: its quantiles against ours, and every count.
//!
//! Then the emulated driver is stopped (SIGSTOP), so that both sides speak of the same moment: counts must be equal, and what
//! `histogram_quantile` says must lie in the bucket that holds our percentile.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::daemon::{Daemon, free_port, get, signal};
use crate::failure::Failure;

const QUANTILES: [(&str, &str); 3] = [("0.5", "p50_ns"), ("0.9", "p90_ns"), ("0.99", "p99_ns")];

/// Prometheus, stopped when dropped.
struct Prometheus {
    child: Child,
    port: u16,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Prometheus {
    fn start(folder: &Path, target: u16) -> Result<Self, Failure> {
        let port = free_port()?;
        let config = folder.join("prometheus.yml");
        let text = format!(
            "global: {{scrape_interval: 1s}}\nscrape_configs:\n- job_name: apscope\n  static_configs:\n  - targets: ['127.0.0.1:{target}']\n"
        );
        fs::write(&config, text).map_err(|e| Failure::file("writing", &config, &e))?;
        let log = folder.join("prometheus.log");
        let log = fs::File::create(&log).map_err(|e| Failure::file("creating", &log, &e))?;
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.join("tsdb").display()
            ))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(|error| {
                Failure::new("running prometheus")
                    .cause(error.to_string())
                    .hint("apt-get install prometheus")
            })?;
        let prometheus = Self { child, port };
        let deadline = Instant::now() + Duration::from_secs(60);
        while let Err(failure) = get(port, "/-/ready") {
            if Instant::now() > deadline {
                return Err(failure);
            }
            sleep(Duration::from_millis(200));
        }
        Ok(prometheus)
    }

    /// The one value of a query; `None` where there is none.
    fn value(&self, query: &str) -> Result<Option<f64>, Failure> {
        let mut encoded = String::new();
        for byte in query.bytes() {
            // Writing to a String cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
        let text = get(self.port, &format!("/api/v1/query?query={encoded}"))?;
        let answer: Value = serde_json::from_str(&text)
            .map_err(|e| Failure::new("reading Prometheus' answer").cause(e.to_string()))?;
        let value = &answer["data"]["result"][0]["value"][1];
        Ok(value.as_str().and_then(|text| text.parse().ok()))
    }
}

/// Runs the check; returns its section of the results.
pub fn check(program: &Path, folder: &Path) -> Result<String, Failure> {
    let daemon = Daemon::start(program, folder, &["--scenario", "steady", "--rate", "4"])?;
    let prometheus = Prometheus::start(folder, daemon.port)?;
    println!("prometheus scrapes for a minute");
    sleep(Duration::from_secs(60));
    let emulator = daemon.now(folder)?["source"]["pid"]
        .as_u64()
        .and_then(|pid| u32::try_from(pid).ok())
        .ok_or_else(|| Failure::new("the export does not say which process is emulated"))?;
    signal(emulator, "STOP")?;
    // Some readings and scrapes later both know the last of it.
    sleep(Duration::from_secs(4));
    let compared = compare(&daemon, &prometheus, folder);
    signal(emulator, "CONT")?;
    let section = compared?;
    daemon.stop()?;
    Ok(section)
}

fn compare(daemon: &Daemon, prometheus: &Prometheus, folder: &Path) -> Result<String, Failure> {
    let ours = daemon.now(folder)?;
    let mut wrong = Vec::new();
    let (mut histograms, mut quantiles, mut furthest) = (0, 0, 0.0_f64);
    for (name, labels, hist) in distributions(&ours) {
        let Some(count) = hist["count"].as_u64().filter(|count| *count > 0) else {
            continue;
        };
        histograms += 1;
        let theirs = prometheus.value(&format!("{name}_count{{{labels}}}"))?;
        if theirs != Some(count as f64) {
            wrong.push(format!(
                "{name}{{{labels}}}: {count} values, {theirs:?} in Prometheus"
            ));
        }
        for (q, field) in QUANTILES {
            let Some(ours) = hist[field].as_u64() else {
                continue;
            };
            let query = format!("histogram_quantile({q}, {name}_bucket{{{labels}}})");
            let theirs = prometheus.value(&query)?.unwrap_or(f64::NAN) * 1e9;
            let (low, high) = bucket(ours);
            quantiles += 1;
            // Floats: nine digits of a second.
            if theirs < low as f64 - 1.0 || theirs > high as f64 + 1.0 || theirs.is_nan() {
                wrong.push(format!(
                    "{query}: {theirs} ns, and {ours} ns is in the bucket from {low} to {high} ns"
                ));
            }
            if ours > 255 {
                furthest = furthest.max((theirs / ours as f64 - 1.0).abs());
            }
        }
    }
    if histograms == 0 {
        return Err(Failure::new("there is no histogram to compare"));
    }
    if !wrong.is_empty() {
        return Err(Failure::found("Prometheus and apscope disagree").cause(wrong.join("\n")));
    }
    let number = |query: &str| prometheus.value(query).map(Option::unwrap_or_default);
    let scrapes = number("count_over_time(up{job=\"apscope\"}[5m])")?;
    let good = number("sum_over_time(up{job=\"apscope\"}[5m])")?;
    if scrapes > good || scrapes < 55.0 {
        return Err(Failure::found(format!(
            "{good} of {scrapes} scrapes went well"
        )));
    }
    let samples = number("scrape_samples_scraped")?;
    let longest = number("max_over_time(scrape_duration_seconds[5m])")?;
    Ok(format!(
        "## Prometheus\n\nThe emulated driver, scraped each second; then it is stopped, and every histogram of the daemon compared \
         with what Prometheus has: counts must be equal, and `histogram_quantile` must lie in the bucket that holds our \
         percentile.\n\n| | |\n|---|--:|\n| scrapes, all of which went well | {scrapes} |\n| samples in each | {samples} |\n| \
         longest scrape | {:.1} ms |\n| histograms with values, all counts equal | {histograms} |\n| quantiles (0.5, 0.9, \
         0.99), all in the bucket of ours | {quantiles} |\n| furthest from ours, of those above 255 ns | {:.0} % |\n",
        longest * 1e3,
        furthest * 100.0,
    ))
}

/// Metric, labels, and ours, of each histogram.
fn distributions(ours: &Value) -> Vec<(&'static str, String, &Value)> {
    let list = |name: &str| ours[name].as_array().cloned().unwrap_or_default().len();
    let mut all = Vec::new();
    for at in 0..list("locks") {
        let lock = &ours["locks"][at];
        let text = |name: &str| lock[name].as_str().unwrap_or_default().to_owned();
        let labels = format!("class=\"{}\",mode=\"{}\"", text("class"), text("mode"));
        all.push(("apscope_lock_wait_seconds", labels.clone(), &lock["wait"]));
        all.push(("apscope_lock_hold_seconds", labels, &lock["hold"]));
    }
    for at in 0..list("entry_points") {
        let entry = &ours["entry_points"][at];
        let name = entry["name"].as_str().unwrap_or_default();
        let labels = format!("entry_point=\"{name}\"");
        all.push(("apscope_entry_latency_seconds", labels, &entry["latency"]));
    }
    all
}

/// Bounds of the exported bucket that holds a value, in nanoseconds: 0; then to 255 ns, and twice as far each time.
fn bucket(ns: u64) -> (u64, u64) {
    if ns == 0 {
        return (0, 0);
    }
    if ns <= 255 {
        return (0, 255);
    }
    let high = (ns + 1).next_power_of_two() - 1;
    (high / 2, high)
}
