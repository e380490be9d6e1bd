//! `cargo xtask licences`: licences and origins of all dependencies, against the lists in deny.toml.
//!
//! `cargo deny check` does the same and more (advisories, duplicates), but takes minutes to install and a network to
//! run. This reads the same lists, so there is one place to change them.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use spdx::{Expression, Licensee, ParseMode};

use crate::failure::Failure;

/// What deny.toml allows.
struct Allowed {
    licences: Vec<Licensee>,
    registries: Vec<String>,
}

/// Checks every package of the lock file.
pub fn run(root: &Path) -> Result<(), Failure> {
    let file = root.join("deny.toml");
    let text = fs::read_to_string(&file).map_err(|e| Failure::file("reading", &file, &e))?;
    let allowed =
        allowed(&text).map_err(|e| Failure::new(format!("reading {}", file.display())).cause(e))?;
    let metadata = metadata(root, &["--all-features"])?;
    let packages = metadata["packages"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    let refused: Vec<String> = packages
        .iter()
        .filter_map(|p| objection(p, &allowed))
        .collect();
    if refused.is_empty() {
        println!(
            "{} packages, all licences and origins allowed",
            packages.len()
        );
        return Ok(());
    }
    Err(
        Failure::found(format!("not allowed: {}", refused.join("; ")))
            .cause("deny.toml does not list it")
            .hint("another dependency, or a reasoned entry in deny.toml"),
    )
}

/// What `cargo metadata` says of the workspace and the lock file's packages.
pub fn metadata(root: &Path, more: &[&str]) -> Result<Value, Failure> {
    let output = Command::new("cargo")
        .current_dir(root)
        .args(["metadata", "--format-version", "1", "--locked"])
        .args(more)
        .output()
        .map_err(|e| Failure::new("running cargo metadata").cause(e.to_string()))?;
    if !output.status.success() {
        return Err(Failure::new("running cargo metadata")
            .cause(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    serde_json::from_slice(&output.stdout)
        .map_err(|e| Failure::new("reading cargo metadata").cause(e.to_string()))
}

fn allowed(text: &str) -> Result<Allowed, String> {
    let table: toml::Table = text.parse().map_err(|e: toml::de::Error| e.to_string())?;
    let strings = |section: &str, key: &str| -> Result<Vec<String>, String> {
        let list = table
            .get(section)
            .and_then(|s| s.get(key))
            .and_then(toml::Value::as_array)
            .ok_or_else(|| format!("no list {section}.{key}"))?;
        Ok(list
            .iter()
            .filter_map(|v| v.as_str().map(str::to_owned))
            .collect())
    };
    Ok(Allowed {
        licences: strings("licenses", "allow")?
            .iter()
            .map(|l| Licensee::parse(l).map_err(|e| e.to_string()))
            .collect::<Result<_, _>>()?,
        registries: strings("sources", "allow-registry")?,
    })
}

/// What speaks against a package of `cargo metadata`, if anything.
fn objection(package: &Value, allowed: &Allowed) -> Option<String> {
    let name = format!(
        "{} {}",
        package["name"].as_str().unwrap_or("?"),
        package["version"].as_str().unwrap_or("?")
    );
    // Our own packages have no source.
    if let Some(source) = package["source"].as_str()
        && !allowed
            .registries
            .iter()
            .any(|r| source.strip_prefix("registry+") == Some(r))
    {
        return Some(format!("{name} comes from {source}"));
    }
    let Some(licence) = package["license"].as_str() else {
        return Some(format!("{name} states no licence"));
    };
    let Ok(expression) = Expression::parse_mode(licence, ParseMode::LAX) else {
        return Some(format!("{name} has an unreadable licence \"{licence}\""));
    };
    let fine = expression.evaluate(|req| allowed.licences.iter().any(|l| l.satisfies(req)));
    (!fine).then(|| format!("{name} is under {licence}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lists() -> Allowed {
        allowed("[licenses]\nallow = [\"MIT\"]\n[sources]\nallow-registry = [\"https://here\"]\n")
            .expect("the text is valid")
    }

    fn said(licence: &Value, source: &Value) -> Option<String> {
        objection(
            &json!({ "name": "x", "version": "1.0.0", "license": licence, "source": source }),
            &lists(),
        )
    }

    #[test]
    fn only_what_is_listed_passes() {
        let here = json!("registry+https://here");
        assert_eq!(said(&json!("MIT"), &here), None);
        assert_eq!(said(&json!("GPL-3.0/MIT"), &here), None);
        assert_eq!(said(&json!("MIT"), &Value::Null), None);
        assert_eq!(
            said(&json!("MIT AND GPL-3.0"), &here).as_deref(),
            Some("x 1.0.0 is under MIT AND GPL-3.0")
        );
        assert_eq!(
            said(&Value::Null, &here).as_deref(),
            Some("x 1.0.0 states no licence")
        );
        assert_eq!(
            said(&json!("MIT"), &json!("git+https://here")).as_deref(),
            Some("x 1.0.0 comes from git+https://here")
        );
    }

    #[test]
    fn a_missing_list_is_an_error() {
        assert!(allowed("[licenses]\nallow = []\n").is_err());
    }
}
