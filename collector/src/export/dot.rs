//! Graphviz: the order of locks, and who waits for whom, as one picture with two parts.
//!
//! In the order, an arrow goes from the lock that is held to the one that is taken meanwhile; it is dashed where lockdep
//! cannot see it, dotted where nobody was seen to wait or to hold (annotated), and red as a step of a circle. In the other part,
//! arrows go from a task to the lock it waits for, and from the lock to its holders.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use super::driver;
use crate::diagnose::graph::order::cycles;
use crate::diagnose::words::duration;
use crate::diagnose::{Report, finding};
use crate::model::{Model, query};

/// The finding that tasks wait for each other.
const DEADLOCK: finding::Id = finding::Id(1);

/// Edges between two series, as they are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrow {
    /// Times seen.
    pub count: u64,
    /// lockdep could see it.
    pub lockdep_visible: bool,
    /// All of it comes from annotations.
    pub annotated: bool,
    /// It is a step of a circle.
    pub in_cycle: bool,
}

/// The order of locks: series held and series acquired, over all entry points.
pub fn arrows(model: &Model) -> BTreeMap<(u8, u8), Arrow> {
    let circles: BTreeSet<_> = cycles(model)
        .iter()
        .flat_map(|cycle| &cycle.steps)
        .flat_map(|step| step.edges.iter().copied())
        .collect();
    let mut arrows = BTreeMap::new();
    for edge in query::order_edges(model) {
        let arrow = arrows
            .entry((edge.id.held, edge.id.acquired))
            .or_insert(Arrow {
                count: 0,
                lockdep_visible: edge.lockdep_visible,
                annotated: true,
                in_cycle: false,
            });
        arrow.count = arrow.count.saturating_add(edge.edge.count_total);
        arrow.annotated &= edge.id.annotated;
        arrow.in_cycle |= circles.contains(&edge.id);
    }
    arrows
}

/// Writes both graphs.
///
/// # Errors
///
/// Those of `out`.
pub fn write(model: &Model, report: &Report, mut out: impl Write) -> io::Result<()> {
    let generation = model.meta.as_ref().map_or("", |meta| &meta.generation);
    let title = format!("{} {generation}: {}", driver(model), report.verdict);
    writeln!(out, "digraph apscope {{")?;
    writeln!(out, "  label={};", quoted(title.trim()))?;
    writeln!(out, "  labelloc=t; rankdir=LR; fontname=\"sans-serif\";")?;
    writeln!(out, "  node [shape=box, fontname=\"sans-serif\"];")?;
    writeln!(out, "  edge [fontname=\"sans-serif\", fontsize=10];")?;
    order(model, &mut out)?;
    waits(model, report, &mut out)?;
    writeln!(out, "}}")?;
    out.flush()
}

fn order(model: &Model, out: &mut impl Write) -> io::Result<()> {
    let arrows = arrows(model);
    writeln!(out, "  subgraph cluster_order {{")?;
    writeln!(
        out,
        "    label=\"order of locks: held, and taken meanwhile\";"
    )?;
    let nodes: BTreeSet<u8> = arrows.keys().flat_map(|&(a, b)| [a, b]).collect();
    for id in nodes {
        let style = if query::open_coded(id) {
            ", style=dashed"
        } else {
            ""
        };
        let name = query::series_name(id);
        writeln!(out, "    s{id} [label={}{style}];", quoted(&name))?;
    }
    for ((held, acquired), arrow) in arrows {
        let style = match arrow {
            Arrow {
                annotated: true, ..
            } => "dotted",
            Arrow {
                lockdep_visible: false,
                ..
            } => "dashed",
            _ => "solid",
        };
        let color = if arrow.in_cycle { "red" } else { "black" };
        writeln!(
            out,
            "    s{held} -> s{acquired} [label=\"{}\", style={style}, color={color}];",
            arrow.count
        )?;
    }
    writeln!(out, "  }}")
}

fn waits(model: &Model, report: &Report, out: &mut impl Write) -> io::Result<()> {
    let waiters = query::waiters(model);
    let awaited: BTreeSet<&str> = waiters.iter().map(|waiter| waiter.lock.as_str()).collect();
    let mut holders = query::holders(model);
    holders.retain(|holder| awaited.contains(holder.lock.as_str()));
    let standing = report.findings.iter().filter(|finding| finding.active());
    let stuck: BTreeSet<u32> = standing
        .filter(|finding| finding.id == DEADLOCK)
        .flat_map(|finding| finding.seen.tasks.iter().map(|task| task.tid))
        .collect();
    writeln!(out, "  subgraph cluster_waits {{")?;
    writeln!(out, "    label=\"who waits for whom\";")?;
    let mut tasks: BTreeMap<u32, String> = BTreeMap::new();
    tasks.extend(waiters.iter().map(|w| (w.tid, w.who())));
    tasks.extend(holders.iter().map(|h| (h.tid, h.who())));
    for (tid, name) in &tasks {
        let color = if stuck.contains(tid) { "red" } else { "black" };
        let name = quoted(name);
        writeln!(
            out,
            "    t{tid} [shape=ellipse, label={name}, color={color}];"
        )?;
    }
    let locks: BTreeMap<&str, usize> = awaited.iter().copied().zip(0..).collect();
    for (name, at) in &locks {
        writeln!(out, "    l{at} [label={}];", quoted(name))?;
    }
    for waiter in &waiters {
        if let Some(lock) = locks.get(waiter.lock.as_str()) {
            let label = format!(
                "waits {} in {}",
                duration(waiter.for_ns),
                query::entry_name(waiter.entry)
            );
            let label = quoted(&label);
            writeln!(out, "    t{} -> l{lock} [label={label}];", waiter.tid)?;
        }
    }
    for holder in &holders {
        if let Some(lock) = locks.get(holder.lock.as_str()) {
            let label = quoted(&format!("held {}", duration(holder.for_ns)));
            writeln!(
                out,
                "    l{lock} -> t{} [label={label}, style=bold];",
                holder.tid
            )?;
        }
    }
    writeln!(out, "  }}")
}

/// A text as a quoted string of the language.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            letter if letter.is_control() => quoted.push(' '),
            letter => quoted.push(letter),
        }
    }
    quoted.push('"');
    quoted
}
