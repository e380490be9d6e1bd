//! The one way in which a command fails: what, why, and what to try.

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use crate::emulator::Problem;
use crate::source::SourceError;

/// Exit code of a command that could not do its work.
pub const EXIT_FAILED: u8 = 2;

/// Why a command failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Something to tell the user.
    Told {
        /// What failed.
        what: String,
        /// Why.
        cause: String,
        /// What to try.
        hint: String,
    },
    /// Whoever read the standard output has stopped reading: nothing to say, and nobody to say it to.
    OutputClosed,
}

impl Failure {
    /// A failure to tell the user.
    pub fn new(what: impl Into<String>, cause: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Told {
            what: what.into(),
            cause: cause.into(),
            hint: hint.into(),
        }
    }

    /// Prints the failure to the standard error, and gives the exit code.
    pub fn report(&self) -> ExitCode {
        match self {
            Self::Told { .. } => {
                // Where even the standard error is closed, the exit code is all there is.
                let _ = write!(io::stderr().lock(), "{self}");
                ExitCode::from(EXIT_FAILED)
            }
            Self::OutputClosed => ExitCode::SUCCESS,
        }
    }

    /// What failed and why, in one line.
    pub fn line(&self) -> String {
        match self {
            Self::Told { what, cause, .. } => one_line(&format!("{what}: {cause}")),
            Self::OutputClosed => self.to_string(),
        }
    }
}

/// Whatever a cause brought along.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Told { what, cause, hint } => {
                writeln!(f, "error: {}", one_line(what))?;
                writeln!(f, "cause: {}", one_line(cause))?;
                writeln!(f, "try: {}", one_line(hint))
            }
            Self::OutputClosed => writeln!(f, "the output was closed"),
        }
    }
}

impl std::error::Error for Failure {}

impl From<SourceError> for Failure {
    fn from(error: SourceError) -> Self {
        Self::new(error.what, error.cause, error.hint)
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::new(problem.what, problem.cause, problem.hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_three_lines() {
        let failure = Failure::new("cannot a", "b is\n  missing", "c");
        assert_eq!(
            failure.to_string(),
            "error: cannot a\ncause: b is missing\ntry: c\n"
        );
    }
}
