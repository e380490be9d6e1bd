//! The documentation of findings as pages: for `explain`, and all of them as docs/findings.md. Writing to a String
//! cannot fail: such results are left alone.

use std::fmt::Write as _;

use super::rules::{self, Doc};
use super::upstream;

/// Markdown of one kind of finding: its text, the generations that can have it, and what upstream did.
pub fn page(doc: &Doc) -> String {
    let mut page = format!("# {}: {}\n\n{}", doc.id, doc.title, doc.text);
    let affected = upstream::affected(doc.id.0);
    let entries: Vec<&upstream::Entry> = upstream::TABLE
        .iter()
        .filter(|e| e.id == doc.id.0)
        .collect();
    if entries.is_empty() {
        return page;
    }
    let _ = write!(
        page,
        "\n**Generations.** Seen in or fixed for {}; the others cannot have it in the forms below.\n\n**What upstream did.**\n\n",
        affected.join(", ")
    );
    for entry in entries {
        let hash = if entry.commit.hash.is_empty() {
            String::new()
        } else {
            format!("{} ", entry.commit.hash)
        };
        let symptom = entry.symptom;
        let commit = match entry.commit.title {
            "" => format!("{hash}{}", entry.commit.release),
            title => format!("{hash}\"{title}\" ({})", entry.commit.release),
        };
        let _ = writeln!(
            page,
            "* {commit}: {} ({}{symptom})",
            entry.effect,
            entry.affected.join(", ")
        );
    }
    page
}

/// docs/findings.md.
pub fn all() -> String {
    let mut text = String::from(
        "# Findings\n\nWhat `apscope diagnose` can find. Each section is also printed by `apscope explain ID`.\nWritten by `cargo xtask findings` from the rules in collector/src/diagnose/rules.\n\n## Thresholds\n\nSet with `--threshold NAME=VALUE`.\n\n| name | default | of | is |\n|---|---|---|---|\n",
    );
    for (name, value, of, what) in super::thresholds::table() {
        let _ = writeln!(text, "| `{name}` | {value} | {of} | {what} |");
    }
    text.push('\n');
    for doc in rules::docs() {
        text.push_str(&page(doc).replacen("# ", "## ", 1));
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}
