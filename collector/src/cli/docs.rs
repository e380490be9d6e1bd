//! docs/cli.md, made from the parser itself: the help texts are the documentation.

use std::fmt::Write;

use clap::{Command, CommandFactory, Parser};

use super::Globals;

/// The parser of the commands that need no terminal, as both binaries have them.
#[derive(Parser)]
#[command(name = "apscope", disable_help_subcommand = true)]
struct Commands {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: super::Command,
}

/// A section of the document for each command that needs no terminal: its name, and its help at 100 columns.
pub fn sections() -> Vec<(String, String)> {
    let mut parser = Commands::command();
    parser.build();
    parser
        .get_subcommands()
        .map(|command| (command.get_name().to_owned(), help(command)))
        .collect()
}

/// Help of a command, at 100 columns.
pub fn help(command: &Command) -> String {
    let mut command = command
        .clone()
        .term_width(100)
        .color(clap::ColorChoice::Never);
    let mut text = String::new();
    for line in command.render_long_help().to_string().lines() {
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text.trim_end().to_owned()
}
