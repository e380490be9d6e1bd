//! Text in lines of a width, and chains of tasks in as few lines as they need.

use apscope_collector::diagnose::chain::{Chain, Root};
use apscope_collector::diagnose::graph::waits::By;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::table::cut;
use crate::format;
use crate::theme::Theme;

/// Text broken at blanks into lines of at most `width` columns; a word that is longer than a line is cut.
pub fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        let own = Span::raw(word).width();
        let used = Span::raw(line.as_str()).width();
        if used > 0 && used + 1 + own > width {
            lines.push(std::mem::take(&mut line));
        } else if used > 0 {
            line.push(' ');
        }
        line.push_str(&cut(word, width));
    }
    if !line.is_empty() {
        lines.push(line);
    }
    lines
}

/// The same as styled lines behind a label; further lines stand below the text.
pub fn labelled(
    label: &str,
    text: &str,
    width: usize,
    label_style: Style,
    style: Style,
) -> Vec<Line<'static>> {
    let indent = Span::raw(label).width();
    wrapped(text, width.saturating_sub(indent).max(8))
        .into_iter()
        .enumerate()
        .map(|(n, line)| {
            let head = if n == 0 {
                label.to_owned()
            } else {
                " ".repeat(indent)
            };
            Line::from(vec![
                Span::styled(head, label_style),
                Span::styled(line, style),
            ])
        })
        .collect()
}

/// A chain, one line for each task: who holds what the one above waits for, and what it waits for itself.
///
/// A line that is too long loses the function first, then the role of the task. `evidence`: with how each hold and wait
/// is known.
pub fn chain(chain: &Chain, width: usize, theme: Theme, evidence: bool) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    let mut stack = vec![(chain, 0)];
    while let Some((link, depth)) = stack.pop() {
        lines.push(one(link, depth, width, theme, evidence));
        if link.omitted > 0 {
            lines.push(Line::styled(
                format!(
                    "{:indent$}and {} more",
                    "",
                    link.omitted,
                    indent = 2 * depth + 4
                ),
                theme.dim(),
            ));
        }
        stack.extend(link.below.iter().rev().map(|below| (below, depth + 1)));
    }
    lines
}

fn one(link: &Chain, depth: usize, width: usize, theme: Theme, evidence: bool) -> Line<'static> {
    let mut head = Vec::new();
    if let Some(keeps) = &link.keeps {
        let how = match keeps.by {
            By::Holding => "held by",
            By::Executing => "run by",
            By::QueuedBefore => "behind",
        };
        let indent = "  ".repeat(depth.saturating_sub(1));
        head.push(Span::styled(format!("{indent}└ {how} "), theme.dim()));
    }
    head.push(Span::styled(link.who.clone(), theme.title()));
    let mut tail = Vec::new();
    let mut place = None;
    if let Some(waits) = &link.waits {
        tail.push(Span::raw(" waits "));
        if waits.for_ns > 0 {
            tail.push(Span::styled(format::duration(waits.for_ns), theme.wait()));
            tail.push(Span::raw(" for "));
        } else {
            tail.push(Span::raw("for "));
        }
        let style = if waits.open_coded {
            theme.open_coded()
        } else {
            theme.header()
        };
        let mark = if waits.open_coded { "*" } else { "" };
        tail.push(Span::styled(format!("{}{mark}", waits.lock), style));
        place = (waits.entry != "-").then(|| format!(" in {}", waits.entry));
    }
    let root = link.root.as_ref().map(|root| (ending(root), is_bad(root)));
    if let Some((text, bad)) = &root {
        let style = if *bad { theme.alarm() } else { theme.dim() };
        tail.push(Span::styled(format!(", {text}"), style));
    }
    let width_of = |spans: &[Span]| spans.iter().map(Span::width).sum::<usize>();
    let fixed = width_of(&head) + width_of(&tail);
    let mut left = width.saturating_sub(fixed);
    // The role says more than the function; either goes whole or not at all.
    let role = (!link.task.role.is_empty()).then(|| format!(", {}", link.task.role));
    if let Some(role) = role.filter(|role| role.len() <= left && link.keeps.is_none()) {
        left -= role.len();
        head.push(Span::styled(role, theme.dim()));
    }
    let known = known(link).filter(|text| evidence && text.len() <= left);
    if let Some(known) = known {
        left -= known.len();
        tail.insert(
            tail.len() - usize::from(root.is_some()),
            Span::styled(known, theme.dim()),
        );
    }
    if let Some(place) = place.filter(|place| place.len() <= left) {
        let at = tail.len() - usize::from(root.is_some());
        tail.insert(at, Span::styled(place, theme.dim()));
    }
    head.extend(tail);
    Line::from(head)
}

/// How the hold and the wait of a link are known.
fn known(link: &Chain) -> Option<String> {
    let all = [
        link.keeps.as_ref().map(|keeps| keeps.evidence.as_str()),
        link.waits.as_ref().map(|waits| waits.evidence.as_str()),
    ];
    let mut known: Vec<&str> = all.into_iter().flatten().collect();
    known.dedup();
    (!known.is_empty()).then(|| format!(" [{}]", known.join("; ")))
}

/// The end of a chain in a few words.
fn ending(root: &Root) -> String {
    match root {
        Root::Cycle(tid) => format!("↺ a cycle: back to {tid}"),
        Root::Running { entry: "-" } => "runs".into(),
        Root::Running { entry } => format!("runs in {entry}"),
        Root::Sleeping { in_function, .. } => format!("sleeps in {in_function}"),
        Root::PollingHardware { work } => format!("polls the hardware: {work}"),
        Root::Exited => "✗ has ended".into(),
        Root::Passing { .. } => "passed on just now".into(),
        Root::NotRunning => "queued, not running".into(),
        Root::Unknown { why } => format!("? {why}"),
        Root::SeenAbove => "as above".into(),
    }
}

/// It does not go on by itself.
const fn is_bad(root: &Root) -> bool {
    matches!(
        root,
        Root::Cycle(_) | Root::Exited | Root::PollingHardware { .. } | Root::Unknown { .. }
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_breaks_at_blanks() {
        assert_eq!(wrapped("a bb ccc", 4), ["a bb", "ccc"]);
        assert_eq!(wrapped("", 4), [""; 0]);
        assert_eq!(wrapped("abcdef gh", 4), ["abc…", "gh"]);
    }

    proptest! {
        #[test]
        fn no_line_is_too_long(text in "\\PC{0,120}", width in 1_usize..60) {
            for line in wrapped(&text, width) {
                prop_assert!(Span::raw(line.as_str()).width() <= width, "{line:?}");
            }
        }
    }
}
