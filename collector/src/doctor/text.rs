//! The report as a page of at most 79 columns.
//!
//! What comes from files of a machine may hold anything: control characters never reach the terminal.

use std::fmt::Write;

use super::{AttachRow, Kind, Probe, Report, RowStatus, Severity, Shown};
use crate::machine::{Basis, Capability, Facts, Lockdown, Others};

/// Columns of the page.
const COLUMNS: usize = 79;
/// Column in which values start.
const VALUES: usize = 31;

/// How a page is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Style {
    /// ASCII alone: not a terminal.
    pub ascii: bool,
    /// With colours.
    pub colour: bool,
}

/// The page.
pub fn text(report: &Report, style: Style) -> String {
    let mut page = Page {
        text: String::new(),
        style,
    };
    machine(&mut page, &report.machine);
    privileges(&mut page, &report.machine);
    features(&mut page, report);
    driver(&mut page, report);
    attach(&mut page, report);
    offsets(&mut page, report);
    budget(&mut page, report);
    page.heading("what the dashboard shows");
    for Shown { what, shown, note } in &report.shows {
        let mark = if *shown { Mark::Yes } else { Mark::No };
        let line = match note.as_str() {
            "" => what.clone(),
            note => format!("{what}: {note}"),
        };
        page.item(mark, &line);
    }
    page.heading("blind spots");
    for spot in &report.blind_spots {
        page.item(Mark::Plain, spot);
    }
    problems(&mut page, report);
    page.heading("verdict");
    page.verdict(report);
    page.text
}

fn machine(page: &mut Page, facts: &Facts) {
    page.heading("machine");
    if !facts.is_live() {
        page.row("files below", &facts.root.display().to_string());
    }
    let kernel = &facts.kernel;
    let or_unknown = |text: &str| if text.is_empty() { "unknown" } else { text }.to_owned();
    page.row("kernel", &or_unknown(&kernel.release));
    page.row("architecture", &or_unknown(&kernel.arch));
    if let Some(id) = &kernel.build_id {
        page.row("build id", id);
    }
    page.row(
        "lockdown",
        &match kernel.lockdown {
            Lockdown::Confidentiality => {
                "confidentiality: no kprobes, no kernel memory, no tracefs".to_owned()
            }
            Lockdown::Integrity => "integrity: refuses nothing that apscope does".to_owned(),
            Lockdown::None => "none".to_owned(),
        },
    );
    let mut kinds = Vec::new();
    if kernel.realtime {
        kinds.push("PREEMPT_RT: mutexes have no owner word");
    }
    if kernel.lockdep {
        kinds.push("lockdep: mutex_lock is mutex_lock_nested, times are longer");
    }
    if !kinds.is_empty() {
        page.row("kind", &kinds.join("; "));
    }
    page.row(
        "other collectors",
        &match &facts.others {
            Others::None => "none".to_owned(),
            Others::Attached(sets) => format!("{sets} attached"),
            Others::Unknown(why) => format!("unknown: {why}"),
        },
    );
    for file in &facts.unreadable {
        page.row("not readable", &format!("{}: {}", file.path, file.reason));
    }
}

fn privileges(page: &mut Page, facts: &Facts) {
    page.heading("privileges");
    let privileges = &facts.privileges;
    let user = match privileges.uid {
        0 => "0 (root)".to_owned(),
        u32::MAX => "unknown".to_owned(),
        uid => uid.to_string(),
    };
    page.row("user", &user);
    if !privileges.initial_user_namespace {
        page.row(
            "user namespace",
            "not the initial one: capabilities do not count for tracing",
        );
    }
    for capability in Capability::ALL {
        let needed = match capability {
            Capability::Bpf | Capability::Perfmon | Capability::SysAdmin | Capability::Syslog => {
                true
            }
            Capability::DacReadSearch | Capability::DacOverride => privileges.uid != 0,
            Capability::SysPtrace => false,
            Capability::SysResource => !facts.kernel.at_least(5, 11),
        };
        let (mark, note) = match (privileges.has(capability), needed) {
            (true, _) => (Mark::Yes, ""),
            (false, true) => (Mark::No, "missing, "),
            (false, false) => (Mark::Plain, "not held, not needed here: "),
        };
        page.marked(
            mark,
            capability.name(),
            &format!("{note}for {}", capability.purpose()),
        );
    }
    if let Some(bytes) = privileges.memlock_bytes {
        page.row("locked memory", &format!("at most {} KiB", bytes >> 10));
    }
}

fn features(page: &mut Page, report: &Report) {
    let facts = &report.machine;
    page.heading(match report.allowed.basis {
        Basis::Probed => "kernel features (each was tried)",
        Basis::Recorded => "kernel features (as recorded on the machine)",
        Basis::Concluded => "kernel features (not probed: concluded from files)",
    });
    for (mechanism, answer) in report.allowed.iter() {
        match answer {
            Ok(()) => page.marked(Mark::Yes, mechanism.name(), ""),
            Err(why) => page.marked(Mark::No, mechanism.name(), why),
        }
    }
    let tracing = &facts.tracing;
    match &tracing.tracefs {
        None => page.marked(Mark::No, "tracefs", "not mounted"),
        Some(tracefs) if !tracefs.readable => {
            page.marked(
                Mark::No,
                "tracefs",
                &format!("{} is not readable", tracefs.path),
            );
        }
        Some(tracefs) => page.marked(Mark::Yes, "tracefs", &tracefs.path),
    }
    let there = |there: bool| if there { Mark::Yes } else { Mark::No };
    page.marked(
        there(facts.driver.btf),
        "type information",
        if facts.driver.btf {
            "/sys/kernel/btf/vmlinux"
        } else {
            "no /sys/kernel/btf/vmlinux"
        },
    );
    match tracing.addresses {
        Some(true) => page.marked(Mark::Yes, "symbol addresses", "/proc/kallsyms"),
        Some(false) => page.marked(Mark::No, "symbol addresses", "/proc/kallsyms has zeros"),
        None => page.marked(Mark::No, "symbol addresses", "no /proc/kallsyms"),
    }
    let settings = &facts.settings;
    for (name, value, meaning) in [
        (
            "perf_event_paranoid",
            settings.perf_event_paranoid,
            paranoid(facts),
        ),
        ("kptr_restrict", settings.kptr_restrict, restricted(facts)),
        (
            "unprivileged_bpf_disabled",
            settings.unprivileged_bpf_disabled,
            "",
        ),
        (
            "bpf_jit_enable",
            settings.bpf_jit_enable,
            if settings.bpf_jit_enable == Some(0) {
                "programs are interpreted: several times the cost"
            } else {
                ""
            },
        ),
        ("bpf_stats_enabled", settings.bpf_stats_enabled, ""),
        (
            "ftrace_enabled",
            settings.ftrace_enabled,
            if settings.ftrace_enabled == Some(0) {
                "no fentry and no kprobe at a function's entry fires"
            } else {
                ""
            },
        ),
    ] {
        if let Some(value) = value {
            let meaning = if meaning.is_empty() {
                String::new()
            } else {
                format!(": {meaning}")
            };
            page.row(name, &format!("{value}{meaning}"));
        }
    }
}

/// What the setting means to this process. Mainline knows -1 to 2; 3 and 4 are patches of Debian, Ubuntu and Android,
/// which keep unprivileged processes from perf_event_open(2) altogether.
fn paranoid(facts: &Facts) -> &'static str {
    match facts.settings.perf_event_paranoid {
        Some(..=2) | None => "",
        Some(_) if facts.privileges.has(Capability::SysAdmin) => "does not bind this process",
        Some(_) if facts.privileges.has(Capability::Perfmon) => {
            "does not bind this process; some distributions' kernels ask for CAP_SYS_ADMIN"
        }
        Some(_) => "no event can be opened without CAP_PERFMON",
    }
}

fn restricted(facts: &Facts) -> &'static str {
    match facts.settings.kptr_restrict {
        Some(1) => "addresses need CAP_SYSLOG",
        Some(2..) => "nobody sees addresses",
        _ => "",
    }
}

fn driver(page: &mut Page, report: &Report) {
    let facts = &report.machine;
    page.heading("driver");
    page.row(
        "would be measured",
        &format!(
            "{} ({})",
            match (report.source.kind, report.source.probe) {
                (Kind::Kernel, _) => "the kernel's driver",
                (Kind::Emulator, Probe::Ebpf) => "the emulated driver, over eBPF",
                (Kind::Emulator, Probe::InProcess) => "the emulated driver, in process",
                (Kind::Emulator, Probe::None) => "the emulated driver",
            },
            report.source.reason
        ),
    );
    let bus = if facts.driver.ap_bus { "there" } else { "none" };
    page.row("AP bus", bus);
    for name in crate::machine::MODULES {
        let Some(module) = facts.driver.module(name) else {
            let mark = match report.source.kind {
                Kind::Kernel => Mark::No,
                Kind::Emulator => Mark::Plain,
            };
            page.marked(mark, name, "not loaded");
            continue;
        };
        let types = if module.btf {
            "with types"
        } else {
            "without types"
        };
        let id = module.build_id.as_deref().unwrap_or("no build id");
        page.marked(Mark::Yes, name, &format!("{types}, {id}"));
    }
    let Some(generation) = &report.generation else {
        return;
    };
    page.row(
        "generation",
        &match generation.candidates.as_slice() {
            [] => "none that is known".to_owned(),
            [one] => one.clone(),
            several => format!("one of {}", several.join(", ")),
        },
    );
    for fact in &generation.evidence {
        page.row("", fact);
    }
    for fact in &generation.contradictions {
        page.row("contradiction", fact);
    }
    for open in &generation.open {
        page.row("open", open);
    }
}

fn attach(page: &mut Page, report: &Report) {
    page.heading("attach points");
    let rows = &report.attach;
    let count = |status: RowStatus| rows.iter().filter(|row| row.status == status).count();
    if report.source.kind == Kind::Emulator {
        let mechanism = rows.first().map_or("", |row| row.mechanism.as_str());
        page.row(
            mechanism,
            &format!("{} places in the emulated driver", rows.len()),
        );
        return;
    }
    for row in rows.iter().filter(|row| row.status != RowStatus::NotNeeded) {
        attach_row(page, row);
    }
    page.row(
        "",
        &format!(
            "{} probed, {} at a higher level, {} replaced, {} lost, {} not needed here",
            count(RowStatus::Probed),
            count(RowStatus::OtherLevel),
            count(RowStatus::Replaced),
            count(RowStatus::Lost),
            count(RowStatus::NotNeeded)
        ),
    );
}

fn attach_row(page: &mut Page, row: &AttachRow) {
    let mark = match row.status {
        RowStatus::Probed => Mark::Yes,
        RowStatus::OtherLevel | RowStatus::NotNeeded => Mark::Plain,
        RowStatus::Replaced | RowStatus::Lost => Mark::No,
    };
    let mut line = match row.status {
        RowStatus::Probed => format!("{} {}: {}", row.symbol, row.side, row.mechanism),
        RowStatus::OtherLevel => format!("{} {}: level {}", row.symbol, row.side, row.level),
        _ => format!("{} {}: {}", row.symbol, row.side, row.reason),
    };
    if let Some(instead) = &row.instead {
        let _ = write!(line, "; instead {instead}");
    }
    if let Some(lost) = &row.lost {
        let _ = write!(line, "; lost: {lost}");
    }
    page.item(mark, &line);
}

fn offsets(page: &mut Page, report: &Report) {
    page.heading("offsets");
    if report.source.kind == Kind::Emulator {
        page.row("source", "the emulated driver says them itself");
        return;
    }
    if report.machine.driver.module("vfio_ap").is_none() {
        page.row("", "none: the module vfio_ap is not loaded");
        return;
    }
    let mut sources: Vec<(&str, usize)> = Vec::new();
    for row in report.offsets.iter().filter(|row| row.offset.is_some()) {
        match sources.iter_mut().find(|(name, _)| *name == row.source) {
            Some((_, count)) => *count += 1,
            None => sources.push((&row.source, 1)),
        }
    }
    for (source, count) in sources {
        page.row(source, &format!("{count} members"));
    }
    let absent = report.offsets.iter().filter(|row| row.absent).count();
    if absent > 0 {
        page.row(
            "absent",
            &format!("{absent} members that this generation does not have"),
        );
    }
    for row in report
        .offsets
        .iter()
        .filter(|row| row.offset.is_none() && !row.absent)
    {
        page.marked(Mark::No, &row.field, &row.source);
    }
}

fn budget(page: &mut Page, report: &Report) {
    page.heading("memory");
    let budget = &report.budget;
    let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
    page.row(
        "eBPF maps",
        &format!(
            "{} of at most {}, for {} guests on {} CPUs",
            mib(budget.map_bytes),
            mib(budget.limit_bytes),
            budget.guests,
            budget.possible_cpus
        ),
    );
    page.row(
        "span ring",
        &format!("{} more", mib(budget.ring_bytes.into())),
    );
}

fn problems(page: &mut Page, report: &Report) {
    page.heading("what is missing");
    if report.problems.is_empty() {
        page.item(Mark::Plain, "nothing");
    }
    for problem in &report.problems {
        let mark = match problem.severity {
            Severity::Note => Mark::Plain,
            Severity::Degrades | Severity::Prevents => Mark::No,
        };
        page.item(mark, &problem.what);
        page.more("lost", &problem.lost);
        page.more("try", &problem.remedy);
    }
}

/// What stands before a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    Yes,
    No,
    Plain,
}

struct Page {
    text: String,
    style: Style,
}

impl Page {
    fn heading(&mut self, title: &str) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        let title = title.to_uppercase();
        self.coloured("1", &title);
        self.text.push('\n');
    }

    fn row(&mut self, name: &str, value: &str) {
        self.marked(Mark::Plain, name, value);
    }

    /// A mark, a name and a value beside it.
    fn marked(&mut self, mark: Mark, name: &str, value: &str) {
        self.mark(mark);
        let (name, value) = (self.clean(name), self.clean(value));
        if value.is_empty() {
            self.wrapped(&name, 5);
            return;
        }
        let width = 5 + name.chars().count();
        if width > COLUMNS {
            self.wrapped(&format!("{name}: {value}"), 5);
            return;
        }
        self.text.push_str(&name);
        if width + 1 > VALUES {
            self.text.push('\n');
            self.pad(VALUES);
        } else {
            self.pad(VALUES - width);
        }
        self.wrapped(&value, VALUES);
    }

    /// A mark and a sentence.
    fn item(&mut self, mark: Mark, sentence: &str) {
        self.mark(mark);
        let sentence = self.clean(sentence);
        self.wrapped(&sentence, 5);
    }

    /// A line that belongs to the item before.
    fn more(&mut self, name: &str, sentence: &str) {
        let start = format!("     {name}: ");
        self.text.push_str(&start);
        let sentence = self.clean(sentence);
        self.wrapped(&sentence, start.len());
    }

    fn mark(&mut self, mark: Mark) {
        let (text, colour) = match (mark, self.style.ascii) {
            (Mark::Yes, true) => ("ok", "32"),
            (Mark::Yes, false) => ("\u{2713} ", "32"),
            (Mark::No, true) => ("NO", "31"),
            (Mark::No, false) => ("\u{2717} ", "31"),
            (Mark::Plain, _) => ("  ", ""),
        };
        self.text.push_str("  ");
        self.coloured(colour, text);
        self.text.push(' ');
    }

    fn verdict(&mut self, report: &Report) {
        use super::State;
        let verdict = &report.verdict;
        let colour = match verdict.state {
            State::Ready => "1;32",
            State::Degraded => "1;33",
            State::Impossible => "1;31",
        };
        let word = verdict.state.word();
        self.coloured(colour, word);
        self.text.push_str(": ");
        let summary = self.clean(&verdict.summary);
        self.wrapped_from(&summary, word.len() + 2, 2);
    }

    fn coloured(&mut self, code: &str, text: &str) {
        if self.style.colour && !code.is_empty() {
            let _ = write!(self.text, "\u{1b}[{code}m{text}\u{1b}[0m");
        } else {
            self.text.push_str(text);
        }
    }

    fn pad(&mut self, columns: usize) {
        self.text.extend(std::iter::repeat_n(' ', columns));
    }

    /// Words from this column on; further lines start in the same.
    fn wrapped(&mut self, words: &str, indent: usize) {
        self.wrapped_from(words, indent, indent);
    }

    fn wrapped_from(&mut self, words: &str, first: usize, indent: usize) {
        let mut column = first;
        let mut fresh = true;
        for word in words.split(' ').filter(|word| !word.is_empty()) {
            let mut rest: Vec<char> = word.chars().collect();
            if !fresh && column + 1 + rest.len() > COLUMNS {
                self.text.push('\n');
                self.pad(indent);
                column = indent;
                fresh = true;
            }
            if !fresh {
                self.text.push(' ');
                column += 1;
            }
            // A path may be longer than the line.
            while column + rest.len() > COLUMNS {
                let tail = rest.split_off(COLUMNS - column);
                self.text.extend(rest);
                self.text.push('\n');
                self.pad(indent);
                column = indent;
                rest = tail;
            }
            column += rest.len();
            self.text.extend(rest);
            fresh = false;
        }
        self.text.push('\n');
    }

    /// Without control characters, and without what is no ASCII where that is asked for.
    fn clean(&self, text: &str) -> String {
        text.chars()
            .map(|c| match c {
                '\n' | '\t' => ' ',
                c if c.is_control() || (self.style.ascii && !c.is_ascii()) => '?',
                c => c,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(ascii: bool) -> Page {
        Page {
            text: String::new(),
            style: Style {
                ascii,
                colour: false,
            },
        }
    }

    #[test]
    fn no_line_is_too_long_and_nothing_is_lost() {
        let mut page = page(true);
        let long = "x".repeat(200);
        page.marked(
            Mark::No,
            "a name that is longer than its column",
            &format!("a b {long} c"),
        );
        page.marked(Mark::No, &format!("name {}", "x".repeat(100)), "a value");
        page.item(Mark::Yes, &"word ".repeat(40));
        page.more("lost", &long);
        assert!(
            page.text
                .lines()
                .all(|line| line.chars().count() <= COLUMNS)
        );
        assert_eq!(page.text.matches('x').count(), 500);
        assert_eq!(page.text.matches("word").count(), 40);
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let mut page = page(true);
        page.row("kernel", "6.1\u{1b}[31m\u{7}\u{e9}");
        assert!(page.text.contains("6.1?[31m??"), "{:?}", page.text);
    }
}
