//! Names in texts: where they are looked for, and what of a text is none.
//!
//! Takes a text and the names to be hidden, gives the text without them. In a text with stacks, names of threads are where
//! the kernel writes them; in prose, wherever they stand alone; in JSON, in sentences. A name that is also a word of apscope's
//! own, or a number, cannot be told from one in prose, and stays there: it says nothing of anybody without its place.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use probe_ebpf::abi::PROGRAM_NAMES;
use probe_ebpf::names::{CLASSES, ENTRY_POINTS};
use serde_json::Value;

/// Words of apscope's own texts that somebody may have given to a host or a thread as its name.
const WORDS: &str = "a access all an and any answer ap apscope arch at attach be bpf btf budget build bus by call calls \
    collector collectors comm config contended cpu crypto deadlock debug default device domain driver drops ebpf emulated emulator \
    entry error events exact exit fentry fexit file files flag flags for found frame frames free from ftrace function \
    functions gone group guest guests hardware held helper hold holder holds hook host hung if in instance interrupt is it \
    kernel kprobe kprobes kvm level limit linux live load local lock lockdep locks log loss machine main map maps master \
    matrix mdev memory message meta module modules more mutex name names network no node none not of on one open or order \
    owner page permission pid point points possible process processes probe probes program programs queue queues read \
    reader ready release remote reset ring root run s390 s390x server service set since sleep source span spans stack stacks \
    start state states stop stuck symbol symbols sysctl system table task tasks test that the there thread threads time \
    to trace tracefs tracepoint tracing type types uprobe uprobes user vcpu version vfio vfio_ap vm wait waiter waiters \
    waits what which with without work worker write writer writes";

/// Words that stay in prose.
pub(super) fn words() -> BTreeSet<&'static str> {
    let tables = CLASSES.iter().map(|class| class.name);
    let tables = tables.chain(ENTRY_POINTS.iter().map(|entry| entry.name));
    let tables = tables
        .chain(PROGRAM_NAMES)
        .flat_map(|name| name.split(|c| !is_word(c)));
    let words = WORDS.split_whitespace().chain(tables);
    words.filter(|word| !word.is_empty()).collect()
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Nothing but digits and what stands between them.
pub(super) fn is_number(name: &str) -> bool {
    let digits = name.strip_prefix("0x").unwrap_or(name);
    !digits.contains(|c: char| c.is_alphabetic())
}

/// Replaces a name where it stands alone: a thread called `q` is not in every word.
pub(super) fn replace(text: &str, name: &str, hidden: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut before: Option<char> = None;
    while let Some(at) = rest.find(name) {
        let (head, tail) = rest.split_at(at);
        let after = tail[name.len()..].chars().next();
        let previous = head.chars().next_back().or(before);
        let joins = |outer: Option<char>, inner: Option<char>| {
            outer.is_some_and(is_word) && inner.is_some_and(is_word)
        };
        let part = joins(previous, name.chars().next()) || joins(after, name.chars().next_back());
        out.push_str(head);
        out.push_str(if part { name } else { hidden });
        before = name.chars().next_back();
        rest = &tail[name.len()..];
    }
    out.push_str(rest);
    out
}

/// Replaces addresses that are written as hexadecimal numbers.
pub(super) fn replace_addresses(text: &str, addresses: &BTreeMap<u64, u64>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("0x") {
        let digits = &rest[at + 2..];
        let end = digits
            .find(|c: char| !c.is_ascii_hexdigit())
            .unwrap_or(digits.len());
        let (digits, tail) = digits.split_at(end);
        let known = u64::from_str_radix(digits, 16).ok();
        out.push_str(&rest[..at]);
        match known.and_then(|address| addresses.get(&address)) {
            Some(hidden) => {
                // Writing to a String cannot fail.
                let _ = write!(out, "{hidden:#x}");
            }
            None => out.push_str(&rest[at..at + 2 + end]),
        }
        rest = tail;
    }
    out.push_str(rest);
    out
}

/// Whether a name has ended, by what follows it.
type Ends = fn(&str) -> bool;

/// Replaces the name of a thread in a line where the kernel writes one; `None` where it is in no such place.
///
/// `INFO: task NAME:12 blocked`, `owned by task NAME:12` (kernel/hung_task.c), `task:NAME state:D` (sched_show_task()) and,
/// before v5.10, `NAME  D  0  12`, `Comm: NAME` (dump_stack_print_info()), `COMMAND: "NAME"` (crash).
pub(super) fn replace_thread(line: &str, name: &str, hidden: &str) -> Option<String> {
    let mut found = false;
    let mut line = line.to_owned();
    let ends: [(&str, Ends); 4] = [
        ("task ", |rest| rest.starts_with(':')),
        ("task:", starts_blank),
        ("Comm: ", starts_blank),
        ("COMMAND: \"", |rest| rest.starts_with('"')),
    ];
    for (start, ends) in ends {
        let place = format!("{start}{name}");
        let mut from = 0;
        while let Some(at) = line[from..].find(&place).map(|at| from + at) {
            let end = at + place.len();
            from = end;
            if ends(&line[end..]) {
                line.replace_range(at + start.len()..end, hidden);
                from = at + start.len() + hidden.len();
                found = true;
            }
        }
    }
    let rest = line.strip_prefix(name);
    if rest.is_some_and(|rest| starts_blank(rest) && is_old_header(rest)) {
        line.replace_range(..name.len(), hidden);
        found = true;
    }
    found.then_some(line)
}

fn starts_blank(text: &str) -> bool {
    text.starts_with(char::is_whitespace) || text.is_empty()
}

/// What follows the name in the header of a stack before v5.10: the state, the flags last.
fn is_old_header(rest: &str) -> bool {
    let flags = rest.trim_end().rsplit(' ').next();
    let mut words = rest.split_whitespace();
    words.next().is_some_and(|state| state.len() == 1) && flags.is_some_and(|f| f.starts_with("0x"))
}

/// A function on a stack: `handle_pqap+0x52/0x330 [vfio_ap]`. It names nobody.
pub(super) fn is_frame(line: &str) -> bool {
    line.contains("+0x") && line.contains("/0x")
}

/// Changes the sentences and the paths in a JSON document. Keys stay, and so do other values of one word: these are ids.
pub(super) fn sentences(value: &mut Value, change: &impl Fn(&str) -> String) {
    match value {
        Value::String(text) if text.contains(char::is_whitespace) || text.starts_with('/') => {
            *text = change(text);
        }
        Value::Array(values) => values.iter_mut().for_each(|value| sentences(value, change)),
        Value::Object(members) => members
            .values_mut()
            .for_each(|value| sentences(value, change)),
        _ => {}
    }
}
