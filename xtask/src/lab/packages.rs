//! Debian's packages by name, of any architecture and release, without root and without touching this machine's own
//! lists: apt with a configuration of its own in `target/lab/apt`. Signatures are checked with Debian's keyring.

use std::cmp::Ordering;
use std::fs;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::failure::Failure;
use crate::process;

/// Debian's keys.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Where nothing is configured here.
const MIRROR: &str = "http://deb.debian.org/debian";

/// Packages of one release and architecture.
#[derive(Debug)]
pub struct Archive {
    folder: PathBuf,
    options: Vec<String>,
}

impl Archive {
    /// Makes the configuration and gets the lists, where they are not there.
    pub fn open(
        lab: &Path,
        mirror: Option<&str>,
        suite: &str,
        arch: &str,
    ) -> Result<Self, Failure> {
        let folder = lab.join("apt").join(format!("{suite}-{arch}"));
        for part in ["lists/partial", "cache/archives/partial"] {
            let path = folder.join(part);
            fs::create_dir_all(&path).map_err(|e| Failure::file("creating", &path, &e))?;
        }
        let mirror = mirror.map_or_else(configured_mirror, str::to_owned);
        let list = folder.join("sources.list");
        let line = format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n");
        fs::write(&list, line).map_err(|e| Failure::file("writing", &list, &e))?;
        let options = [
            format!("APT::Architecture={arch}"),
            format!("APT::Architectures={arch}"),
            format!("Dir::Etc::SourceList={}", list.display()),
            "Dir::Etc::SourceParts=/dev/null".into(),
            format!("Dir::State::Lists={}", folder.join("lists").display()),
            format!("Dir::Cache={}", folder.join("cache").display()),
            "Dir::State::status=/dev/null".into(),
            "Acquire::Languages=none".into(),
            // Its own user, to which apt changes as root, could not write here.
            format!("APT::Sandbox::User={}", whoami()),
        ];
        let archive = Self {
            folder,
            options: options
                .into_iter()
                .flat_map(|option| ["-o".to_owned(), option])
                .collect(),
        };
        if !archive.has_lists() {
            println!("getting the lists of {suite} for {arch}");
            process::run(
                Command::new("apt-get")
                    .args(&archive.options)
                    .args(["-qq", "update"]),
                "getting lists of packages",
            )?;
        }
        Ok(archive)
    }

    fn has_lists(&self) -> bool {
        let entries = fs::read_dir(self.folder.join("lists"))
            .into_iter()
            .flatten();
        entries.flatten().any(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.contains("_Packages")
        })
    }

    /// Packages whose names begin and end so, the newest version in a name first.
    pub fn names(&self, begin: &str, end: &str) -> Result<Vec<String>, Failure> {
        let output = Command::new("apt-cache")
            .args(&self.options)
            .args(["pkgnames", begin])
            .output()
            .map_err(|e| Failure::new("running apt-cache").cause(e.to_string()))?;
        let names = String::from_utf8_lossy(&output.stdout);
        let mut names: Vec<String> = names
            .lines()
            .filter(|name| name.ends_with(end) && !name.contains("-rt") && !name.contains("dbg"))
            .map(str::to_owned)
            .collect();
        names.sort_by(|a, b| by_version(b, a));
        if names.is_empty() {
            return Err(Failure::new(format!("no package {begin}…{end}"))
                .cause(format!("not in the lists in {}", self.folder.display())));
        }
        Ok(names)
    }

    /// Unpacks the newest of these that the mirror has: one in the midst of an update has names without files.
    pub fn unpack_newest(&self, names: Vec<String>, into: &Path) -> Result<String, Failure> {
        let mut failure = Failure::new("no package to choose from");
        for name in names {
            match self.unpack(&name, into) {
                Ok(()) => return Ok(name),
                Err(e) => {
                    println!("{name} cannot be had, trying an older one");
                    failure = e;
                }
            }
        }
        Err(failure)
    }

    /// Downloads a package, where it is not there, and unpacks it into a folder.
    pub fn unpack(&self, package: &str, into: &Path) -> Result<(), Failure> {
        let debs = self.folder.join("debs");
        fs::create_dir_all(&debs).map_err(|e| Failure::file("creating", &debs, &e))?;
        let stamp = into.join(format!(".{package}"));
        if stamp.exists() {
            return Ok(());
        }
        let begin = format!("{package}_");
        let find = || {
            let entries = fs::read_dir(&debs).into_iter().flatten().flatten();
            let mut files = entries.map(|entry| entry.path());
            files.find(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                name.starts_with(&begin) && path.extension().is_some_and(|e| e == "deb")
            })
        };
        if find().is_none() {
            println!("downloading {package}");
            process::run(
                Command::new("apt-get")
                    .current_dir(&debs)
                    .args(&self.options)
                    .args(["download", package])
                    .args((!io::stdout().is_terminal()).then_some("-qq")),
                &format!("downloading {package}"),
            )?;
        }
        let file = find().ok_or_else(|| {
            Failure::new(format!(
                "{package} was downloaded, and is not in {}",
                debs.display()
            ))
        })?;
        fs::create_dir_all(into).map_err(|e| Failure::file("creating", into, &e))?;
        process::run(
            Command::new("dpkg-deb").arg("-x").arg(&file).arg(into),
            &format!("unpacking {package}"),
        )?;
        fs::write(&stamp, "").map_err(|e| Failure::file("writing", &stamp, &e))
    }
}

/// The user that runs this.
fn whoami() -> String {
    process::output_of("id", &["-un"]).unwrap_or_else(|| "root".into())
}

/// The first mirror that this machine uses, which may be the only one within its reach.
fn configured_mirror() -> String {
    let deb822 = fs::read_to_string("/etc/apt/sources.list.d/debian.sources").unwrap_or_default();
    let list = fs::read_to_string("/etc/apt/sources.list").unwrap_or_default();
    mirror_in(&deb822, &list).unwrap_or_else(|| MIRROR.into())
}

fn mirror_in(deb822: &str, list: &str) -> Option<String> {
    let uris = deb822.lines().find_map(|line| line.strip_prefix("URIs:"));
    let first = uris.and_then(|uris| uris.split_whitespace().next());
    let of_list = || {
        let lines = list
            .lines()
            .map(str::trim)
            .filter(|line| line.starts_with("deb "));
        let mut words = lines.flat_map(str::split_whitespace);
        words.find(|word| word.starts_with("http"))
    };
    first.or_else(of_list).map(str::to_owned)
}

/// Names in the order of the numbers in them.
fn by_version(a: &str, b: &str) -> Ordering {
    let parts = |name: &str| -> Vec<(String, u64)> {
        let mut parts = Vec::new();
        let mut rest = name;
        while !rest.is_empty() {
            let digits = rest
                .find(|c: char| c.is_ascii_digit())
                .unwrap_or(rest.len());
            let (text, number) = rest.split_at(digits);
            let end = number
                .find(|c: char| !c.is_ascii_digit())
                .unwrap_or(number.len());
            parts.push((text.to_owned(), number[..end].parse().unwrap_or(0)));
            rest = &number[end..];
        }
        parts
    };
    parts(a).cmp(&parts(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_names_are_numbers() {
        let mut names = [
            "linux-image-6.12.107+deb13-s390x",
            "linux-image-6.12.9+deb13-s390x",
        ];
        names.sort_by(|a, b| by_version(a, b));
        assert_eq!(names[1], "linux-image-6.12.107+deb13-s390x");
    }

    #[test]
    fn the_mirror_of_this_machine_is_used() {
        let deb822 = "Types: deb\nURIs: http://mirror.test/debian http://other\n";
        assert_eq!(
            mirror_in(deb822, "").as_deref(),
            Some("http://mirror.test/debian")
        );
        let list = "# deb http://no\ndeb [trusted=no] http://list.test/debian bookworm main\n";
        assert_eq!(
            mirror_in("", list).as_deref(),
            Some("http://list.test/debian")
        );
        assert_eq!(mirror_in("", ""), None);
    }
}
