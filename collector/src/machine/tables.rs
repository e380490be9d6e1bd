//! The tables of a kernel from which an attach plan is made: symbols, functions that ftrace can patch, tracepoints,
//! types and build ids.
//!
//! Takes the facts of a machine, which say where the tables are; gives what could be read, and of the rest why it could
//! not. Does not know what is looked up.

use std::io::BufReader;

use super::Facts;
use super::files::Root;
use crate::attach::btf;
use crate::attach::functions::FilterFunctions;
use crate::attach::offsets::{BuildIds, Types};
use crate::attach::plan::Tracepoints;
use crate::attach::symbols::Symbols;

/// Modules whose types are read: the driver, what it calls and what calls it.
const TYPED: [&str; 5] = ["kvm", "vfio", "mdev", "ap", "vfio_ap"];

/// What could be read. Each error is the reason in words.
#[derive(Debug)]
pub struct Tables {
    /// /proc/kallsyms.
    pub symbols: Result<Symbols, String>,
    /// tracefs' `available_filter_functions`.
    pub functions: Result<FilterFunctions, String>,
    /// tracefs' `available_events`: `group:event`.
    pub tracepoints: Result<Tracepoints, String>,
    /// Types of the kernel and of modules.
    pub types: Types,
    /// Build ids of the kernel (`vmlinux`) and of modules.
    pub ids: BuildIds,
}

impl Tables {
    /// Reads them all, the large ones at the same time. On a machine that is sick this may be left to a thread: see the
    /// principle on traced locks; none of these files takes one.
    pub fn read(facts: &Facts) -> Self {
        std::thread::scope(|scope| {
            let functions = scope.spawn(|| functions(facts));
            let types = scope.spawn(|| types(facts));
            let symbols = table(
                &mut Root::new(&facts.root),
                Ok("proc/kallsyms".into()),
                |file| Symbols::parse(file).map_err(|error| error.to_string()),
            );
            // Where a thread has panicked, which it has reported, nothing could be read.
            let failed = || "its reader has failed".to_owned();
            let (functions, tracepoints) = functions
                .join()
                .unwrap_or_else(|_| (Err(failed()), Err(failed())));
            let (types, ids) = types.join().unwrap_or_default();
            Self {
                symbols,
                functions,
                tracepoints,
                types,
                ids,
            }
        })
    }
}

/// What tracefs says: functions that ftrace can patch, and tracepoints.
fn functions(facts: &Facts) -> (Result<FilterFunctions, String>, Result<Tracepoints, String>) {
    let mut root = Root::new(&facts.root);
    let in_tracefs = |name: &str| match &facts.tracing.tracefs {
        None => Err("tracefs is not mounted".to_owned()),
        Some(tracefs) => Ok(format!("{}/{name}", tracefs.path.trim_start_matches('/'))),
    };
    let functions = table(
        &mut root,
        in_tracefs("available_filter_functions"),
        |file| FilterFunctions::parse(file).map_err(|error| error.to_string()),
    );
    let tracepoints = table(&mut root, in_tracefs("available_events"), |file| {
        Tracepoints::parse(file).map_err(|error| error.to_string())
    });
    (functions, tracepoints)
}

/// Types and build ids.
fn types(facts: &Facts) -> (Types, BuildIds) {
    let mut root = Root::new(&facts.root);
    let (mut types, mut ids) = (Types::default(), BuildIds::default());
    let most = btf::MAX_BYTES as u64;
    if let Some(data) = root.bytes("sys/kernel/btf/vmlinux", most) {
        types.add_vmlinux(data);
    }
    for module in TYPED {
        if let Some(data) = root.bytes(&format!("sys/kernel/btf/{module}"), most) {
            types.add_module(module, data);
        }
        let notes = format!("sys/module/{module}/notes/.note.gnu.build-id");
        if let Some(notes) = root.bytes(&notes, 4096) {
            ids.add(module, &notes);
        }
    }
    if let Some(notes) = root.bytes("sys/kernel/notes", 64 << 10) {
        ids.add("vmlinux", &notes);
    }
    (types, ids)
}

fn table<T>(
    root: &mut Root,
    path: Result<String, String>,
    parse: impl FnOnce(BufReader<std::fs::File>) -> Result<T, String>,
) -> Result<T, String> {
    let path = path?;
    let Some(file) = root.open(&path) else {
        let place = format!("/{path}");
        let known = root.unreadable().iter().find(|file| file.path == place);
        return Err(match known {
            Some(file) => format!("{place}: {}", file.reason),
            None => format!("{place} is not there"),
        });
    };
    parse(BufReader::with_capacity(64 << 10, file)).map_err(|error| format!("/{path}: {error}"))
}
