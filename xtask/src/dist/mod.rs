//! `cargo xtask dist`: release archives in `target/dist`, one for each machine, each tried before it is kept.
//!
//! An archive holds one static binary with the eBPF objects inside, the documentation and all licences. Static means
//! the GNU target with `+crt-static`: Debian's cross libraries have the archive of the C library for every machine
//! here, and no other libc has s390x as well. Where the toolchain has no standard library for a machine, it is built
//! from rust-src with nightly. The same commit and toolchain give the same bytes.

mod contents;
mod elf;
mod trial;

use std::fs;
use std::path::{Path, PathBuf};

use crate::ebpf;
use crate::failure::Failure;
use crate::process;

/// Largest binary that is released, in bytes.
const MOST_BYTES: u64 = 15 << 20;

/// What to build.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Machines
    #[arg(long, value_delimiter = ',', default_values_t = MACHINES.map(|m| m.arch.to_owned()))]
    machines: Vec<String>,
    /// The nightly toolchain that builds the standard library for machines other than this one
    #[arg(long, default_value = "nightly")]
    toolchain: String,
}

/// A machine that there is an archive for.
#[derive(Debug, PartialEq, Eq)]
struct Machine {
    /// As Rust and the archive's name spell it.
    arch: &'static str,
    target: &'static str,
    /// Oldest processor that the binary runs on, as rustc and the C compiler spell it.
    baseline: Option<&'static str>,
    /// C compiler and linker on another machine, with its archiver.
    cross: [&'static str; 2],
    /// What has that compiler, and the static C library.
    packages: &'static str,
    emulator: &'static str,
    /// `e_machine` of the ELF header (elf.h: EM_X86_64, EM_AARCH64, EM_S390).
    number: u16,
}

const MACHINES: [Machine; 3] = [
    Machine {
        arch: "x86_64",
        target: "x86_64-unknown-linux-gnu",
        baseline: None,
        cross: ["x86_64-linux-gnu-gcc", "x86_64-linux-gnu-ar"],
        packages: "gcc-x86-64-linux-gnu libc6-dev-amd64-cross",
        emulator: "qemu-x86_64-static",
        number: 62,
    },
    Machine {
        arch: "aarch64",
        target: "aarch64-unknown-linux-gnu",
        baseline: None,
        cross: ["aarch64-linux-gnu-gcc", "aarch64-linux-gnu-ar"],
        packages: "gcc-aarch64-linux-gnu libc6-dev-arm64-cross",
        emulator: "qemu-aarch64-static",
        number: 183,
    },
    Machine {
        arch: "s390x",
        target: "s390x-unknown-linux-gnu",
        // The oldest that Linux distributions of 2021 and later run on.
        baseline: Some("z13"),
        cross: ["s390x-linux-gnu-gcc", "s390x-linux-gnu-ar"],
        packages: "gcc-s390x-linux-gnu libc6-dev-s390x-cross",
        emulator: "qemu-s390x-static",
        number: 22,
    },
];

impl Machine {
    fn named(arch: &str) -> Result<&'static Self, Failure> {
        MACHINES.iter().find(|m| m.arch == arch).ok_or_else(|| {
            Failure::new(format!("no archives for {arch}"))
                .cause("there are archives for x86_64, aarch64 and s390x")
        })
    }

    /// The machine that this command runs on.
    fn is_here(&self) -> bool {
        self.arch == std::env::consts::ARCH
    }

    /// What runs its programs here: nothing in front, or an emulator.
    fn emulator(&self) -> Option<&'static str> {
        (!self.is_here()).then_some(self.emulator)
    }
}

/// Builds, tries and packs; ends at the first machine that fails.
pub fn run(root: &Path, options: &Options) -> Result<(), Failure> {
    let machines = options
        .machines
        .iter()
        .map(|arch| Machine::named(arch))
        .collect::<Result<Vec<_>, _>>()?;
    for machine in &machines {
        check_tools(machine, &options.toolchain)?;
        check_emulator(machine)?;
    }
    let folder = root.join("target/dist");
    fs::create_dir_all(&folder).map_err(|e| Failure::file("creating", &folder, &e))?;
    for machine in machines {
        let binary = build(root, machine, &options.toolchain)?;
        let bytes = fs::read(&binary).map_err(|e| Failure::file("reading", &binary, &e))?;
        elf::check(&bytes, machine.number)
            .map_err(|e| Failure::found(format!("{}: {e}", binary.display())))?;
        if bytes.len() as u64 > MOST_BYTES {
            return Err(Failure::found(format!(
                "the {} binary has {} bytes, more than {MOST_BYTES}",
                machine.arch,
                bytes.len()
            )));
        }
        if let Some(path) = ebpf::path_inside(&bytes, root) {
            return Err(Failure::found(format!(
                "the {} binary names a folder of this machine: {path}",
                machine.arch
            )));
        }
        let version = trial::version(&binary, machine.emulator())?;
        let archive = contents::pack(root, &folder, machine, &binary, &version)?;
        let packed = fs::metadata(&archive).map_or(0, |m| m.len());
        println!(
            "{}: {version}, static, {} bytes; archive {packed} bytes",
            machine.arch,
            bytes.len()
        );
        for line in trial::archive(&archive, machine.emulator())? {
            println!("  {line}");
        }
    }
    contents::checksums(&folder)
}

/// Builds apscope for s390x as it is released, and packs nothing.
pub fn for_the_lab(root: &Path) -> Result<PathBuf, Failure> {
    let (machine, toolchain) = (Machine::named("s390x")?, "nightly");
    check_tools(machine, toolchain)?;
    build(root, machine, toolchain)
}

fn check_tools(machine: &Machine, toolchain: &str) -> Result<(), Failure> {
    if machine.is_here() {
        return Ok(());
    }
    process::nightly_sysroot(toolchain)?;
    for tool in machine.cross {
        if process::output_of(tool, &["--version"]).is_none() {
            return Err(
                Failure::new(format!("no cross compiler for {}", machine.arch))
                    .cause(format!("`{tool} --version` does not run"))
                    .hint(format!("apt-get install {}", machine.packages)),
            );
        }
    }
    Ok(())
}

/// What is built is tried.
fn check_emulator(machine: &Machine) -> Result<(), Failure> {
    if !machine.is_here() && process::output_of(machine.emulator, &["--version"]).is_none() {
        return Err(
            Failure::new(format!("no emulator for {} programs", machine.arch))
                .cause(format!("`{} --version` does not run", machine.emulator))
                .hint("apt-get install qemu-user-static"),
        );
    }
    Ok(())
}

/// Builds the dashboard's binary, which has all commands.
fn build(root: &Path, machine: &Machine, toolchain: &str) -> Result<PathBuf, Failure> {
    println!("building for {}", machine.target);
    let here = machine.is_here();
    let target_dir = root.join("target/dist-build");
    let (mut command, sysroot) = if here {
        let sysroot = process::output_of("rustc", &["--print", "sysroot"])
            .ok_or_else(|| Failure::new("`rustc --print sysroot` failed"))?;
        (process::cargo_here(), PathBuf::from(sysroot))
    } else {
        let (_, sysroot) = process::nightly_sysroot(toolchain)?;
        (process::cargo(toolchain), sysroot)
    };
    let folders = ebpf::folders(root, &sysroot);
    let mut flags = vec!["-Ctarget-feature=+crt-static".to_owned()];
    flags.extend(machine.baseline.map(|cpu| format!("-Ctarget-cpu={cpu}")));
    flags.extend(
        folders
            .iter()
            .map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display())),
    );
    let mut c_flags: Vec<_> = folders
        .iter()
        .map(|(from, to)| format!("-ffile-prefix-map={}={to}", from.display()))
        .collect();
    c_flags.extend(machine.baseline.map(|cpu| format!("-march={cpu}")));
    command
        .current_dir(root)
        .args(["build", "--release", "--locked"])
        .args(["--package", "apscope-tui", "--bin", "apscope"])
        .args(["--target", machine.target])
        .arg("--target-dir")
        .arg(&target_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .env("CARGO_PROFILE_RELEASE_DEBUG", "0")
        .env("CARGO_PROFILE_RELEASE_STRIP", "symbols")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        .env("CARGO_INCREMENTAL", "0");
    let of_target = machine.target.replace('-', "_");
    command.env(format!("CFLAGS_{of_target}"), c_flags.join(" "));
    if !here {
        let [compiler, archiver] = machine.cross;
        command
            .arg("-Zbuild-std=std,panic_abort")
            .env(
                format!("CARGO_TARGET_{}_LINKER", of_target.to_uppercase()),
                compiler,
            )
            .env(format!("CC_{of_target}"), compiler)
            .env(format!("AR_{of_target}"), archiver);
    }
    process::run(&mut command, &format!("building for {}", machine.arch))?;
    Ok(target_dir.join(machine.target).join("release/apscope"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_machine_is_refused_with_the_known_ones() {
        let failure = Machine::named("m68k").expect_err("there is none");
        assert!(failure.to_string().contains("s390x"), "{failure}");
        assert_eq!(
            Machine::named("s390x").expect("is there").baseline,
            Some("z13")
        );
    }
}
