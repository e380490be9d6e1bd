//! `cargo xtask ebpf`: builds the eBPF objects that the collector embeds, so that everybody gets the same bytes.
//!
//! Needs a nightly toolchain with rust-src, and bpf-linker; a normal build of apscope needs neither. What would
//! differ between two machines is taken out: paths are remapped, and debug sections are dropped once BTF has been
//! made from them. The versions that built the committed objects are in `probe-ebpf/objects/TOOLCHAIN`.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use object::build::elf::{Builder, Section, SectionData};
use object::elf;

use crate::failure::Failure;
use crate::process;

/// The linker's release line that borrows the LLVM of the nightly's own rustc.
const LINKER_VERSION: &str = "0.10.3";
/// Machine and eBPF target: s390x is big endian.
const OBJECTS: [(&str, &str); 3] = [
    ("x86_64", "bpfel-unknown-none"),
    ("aarch64", "bpfel-unknown-none"),
    ("s390x", "bpfeb-unknown-none"),
];
const PROGRAM: &str = "apscope-probes";

/// What the objects are built with.
struct Toolchain {
    name: String,
    /// As in the file TOOLCHAIN.
    versions: String,
    sysroot: PathBuf,
}

/// Builds all objects into `probe-ebpf/objects`, or compares them with what is there.
pub fn run(root: &Path, check: bool, toolchain: &str) -> Result<(), Failure> {
    let toolchain = find_toolchain(toolchain)?;
    let folder = root.join("probe-ebpf/objects");
    let noted = folder.join("TOOLCHAIN");
    let mut differing = Vec::new();
    for (arch, target) in OBJECTS {
        let bytes = strip(&build(root, arch, target, &toolchain)?)
            .map_err(|e| Failure::new(format!("stripping the {arch} object")).cause(e))?;
        if let Some(path) = path_inside(&bytes, root) {
            return Err(Failure::new(format!(
                "the {arch} object names a folder of this machine: {path}"
            ))
            .cause("a path was not remapped, so the build is not reproducible"));
        }
        let file = folder.join(format!("{PROGRAM}-{arch}.o"));
        if check {
            match fs::read(&file) {
                Ok(present) if present == bytes => println!("{}: same", file.display()),
                Ok(present) => differing.push(format!(
                    "{} ({} bytes, rebuilt {} bytes)",
                    file.display(),
                    present.len(),
                    bytes.len()
                )),
                Err(e) => differing.push(format!("{} ({e})", file.display())),
            }
        } else {
            fs::create_dir_all(&folder).map_err(|e| Failure::file("creating", &folder, &e))?;
            fs::write(&file, &bytes).map_err(|e| Failure::file("writing", &file, &e))?;
            println!("{}: {} bytes", file.display(), bytes.len());
        }
    }
    if !check {
        return fs::write(&noted, &toolchain.versions)
            .map_err(|e| Failure::file("writing", &noted, &e));
    }
    if differing.is_empty() {
        return Ok(());
    }
    let failure = Failure::found(format!(
        "not what the source gives: {}",
        differing.join(", ")
    ));
    let committed = fs::read_to_string(&noted).unwrap_or_default();
    Err(if committed == toolchain.versions {
        failure
            .cause("the sources or Cargo.lock changed after the objects were built")
            .hint("cargo xtask ebpf, and commit probe-ebpf/objects")
    } else {
        failure
            .cause(format!(
                "built with {}; here is {}",
                one_line(&committed),
                one_line(&toolchain.versions)
            ))
            .hint(
                "cargo xtask ebpf --check --toolchain nightly-DATE, with the nightly of that date",
            )
    })
}

fn one_line(text: &str) -> String {
    text.trim().replace('\n', ", ")
}

/// Makes sure that everything needed is there, or says how to get it.
fn find_toolchain(name: &str) -> Result<Toolchain, Failure> {
    let (rustc, sysroot) = process::nightly_sysroot(name)?;
    let install = format!("cargo install bpf-linker --version {LINKER_VERSION} --locked");
    let Some(linker) = process::output_of("bpf-linker", &["--version"]) else {
        return Err(Failure::new("no bpf-linker")
            .cause("`bpf-linker --version` does not run")
            .hint(install));
    };
    if !linker.starts_with("bpf-linker 0.10.") {
        return Err(Failure::new("this bpf-linker is of another release")
            .cause(format!("found {linker}, need {LINKER_VERSION}"))
            .hint(install));
    }
    Ok(Toolchain {
        name: name.to_owned(),
        versions: format!("{rustc}\n{linker}\n"),
        sysroot,
    })
}

/// Compiles the programs for one machine and returns the object as the linker wrote it.
fn build(root: &Path, arch: &str, target: &str, toolchain: &Toolchain) -> Result<Vec<u8>, Failure> {
    println!("building the programs for {arch}");
    let folder = root.join("target/ebpf").join(arch);
    let mut flags = vec![
        // Which pt_regs aya-ebpf reads arguments and return values from.
        "--cfg".to_owned(),
        format!("bpf_target_arch=\"{arch}\""),
        // BTF is made from debug information.
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
    ];
    flags.extend(remaps(root, &toolchain.sysroot));
    let mut command = process::cargo(&toolchain.name);
    command
        .current_dir(root)
        .args(["build", "--release", "--locked", "-Zbuild-std=core"])
        .args([
            "--package",
            "probe-ebpf",
            "--bin",
            PROGRAM,
            "--features",
            "programs",
        ])
        .args(["--target", target])
        .arg("--target-dir")
        .arg(&folder)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        // The workspace's release profile is meant for the host.
        .env("CARGO_PROFILE_RELEASE_DEBUG", "2")
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "3")
        .env("CARGO_PROFILE_RELEASE_LTO", "fat")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
        .env("CARGO_INCREMENTAL", "0");
    process::run(&mut command, &format!("building the {arch} programs"))?;
    let built = folder.join(target).join("release").join(PROGRAM);
    fs::read(&built).map_err(|e| Failure::file("reading", &built, &e))
}

/// Compiler flags that replace this machine's folders by fixed names. Of several that match, rustc takes the last.
fn remaps(root: &Path, sysroot: &Path) -> Vec<String> {
    folders(root, sysroot)
        .into_iter()
        .map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display()))
        .collect()
}

/// Folders of this machine that a compiler may write into what it makes, and the fixed names that stand for them.
pub fn folders(root: &Path, sysroot: &Path) -> Vec<(PathBuf, &'static str)> {
    let mut pairs = vec![
        (sysroot.join("lib/rustlib/src/rust"), "/rust"),
        (root.to_path_buf(), "/apscope"),
    ];
    let registry = cargo_home().join("registry/src");
    // The registry's folder name holds a hash that depends on cargo's configuration.
    if let Ok(entries) = fs::read_dir(&registry) {
        let mut folders: Vec<_> = entries.flatten().map(|e| e.path()).collect();
        folders.sort();
        pairs.extend(folders.into_iter().map(|folder| (folder, "/crates")));
    }
    pairs
}

fn cargo_home() -> PathBuf {
    env::var_os("CARGO_HOME").map_or_else(
        || PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cargo"),
        PathBuf::from,
    )
}

/// Removes the debug sections, and the relocations and symbols that only they need. BTF, with its line
/// information, stays: it names functions and source lines in the verifier's log.
fn strip(object: &[u8]) -> Result<Vec<u8>, String> {
    let mut builder = Builder::read(object).map_err(|e| e.to_string())?;
    let debug: Vec<_> = builder
        .sections
        .iter()
        .filter(|s| s.name.starts_with(b".debug_"))
        .map(Section::id)
        .collect();
    for section in &mut builder.sections {
        let of_debug = matches!(section.data, SectionData::Relocation(_))
            && section.sh_info_section.is_some_and(|s| debug.contains(&s));
        if of_debug || section.name.starts_with(b".debug_") {
            section.delete = true;
        }
    }
    builder.delete_orphans();
    // LLVM keeps section names in .strtab; the writer wants them in a section of their own.
    if !builder
        .sections
        .iter()
        .any(|s| matches!(s.data, SectionData::SectionString))
    {
        let names = builder.sections.add();
        names.name = b".shstrtab"[..].into();
        names.sh_type = elf::SHT_STRTAB;
        names.sh_addralign = 1;
        names.data = SectionData::SectionString;
    }
    let mut stripped = Vec::new();
    builder.write(&mut stripped).map_err(|e| e.to_string())?;
    Ok(stripped)
}

/// The first folder of this machine whose name is in the object.
pub fn path_inside(object: &[u8], root: &Path) -> Option<String> {
    let home = env::var_os("HOME").map(PathBuf::from);
    let rustup_home = env::var_os("RUSTUP_HOME").map(PathBuf::from);
    let rustup_home = rustup_home.or_else(|| Some(home.clone()?.join(".rustup")));
    // That of the superuser is also the name of a link in /proc/PID, which programs do name.
    let home = home.filter(|home| home != Path::new("/root"));
    [
        Some(root.to_path_buf()),
        Some(cargo_home()),
        rustup_home,
        home,
    ]
    .into_iter()
    .flatten()
    .map(|p| p.display().to_string())
    .filter(|p| p.len() > 1)
    .find(|p| object.windows(p.len()).any(|w| w == p.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_this_machine_is_found_in_the_object() {
        let root = Path::new("/some/checkout");
        assert_eq!(path_inside(b"\0/apscope/src\0", root), None);
        assert_eq!(
            path_inside(b"\0/some/checkout/src\0", root).as_deref(),
            Some("/some/checkout")
        );
    }
}
