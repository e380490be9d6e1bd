//! `cargo xtask complexity`: how large every eBPF program is, and what the verifier makes of it, as a table that is
//! kept in the repository.
//!
//! Instruction counts come from the committed objects, for every machine. The rest needs root: each program of the
//! x86_64 object is loaded, as it is, into the kernel that runs (`verifier`), and never attached. What the verifier
//! does with a program depends on the kernel, so the table names its release, and `--check` compares those columns
//! only where the release is the same.

mod object;
mod table;
mod verifier;

use std::fs;
use std::path::Path;

use crate::failure::Failure;
use crate::process;

use object::Size;
use table::{Row, Table};

/// Machines with an object; the programs of the first are loaded.
const MACHINES: [&str; 3] = ["x86_64", "aarch64", "s390x"];
const FILE: &str = "probe-ebpf/complexity.md";

/// Writes the table, or compares it with what is there.
pub fn run(root: &Path, check: bool) -> Result<(), Failure> {
    let file = root.join(FILE);
    let mut sizes = Vec::new();
    let mut loaded = Vec::new();
    for machine in MACHINES {
        let path = root.join(format!("probe-ebpf/objects/apscope-probes-{machine}.o"));
        let bytes = fs::read(&path).map_err(|e| Failure::file("reading", &path, &e))?;
        let failed = |e: String| Failure::new(format!("reading {}", path.display())).cause(e);
        sizes.push(object::sizes(&bytes).map_err(failed)?);
        if machine == MACHINES[0] {
            loaded = bytes;
        }
    }
    // A kernel of the other byte order cannot load it.
    let permitted =
        cfg!(target_endian = "little") && process::output_of("id", &["-u"]).as_deref() == Some("0");
    if !permitted && !check {
        return Err(Failure::new("the programs cannot be loaded")
            .cause("loading eBPF programs needs root, on a little-endian machine")
            .hint("run as root"));
    }
    let verified = if permitted {
        verifier::load_all(&loaded)
            .map_err(|e| Failure::new("loading the x86_64 object").cause(e))?
    } else {
        Vec::new()
    };
    let now = Table {
        release: process::output_of("uname", &["-rm"]).unwrap_or_default(),
        loaded: permitted,
        rows: rows(&sizes, &verified),
    };
    if !check {
        fs::write(&file, now.to_markdown()).map_err(|e| Failure::file("writing", &file, &e))?;
        println!("{} programs, table in {}", now.rows.len(), file.display());
        return Ok(());
    }
    let text = fs::read_to_string(&file).map_err(|e| Failure::file("reading", &file, &e))?;
    let kept = Table::parse(&text)
        .map_err(|e| Failure::new(format!("reading {}", file.display())).cause(e))?;
    let differing = kept.differences(&now);
    println!(
        "{} programs, compared: {}",
        now.rows.len(),
        kept.compared(&now)
    );
    if differing.is_empty() {
        return Ok(());
    }
    for difference in &differing {
        println!("  {difference}");
    }
    Err(Failure::found(format!(
        "{FILE} is not what the objects give: {} differences, the first is: {}",
        differing.len(),
        differing[0]
    ))
    .hint("cargo xtask complexity as root, and look at what has grown"))
}

/// One row for each program that any object has, by name.
fn rows(sizes: &[Vec<Size>], verified: &[verifier::Loaded]) -> Vec<Row> {
    let mut names: Vec<(&str, &str)> = sizes
        .iter()
        .flatten()
        .map(|size| (size.name.as_str(), size.section.as_str()))
        .collect();
    names.sort_unstable();
    names.dedup_by_key(|(name, _)| *name);
    names
        .into_iter()
        .map(|(name, section)| Row {
            name: name.to_owned(),
            section: section.to_owned(),
            instructions: sizes
                .iter()
                .map(|of| of.iter().find(|s| s.name == name).map(|s| s.instructions))
                .collect(),
            verdict: verified
                .iter()
                .find(|v| v.name == name)
                .map(|v| v.verdict.clone()),
        })
        .collect()
}
