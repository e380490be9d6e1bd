//! `cargo xtask exports`: each export of one recording, read by tools that are not ours, which compare its numbers with
//! those of the JSON; the results go into docs/results/exports.md.
//!
//! Nothing is installed. What is missing is said, with where it comes from.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;

use crate::apscope;
use crate::failure::Failure;
use crate::process;

/// Arguments of `exports`.
#[derive(Debug, Args)]
pub struct Options {
    /// Only compare; write no results
    #[arg(long)]
    check: bool,
    /// The binary to use, instead of building it
    #[arg(long)]
    binary: Option<PathBuf>,
    /// A Python that has the packages duckdb, pyarrow, perfetto and prometheus-client
    #[arg(long, default_value = "python3")]
    python: PathBuf,
    /// A node_modules folder that has hdr-histogram-js
    #[arg(long, value_name = "DIR")]
    node_modules: Option<PathBuf>,
    /// Keep the exports, and pictures of the report, in this folder
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

/// Exports, has it read, and gives the result in one line.
type Run = Box<dyn Fn(&Files) -> Result<String, Failure>>;

/// One reader of one format.
struct Proof {
    format: &'static str,
    reader: &'static str,
    /// Says the reader's version.
    version: Vec<String>,
    /// Where it comes from.
    from: &'static str,
    run: Run,
}

/// Where exports are.
struct Files {
    binary: PathBuf,
    folder: PathBuf,
}

impl Files {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Exports the recording, and gives where.
    fn export(&self, format: &str) -> Result<PathBuf, Failure> {
        let out = self.path(&format!("out.{format}"));
        process::run(
            Command::new(&self.binary)
                .args(["export", "-q", "--format", format])
                .arg(self.path("run.apscope"))
                .arg("-o")
                .arg(&out),
            &format!("exporting {format}"),
        )?;
        Ok(out)
    }

    fn json(&self) -> PathBuf {
        self.path("out.json")
    }
}

/// Runs all proofs.
pub fn run(root: &Path, options: &Options) -> Result<(), Failure> {
    let scratch = apscope::Scratch::new()?;
    let folder = options
        .keep
        .clone()
        .unwrap_or_else(|| scratch.path().to_owned());
    fs::create_dir_all(&folder).map_err(|e| Failure::file("creating", &folder, &e))?;
    let folder = folder
        .canonicalize()
        .map_err(|e| Failure::file("finding", &folder, &e))?;
    let binary = apscope::binary(root, options.binary.clone())?;
    let files = Files { binary, folder };
    let more = [
        "--scenario",
        "steady",
        "--seed",
        "7",
        "--stacks-over",
        "1ms",
    ];
    apscope::record(
        &files.binary,
        &more,
        ("8", "5s"),
        &files.path("run.apscope"),
    )?;
    files.export("json")?;

    let mut table = String::from("| format | reader | result |\n|---|---|---|\n");
    let (mut missing, mut wrong) = (Vec::new(), Vec::new());
    for proof in proofs(root, options) {
        let result = match said(&proof.version) {
            None => {
                missing.push(format!("{} ({})", proof.reader, proof.from));
                format!("not tried: it is not here; {}", proof.from)
            }
            Some(version) => match (proof.run)(&files) {
                Ok(result) if version.contains(char::is_numeric) => format!("{result} ({version})"),
                Ok(result) => result,
                Err(failure) => {
                    wrong.push(format!("{}: {failure}", proof.format));
                    "FAILED".to_owned()
                }
            },
        };
        println!("{} by {}: {result}", proof.format, proof.reader);
        let _ = writeln!(table, "| {} | {} | {result} |", proof.format, proof.reader);
    }
    if !wrong.is_empty() {
        return Err(
            Failure::found("an export is not what its reader wants").cause(wrong.join("; "))
        );
    }
    if !options.check {
        let path = root.join("docs/results/exports.md");
        let page = page(&table);
        fs::write(&path, page).map_err(|e| Failure::file("writing", &path, &e))?;
    }
    if !missing.is_empty() {
        return Err(Failure::new("some readers are not here")
            .cause(missing.join(", "))
            .hint("install them, or name where they are with --python and --node-modules"));
    }
    Ok(())
}

fn page(table: &str) -> String {
    format!(
        "# Exports, read by other tools\n\n`cargo xtask exports` records the emulated driver for five seconds (scenario \
         steady, 8 guests, in process),\nexports the recording in each format, and has each export read by tools that are \
         not ours. Their numbers are compared\nwith those of the JSON export.\n\n{}\n{table}",
        process::provenance()
    )
}

/// First line that a command says, if it succeeds.
fn said(command: &[String]) -> Option<String> {
    let (program, arguments) = command.split_first()?;
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().next()?.trim();
    // Where it was built, and from which branch, is of no use to a reader.
    let line = line.split(" (").next()?.split(" built").next()?;
    output.status.success().then(|| line.to_owned())
}

/// The last line of what a reader says, which must succeed.
fn read(command: &mut Command) -> Result<String, Failure> {
    let name = command.get_program().display().to_string();
    let output = command
        .output()
        .map_err(|e| Failure::new(format!("running {name}")).cause(e.to_string()))?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() {
        return Ok(text.lines().last().unwrap_or_default().to_owned());
    }
    let error = String::from_utf8_lossy(&output.stderr);
    Err(Failure::found(format!("{name}: {}", output.status))
        .cause(format!("{text} {}", error.trim())))
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn proofs(root: &Path, options: &Options) -> Vec<Proof> {
    let scripts = root.join("xtask/exports");
    let python = options.python.clone();
    let script = move |name: &'static str, format: &'static str| {
        let (python, path) = (python.clone(), scripts.join(name));
        Box::new(move |files: &Files| {
            let out = files.export(format)?;
            read(Command::new(&python).arg(&path).arg(files.json()).arg(out))
        })
    };
    let module = |name: &str| {
        let code =
            format!("from importlib.metadata import version as v; print('{name}', v('{name}'))");
        vec![options.python.display().to_string(), "-c".to_owned(), code]
    };
    let node_modules = options.node_modules.clone().unwrap_or_default();
    let package = node_modules.join("hdr-histogram-js/package.json");
    let hlog = root.join("xtask/exports/hlog.js");
    vec![
        Proof {
            format: "prometheus",
            reader: "promtool check metrics",
            version: words("promtool --version"),
            from: "Debian: prometheus",
            run: Box::new(|files| promtool(&files.export("prometheus")?)),
        },
        Proof {
            format: "prometheus, live",
            reader: "promtool check metrics",
            version: words("promtool --version"),
            from: "Debian: prometheus",
            run: Box::new(|files| promtool(&live(files)?)),
        },
        Proof {
            format: "openmetrics",
            reader: "the Python client's parser",
            version: module("prometheus-client"),
            from: "PyPI: prometheus-client",
            run: script("metrics.py", "openmetrics"),
        },
        Proof {
            format: "csv",
            reader: "Python's csv",
            version: vec![options.python.display().to_string(), "--version".to_owned()],
            from: "Debian: python3",
            run: script("tables.py", "csv"),
        },
        Proof {
            format: "hlog",
            reader: "HdrHistogram in JavaScript",
            version: vec![
                "node".to_owned(),
                "-p".to_owned(),
                format!(
                    "'hdr-histogram-js ' + require({:?}).version",
                    package.display().to_string()
                ),
            ],
            from: "npm: hdr-histogram-js",
            run: Box::new(move |files| {
                let out = files.export("hlog")?;
                let mut node = Command::new("node");
                node.env("NODE_PATH", &node_modules);
                read(node.arg(&hlog).arg(files.json()).arg(out))
            }),
        },
        Proof {
            format: "folded",
            reader: "inferno-flamegraph",
            version: words("inferno-flamegraph --help"),
            from: "crates.io: inferno",
            run: Box::new(flamegraph),
        },
        Proof {
            format: "dot",
            reader: "Graphviz",
            version: words("dot -V"),
            from: "Debian: graphviz",
            run: Box::new(graph),
        },
        Proof {
            format: "perfetto",
            reader: "Perfetto's Python package",
            version: module("perfetto"),
            from: "PyPI: perfetto",
            run: script("trace.py", "perfetto"),
        },
        Proof {
            format: "parquet",
            reader: "DuckDB and pyarrow",
            version: module("duckdb"),
            from: "PyPI: duckdb, pyarrow",
            run: script("parquet.py", "parquet"),
        },
        Proof {
            format: "report",
            reader: "Chromium",
            version: words("chromium --version --no-sandbox"),
            from: "Debian: chromium",
            run: Box::new(pictures),
        },
    ]
}

fn promtool(text: &Path) -> Result<String, Failure> {
    let file = fs::File::open(text).map_err(|e| Failure::file("opening", text, &e))?;
    let said = read(
        Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(file),
    )?;
    let content = fs::read_to_string(text).map_err(|e| Failure::file("reading", text, &e))?;
    let samples = content
        .lines()
        .filter(|line| !line.starts_with('#'))
        .count();
    Ok(format!("{samples} samples, nothing to say {said}")
        .trim_end()
        .to_owned())
}

fn live(files: &Files) -> Result<PathBuf, Failure> {
    let out = files.path("live.prometheus");
    process::run(
        Command::new(&files.binary)
            .args([
                "export",
                "-q",
                "--source",
                "emulator",
                "--probe",
                "in-process",
            ])
            .args(["--scenario", "se-start", "--seed", "7", "--duration", "2s"])
            .args(["--instances", "3", "--format", "prometheus", "-o"])
            .arg(&out),
        "exporting live",
    )?;
    Ok(out)
}

/// The picture must stand for all of the time that was folded.
fn flamegraph(files: &Files) -> Result<String, Failure> {
    let out = files.export("folded")?;
    let text = fs::read_to_string(&out).map_err(|e| Failure::file("reading", &out, &e))?;
    let total: u64 = text
        .lines()
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok())
        .sum();
    let svg = Command::new("inferno-flamegraph")
        .args(["--countname", "ns"])
        .arg(&out)
        .stderr(Stdio::null())
        .output()
        .map_err(|e| Failure::new("running inferno-flamegraph").cause(e.to_string()))?;
    let svg = String::from_utf8_lossy(&svg.stdout);
    let attribute = format!("total_samples=\"{total}\"");
    if !svg.contains(&attribute) {
        return Err(Failure::found(format!("the picture lacks {attribute}")));
    }
    let frames = svg.matches("<title>").count();
    Ok(format!(
        "{} lines, {frames} frames, {total} ns in both",
        text.lines().count()
    ))
}

/// The picture must have an arrow for each in the text.
fn graph(files: &Files) -> Result<String, Failure> {
    let out = files.export("dot")?;
    let text = fs::read_to_string(&out).map_err(|e| Failure::file("reading", &out, &e))?;
    let lines = text
        .lines()
        .filter(|line| line.contains(" -> ") && line.contains(" [label="));
    let arrows = lines.count();
    let svg = Command::new("dot")
        .arg("-Tsvg")
        .arg(&out)
        .output()
        .map_err(|e| Failure::new("running dot").cause(e.to_string()))?;
    let drawn = String::from_utf8_lossy(&svg.stdout);
    let drawn = drawn.matches("class=\"edge\"").count();
    if !svg.status.success() || drawn != arrows || arrows == 0 {
        return Err(Failure::found(format!(
            "{drawn} arrows in the picture, {arrows} in the text"
        )));
    }
    Ok(format!("{arrows} arrows in both"))
}

/// Pictures at two widths, light and dark, to be looked at.
fn pictures(files: &Files) -> Result<String, Failure> {
    let page = files.path("report.html");
    process::run(
        Command::new(&files.binary)
            .args(["report", "-q"])
            .arg(files.path("run.apscope"))
            .arg("-o")
            .arg(&page),
        "writing the report",
    )?;
    let mut sizes = Vec::new();
    for (name, size) in [("desktop", "1280,4000"), ("phone", "500,4000")] {
        for (colours, number) in [("light", 1), ("dark", 0)] {
            let picture = files.path(&format!("{name}-{colours}.png"));
            let profile = apscope::Scratch::new()?;
            read(
                Command::new("chromium")
                    .args([
                        "--headless",
                        "--no-sandbox",
                        "--disable-gpu",
                        "--hide-scrollbars",
                    ])
                    .arg("--disable-background-networking")
                    .arg(format!("--user-data-dir={}", profile.path().display()))
                    .arg(format!("--blink-settings=preferredColorScheme={number}"))
                    .arg(format!("--window-size={size}"))
                    .arg(format!("--screenshot={}", picture.display()))
                    .arg(format!("file://{}", page.display())),
            )?;
            let bytes =
                fs::metadata(&picture).map_err(|e| Failure::file("finding", &picture, &e))?;
            sizes.push(format!("{name} {colours} {} KiB", bytes.len() / 1024));
        }
    }
    Ok(format!("drawn: {}", sizes.join(", ")))
}
