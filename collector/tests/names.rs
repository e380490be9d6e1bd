//! docs/names.md is the table of names. With APSCOPE_UPDATE_DOCS=1 in the environment the test writes it.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use apscope_collector::model::query;
use probe_ebpf::abi::LockKind;
use probe_ebpf::names::{CLASSES, ENTRY_POINTS, PQAP_FUNCTIONS, ReturnKind};

fn document() -> String {
    let mut text = "\
# Names

The one list of spellings, as they appear in every output and in the ground truth. A test keeps this page equal to
`probe_ebpf::names`. Not every driver generation has every one of them.

## Lock classes

| class | kind | modes | instances |
|---|---|---|---|
"
    .to_owned();
    for class in &CLASSES {
        let modes = match class.kind {
            LockKind::Rwsem => "`write`, `read`",
            _ => "`-`",
        };
        let mut about = query::kind_name(class.kind).to_owned();
        if class.kind == LockKind::Flag {
            about.push_str(" (open-coded lock)");
        }
        if class.long_hold_is_normal {
            about.push_str("; a long hold is normal");
        }
        let _ = writeln!(
            text,
            "| `{}` | {about} | {modes} | `{}[...]`, or the class alone where there is one |",
            class.name, class.name
        );
    }
    text.push_str(
        "
## Entry points

`-` stands for \"outside every traced function\".

| entry point | symbol | module | returns | PQAP responses |
|---|---|---|---|---|
",
    );
    for entry in ENTRY_POINTS.iter().skip(1) {
        let returns = match entry.returns {
            ReturnKind::Void => "nothing: `ok`",
            ReturnKind::Int => "int: `ok`, `-ENAME`",
            ReturnKind::Long => "long: `ok`, `-ENAME`",
            ReturnKind::Notify => "`NOTIFY_DONE`, `NOTIFY_OK`, `NOTIFY_BAD`",
        };
        let pqap = if entry.pqap { "counted" } else { "" };
        let _ = writeln!(
            text,
            "| `{}` | `{}` | `{}` | {returns} | {pqap} |",
            entry.name, entry.symbol, entry.module
        );
    }
    text.push_str(
        "
A return value that is no errno is `other`; an errno without a name is its number, `-41`.

## PQAP functions

| code | name |
|---|---|
",
    );
    for (code, name) in PQAP_FUNCTIONS.iter().enumerate() {
        let _ = writeln!(text, "| {code} | `{name}` |");
    }
    text.push_str("\nA function code above 8 is its number.\n");
    text
}

#[test]
fn the_page_is_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/names.md");
    let expected = document();
    if std::env::var_os("APSCOPE_UPDATE_DOCS").is_some() {
        fs::write(&path, &expected).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap();
    assert_eq!(found, expected, "run with APSCOPE_UPDATE_DOCS=1");
}
