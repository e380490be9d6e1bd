//! The command line of `apscope`: the collector's commands, and those that draw.

use std::ffi::OsString;
use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use apscope_collector::cli::{self, Color, Failure, Globals};
use apscope_collector::source::leave::detach_in_background;
use clap::{Args, Parser, Subcommand};

use crate::app::{self, Limits};
use crate::state::App;
use crate::state::config::{self, Settings};
use crate::tape::Tape;
use crate::theme::Theme;
use crate::{screenshot, terminal};

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
    /// Go through a recording in the dashboard: play, stop, step, seek
    Replay(ReplayArgs),
    /// The dashboard's configuration: where it is, what can be in it
    Config(ConfigArgs),
    /// Draw pictures of the dashboard as SVG files
    #[command(hide = true)]
    Screenshot(screenshot::ScreenshotArgs),
}

/// How the dashboard looks, and which keys it has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
struct DisplayArgs {
    /// Configuration file of the dashboard, instead of apscope/config.toml in $XDG_CONFIG_HOME or ~/.config
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Colours: dark, light, colour-blind, or none
    #[arg(long, value_name = "NAME", value_parser = theme)]
    theme: Option<Theme>,
    /// Draw with characters of ASCII only, as where LC_ALL, LC_CTYPE or LANG names no UTF-8
    #[arg(long)]
    ascii: bool,
    #[arg(long, hide = true, value_parser = humantime::parse_duration)]
    panic_after: Option<Duration>,
}

fn theme(name: &str) -> Result<Theme, String> {
    Theme::named(name)
        .ok_or_else(|| format!("there are {}", Theme::ALL.map(Theme::name).join(", ")))
}

#[derive(Debug, Clone, PartialEq, Args)]
struct ReplayArgs {
    /// Recording, as `record -o FILE` writes it
    file: PathBuf,
    /// Times faster than it was
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    speed: f64,
    /// Where to begin: time since the recording's start, for example 2.5s
    #[arg(long, value_name = "T", value_parser = humantime::parse_duration)]
    at: Option<Duration>,
    /// Begin stopped
    #[arg(long)]
    paused: bool,
    #[command(flatten)]
    display: DisplayArgs,
}

#[derive(Debug, Clone, PartialEq, Eq, Args)]
struct ConfigArgs {
    /// Print a file with every setting as it is without one
    #[arg(long)]
    print_default: bool,
    /// Check this file
    file: Option<PathBuf>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
struct TopArgs {
    /// A plain text summary instead of the dashboard
    #[arg(long)]
    plain: bool,
    /// With --plain: print the summary every second
    #[arg(long, requires = "plain")]
    watch: bool,
    #[command(flatten)]
    display: DisplayArgs,
}

impl TopArgs {
    /// Its configuration file, and nothing else.
    fn with_config_only(&self) -> Self {
        Self {
            display: DisplayArgs {
                config: self.display.config.clone(),
                ..DisplayArgs::default()
            },
            ..Self::default()
        }
    }

    /// `apscope --plain top` and `apscope top --plain` are the same.
    fn with(&self, other: &Self) -> Self {
        Self {
            plain: self.plain || other.plain,
            watch: self.watch || other.watch,
            display: DisplayArgs {
                config: self
                    .display
                    .config
                    .clone()
                    .or_else(|| other.display.config.clone()),
                theme: self.display.theme.or(other.display.theme),
                ascii: self.display.ascii || other.display.ascii,
                panic_after: self.display.panic_after.or(other.display.panic_after),
            },
        }
    }
}

/// Parses the arguments and runs what they ask for.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => return cli::usage::refused(&error, "apscope"),
    };
    let allowed = match cli.command {
        Some(Command::Config(_)) => cli.top.with_config_only(),
        _ => TopArgs::default(),
    };
    let result = match cli.command {
        None => top(&cli.globals, &cli.top),
        Some(Command::Top(args)) => top(&cli.globals, &args.with(&cli.top)),
        Some(_) if cli.top != allowed => Err(Failure::new(
            "an option of the dashboard stands before another command",
            "--plain, --watch, --config, --theme and --ascii are options of `top`; `config` takes --config too",
            "apscope --plain; for a recording the options stand behind it: apscope replay FILE --ascii",
        )),
        Some(Command::Collector(command)) => cli::run(&command, &cli.globals),
        Some(Command::Replay(args)) => replay(&cli.globals, &args),
        Some(Command::Config(args)) => configuration(&args, cli.top.display.config.as_deref()),
        Some(Command::Screenshot(args)) => screenshot::run(&args).map(|()| ExitCode::SUCCESS),
    };
    let code = result.unwrap_or_else(|failure| failure.report());
    // The prompt comes back now, and not when the kernel has detached the last probe.
    detach_in_background();
    code
}

fn top(globals: &Globals, args: &TopArgs) -> Result<ExitCode, Failure> {
    if let Some(path) = &args.display.config {
        // Where there is a text instead of the dashboard, it has no effect, and its errors still have.
        read_settings(path)?;
    }
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
    let settings = settings(globals, &args.display)?;
    let limits = Limits {
        duration: globals.duration,
        panic_after: args.display.panic_after,
    };
    app::run(&options, limits, settings).map(|()| ExitCode::SUCCESS)
}

fn replay(globals: &Globals, args: &ReplayArgs) -> Result<ExitCode, Failure> {
    // How long to show it, and how often to draw.
    globals.only_read(&args.file, &["--duration", "--interval"])?;
    if let Some(reason) = terminal::unsuitable() {
        return Err(Failure::new(
            "the recording cannot be shown here",
            reason,
            format!("apscope diagnose {}", args.file.display()),
        ));
    }
    let settings = settings(globals, &args.display)?;
    let (tape, mut replay) = Tape::open(&args.file, &settings.thresholds)?;
    replay.set_speed(args.speed);
    replay.playing = !args.paused;
    let at = args.at.unwrap_or_default().as_nanos();
    replay.seek(
        replay
            .range()
            .0
            .saturating_add(u64::try_from(at).unwrap_or(u64::MAX)),
    );
    let mut app = App::with(settings, globals.interval);
    if let Some(damage) = &replay.damaged {
        app.fail(format!("the file is not whole: {damage}"));
    }
    app.replay = Some(replay);
    let limits = Limits {
        duration: globals.duration,
        panic_after: args.display.panic_after,
    };
    app::replay(tape, app, limits).map(|()| ExitCode::SUCCESS)
}

/// Bytes of a configuration file that are read.
const MAX_CONFIG: u64 = 1 << 20;

/// The settings for a run: the file, then the command line, then NO_COLOR.
fn settings(globals: &Globals, display: &DisplayArgs) -> Result<Settings, Failure> {
    let found =
        config::path(env_path("XDG_CONFIG_HOME"), env_path("HOME")).filter(|path| path.exists());
    let mut settings = match display.config.as_ref().or(found.as_ref()) {
        Some(path) => read_settings(path)?,
        None => Settings::default(),
    };
    settings.theme = display.theme.unwrap_or(settings.theme);
    let lacks = terminal::lacks();
    settings.ascii |= display.ascii || lacks.unicode;
    settings.theme = match globals.color {
        Color::Always => settings.theme,
        Color::Never => Theme::PLAIN,
        Color::Auto if lacks.colour => Theme::PLAIN,
        Color::Auto => settings
            .theme
            .from_env(std::env::var_os("NO_COLOR").as_deref()),
    };
    Ok(settings)
}

fn env_path(name: &str) -> Option<PathBuf> {
    std::env::var_os(name)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

fn read_settings(path: &Path) -> Result<Settings, Failure> {
    let failure = |cause: String| {
        Failure::new(
            format!("the configuration {} cannot be used", path.display()),
            cause,
            "apscope config --print-default shows what can be in it",
        )
    };
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_CONFIG).read_to_string(&mut text))
        .map_err(|error| failure(error.to_string()))?;
    Settings::parse(&text).map_err(failure)
}

fn configuration(args: &ConfigArgs, given: Option<&Path>) -> Result<ExitCode, Failure> {
    let file = args.file.as_deref().or(given);
    let path = config::path(env_path("XDG_CONFIG_HOME"), env_path("HOME"));
    let text = if args.print_default {
        Settings::default_file()
    } else if let Some(path) = file.or(path.as_deref()) {
        if file.is_some() || path.exists() {
            read_settings(path)?;
            format!("{} is in order\n", path.display())
        } else {
            format!(
                "{} does not exist; apscope config --print-default prints what can be in it\n",
                path.display()
            )
        }
    } else {
        "neither XDG_CONFIG_HOME nor HOME is set: no file is looked for\n".to_owned()
    };
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(|error| {
            Failure::new(
                "the configuration cannot be printed",
                error.to_string(),
                "another output",
            )
        })?;
    Ok(ExitCode::SUCCESS)
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
