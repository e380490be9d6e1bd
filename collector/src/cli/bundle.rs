//! `bundle`: everything that a support case needs, in one file and within 20 s, also on a host that hangs.

use std::io::Cursor;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use clap::Args;

use super::live::note;
use super::output::Replaced;
use super::{Failure, Globals, run_options};
use crate::bundle::job::{Done, Job};
use crate::bundle::redact::{Names, Of};
use crate::bundle::{Archive, Item, Manifest, VERSION, host, names};
use crate::diagnose::{Case, text};
use crate::doctor::{Report, Style};
use crate::export::json::{Document, Origin, rfc3339};
use crate::frame::Frame;
use crate::machine::{Allowed, Facts};
use crate::model::query;
use crate::options::RunOptions;
use crate::recording::{Flush, Packer, Reader, header};
use crate::source::leave::detach_in_background;
use crate::source::{Session, Stopper};

/// Frames are taken for so long where nothing else is said.
const FRAMES: Duration = Duration::from_secs(10);
/// All frames are taken by then, however long attaching took.
const FRAMES_END: Duration = Duration::from_secs(15);
/// What a look at the machine may take.
const LOOK: Duration = Duration::from_secs(4);
/// What reading stacks may take.
const STACKS: Duration = Duration::from_secs(2);
/// Bytes of compressed frames that are taken.
const MAX_FRAMES: u64 = 64 << 20;

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

    /// Replace the names of hosts, guests, mdevs and threads by hashes, the same ones everywhere in the bundle
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
    let output = Replaced::open(&args.output)?;
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
    let mut taken = take(&options, duration, begun + FRAMES_END);
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
    let emulated = query::emulated(&taken.case.model);
    let driver = match &taken.case.model.meta {
        None => "none",
        Some(_) if emulated => "EMULATED",
        Some(_) => "KERNEL",
    };
    let labelled = |text: Vec<u8>| {
        let mut all = format!("# driver: {driver}\n").into_bytes();
        all.extend(text);
        all
    };
    let (doctor_text, doctor_json) = match doctor.result {
        Ok((text, json)) => (Ok(text), Ok(json)),
        Err(why) => (Err(why.clone()), Err(why)),
    };
    let mut files = Files {
        names,
        archive: Archive::new(clocks.unix_ns / 1_000_000_000),
        taken: Vec::new(),
        items: Vec::new(),
    };
    let measured = taken.took;
    files.add(
        names::DIAGNOSIS,
        measured,
        taken.diagnosis().map(&labelled),
        false,
    );
    files.add(
        names::DIAGNOSIS_JSON,
        measured,
        taken.diagnosis_json(),
        false,
    );
    files.add(names::DOCTOR, doctor.took, doctor_text.map(&labelled), true);
    files.add(names::DOCTOR_JSON, doctor.took, doctor_json, true);
    files.add(names::FRAMES, measured, taken.recording(), false);
    if let (Some(why), Some(item)) = (&taken.failed, files.items.last_mut()) {
        item.why = Some(why.clone());
    }
    let text = stacks.result.map(String::into_bytes);
    files.add(names::STACKS, stacks.took, text.map(&labelled), true);
    files.add(
        names::HUNG_TASKS,
        hung.took,
        hung.result.map(&labelled),
        true,
    );
    let Done { result, took } = builds.wait();
    files.add(names::BUILD_IDS, took, result, true);
    let Done { result, took } = sysctls.wait();
    files.add(names::SYSCTLS, took, result, true);
    let manifest = Manifest {
        bundle: VERSION,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        driver: driver.to_owned(),
        verdict: taken.case.report().verdict.to_string(),
        redacted: args.redact,
        host,
        created: rfc3339(clocks.unix_ns),
        took_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
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
    detach_in_background();
    Ok(ExitCode::SUCCESS)
}

/// The files of a bundle, as they come.
struct Files {
    names: Option<Names>,
    archive: Archive,
    taken: Vec<(&'static str, Vec<u8>)>,
    items: Vec<Item>,
}

impl Files {
    /// Adds a file, or why it is not there. In a text that comes from the machine, names are hidden here.
    fn add(
        &mut self,
        file: &'static str,
        took: Duration,
        content: Result<Vec<u8>, String>,
        from_machine: bool,
    ) {
        let hide = |text: String| match &self.names {
            Some(names) => names.text(&text),
            None => text,
        };
        let (taken, why) = match content {
            Ok(content) => {
                let content = match &self.names {
                    Some(names) if from_machine => {
                        names.text(&String::from_utf8_lossy(&content)).into_bytes()
                    }
                    _ => content,
                };
                self.taken.push((file, content));
                (true, None)
            }
            Err(why) => (false, Some(hide(why))),
        };
        self.items.push(Item {
            file: file.to_owned(),
            taken,
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
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

/// Frames, and what they say.
struct Taken {
    packer: Option<Packer>,
    flushes: Vec<Flush>,
    case: Case,
    frames: u64,
    /// Why there are none, or no more of them.
    failed: Option<String>,
    took: Duration,
}

/// What the thread with the source says first.
type Begun = Result<Stopper, String>;

/// Takes frames for a while. The source has a thread of its own, which is left alone when the time is over.
fn take(options: &RunOptions, duration: Duration, until: Instant) -> Taken {
    let begun = Instant::now();
    let (frames, received) = channel();
    let (stoppers, stopper) = channel();
    let options = options.clone();
    let thread = std::thread::Builder::new()
        .name("bundle".into())
        .spawn(move || follow(&options, &stoppers, &frames));
    let mut taken = Taken {
        packer: Packer::new().ok(),
        flushes: Vec::new(),
        case: Case::default(),
        frames: 0,
        failed: None,
        took: Duration::ZERO,
    };
    if let Err(error) = thread {
        taken.fail(format!("there is no thread for it: {error}"));
        return taken;
    }
    let mut end = until;
    let mut attached = false;
    // Until the time is over, or the source is.
    while let Ok(frame) = received.recv_timeout(end.saturating_duration_since(Instant::now())) {
        let attaching = frame.meta.as_ref().is_some_and(|meta| meta.attaching);
        if !attached && frame.meta.is_some() && !attaching {
            attached = true;
            // A duration that no clock can reach is no limit.
            let limit = Instant::now().checked_add(duration);
            end = limit.map_or(until, |limit| limit.min(until));
        }
        taken.add(&frame);
        if frame.end.is_some() || taken.is_full() {
            break;
        }
    }
    match stopper.try_recv() {
        Ok(Ok(stopper)) => stopper.stop(),
        Ok(Err(why)) => taken.fail(why),
        Err(_) if taken.frames == 0 => taken.fail("nothing could be attached in time".into()),
        Err(_) => {}
    }
    taken.pack();
    taken.took = begun.elapsed();
    taken
}

fn follow(options: &RunOptions, stoppers: &Sender<Begun>, frames: &Sender<Arc<Frame>>) {
    let mut session = match Session::start(options) {
        Ok(session) => session,
        Err(error) => {
            // Who asked may have given up.
            let _ = stoppers.send(Err(format!("{}: {}", error.what, error.cause)));
            return;
        }
    };
    let _ = stoppers.send(Ok(session.stopper()));
    while let Some(frame) = session.frames.blocking_recv() {
        if frames.send(frame).is_err() {
            break;
        }
    }
    if let Some(error) = session.ended().failed {
        let _ = stoppers.send(Err(format!("{}: {}", error.what, error.cause)));
    }
}

impl Taken {
    fn fail(&mut self, why: String) {
        self.failed.get_or_insert(why);
    }

    fn is_full(&self) -> bool {
        let bytes: u64 = self.flushes.iter().map(|f| f.bytes.len() as u64).sum();
        bytes > MAX_FRAMES
    }

    fn add(&mut self, frame: &Frame) {
        self.case.apply(frame);
        self.frames += 1;
        let Some(packer) = &mut self.packer else {
            return self.fail("there is no memory for it".into());
        };
        match packer.push(frame) {
            Ok(flush) => self.flushes.extend(flush),
            Err(error) => self.fail(error.to_string()),
        }
        if self.is_full() {
            self.fail(format!("more than {MAX_FRAMES} bytes: ended there"));
        }
    }

    fn pack(&mut self) {
        if let Some(packer) = &mut self.packer {
            match packer.take() {
                Ok(flush) => self.flushes.extend(flush),
                Err(error) => self.fail(error.to_string()),
            }
        }
    }

    /// Tasks that hold, wait or are in a call: process and thread.
    fn tasks(&self) -> Vec<(u32, u32)> {
        let live = self.case.model.live.iter();
        live.map(|task| (if task.pid == 0 { task.tid } else { task.pid }, task.tid))
            .collect()
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = header().to_vec();
        for flush in &self.flushes {
            bytes.extend(&flush.bytes);
        }
        bytes
    }

    fn recording(&self) -> Result<Vec<u8>, String> {
        self.check().map(|()| self.bytes())
    }

    fn check(&self) -> Result<(), String> {
        if self.frames > 0 {
            return Ok(());
        }
        let why = self.failed.clone();
        Err(why.unwrap_or_else(|| "no frame has come".into()))
    }

    fn diagnosis(&self) -> Result<Vec<u8>, String> {
        self.check()?;
        Ok(text::render(&self.case.report(), &self.case.model).into_bytes())
    }

    fn diagnosis_json(&self) -> Result<Vec<u8>, String> {
        self.check()?;
        let mut json = Vec::new();
        Document::of(&self.case.model, Origin::Live, &self.case.report())
            .write(&mut json)
            .map_err(|error| error.to_string())?;
        Ok(json)
    }

    /// Hides the names in all frames, and looks at what they say anew.
    fn redact(&mut self, names: &mut Names) -> Result<(), String> {
        let file = self.bytes();
        // Whatever goes wrong, nothing that has names is left.
        self.flushes.clear();
        self.case = Case::default();
        let frames = std::mem::take(&mut self.frames);
        let read = || Reader::new(Cursor::new(file.as_slice())).map_err(|error| error.to_string());
        for frame in read()? {
            names.learn(&frame.map_err(|error| error.to_string())?);
        }
        self.packer = Packer::new().ok();
        for frame in read()? {
            let mut frame = frame.map_err(|error| error.to_string())?;
            names.hide(&mut frame);
            self.add(&frame);
        }
        self.pack();
        self.failed = self.failed.take().map(|why| names.text(&why));
        if self.frames == frames {
            Ok(())
        } else {
            Err(format!(
                "{} of {frames} frames could be read again",
                self.frames
            ))
        }
    }
}
