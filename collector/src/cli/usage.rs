//! What the parser does not take, as the same three lines as every other failure.

use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::Failure;
use super::values::BadValue;

/// Ends a program whose arguments were not taken: help and version go to the standard output with exit code 0,
/// mistakes are reported like every failure. `program` is its name.
pub fn refused(error: &clap::Error, program: &str) -> ExitCode {
    if error.use_stderr() {
        return failure(error, program).report();
    }
    // Whoever has asked for help and closed the output has seen enough.
    let _ = error.print();
    ExitCode::SUCCESS
}

/// The failure that a mistake in the arguments is.
pub fn failure(error: &clap::Error, program: &str) -> Failure {
    let context = Context { error };
    let command = context.command(program);
    let help = format!("{command} --help");
    let argument = context.text(ContextKind::InvalidArg).unwrap_or_default();
    let option = name(&argument);
    match error.kind() {
        ErrorKind::UnknownArgument => unknown(&context, &argument, &command),
        ErrorKind::InvalidSubcommand => {
            let word = context.text(ContextKind::InvalidSubcommand);
            let word = word.unwrap_or_default();
            Failure::new(
                format!("unknown command {word}"),
                format!("{command} has no such command"),
                context.meant(&word, ContextKind::SuggestedSubcommand, &help),
            )
        }
        ErrorKind::InvalidValue | ErrorKind::ValueValidation | ErrorKind::NoEquals => {
            value(&context, option, help)
        }
        ErrorKind::ArgumentConflict => conflict(&context, option, help),
        ErrorKind::MissingRequiredArgument => {
            let missing = context.list(ContextKind::InvalidArg);
            let verb = if missing.len() == 1 { "is" } else { "are" };
            Failure::new(
                format!("{} {verb} missing", missing.join(" and ")),
                format!("{command} cannot do without"),
                context.usage().unwrap_or(help),
            )
        }
        ErrorKind::InvalidUtf8 => Failure::new(
            "an argument cannot be read",
            "it is not UTF-8",
            "a name of ASCII characters",
        ),
        _ => {
            // The parser's own first line, for what apscope's options never lead to.
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            Failure::new(
                "the arguments are not understood",
                line.strip_prefix("error: ").unwrap_or(line),
                help,
            )
        }
    }
}

fn unknown(context: &Context<'_>, argument: &str, command: &str) -> Failure {
    let hint = context.meant(
        argument,
        ContextKind::SuggestedArg,
        &format!("{command} --help"),
    );
    let negative = argument
        .strip_prefix('-')
        .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    if negative {
        Failure::new(
            format!("{argument} is no option"),
            "no number is negative here",
            hint,
        )
    } else if argument.starts_with('-') {
        Failure::new(
            format!("unknown option {argument}"),
            format!("{command} has no such option"),
            hint,
        )
    } else {
        Failure::new(
            format!("unexpected argument {argument}"),
            format!("{command} takes no such argument"),
            hint,
        )
    }
}

fn value(context: &Context<'_>, option: &str, help: String) -> Failure {
    let value = context.text(ContextKind::InvalidValue).unwrap_or_default();
    let known = context.list(ContextKind::ValidValue);
    let one_of = |known: &[String]| match known {
        [] => help.clone(),
        [only] => format!("{option} {only}"),
        several => format!("one of {}", several.join(", ")),
    };
    if value.is_empty() {
        return Failure::new(
            format!("{option} has no value"),
            "it needs one",
            one_of(&known),
        );
    }
    let what = format!("{option} {value} cannot be used");
    let source = std::error::Error::source(context.error);
    if let Some(bad) = source.and_then(|source| source.downcast_ref::<BadValue>()) {
        return Failure::new(what, bad.cause.clone(), bad.hint.clone());
    }
    if let Some(source) = source {
        return Failure::new(what, source.to_string(), help);
    }
    let meant = context.text(ContextKind::SuggestedValue);
    let hint = match meant.filter(|meant| slip(&value, meant)) {
        Some(meant) => format!("did you mean {option} {meant}?"),
        None => one_of(&known),
    };
    Failure::new(what, format!("it can be {}", known.join(", ")), hint)
}

fn conflict(context: &Context<'_>, option: &str, help: String) -> Failure {
    let others = context.list(ContextKind::PriorArg);
    let others: Vec<&str> = others.iter().map(|other| name(other)).collect();
    if others.is_empty() {
        return Failure::new(
            format!("{option} cannot be used here"),
            "another option rules it out",
            help,
        );
    }
    if others == [option] {
        return Failure::new(
            format!("{option} is given more than once"),
            "it counts once",
            format!("{option} one time"),
        );
    }
    let others = others.join(", ");
    let cause = if option == "--pid" || others == "--pid" {
        "an emulated driver that runs already has options of its own"
    } else {
        "they rule each other out"
    };
    Failure::new(
        format!("{option} cannot be used together with {others}"),
        cause,
        format!("without {option}, or without {others}"),
    )
}

/// `--guests` of `--guests <N>`, `--verbose` of `--verbose...`, `FILE` of `[FILE]`.
fn name(argument: &str) -> &str {
    let first = argument.split([' ', '=']).next().unwrap_or_default();
    first.trim_matches(['.', '[', ']', '<', '>'])
}

/// Whether one word can be a slip for the other: they differ in one place, by two letters at most, or one is how the
/// other begins. The parser's own measure takes `--bogus` for `--guests`.
fn slip(written: &str, meant: &str) -> bool {
    let (written, meant) = (written.as_bytes(), meant.as_bytes());
    if meant.starts_with(written) {
        return true;
    }
    let same = |(a, b): &(&u8, &u8)| a == b;
    let (shorter, longer) = (
        written.len().min(meant.len()),
        written.len().max(meant.len()),
    );
    let start = written.iter().zip(meant).take_while(same).count();
    let backwards = written.iter().rev().zip(meant.iter().rev());
    let end = backwards.take_while(same).count().min(shorter - start);
    longer - start - end <= 2
}

/// What the parser says about a mistake.
struct Context<'a> {
    error: &'a clap::Error,
}

impl Context<'_> {
    fn list(&self, kind: ContextKind) -> Vec<String> {
        match self.error.get(kind) {
            Some(ContextValue::String(text)) => vec![text.clone()],
            Some(ContextValue::Strings(texts)) => texts.clone(),
            _ => Vec::new(),
        }
    }

    fn text(&self, kind: ContextKind) -> Option<String> {
        self.list(kind).into_iter().next()
    }

    /// A hint with what the parser takes for meant, if anything.
    fn meant(&self, written: &str, kind: ContextKind, help: &str) -> String {
        let mut meant = self.list(kind).into_iter();
        match meant.find(|meant| slip(written, meant)) {
            Some(meant) => format!("did you mean {meant}? `{help}` lists all"),
            None => help.to_owned(),
        }
    }

    /// How the command is used: `apscope export --format <FORMAT> ...`.
    fn usage(&self) -> Option<String> {
        let Some(ContextValue::StyledStr(usage)) = self.error.get(ContextKind::Usage) else {
            return None;
        };
        let usage = usage.to_string();
        let line = usage.trim().strip_prefix("Usage:")?.lines().next()?.trim();
        Some(line.to_owned())
    }

    /// The program, and the command in it: `apscope export`.
    fn command(&self, program: &str) -> String {
        let mut command = program.to_owned();
        for word in self.usage().unwrap_or_default().split_whitespace().skip(1) {
            if !word.starts_with(|c: char| c.is_ascii_lowercase()) {
                break;
            }
            command.push(' ');
            command.push_str(word);
        }
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_slips_are_corrected() {
        for (written, meant) in [
            ("--guest", "--guests"),
            ("--dur", "--duration"),
            ("exprot", "export"),
            ("--guuests", "--guests"),
            ("ebfp", "ebpf"),
            ("aa", "a"),
        ] {
            assert!(slip(written, meant), "{written}");
        }
        assert!(!slip("--bogus", "--guests"));
        assert!(!slip("magic", "ebpf"));
    }
}
