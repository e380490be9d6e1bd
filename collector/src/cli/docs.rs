//! docs/cli.md, made from the parser itself: the help texts are the documentation.

use std::fmt::Write;

use clap::{Args, ColorChoice, Command, Subcommand};

use super::Globals;

/// Columns of the help texts in the document.
const COLUMNS: usize = 100;

/// The document.
pub fn page() -> String {
    let mut page = "\
# Command line

Two programs have these commands: `apscope`, which without a command is the dashboard, and `apscope-collector`, which
needs no terminal and without a command prints a plain text summary. What follows is their help; a test keeps it so.

Machine output goes to the standard output or to the file that `-o` names, everything else to the standard error. Exit
codes: 0 done, 2 could not be done. An error is three lines: what, why, and what to try.

"
    .to_owned();
    section(&mut page, "Global options", &options());
    for command in commands() {
        let title = format!("`{}`", command.get_name());
        section(&mut page, &title, &help(command));
    }
    page
}

fn section(page: &mut String, title: &str, text: &str) {
    let _ = write!(page, "## {title}\n\n```text\n{text}\n```\n\n");
    let end = page.trim_end().len();
    page.truncate(end + 1);
    page.push('\n');
}

/// Help of the global options alone: those that both programs and every command have.
fn options() -> String {
    let command = Globals::augment_args(Command::new("apscope").disable_help_flag(true));
    let text = help(command);
    let heading = "Global options:\n";
    let start = text.find(heading).map_or(0, |at| at + heading.len());
    text[start..].to_owned()
}

/// Every command, without the global options.
fn commands() -> Vec<Command> {
    let parser = Command::new("apscope").disable_help_subcommand(true);
    let mut parser = super::Command::augment_subcommands(parser);
    parser.build();
    parser.get_subcommands().cloned().collect()
}

/// Help of a command.
fn help(command: Command) -> String {
    let mut command = command.term_width(COLUMNS).color(ColorChoice::Never);
    let mut text = String::new();
    for line in command.render_long_help().to_string().lines() {
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text.trim_end().to_owned()
}
