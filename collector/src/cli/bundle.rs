//! `bundle`: everything that a support case needs, in one file and within 20 s, also on a host that hangs.

mod taken;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;

use super::live::note;
use super::output::Replaced;
use super::{Failure, Globals, run_options};
use crate::bundle::job::{Done, Job};
use crate::bundle::redact::{Names, Of};
use crate::bundle::{Archive, Item, Manifest, VERSION, host, names};
use crate::doctor::{Report, Style};
use crate::export::driver;
use crate::export::json::rfc3339;
use crate::machine::{Allowed, Facts};
use crate::options::RunOptions;

/// Frames are taken for so long where nothing else is said.
const FRAMES: Duration = Duration::from_secs(10);
/// All frames are taken by then, however long attaching took.
const FRAMES_END: Duration = Duration::from_secs(15);
/// What a look at the machine may take.
const LOOK: Duration = Duration::from_secs(4);
/// What reading stacks may take.
const STACKS: Duration = Duration::from_secs(2);
/// What a diagnosis of the frames may take.
const CONCLUDE: Duration = Duration::from_secs(2);

/// Arguments of `bundle`.
#[derive(Debug, Clone, PartialEq, Args)]
pub struct BundleArgs {
    /// File to write; `-` is the standard output
    #[arg(
        short,
        long,
        value_name = "FILE",
        default_value = "apscope-case.tar.zst"
    )]
    pub output: PathBuf,

    /// Replace the names of hosts, guests, mdevs and threads, and the addresses of locks, by hashes, the same ones everywhere
    /// in the bundle
    #[arg(long)]
    pub redact: bool,
}

pub(super) fn run(args: &BundleArgs, globals: &Globals) -> Result<ExitCode, Failure> {
    if let Some(endpoint) = &globals.connect {
        return Err(Failure::new(
            format!("no bundle can be made of {endpoint}"),
            "what the host says besides the measurement is asked for here, and the measurement would be another's",
            "apscope bundle on that host; or `record --connect` for the frames alone",
        ));
    }
    let options = run_options(globals)?;
    let output = Replaced::private(&args.output)?;
    let begun = Instant::now();
    let clocks = host::clocks();
    let say = |what: &str| {
        if !globals.quiet {
            note(what);
        }
    };
    say("taking what the machine says ...");
    let builds = Job::start(LOOK, || host::builds().and_then(|all| json(&all)));
    let sysctls = Job::start(LOOK, || host::sysctls().and_then(|all| json(&all)));
    let hung = Job::start(LOOK, || host::hung_tasks().map(String::into_bytes));
    let asked = options.clone();
    let doctor = Job::start(LOOK, move || doctor(&asked)).wait();
    let duration = globals.duration.unwrap_or(FRAMES);
    say(&format!(
        "taking frames for {} ...",
        humantime::format_duration(duration)
    ));
    let mut taken = taken::take(&options, duration, begun + FRAMES_END);
    say("taking stacks ...");
    let tasks = taken.tasks();
    let stacks = Job::start(STACKS, move || host::stacks(&tasks)).wait();
    let mut names = if args.redact {
        Some(Names::new().map_err(|error| {
            Failure::new(
                "names cannot be hidden",
                format!("the kernel gives no random numbers: {error}"),
                "without --redact",
            )
        })?)
    } else {
        None
    };
    let mut host = host::name();
    let hung = hung.wait();
    if let Some(names) = &mut names {
        host = names.name(Of::Host, &host);
        let stacks = stacks.result.as_deref().map(str::as_bytes);
        let texts = [hung.result.as_deref(), stacks];
        for text in texts.into_iter().flatten() {
            names.learn_text(&String::from_utf8_lossy(text));
        }
        if let Err(error) = taken.redact(names) {
            taken.fail(error);
        }
    }
    let driver = match driver(&taken.case.model) {
        "" => "none",
        driver => driver,
    };
    let recording = Done {
        result: taken.recording(),
        took: taken.took,
        limit: taken.limit,
    };
    let incomplete = taken.failed.clone();
    let concluded = Job::start(CONCLUDE, move || Ok(taken.conclude(CONCLUDE))).wait();
    let labelled = |text: Vec<u8>| {
        let mut all = format!("# driver: {driver}\n").into_bytes();
        all.extend(text);
        all
    };
    let (doctor_text, doctor_json) = halves(doctor);
    let (verdict, diagnosis, diagnosis_json) = match concluded.result {
        Ok(all) => (all.verdict, all.text, all.json),
        Err(why) => {
            let nothing = |limit| Done {
                result: Err(why.clone()),
                took: concluded.took,
                limit,
            };
            let verdict = format!("CANNOT TELL because the diagnosis was not made: {why}");
            (verdict, nothing(CONCLUDE), nothing(CONCLUDE))
        }
    };
    let mut files = Files {
        names,
        archive: Archive::new(clocks.unix_ns / 1_000_000_000),
        taken: Vec::new(),
        items: Vec::new(),
    };
    files.add(names::DIAGNOSIS, diagnosis.map(labelled), Kind::Hidden);
    files.add(names::DIAGNOSIS_JSON, diagnosis_json, Kind::Hidden);
    files.add(names::DOCTOR, doctor_text.map(labelled), Kind::Prose);
    files.add(names::DOCTOR_JSON, doctor_json, Kind::Document);
    files.add(names::FRAMES, recording, Kind::Hidden);
    if let (Some(why), Some(item)) = (incomplete, files.items.last_mut()) {
        item.why = Some(why);
    }
    let stacks = stacks.map(String::into_bytes);
    files.add(names::STACKS, stacks.map(labelled), Kind::Stacks);
    files.add(names::HUNG_TASKS, hung.map(labelled), Kind::Stacks);
    files.add(names::BUILD_IDS, builds.wait(), Kind::Nameless);
    files.add(names::SYSCTLS, sysctls.wait(), Kind::Nameless);
    let manifest = Manifest {
        bundle: VERSION,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        driver: driver.to_owned(),
        verdict,
        redacted: args.redact,
        host,
        created: rfc3339(clocks.unix_ns),
        took_ms: millis(begun.elapsed()),
        clocks,
        items: files.items.clone(),
    };
    let target = output.target().to_string();
    output.write(|out| files.write(&manifest, out))?;
    say(&format!("{target}: {}", manifest.verdict));
    for item in manifest.items.iter().filter(|item| item.why.is_some()) {
        let how = if item.taken { "not whole" } else { "skipped" };
        say(&format!(
            "{how}: {}: {}",
            item.file,
            item.why.as_deref().unwrap_or_default()
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// The files of a bundle, as they come.
struct Files {
    names: Option<Names>,
    archive: Archive,
    taken: Vec<(&'static str, Vec<u8>)>,
    items: Vec<Item>,
}

/// Where names may be in a file, if they are to be hidden.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// They are hidden already: it is made of frames without them.
    Hidden,
    /// It has none.
    Nameless,
    /// Anywhere.
    Prose,
    /// In the sentences of a JSON document.
    Document,
    /// Where the kernel writes names of threads, and in prose.
    Stacks,
}

impl Files {
    /// Adds a file, or why it is not there. In a text that comes from the machine, names are hidden here.
    fn add(&mut self, file: &'static str, done: Done<Vec<u8>>, kind: Kind) {
        let hide = |content: Vec<u8>| {
            let Some(names) = &self.names else {
                return Ok(content);
            };
            let text = String::from_utf8_lossy(&content);
            match kind {
                Kind::Hidden | Kind::Nameless => Ok(content),
                Kind::Prose => Ok(names.text(&text).into_bytes()),
                Kind::Stacks => Ok(names.stacks(&text).into_bytes()),
                Kind::Document => names
                    .json(&content)
                    .map_err(|error| format!("names in it cannot be hidden: {error}")),
            }
        };
        let (taken, why) = match done.result.and_then(hide) {
            Ok(content) => {
                self.taken.push((file, content));
                (true, None)
            }
            Err(why) => {
                let names = self.names.as_ref();
                let hidden = names.map(|names| names.text(&why));
                (false, Some(hidden.unwrap_or(why)))
            }
        };
        self.items.push(Item {
            file: file.to_owned(),
            taken,
            took_ms: millis(done.took),
            deadline_ms: millis(done.limit),
            why,
        });
    }

    fn write(mut self, manifest: &Manifest, out: &mut dyn std::io::Write) -> std::io::Result<()> {
        let manifest = json(manifest).map_err(std::io::Error::other)?;
        self.archive.add(names::MANIFEST, &manifest)?;
        for (name, content) in &self.taken {
            self.archive.add(name, content)?;
        }
        self.archive.write(out)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Two files that one piece of work gives.
fn halves(done: Done<(Vec<u8>, Vec<u8>)>) -> (Done<Vec<u8>>, Done<Vec<u8>>) {
    let (first, second) = match done.result {
        Ok((first, second)) => (Ok(first), Ok(second)),
        Err(why) => (Err(why.clone()), Err(why)),
    };
    let of = |result| Done {
        result,
        took: done.took,
        limit: done.limit,
    };
    (of(first), of(second))
}

fn json(value: &impl serde::Serialize) -> Result<Vec<u8>, String> {
    let mut text = serde_json::to_vec_pretty(value).map_err(|error| error.to_string())?;
    text.push(b'\n');
    Ok(text)
}

/// The doctor's page and document.
fn doctor(options: &RunOptions) -> Result<(Vec<u8>, Vec<u8>), String> {
    let facts = Facts::read(std::path::Path::new("/"));
    let allowed = Allowed::probe(&facts);
    let report = Report::of(facts, allowed, options).map_err(|error| {
        let (what, cause) = error.what_and_cause();
        format!("{what}: {cause}")
    })?;
    let style = Style {
        ascii: true,
        colour: false,
    };
    let page = crate::doctor::text(&report, style);
    Ok((page.into_bytes(), json(&report)?))
}
