//! The command line of both programs: their help in docs/cli.md, and what is no command.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::{Command, Stdio};

use apscope_collector::cli::docs;
use apscope_tui::cli::Cli;
use clap::CommandFactory;

/// Runs apscope, which must fail; returns what it says.
fn fails(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_apscope"))
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    assert!(output.stdout.is_empty(), "{arguments:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn what_the_parser_refuses_is_three_lines() {
    for (arguments, text) in [
        (
            &["bogus"][..],
            "error: unknown command bogus\ncause: apscope has no such command\ntry: apscope --help\n",
        ),
        (
            &["exprot"],
            "error: unknown command exprot\ncause: apscope has no such command\n\
             try: did you mean export? `apscope --help` lists all\n",
        ),
        (
            &["--bogus"],
            "error: unknown option --bogus\ncause: apscope has no such option\ntry: apscope --help\n",
        ),
        (
            &["top", "--bogus"],
            "error: unknown option --bogus\ncause: apscope top has no such option\ntry: apscope top --help\n",
        ),
        (
            &["--guests", "-3"],
            "error: --guests -3 cannot be used\ncause: it must be a whole number, 1 to 1000\ntry: --guests 8\n",
        ),
        (
            &["--watch"],
            "error: --plain is missing\ncause: apscope cannot do without\ntry: apscope --plain --watch\n",
        ),
    ] {
        assert_eq!(fails(arguments), text, "{arguments:?}");
    }
}

#[test]
fn the_page_is_the_help() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/cli.md");
    let expected = docs::page(Cli::command());
    for needed in [
        "## `apscope top`",
        "[FILE]",
        "--plain",
        "--watch",
        "## `apscope record`",
    ] {
        assert!(expected.contains(needed), "{needed}");
    }
    let globals = expected.matches("Global options:").count();
    assert_eq!(globals, 0, "they have a section of their own");
    if std::env::var_os("APSCOPE_UPDATE_DOCS").is_some() {
        std::fs::write(&path, &expected).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap();
    assert_eq!(found, expected, "run with APSCOPE_UPDATE_DOCS=1");
}
