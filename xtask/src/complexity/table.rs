//! The table as text and back, and what two tables differ in.

use std::fmt::Write as _;

use super::verifier::{Accepted, Verdict};

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Release and machine of the kernel that loaded the programs.
    pub release: String,
    /// Whether programs were loaded, so that there are verdicts.
    pub loaded: bool,
    pub rows: Vec<Row>,
}

/// A program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub name: String,
    pub section: String,
    /// By machine; `None` where its object does not have the program.
    pub instructions: Vec<Option<u64>>,
    /// `None` where it was not tried.
    pub verdict: Option<Verdict>,
}

/// Before the release.
const KERNEL: &str = "| kernel | ";
/// What stands for a figure that is not there.
const NONE: &str = "–";

const HEAD: &str = "# Complexity of the eBPF programs\n\n\
    Written by `cargo xtask complexity` and compared by `cargo xtask complexity --check`.\n\n\
    *Instructions* are those of the committed objects, for each machine, with every function that a program calls.\n\
    The other columns are of the x86_64 object, loaded into the kernel named here: bytes of *stack* of the program and\n\
    of each function that it calls, one after the other; instructions that the verifier looked at until it was\n\
    satisfied (*verified*, \"processed\" in its log, `verified_insns` of the program's information; the limit is\n\
    1,000,000) and the most *states* it kept at once; and bytes of machine code (*jited*). The configuration is unknown\n\
    to the verifier here, so this is the worst case. Of a program that this kernel does not load, the reason is given.\n\n";

impl Row {
    /// Instruction counts of all machines.
    fn counts(&self, between: &str) -> String {
        let counts: Vec<_> = self
            .instructions
            .iter()
            .map(|n| n.map_or_else(|| NONE.into(), |n| n.to_string()))
            .collect();
        counts.join(between)
    }
}

impl Table {
    pub fn to_markdown(&self) -> String {
        let mut text = format!(
            "{HEAD}| | |\n|---|---|\n{KERNEL}{} |\n\n\
             | program | section | x86_64 | aarch64 | s390x | stack | verified | states | jited |\n\
             |---|---|--:|--:|--:|---|--:|--:|--:|\n",
            self.release
        );
        for row in &self.rows {
            let rest = match &row.verdict {
                Some(Verdict::Accepted(a)) => {
                    format!("{} | {} | {} | {}", a.stack, a.verified, a.states, a.jited)
                }
                Some(Verdict::Refused(reason)) => format!("{reason} | {NONE} | {NONE} | {NONE}"),
                None => [NONE; 4].join(" | "),
            };
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "| `{}` | {} | {} | {rest} |",
                row.name,
                row.section,
                row.counts(" | ")
            );
        }
        text
    }

    /// Reads what [`to_markdown`](Self::to_markdown) wrote.
    pub fn parse(text: &str) -> Result<Self, String> {
        let release = text
            .lines()
            .find_map(|line| line.strip_prefix(KERNEL)?.strip_suffix(" |"))
            .ok_or("the kernel is not named")?;
        let rows = text
            .lines()
            .filter(|line| line.starts_with("| `"))
            .map(|line| row(line).ok_or_else(|| format!("not understood: {line}")))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            release: release.to_owned(),
            loaded: true,
            rows,
        })
    }

    /// What was compared with another table, for people.
    pub fn compared(&self, now: &Self) -> &'static str {
        if !now.loaded {
            "instruction counts (the rest needs root)"
        } else if self.release == now.release {
            "everything"
        } else {
            "instruction counts and stack (the rest is of another kernel)"
        }
    }

    /// What differs from this table in one made now, one sentence each.
    pub fn differences(&self, now: &Self) -> Vec<String> {
        let mut found = Vec::new();
        for row in &self.rows {
            match now.rows.iter().find(|r| r.name == row.name) {
                None => found.push(format!("{}: no object has it any more", row.name)),
                Some(new) => {
                    if (&new.section, &new.instructions) != (&row.section, &row.instructions) {
                        found.push(format!(
                            "{}: {} with {} instructions, now {} with {}",
                            row.name,
                            row.section,
                            row.counts(", "),
                            new.section,
                            new.counts(", ")
                        ));
                    }
                    if now.loaded {
                        let same_kernel = self.release == now.release;
                        found.extend(verdicts(&row.name, same_kernel, row, new));
                    }
                }
            }
        }
        for row in &now.rows {
            if !self.rows.iter().any(|r| r.name == row.name) {
                found.push(format!("{}: is not in the table", row.name));
            }
        }
        found
    }
}

/// What differs in the verdicts on a program. On another kernel only the stack is comparable, and a program that one
/// of the two refuses says nothing.
fn verdicts(name: &str, same_kernel: bool, kept: &Row, now: &Row) -> Option<String> {
    let said = |row: &Row| match &row.verdict {
        Some(Verdict::Accepted(a)) => format!(
            "stack {}, {} verified, {} states, {} bytes",
            a.stack, a.verified, a.states, a.jited
        ),
        Some(Verdict::Refused(reason)) => reason.clone(),
        None => "not tried".into(),
    };
    let differs = if same_kernel {
        kept.verdict != now.verdict
    } else if let (Some(Verdict::Accepted(a)), Some(Verdict::Accepted(b))) =
        (&kept.verdict, &now.verdict)
    {
        a.stack != b.stack
    } else {
        false
    };
    differs.then(|| format!("{name}: {}; now {}", said(kept), said(now)))
}

fn row(line: &str) -> Option<Row> {
    let fields: Vec<_> = line
        .strip_prefix("| `")?
        .strip_suffix(" |")?
        .split(" | ")
        .collect();
    let [
        name,
        section,
        instructions @ ..,
        stack,
        verified,
        states,
        jited,
    ] = fields.as_slice()
    else {
        return None;
    };
    let number = |text: &str| text.parse::<u64>().ok();
    let verdict = match (number(verified), number(states), number(jited)) {
        (Some(verified), Some(states), Some(jited)) => Some(Verdict::Accepted(Accepted {
            stack: (*stack).to_owned(),
            verified,
            states,
            jited,
        })),
        _ if *stack == NONE => None,
        _ => Some(Verdict::Refused((*stack).to_owned())),
    };
    Some(Row {
        name: name.strip_suffix('`')?.to_owned(),
        section: (*section).to_owned(),
        instructions: instructions.iter().map(|n| number(n)).collect(),
        verdict,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let row = |name: &str, verdict| Row {
            name: name.into(),
            section: "uprobe".into(),
            instructions: vec![Some(100), Some(101), None],
            verdict,
        };
        Table {
            release: "6.18.0 x86_64".into(),
            loaded: true,
            rows: vec![
                row(
                    "lock_release",
                    Some(Verdict::Accepted(Accepted {
                        stack: "208+0".into(),
                        verified: 1234,
                        states: 20,
                        jited: 5000,
                    })),
                ),
                row("x_mutex_lock", Some(Verdict::Refused("EPERM: no".into()))),
                row("untried", None),
            ],
        }
    }

    fn accepted(table: &mut Table) -> &mut Accepted {
        match &mut table.rows[0].verdict {
            Some(Verdict::Accepted(accepted)) => accepted,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_text_gives_the_table_back() {
        let table = table();
        assert_eq!(Table::parse(&table.to_markdown()), Ok(table));
        assert!(Table::parse("").is_err());
        assert!(Table::parse("| kernel | x |\n| `a | b |\n").is_err());
    }

    #[test]
    fn any_difference_counts_on_the_same_kernel() {
        assert_eq!(table().differences(&table()), Vec::<String>::new());
        let mut now = table();
        accepted(&mut now).verified += 1;
        assert_eq!(
            table().differences(&now),
            [
                "lock_release: stack 208+0, 1234 verified, 20 states, 5000 bytes; \
                 now stack 208+0, 1235 verified, 20 states, 5000 bytes"
            ]
        );
        let mut now = table();
        now.rows[1].verdict = None;
        assert_eq!(table().differences(&now).len(), 1);
        let mut now = table();
        now.rows[2].name = "renamed".into();
        assert_eq!(table().differences(&now).len(), 2);
    }

    #[test]
    fn another_kernel_may_verify_differently_but_not_use_another_stack() {
        let mut now = table();
        now.release = "7.2.0 x86_64".into();
        accepted(&mut now).verified = 1;
        accepted(&mut now).jited = 1;
        now.rows[1].verdict = None;
        assert_eq!(table().differences(&now), Vec::<String>::new());
        accepted(&mut now).stack = "240+0".into();
        assert_eq!(table().differences(&now).len(), 1);
        now.loaded = false;
        assert_eq!(table().differences(&now), Vec::<String>::new());
        now.rows[0].instructions[0] = Some(99);
        assert_eq!(
            table().differences(&now),
            ["lock_release: uprobe with 100, 101, – instructions, now uprobe with 99, 101, –"]
        );
    }
}
