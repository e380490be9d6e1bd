//! Columns as a table: ASCII, as wide as the generations need. Writing to a String cannot fail: such results are
//! left alone.

use std::fmt::Write as _;

use probe_ebpf::names::CLASSES;

use super::{Column, Cycle, Lock};
use crate::diagnose::words::duration;

/// Width of the first column.
const LABEL: usize = 24;
/// Width of a generation's column.
const WIDTH: usize = 18;

/// The table of some generations, one column each.
pub fn render(title: &str, columns: &[Column]) -> String {
    let mut table = Table::default();
    table.text.push_str(title);
    table.text.push('\n');
    table.row("", columns, |c| c.generation.clone());
    table.row("ended", columns, |c| match &c.refused {
        Some(_) => "no such scenario".into(),
        None => c.ended.clone(),
    });
    table.row("measured", columns, |c| c.probe.clone());
    table.row("cycles seen by lockdep", columns, |c| cycles(c, true));
    table.row("cycles it cannot see", columns, |c| cycles(c, false));
    table.row("hangs", columns, |c| c.deadlocks.len().to_string());
    table.row("writes refused EBUSY", columns, |c| match c.writes {
        0 => "-".into(),
        writes => format!("{} of {writes}", c.refused_busy),
    });
    let kinds: Vec<&str> = columns
        .iter()
        .flat_map(|c| &c.operations)
        .filter(|o| o.completed > 0)
        .map(|o| o.what)
        .fold(Vec::new(), once);
    for kind in kinds {
        table.row(&format!("{kind} a second"), columns, |c| {
            let of = c.operations.iter().find(|o| o.what == kind);
            // What goes on beside a hang is another workload.
            of.filter(|_| c.ended != "stuck")
                .map_or_else(|| "-".into(), |o| format!("{:.0}", o.per_second))
        });
    }
    let mut locks: Vec<(&str, &str)> = columns
        .iter()
        .flat_map(|c| &c.locks)
        .map(|l| (l.class, l.mode))
        .fold(Vec::new(), once);
    // As everywhere: by class, write before read.
    locks.sort_by_key(|(class, mode)| {
        let place = CLASSES.iter().position(|known| known.name == *class);
        (place, *mode == "read")
    });
    for (class, mode) in locks {
        let name = if mode == "-" {
            class.to_owned()
        } else {
            format!("{class} ({mode})")
        };
        let find = |c: &Column| -> Option<Lock> {
            c.locks
                .iter()
                .find(|l| l.class == class && l.mode == mode)
                .cloned()
        };
        let _ = writeln!(table.text, "{name}");
        table.row("  acquisitions", columns, |c| {
            find(c).map_or_else(|| "-".into(), |l| l.acquisitions.to_string())
        });
        table.row("  contended", columns, |c| {
            find(c).map_or_else(|| "-".into(), |l| l.contended.to_string())
        });
        table.row("  wait p99 / max", columns, |c| {
            find(c).map_or_else(|| "-".into(), |l| two(l.wait.p99_ns, l.wait.max_ns))
        });
        table.row("  hold p99 / max", columns, |c| {
            find(c).map_or_else(|| "-".into(), |l| two(l.hold.p99_ns, l.hold.max_ns))
        });
    }
    notes(&mut table, columns);
    table.text
}

fn once<T: PartialEq>(mut known: Vec<T>, item: T) -> Vec<T> {
    if !known.contains(&item) {
        known.push(item);
    }
    known
}

fn cycles(column: &Column, visible: bool) -> String {
    let n = column
        .cycles
        .iter()
        .filter(|c| c.lockdep_visible == visible && c.guarded_by.is_none())
        .count();
    n.to_string()
}

fn two(p99: Option<u64>, max: Option<u64>) -> String {
    match (p99, max) {
        (Some(p99), Some(max)) => format!("{}/{}", short(p99), short(max)),
        _ => "-".into(),
    }
}

fn short(ns: u64) -> String {
    duration(ns).replace(' ', "")
}

/// What the numbers are: each cycle, each hang, each generation without the scenario.
fn notes(table: &mut Table, columns: &[Column]) {
    for column in columns {
        if let Some(why) = &column.refused {
            table.note(&column.generation, why);
        }
        for cycle in &column.cycles {
            table.note(&column.generation, &sentence(cycle));
        }
        for deadlock in &column.deadlocks {
            table.note(&column.generation, deadlock);
        }
    }
}

fn sentence(cycle: &Cycle) -> String {
    let first = cycle.classes.first().copied().unwrap_or("?");
    let seen = if cycle.lockdep_visible {
        "lockdep sees it"
    } else {
        "lockdep cannot see it"
    };
    let guard = cycle.guarded_by.map_or_else(String::new, |guard| {
        format!("; it cannot close under {guard}")
    });
    format!(
        "cycle {} -> {first}: {seen}{guard}",
        cycle.classes.join(" -> ")
    )
}

#[derive(Default)]
struct Table {
    text: String,
}

impl Table {
    fn row(&mut self, label: &str, columns: &[Column], cell: impl Fn(&Column) -> String) {
        let mut line = format!("{label:<LABEL$}");
        for column in columns {
            let text = if column.refused.is_some() && !label.is_empty() && label != "ended" {
                "-".to_owned()
            } else {
                cell(column)
            };
            let _ = write!(line, " {text:>WIDTH$}");
        }
        self.text.push_str(line.trim_end());
        self.text.push('\n');
    }

    fn note(&mut self, generation: &str, text: &str) {
        let _ = writeln!(self.text, "{generation}: {text}");
    }
}
