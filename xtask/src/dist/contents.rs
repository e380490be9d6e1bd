//! What an archive holds besides the binary, how it is packed, and the checksums.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::Machine;
use crate::apscope::Scratch;
use crate::failure::Failure;
use crate::licences;
use crate::process;

/// Files and folders of the repository that an archive holds too.
const FROM_REPOSITORY: [&str; 6] = [
    "README.md",
    "ARCHITECTURE.md",
    "LICENSE-MIT",
    "LICENSE-APACHE",
    "docs",
    "dist",
];
/// How files with licences begin, in capitals.
const LICENCE_FILES: [&str; 5] = ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE"];
/// Longest text of a licence that is taken over, in bytes.
const MOST_TEXT: u64 = 1 << 20;

/// Packs the binary and everything that goes with it. The archive has the same bytes for the same contents.
pub fn pack(
    root: &Path,
    folder: &Path,
    machine: &Machine,
    binary: &Path,
    version: &str,
) -> Result<PathBuf, Failure> {
    let number = version.rsplit(' ').next().unwrap_or(version);
    let name = format!("apscope-{number}-{}-linux", machine.arch);
    let scratch = Scratch::new()?;
    let inside = scratch.path().join(&name);
    fs::create_dir(&inside).map_err(|e| Failure::file("creating", &inside, &e))?;
    let mut copy = Command::new("cp");
    copy.arg("-R").arg(binary);
    copy.args(FROM_REPOSITORY.map(|file| root.join(file)));
    process::run(copy.arg(&inside), "copying the archive's files")?;
    let third = inside.join("LICENSES-THIRD-PARTY.md");
    fs::write(&third, third_party(root, machine.target)?)
        .map_err(|e| Failure::file("writing", &third, &e))?;
    let archive = folder.join(format!("{name}.tar.gz"));
    let tar = folder.join(format!("{name}.tar"));
    process::run(
        Command::new("tar")
            .args(["--sort=name", "--format=ustar", "--owner=0", "--group=0"])
            .args(["--numeric-owner", "--mode=u=rwX,go=rX"])
            .arg(format!("--mtime=@{}", commit_time(root)))
            .arg("-C")
            .arg(scratch.path())
            .arg("-cf")
            .arg(&tar)
            .arg(&name),
        "packing",
    )?;
    // Without name and time in the header.
    process::run(
        Command::new("gzip").args(["-9", "-n", "-f"]).arg(&tar),
        "compressing",
    )?;
    Ok(archive)
}

/// Seconds since 1970 of the commit that is checked out, which every file in the archive gets.
fn commit_time(root: &Path) -> String {
    let root = root.display().to_string();
    process::output_of("git", &["-C", &root, "log", "-1", "--format=%ct"])
        .filter(|time| !time.is_empty())
        .unwrap_or_else(|| "0".into())
}

/// Writes SHA256SUMS for all archives of the folder.
pub fn checksums(folder: &Path) -> Result<(), Failure> {
    let mut archives = BTreeSet::new();
    let entries = fs::read_dir(folder).map_err(|e| Failure::file("reading", folder, &e))?;
    for entry in entries {
        let entry = entry.map_err(|e| Failure::file("reading", folder, &e))?;
        if let Some(name) = entry.file_name().to_str()
            && name.ends_with(".tar.gz")
        {
            archives.insert(name.to_owned());
        }
    }
    let output = Command::new("sha256sum")
        .current_dir(folder)
        .args(&archives)
        .output()
        .map_err(|e| Failure::new("running sha256sum").cause(e.to_string()))?;
    if !output.status.success() {
        return Err(Failure::new("running sha256sum")
            .cause(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    let file = folder.join("SHA256SUMS");
    fs::write(&file, &output.stdout).map_err(|e| Failure::file("writing", &file, &e))?;
    println!(
        "{} archives, checksums in {}",
        archives.len(),
        file.display()
    );
    Ok(())
}

/// The licences of everything linked into the binary: a list, then the texts.
fn third_party(root: &Path, target: &str) -> Result<String, Failure> {
    let metadata = licences::metadata(root, &["--filter-platform", target])?;
    let linked = linked(&metadata);
    let mut text = String::from(
        "# Licences of what is inside of the binary\n\n\
         apscope itself is under MIT or Apache-2.0, at your choice. Linked into its binary are:\n\n\
         * the Rust standard library, under MIT or Apache-2.0, <https://github.com/rust-lang/rust>;\n\
         * the GNU C library, under LGPL-2.1-or-later, <https://sourceware.org/glibc/>. apscope's source and\n\
           `cargo xtask dist` are what it takes to link it with another version of that library;\n\
         * the packages below. The texts of their licences follow.\n\n\
         | package | version | licence | source |\n|---|---|---|---|\n",
    );
    let mut texts: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in &linked {
        let field = |name: &str| package[name].as_str().unwrap_or("").to_owned();
        let name = format!("{} {}", field("name"), field("version"));
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} |",
            field("name"),
            field("version"),
            field("license"),
            field("repository")
        );
        for licence in texts_of(package) {
            texts.entry(licence).or_default().insert(name.clone());
        }
    }
    for (licence, packages) in texts {
        let packages: Vec<_> = packages.into_iter().collect();
        let _ = write!(
            text,
            "\n## {}\n\n```\n{licence}\n```\n",
            packages.join(", ")
        );
    }
    Ok(text)
}

/// Packages that the binary is linked from: what `apscope-tui` depends on, directly or not, without what only its
/// build and its tests need, and without the workspace's own; by name and version.
fn linked(metadata: &Value) -> Vec<&Value> {
    let list = |value: &'static str| metadata[value].as_array().map_or(&[][..], Vec::as_slice);
    let nodes: BTreeMap<&str, &Value> = metadata["resolve"]["nodes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|node| Some((node["id"].as_str()?, node)))
        .collect();
    let packages: BTreeMap<&str, &Value> = list("packages")
        .iter()
        .filter_map(|p| Some((p["id"].as_str()?, p)))
        .collect();
    let mut open: Vec<&str> = packages
        .iter()
        .filter(|(_, p)| p["name"] == "apscope-tui" && p["source"].is_null())
        .map(|(id, _)| *id)
        .collect();
    let mut reached = BTreeSet::new();
    while let Some(id) = open.pop() {
        if !reached.insert(id) {
            continue;
        }
        let dependencies = nodes.get(id).and_then(|node| node["deps"].as_array());
        for dependency in dependencies.into_iter().flatten() {
            // `kind` is null for what is linked, else "build" or "dev".
            let kinds = dependency["dep_kinds"].as_array();
            if kinds.into_iter().flatten().any(|k| k["kind"].is_null())
                && let Some(id) = dependency["pkg"].as_str()
            {
                open.push(id);
            }
        }
    }
    let mut linked: Vec<_> = reached
        .into_iter()
        .filter_map(|id| packages.get(id).copied())
        .filter(|p| !p["source"].is_null())
        .collect();
    linked.sort_by_key(|p| [&p["name"], &p["version"]].map(|v| v.as_str().unwrap_or("")));
    linked
}

/// The texts of a package's licences, as far as its archive has them.
fn texts_of(package: &Value) -> Vec<String> {
    let Some(folder) = package["manifest_path"]
        .as_str()
        .and_then(|manifest| Path::new(manifest).parent())
    else {
        return Vec::new();
    };
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut files: Vec<_> = entries
        .flatten()
        .filter(|entry| {
            let name = entry.file_name().to_string_lossy().to_uppercase();
            LICENCE_FILES.iter().any(|start| name.starts_with(start))
                && entry
                    .metadata()
                    .is_ok_and(|m| m.is_file() && m.len() <= MOST_TEXT)
        })
        .map(|entry| entry.path())
        .collect();
    files.sort();
    files
        .into_iter()
        .filter_map(|file| fs::read_to_string(file).ok())
        .map(|text| text.replace("\r\n", "\n").trim().to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What the pages that an archive holds tell somebody to copy, or to look at, is in the archive.
    #[test]
    fn what_the_pages_name_is_packed() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut named = BTreeSet::new();
        for page in ["README.md", "docs/serve.md", "docs/fleet.md"] {
            let text = fs::read_to_string(root.join(page)).unwrap();
            let paths = text.split(|c: char| c.is_whitespace() || "`(),;".contains(c));
            let paths = paths.filter(|path| path.starts_with("dist/"));
            named.extend(paths.map(|path| path.trim_end_matches(['.', '/']).to_owned()));
        }
        assert!(named.contains("dist/systemd/serve.toml"), "{named:?}");
        for path in named {
            assert!(root.join(&path).exists(), "{path}");
            let packed = FROM_REPOSITORY
                .iter()
                .any(|file| Path::new(&path).starts_with(file));
            assert!(packed, "{path}");
        }
    }

    #[test]
    fn only_what_is_linked_is_listed() {
        let package = |name: &str, source: Value| json!({ "id": name, "name": name, "version": "1.0.0", "source": source });
        let on = |name: &str, kind: Value| json!({ "pkg": name, "dep_kinds": [{ "kind": kind }] });
        let crates = json!("registry+x");
        let metadata = json!({
            "packages": [
                package("apscope-tui", Value::Null), package("own", Value::Null),
                package("b", crates.clone()), package("a", crates.clone()),
                package("cc", crates.clone()), package("insta", crates.clone()),
                package("elsewhere", crates),
            ],
            "resolve": { "nodes": [
                { "id": "apscope-tui", "deps": [on("own", Value::Null), on("insta", json!("dev"))] },
                { "id": "own", "deps": [on("b", Value::Null), on("cc", json!("build"))] },
                { "id": "b", "deps": [on("a", Value::Null)] },
                { "id": "a", "deps": [on("b", Value::Null)] },
                { "id": "elsewhere", "deps": [] },
            ] },
        });
        let names: Vec<_> = linked(&metadata)
            .iter()
            .map(|p| p["name"].as_str())
            .collect();
        assert_eq!(names, [Some("a"), Some("b")]);
    }
}
