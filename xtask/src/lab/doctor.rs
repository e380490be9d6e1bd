//! `cargo xtask lab doctor`: what this machine lacks for the lab, and the line that installs it.

use std::path::Path;

use super::qemu;
use crate::failure::Failure;
use crate::process;

/// What a program is needed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Everything.
    Run,
    /// Getting kernels: `lab fetch` and `lab build`.
    Build,
}

struct Need {
    program: &'static str,
    /// Debian's package of it.
    package: &'static str,
    what: &'static str,
    when: Use,
}

const NEEDS: [Need; 16] = [
    need(qemu::PROGRAM, "qemu-system-misc", "the machine", Use::Run),
    need(
        qemu::LEASH,
        "util-linux",
        "ends the machine with its parent",
        Use::Run,
    ),
    need("stty", "coreutils", "size of the terminal", Use::Run),
    need(
        "s390x-linux-gnu-gcc",
        "gcc-s390x-linux-gnu",
        "programs for s390x",
        Use::Run,
    ),
    need(
        "s390x-linux-gnu-strip",
        "binutils-s390x-linux-gnu",
        "programs for s390x",
        Use::Run,
    ),
    need("apt-get", "apt", "Debian's packages", Use::Build),
    need("dpkg-deb", "dpkg", "Debian's packages", Use::Build),
    need("tar", "tar", "kernel sources", Use::Build),
    need("xz", "xz-utils", "kernel sources", Use::Build),
    need("make", "make", "kernels and modules", Use::Build),
    need("patch", "patch", "--driver-patch", Use::Build),
    need("gcc", "gcc", "tools of the kernel build", Use::Build),
    need("bc", "bc", "kernels", Use::Build),
    need("flex", "flex", "kernels", Use::Build),
    need("bison", "bison", "kernels", Use::Build),
    need(
        "pahole",
        "pahole",
        "types of kernel and modules",
        Use::Build,
    ),
];

/// Files whose package has no program to ask for.
const FILES: [(&str, &str, &str, Use); 4] = [
    (
        "/usr/s390x-linux-gnu/lib/libc.a",
        "libc6-dev-s390x-cross",
        "programs for s390x",
        Use::Run,
    ),
    (
        "/usr/include/libelf.h",
        "libelf-dev",
        "tools of the kernel build",
        Use::Build,
    ),
    (
        "/usr/include/openssl/opensslv.h",
        "libssl-dev",
        "tools of the kernel build",
        Use::Build,
    ),
    (
        "/usr/share/keyrings/debian-archive-keyring.gpg",
        "debian-archive-keyring",
        "signatures of Debian's packages",
        Use::Build,
    ),
];

const fn need(program: &'static str, package: &'static str, what: &'static str, when: Use) -> Need {
    Need {
        program,
        package,
        what,
        when,
    }
}

/// Everything that is needed: what, its package, what for, when, and whether it is there.
fn all() -> Vec<(&'static str, &'static str, &'static str, Use, bool)> {
    let programs = NEEDS.iter().map(|need| {
        let there = is_program(need.program);
        (need.program, need.package, need.what, need.when, there)
    });
    let files = FILES
        .iter()
        .map(|&(file, package, what, when)| (file, package, what, when, Path::new(file).exists()));
    programs.chain(files).collect()
}

/// Whether a program is in the search path.
fn is_program(name: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(name).is_file()))
}

/// Fails with the line that installs what is missing.
pub fn require(when: Use) -> Result<(), Failure> {
    let missing: Vec<_> = all()
        .into_iter()
        .filter(|&(.., of, there)| !there && (of == Use::Run || of == when))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = missing.iter().map(|&(name, ..)| name).collect();
    Err(Failure::new("the lab lacks programs of this machine")
        .cause(format!("not there: {}", names.join(", ")))
        .hint(install(missing.iter().map(|&(_, package, ..)| package))))
}

/// Fails where QEMU computes addresses wrongly that a kernel's modules need: with QEMU 7.2.22 (Debian 12), `vcpu_load` of
/// Linux 7.2.13 writes to a CPU's variable 4 GiB off, LARL reaching farther than 2 GiB there; with 10.0.2 it does not.
/// Older kernels ran with both.
pub fn require_for(series: &str) -> Result<(), Failure> {
    let version = qemu::version().unwrap_or_default();
    if series != "7.2" || !is_too_old(&version) {
        return Ok(());
    }
    Err(
        Failure::new("this QEMU is too old for Linux 7.2: kvm crashes in it")
            .cause(version)
            .hint("a QEMU from 8.0 on; for Debian 12, apt-get install -t bookworm-backports qemu-system-misc"),
    )
}

/// Whether `qemu-system-s390x --version` prints a version before 8. One that cannot be read is taken for a new one.
fn is_too_old(version: &str) -> bool {
    let number = version.split_once("version ").map(|(_, rest)| rest);
    let major = number.and_then(|rest| rest.split('.').next()?.parse::<u32>().ok());
    major.is_some_and(|major| major < 8)
}

fn install<'a>(packages: impl Iterator<Item = &'a str>) -> String {
    let mut packages: Vec<_> = packages.collect();
    packages.sort_unstable();
    packages.dedup();
    format!("apt-get install {}", packages.join(" "))
}

/// Prints what is there and what is not; something missing that is always needed is a finding.
pub fn run(toolchain: &str) -> Result<(), Failure> {
    for (name, package, what, when, there) in all() {
        let mark = if there { "ok" } else { "NO" };
        let when = match when {
            Use::Run => "",
            Use::Build => ", for lab fetch and lab build",
        };
        println!("  {mark} {name:<48} {what}{when}");
        if !there {
            println!("       package {package}");
        }
    }
    match process::nightly_sysroot(toolchain) {
        Ok((rustc, _)) => println!("  ok {rustc:<48} apscope for s390x"),
        Err(failure) => println!("  NO a nightly Rust with its sources: {failure}"),
    }
    if let Some(version) = qemu::version() {
        println!("\n{version}");
    }
    process::nightly_sysroot(toolchain)?;
    require(Use::Build)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_is_named_once_and_in_order() {
        let line = install(["b", "a", "b"].into_iter());
        assert_eq!(line, "apt-get install a b");
    }

    #[test]
    fn an_old_emulator_is_known_by_its_version() {
        assert!(is_too_old(
            "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)"
        ));
        assert!(!is_too_old("QEMU emulator version 10.0.2"));
        assert!(!is_too_old(""));
    }

    #[test]
    fn programs_are_looked_for_in_the_search_path() {
        assert!(is_program("sh"));
        assert!(!is_program("no-such-program-of-the-lab"));
    }
}
