//! `explain`: the documentation of a kind of finding.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Args;

use super::Failure;
use super::output::print;
use crate::diagnose::{document, rules};

/// Arguments of `explain`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct ExplainArgs {
    /// For example AP001, or 1; without it, all of them in a line each
    pub id: Option<String>,

    /// All of them, as docs/findings.md has them
    #[arg(long, hide = true, conflicts_with = "id")]
    pub markdown: bool,
}

pub(super) fn run(args: &ExplainArgs) -> Result<ExitCode, Failure> {
    if args.markdown {
        print(&document::all())?;
        return Ok(ExitCode::SUCCESS);
    }
    let docs = rules::docs();
    let Some(asked) = &args.id else {
        let mut lines = String::new();
        for doc in docs {
            // Writing to a String cannot fail.
            let _ = writeln!(lines, "{} {}", doc.id, doc.title);
        }
        print(&lines)?;
        return Ok(ExitCode::SUCCESS);
    };
    let digits = asked
        .strip_prefix("AP")
        .or_else(|| asked.strip_prefix("ap"))
        .unwrap_or(asked);
    let number: Option<u8> = digits.parse().ok();
    let Some(doc) = docs.into_iter().find(|doc| Some(doc.id.0) == number) else {
        return Err(Failure::new(
            format!("there is no finding {asked}"),
            "findings are AP000 to AP014",
            "apscope explain, for a list",
        ));
    };
    print(&document::page(doc))?;
    Ok(ExitCode::SUCCESS)
}
