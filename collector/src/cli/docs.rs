//! docs/cli.md, made from the parsers themselves: the help texts are the documentation.

use std::fmt::Write;

use clap::{Args, ColorChoice, Command, CommandFactory};

use super::Globals;
use super::program::Program;

/// Columns of the help texts in the document.
const COLUMNS: usize = 100;

/// The document; `apscope` is the parser of the program with the dashboard, which has every command.
pub fn page(apscope: Command) -> String {
    let mut page = "\
# Command line

There are two programs: `apscope`, which without a command is the dashboard, and `apscope-collector`, which needs no
terminal and without a command prints a plain text summary. `top` is a command of `apscope` alone, the others are
commands of both. What follows is their help; a test keeps it so.

Machine output goes to the standard output or to the file that `-o` names, everything else to the standard error. Exit
codes: 0 done, 2 could not be done; of `doctor`, 0 ready, 1 degraded, 2 impossible. An error is three lines: what, why, and what to try.

"
    .to_owned();
    section(&mut page, "Global options", &options());
    let apscope = built(apscope);
    section(&mut page, "`apscope`", &help(apscope.clone()));
    for command in apscope.get_subcommands().filter(|c| !c.is_hide_set()) {
        let title = format!("`apscope {}`", command.get_name());
        section(&mut page, &title, &help(command.clone()));
    }
    let collector = built(Program::command());
    section(&mut page, "`apscope-collector`", &help(collector));
    let end = page.trim_end().len();
    page.truncate(end);
    page.push('\n');
    page
}

fn section(page: &mut String, title: &str, text: &str) {
    let _ = write!(page, "## {title}\n\n```text\n{text}\n```\n\n");
}

/// Help of the global options alone: those that both programs and every command have.
fn options() -> String {
    let command = Globals::augment_args(Command::new("apscope").disable_help_flag(true));
    let text = help(command);
    let heading = "Global options:\n";
    let start = text.find(heading).map_or(0, |at| at + heading.len());
    text[start..].to_owned()
}

/// A parser whose commands have all their options.
fn built(mut program: Command) -> Command {
    program.build();
    without_globals(program).mut_subcommands(without_globals)
}

/// Leaves the global options out of a command's help.
fn without_globals(command: Command) -> Command {
    command.mut_args(|argument| {
        let global = argument.is_global_set();
        let hidden = argument.is_hide_set();
        argument.hide(global || hidden)
    })
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
