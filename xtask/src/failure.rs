//! How a developer command ends when it does not end well: one line `error`, then `cause`, then `try`.

use std::fmt;
use std::io;
use std::path::Path;
use std::process::ExitCode;

/// Why a command did not succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    what: String,
    cause: Option<String>,
    hint: Option<String>,
    /// The command did its work and found something wrong (exit 1), in contrast to being unable to work (exit 2).
    found: bool,
}

impl Failure {
    /// The command could not do its work.
    pub fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            cause: None,
            hint: None,
            found: false,
        }
    }

    /// The command did its work, and the answer is "no".
    pub fn found(what: impl Into<String>) -> Self {
        Self {
            found: true,
            ..Self::new(what)
        }
    }

    /// Adds why.
    pub fn cause(mut self, cause: impl Into<String>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// Adds what to do.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// A file operation failed.
    pub fn file(doing: &str, path: &Path, error: &io::Error) -> Self {
        Self::new(format!("{doing} {}", path.display())).cause(error.to_string())
    }

    /// 1 for a finding, 2 for an error.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(if self.found { 1 } else { 2 })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.what)?;
        if let Some(cause) = &self.cause {
            write!(f, "\ncause: {cause}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\ntry: {hint}")?;
        }
        Ok(())
    }
}
