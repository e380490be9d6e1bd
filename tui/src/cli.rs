//! The command line of `apscope`: the collector's commands, and those that draw.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::process::ExitCode;

use apscope_collector::cli::{self, Color, Failure, Globals};
use clap::{Args, Parser, Subcommand};

use crate::theme::Theme;
use crate::{app, screenshot, terminal};

/// eBPF tracing of the s390 vfio_ap driver: who holds which lock, who waits, and for how long
#[derive(Debug, Clone, PartialEq, Parser)]
#[command(name = "apscope", version, disable_help_subcommand = true)]
pub struct Cli {
    // Before the global options, whose heading goes for all that follow.
    #[command(flatten)]
    top: TopArgs,
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Clone, PartialEq, Subcommand)]
enum Command {
    /// Watch lock contention live in the terminal (what apscope does when no command is given)
    Top(TopArgs),
    #[command(flatten)]
    Collector(cli::Command),
    /// Draw a picture of the dashboard as an SVG file
    #[command(hide = true)]
    Screenshot(screenshot::ScreenshotArgs),
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
struct TopArgs {
    /// A plain text summary instead of the dashboard
    #[arg(long)]
    plain: bool,
    /// With --plain: print the summary every second
    #[arg(long, requires = "plain")]
    watch: bool,
}

impl TopArgs {
    /// `apscope --plain top` and `apscope top --plain` are the same.
    fn with(&self, other: &Self) -> Self {
        Self {
            plain: self.plain || other.plain,
            watch: self.watch || other.watch,
        }
    }
}

/// Parses the arguments and runs what they ask for.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => return cli::usage::refused(&error, "apscope"),
    };
    let result = match cli.command {
        None => top(&cli.globals, &cli.top),
        Some(Command::Top(args)) => top(&cli.globals, &args.with(&cli.top)),
        Some(_) if cli.top != TopArgs::default() => Err(Failure::new(
            "--plain and --watch belong to the dashboard",
            "another command was given too",
            "apscope --plain",
        )),
        Some(Command::Collector(command)) => cli::run(&command, &cli.globals),
        Some(Command::Screenshot(args)) => {
            screenshot::run(&args, &cli.globals).map(|()| ExitCode::SUCCESS)
        }
    };
    result.unwrap_or_else(|failure| failure.report())
}

fn top(globals: &Globals, args: &TopArgs) -> Result<ExitCode, Failure> {
    if args.plain {
        return cli::plain::run(globals, None, args.watch);
    }
    if let Some(reason) = terminal::unsuitable() {
        // A person at a terminal wonders why there is no dashboard; a pipe does not.
        if std::io::stdout().is_terminal() && !globals.quiet {
            eprintln!("text summary: {reason}");
        }
        return cli::plain::run(globals, None, false);
    }
    let options = cli::run_options(globals)?;
    let theme = match globals.color {
        Color::Always => Theme::COLOUR,
        Color::Never => Theme::PLAIN,
        Color::Auto => Theme::from_env(std::env::var_os("NO_COLOR").as_deref()),
    };
    app::run(&options, globals.duration, theme).map(|()| ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_parser_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn no_command_is_top() {
        let cli = Cli::try_parse_from(["apscope"]).unwrap();
        assert_eq!(cli.command, None);
        let cli = Cli::try_parse_from(["apscope", "--guests", "3", "top", "--plain"]).unwrap();
        assert_eq!(cli.globals.guests, 3);
        assert!(matches!(
            cli.command,
            Some(Command::Top(TopArgs { plain: true, .. }))
        ));
        let cli = Cli::try_parse_from(["apscope", "--plain", "--watch"]).unwrap();
        assert!(cli.command.is_none() && cli.top.plain && cli.top.watch);
        assert!(Cli::try_parse_from(["apscope", "top", "--watch"]).is_err());
        assert!(Cli::try_parse_from(["apscope", "tpo"]).is_err());
    }
}
