//! What would be measured, on the page: the driver, attach points, offsets, memory.

use std::fmt::Write as _;

use super::page::{Mark, Page};
use crate::doctor::{AttachRow, Kind, Probe, Report, RowStatus};
use crate::source::ebpf::verifier::{Accepted, Tried, Verdict};

pub fn write(page: &mut Page, report: &Report) {
    driver(page, report);
    attach(page, report);
    offsets(page, report);
    budget(page, report);
    programs(page, report);
}

fn driver(page: &mut Page, report: &Report) {
    let facts = &report.machine;
    page.heading("driver");
    page.row(
        "would be measured",
        &format!(
            "{} ({})",
            match (report.source.kind, report.source.probe) {
                (Kind::Kernel, _) if report.generation.is_some() => "the kernel's driver",
                (Kind::Kernel, _) => "the kernel",
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
            if is_built_in(report, name) {
                page.marked(Mark::Plain, name, "no module: its types are in vmlinux");
                continue;
            }
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

/// Whether structs of this module are described by the kernel itself, which has the module then, though /sys/module may not
/// list it: only modules with parameters are there when they are built in (kernel/params.c, `param_sysfs_builtin`).
fn is_built_in(report: &Report, module: &str) -> bool {
    let structs: &[&str] = match module {
        "kvm" => &["kvm."],
        "vfio" => &["vfio_device.", "vfio_group."],
        _ => return false,
    };
    let known = report.offsets.iter().filter(|row| row.offset.is_some());
    known
        .filter(|row| row.source == "BTF of vmlinux")
        .any(|row| structs.iter().any(|name| row.field.starts_with(name)))
}

fn attach(page: &mut Page, report: &Report) {
    page.heading("attach points");
    if let Some(level) = report.source.level {
        page.row("level", &level.to_string());
    }
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
    let (above, here): (Vec<&AttachRow>, Vec<&AttachRow>) = rows
        .iter()
        .filter(|row| row.status != RowStatus::NotNeeded)
        .partition(|row| row.status == RowStatus::OtherLevel);
    for row in here {
        attach_row(page, row);
    }
    above_level(page, &above);
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

/// Points of a higher level: how many, and how they would be probed there.
fn above_level(page: &mut Page, rows: &[&AttachRow]) {
    let mut ways: std::collections::BTreeMap<(u8, &str), usize> = std::collections::BTreeMap::new();
    for row in rows {
        let how = row.at_level_2.as_deref().unwrap_or("none");
        // The reason is the same for many, and is said where it is said what is shown.
        let how = how.split(':').next().unwrap_or(how);
        *ways.entry((row.level, how)).or_default() += 1;
    }
    for ((level, how), count) in ways {
        let line = format!("{count} more at level {level}: {how}");
        page.item(Mark::Plain, &line);
    }
}

fn attach_row(page: &mut Page, row: &AttachRow) {
    let mark = match row.status {
        RowStatus::Probed => Mark::Yes,
        RowStatus::OtherLevel | RowStatus::NotNeeded => Mark::Plain,
        RowStatus::Replaced | RowStatus::Lost => Mark::No,
    };
    let mut line = match row.status {
        RowStatus::Probed => format!("{} {}: {}", row.symbol, row.side, row.mechanism),
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
    let driver = report.machine.driver.module("vfio_ap").is_some();
    if !driver {
        page.row("", "none of the driver's: vfio_ap is not loaded");
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
    if absent > 0 && driver {
        page.row(
            "absent",
            &format!("{absent} members that this generation does not have"),
        );
    }
    for row in report
        .offsets
        .iter()
        .filter(|row| driver && row.offset.is_none() && !row.absent)
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
            "{} of at most {}, for {}{} tasks and {} locks on {} CPUs",
            mib(budget.map_bytes),
            mib(budget.limit_bytes),
            budget
                .guests
                .map_or_else(String::new, |guests| format!("{guests} guests: ")),
            budget.tasks,
            budget.locks,
            budget.possible_cpus
        ),
    );
    page.row(
        "span ring",
        &format!("{} more", mib(budget.ring_bytes.into())),
    );
}

fn programs(page: &mut Page, report: &Report) {
    let Some(programs) = &report.programs else {
        return;
    };
    page.heading("programs in this kernel's verifier");
    for Tried { name, verdict, .. } in programs {
        match verdict {
            Verdict::Accepted(Accepted {
                stack_bytes,
                verified_instructions,
                jited_bytes,
                ..
            }) => {
                let stack: u32 = stack_bytes.iter().sum();
                let interpreted = match jited_bytes {
                    0 => ", not compiled",
                    _ => "",
                };
                let value = format!(
                    "{verified_instructions} instructions verified, {stack} bytes of stack{interpreted}"
                );
                page.marked(Mark::Yes, name, &value);
            }
            Verdict::Refused(reason) => page.marked(Mark::No, name, reason),
        }
    }
}
