//! The tables as text and back, and what the sizes in two of them differ in.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::verdicts::{Accepted, Kernel, Verdict};

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    pub rows: Vec<Row>,
    /// Kernels with their verdicts, one of a machine.
    pub kernels: Vec<Kernel>,
}

/// A program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub name: String,
    pub section: String,
    /// Instructions for each machine; absent where its object does not have the program.
    pub instructions: Vec<Option<u64>>,
}

/// What begins the part of a kernel.
const KERNEL: &str = "## Linux ";
/// What stands for a figure that is not there.
const NONE: &str = "–";

const HEAD: &str = "# Complexity of the eBPF programs\n\n\
    Written by `cargo xtask complexity` and compared by `cargo xtask complexity --check`; `docs/ebpf.md` says how the part of\n\
    another machine gets here.\n\n\
    *Instructions* are those of the committed objects, for each machine, with every function that a program calls. Below is,\n\
    for each kernel that has loaded them: bytes of *stack* of the program and of each function that it calls, one after the\n\
    other; instructions that the verifier looked at until it was satisfied (*verified*, \"processed\" in its log,\n\
    `verified_insns` of the program's information; the limit is 1,000,000) and the most *states* it kept at once; and bytes\n\
    of machine code (*jited*). The configuration is unknown to the verifier here, so this is the worst case. Of a program\n\
    that a kernel does not load, the reason is given.\n\n";

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
            "{HEAD}| program | section | x86_64 | aarch64 | s390x |\n|---|---|--:|--:|--:|\n"
        );
        // Writing to a String cannot fail.
        for row in &self.rows {
            let (name, section) = (&row.name, &row.section);
            let _ = writeln!(text, "| `{name}` | {section} | {} |", row.counts(" | "));
        }
        for kernel in &self.kernels {
            let _ = writeln!(
                text,
                "\n{KERNEL}{}\n\n| program | stack | verified | states | jited |\n|---|---|--:|--:|--:|",
                kernel.name
            );
            for (name, verdict) in &kernel.verdicts {
                let rest = match verdict {
                    Verdict::Accepted(a) => {
                        format!("{} | {} | {} | {}", a.stack, a.verified, a.states, a.jited)
                    }
                    Verdict::Refused(reason) => format!("{reason} | {NONE} | {NONE} | {NONE}"),
                };
                let _ = writeln!(text, "| `{name}` | {rest} |");
            }
        }
        text
    }

    /// Reads what [`to_markdown`](Self::to_markdown) wrote.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut table = Self {
            rows: Vec::new(),
            kernels: Vec::new(),
        };
        for line in text.lines() {
            if let Some(name) = line.strip_prefix(KERNEL) {
                table.kernels.push(Kernel {
                    name: name.to_owned(),
                    verdicts: BTreeMap::new(),
                });
            } else if line.starts_with("| `") {
                let understood = match table.kernels.last_mut() {
                    None => row(line).map(|row| table.rows.push(row)),
                    Some(kernel) => verdict(line).map(|(name, verdict)| {
                        kernel.verdicts.insert(name, verdict);
                    }),
                };
                understood.ok_or_else(|| format!("not understood: {line}"))?;
            }
        }
        if table.rows.is_empty() {
            return Err("no program is named".into());
        }
        Ok(table)
    }

    /// The kernel of a machine.
    pub fn of_machine(&self, machine: &str) -> Option<&Kernel> {
        self.kernels.iter().find(|k| k.machine() == machine)
    }

    /// Puts a kernel into the place of that of its machine, or behind all.
    pub fn put(&mut self, kernel: Kernel) {
        match self
            .kernels
            .iter_mut()
            .find(|k| k.machine() == kernel.machine())
        {
            Some(place) => *place = kernel,
            None => self.kernels.push(kernel),
        }
    }

    /// What differs from this table in sizes made now, one sentence each.
    pub fn sizes_that_differ(&self, now: &[Row]) -> Vec<String> {
        let mut found = Vec::new();
        for row in &self.rows {
            match now.iter().find(|r| r.name == row.name) {
                None => found.push(format!("{}: no object has it any more", row.name)),
                Some(new) if new != row => found.push(format!(
                    "{}: {} with {} instructions, now {} with {}",
                    row.name,
                    row.section,
                    row.counts(", "),
                    new.section,
                    new.counts(", ")
                )),
                Some(_) => {}
            }
        }
        for row in now {
            if !self.rows.iter().any(|r| r.name == row.name) {
                found.push(format!("{}: is not in the table", row.name));
            }
        }
        found
    }
}

fn fields(line: &str) -> Option<(String, Vec<&str>)> {
    let mut fields = line.strip_prefix("| `")?.strip_suffix(" |")?.split(" | ");
    let name = fields.next()?.strip_suffix('`')?.to_owned();
    Some((name, fields.collect()))
}

fn row(line: &str) -> Option<Row> {
    let (name, fields) = fields(line)?;
    let [section, instructions @ ..] = fields.as_slice() else {
        return None;
    };
    Some(Row {
        name,
        section: (*section).to_owned(),
        instructions: instructions.iter().map(|n| n.parse().ok()).collect(),
    })
}

fn verdict(line: &str) -> Option<(String, Verdict)> {
    let (name, fields) = fields(line)?;
    let [stack, verified, states, jited] = fields.as_slice() else {
        return None;
    };
    let verdict = match (verified.parse(), states.parse(), jited.parse()) {
        (Ok(verified), Ok(states), Ok(jited)) => Verdict::Accepted(Accepted {
            stack: (*stack).to_owned(),
            verified,
            states,
            jited,
        }),
        _ => Verdict::Refused((*stack).to_owned()),
    };
    Some((name, verdict))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let row = |name: &str| Row {
            name: name.into(),
            section: "uprobe".into(),
            instructions: vec![Some(100), Some(101), None],
        };
        let accepted = Verdict::Accepted(Accepted {
            stack: "208+0".into(),
            verified: 1234,
            states: 20,
            jited: 5000,
        });
        let kernel = |name: &str, verdict| Kernel {
            name: name.into(),
            verdicts: [("lock_release".to_owned(), verdict)].into(),
        };
        Table {
            rows: vec![row("lock_release"), row("x_mutex_lock")],
            kernels: vec![
                kernel("6.18.0 x86_64", accepted),
                kernel("7.2.0 s390x", Verdict::Refused("EPERM: no".into())),
            ],
        }
    }

    #[test]
    fn the_text_gives_the_table_back() {
        let table = table();
        assert_eq!(Table::parse(&table.to_markdown()), Ok(table));
        assert!(Table::parse("").is_err());
        assert!(Table::parse("| `a | b |\n").is_err());
        assert!(Table::parse("| `a` | b | 1 |\n## Linux 1 x\n| `a` | 1 |\n").is_err());
    }

    #[test]
    fn a_machine_has_one_kernel() {
        let mut table = table();
        let of = |name: &str| Kernel {
            name: name.into(),
            verdicts: BTreeMap::new(),
        };
        table.put(of("7.3.0 s390x"));
        table.put(of("6.1 aarch64"));
        let names: Vec<_> = table.kernels.iter().map(|k| k.name.as_str()).collect();
        assert_eq!(names, ["6.18.0 x86_64", "7.3.0 s390x", "6.1 aarch64"]);
        assert_eq!(
            table.of_machine("s390x").map(|k| k.name.as_str()),
            Some("7.3.0 s390x")
        );
        assert_eq!(table.of_machine("riscv64"), None);
    }

    #[test]
    fn sizes_that_differ_are_told() {
        let table = table();
        assert_eq!(table.sizes_that_differ(&table.rows), [""; 0]);
        let mut now = table.rows.clone();
        now[0].instructions[0] = Some(99);
        assert_eq!(
            table.sizes_that_differ(&now),
            ["lock_release: uprobe with 100, 101, – instructions, now uprobe with 99, 101, –"]
        );
        now[1].name = "renamed".into();
        assert_eq!(table.sizes_that_differ(&now).len(), 3);
    }
}
