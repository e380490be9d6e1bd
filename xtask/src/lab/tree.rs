//! Files of kernel builds: copying, what Debian's headers need to be used elsewhere, and the folder of a finished kernel.
//! Knows paths and tools, not which kernel it is.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::failure::Failure;
use crate::process;

/// Copies a file where it is different, so that what was built of it stays valid.
pub fn copy(from: &Path, to: &Path) -> Result<(), Failure> {
    let bytes = fs::read(from).map_err(|e| Failure::file("reading", from, &e))?;
    if fs::read(to).is_ok_and(|there| there == bytes) {
        return Ok(());
    }
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).map_err(|e| Failure::file("creating", folder, &e))?;
    }
    fs::write(to, bytes).map_err(|e| Failure::file("writing", to, &e))
}

/// Copies the files of a folder whose names are wanted.
pub fn copy_matching(from: &Path, to: &Path, wanted: impl Fn(&str) -> bool) -> Result<(), Failure> {
    for path in entries(from)? {
        let name = path.file_name().unwrap_or_default();
        if path.is_file() && wanted(&name.to_string_lossy()) {
            copy(&path, &to.join(name))?;
        }
    }
    Ok(())
}

/// Copies a folder with everything in it.
pub fn copy_folder(from: &Path, to: &Path) -> Result<(), Failure> {
    for path in entries(from)? {
        let target = to.join(path.file_name().unwrap_or_default());
        if path.is_dir() {
            copy_folder(&path, &target)?;
        } else {
            copy(&path, &target)?;
        }
    }
    Ok(())
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let entries = fs::read_dir(folder).map_err(|e| Failure::file("reading", folder, &e))?;
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    Ok(paths)
}

/// Modules below a folder.
fn modules(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut found = Vec::new();
    for path in entries(folder)? {
        // Links of a build lead to the source.
        if path.is_symlink() {
            continue;
        }
        if path.is_dir() {
            found.extend(modules(&path)?);
        } else if path.extension().is_some_and(|e| e == "ko") {
            found.push(path);
        }
    }
    Ok(found)
}

/// Makes Debian's headers usable where they were unpacked, with the compiler and the pahole of this machine.
pub fn relocate_headers(headers: &Path, unpacked: &Path) -> Result<(), Failure> {
    let stamp = headers.join(".relocated");
    if stamp.exists() {
        return Ok(());
    }
    let moved = format!("include {}/usr/src/", unpacked.display());
    edit(&headers.join("Makefile"), |text| {
        text.replace("include /usr/src/", &moved)
    })?;
    // The compiler is named with the version that built the image.
    edit(&headers.join(".kernelvariables"), |text| {
        let lines = text.lines().map(|line| match line.rsplit_once("gcc-") {
            Some((begin, version)) if version.chars().all(|c| c.is_ascii_digit()) => {
                format!("{begin}gcc\n")
            }
            _ => format!("{line}\n"),
        });
        lines.collect()
    })?;
    let has_alignment = has_option("-fmin-function-alignment=8");
    let pahole = process::output_of("pahole", &["--version"]).map(|version| {
        version
            .chars()
            .filter(char::is_ascii_digit)
            .collect::<String>()
    });
    for name in [
        ".config",
        "include/config/auto.conf",
        "include/generated/autoconf.h",
    ] {
        edit(&headers.join(name), |text| {
            adapt(text, has_alignment, pahole.as_deref())
        })?;
    }
    fs::write(&stamp, "").map_err(|e| Failure::file("writing", &stamp, &e))
}

/// What the configuration says of the tools becomes true here: gcc has the option since 14, and the version of pahole is
/// used without asking it.
fn adapt(text: &str, has_alignment: bool, pahole: Option<&str>) -> String {
    let lines = text.lines().filter(|line| {
        let is_alignment = line.contains("CC_HAS_MIN_FUNCTION_ALIGNMENT");
        let is_types = line.contains("DEBUG_INFO_BTF");
        !(is_alignment && !has_alignment || is_types && pahole.is_none())
    });
    let lines = lines.map(|line| match pahole {
        Some(version) if line.starts_with("CONFIG_PAHOLE_VERSION=") => {
            format!("CONFIG_PAHOLE_VERSION={version}\n")
        }
        _ => format!("{line}\n"),
    });
    lines.collect()
}

fn has_option(option: &str) -> bool {
    process::output_of(
        "s390x-linux-gnu-gcc",
        &[option, "-x", "c", "-c", "-o", "/dev/null", "/dev/null"],
    )
    .is_some()
}

fn edit(path: &Path, f: impl Fn(&str) -> String) -> Result<(), Failure> {
    let text = fs::read_to_string(path).map_err(|e| Failure::file("reading", path, &e))?;
    fs::write(path, f(&text)).map_err(|e| Failure::file("writing", path, &e))
}

/// The folder of a kernel that is being finished; it gets its name when it is whole.
#[derive(Debug)]
pub struct Kernel {
    part: PathBuf,
    folder: PathBuf,
}

impl Kernel {
    /// An empty one.
    pub fn begin(lab: &Path, name: &str) -> Result<Self, Failure> {
        let kernels = lab.join("kernels");
        let part = kernels.join(format!(".{name}"));
        // What was left of an attempt that did not end.
        let _ = fs::remove_dir_all(&part);
        let modules = part.join("modules");
        fs::create_dir_all(&modules).map_err(|e| Failure::file("creating", &modules, &e))?;
        Ok(Self {
            part,
            folder: kernels.join(name),
        })
    }

    /// Takes all modules below a folder, without debug information; their types stay.
    pub fn strip(&self, folder: &Path) -> Result<(), Failure> {
        for module in modules(folder)? {
            let name = module.file_name().unwrap_or_default();
            let mut strip = Command::new("s390x-linux-gnu-strip");
            strip
                .args(["-g", "-o"])
                .arg(self.part.join("modules").join(name))
                .arg(&module);
            process::run(&mut strip, "stripping a module")?;
        }
        Ok(())
    }

    /// Notes that the driver's source has the order of locks of v7.3, which stable releases have taken over: the hook's
    /// rwsem is taken with the other locks of an update, and not where a guest is set.
    pub fn driver(&self, source: &Path) -> Result<(), Failure> {
        let file = source.join("drivers/s390/crypto/vfio_ap_ops.c");
        let text = fs::read_to_string(&file).map_err(|e| Failure::file("reading", &file, &e))?;
        let rwsem = text.find("down_write(&kvm->arch.crypto.pqap_hook_rwsem)");
        let set_kvm = text.find("int vfio_ap_mdev_set_kvm(");
        if let (Some(rwsem), Some(set_kvm)) = (rwsem, set_kvm)
            && rwsem < set_kvm
            && text.contains("void get_update_locks_for_kvm(")
        {
            let to = self.part.join(super::kernels::GENERATION);
            fs::write(&to, "v7.3\n").map_err(|e| Failure::file("writing", &to, &e))?;
        }
        Ok(())
    }

    /// Takes a compressed module of Debian's image; one that is not there is built in.
    pub fn unpack(&self, file: &Path) -> Result<(), Failure> {
        if !file.exists() {
            return Ok(());
        }
        let output = Command::new("xz")
            .arg("-dc")
            .arg(file)
            .output()
            .map_err(|e| Failure::file("unpacking", file, &e))?;
        if !output.status.success() {
            return Err(Failure::new(format!("unpacking {}", file.display()))
                .cause(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
        }
        let name = file.file_stem().unwrap_or_default();
        let to = self.part.join("modules").join(name);
        fs::write(&to, output.stdout).map_err(|e| Failure::file("writing", &to, &e))
    }

    /// Types of the driver's modules as files, from their debug information, on top of the kernel's.
    pub fn types(&self, build: &Path, outside: &Path) -> Result<(), Failure> {
        let folder = self.part.join("btf");
        fs::create_dir_all(&folder).map_err(|e| Failure::file("creating", &folder, &e))?;
        let wanted = ["vfio_ap.ko", "kvm.ko"];
        let all = modules(outside)?.into_iter().chain(modules(build)?);
        for module in all.filter(|path| wanted.iter().any(|name| path.ends_with(name))) {
            let stem = module.file_stem().unwrap_or_default().to_string_lossy();
            let mut pahole = Command::new("pahole");
            pahole
                .arg("--btf_encode_detached")
                .arg(folder.join(format!("{stem}.btf")))
                .arg("--btf_base")
                .arg(build.join("vmlinux"))
                .arg(&module);
            process::run(&mut pahole, "types of a module")?;
        }
        Ok(())
    }

    /// Takes the image, and gives the folder its name.
    pub fn finish(self, image: &Path) -> Result<PathBuf, Failure> {
        copy(image, &self.part.join("bzImage"))?;
        // The kernel of before.
        let _ = fs::remove_dir_all(&self.folder);
        fs::rename(&self.part, &self.folder)
            .map_err(|e| Failure::file("renaming", &self.part, &e))?;
        Ok(self.folder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_says_what_the_tools_can() {
        let text = "CONFIG_CC_HAS_MIN_FUNCTION_ALIGNMENT=y\nCONFIG_PAHOLE_VERSION=130\nCONFIG_DEBUG_INFO_BTF=y\nCONFIG_X=y\n";
        assert_eq!(
            adapt(text, false, Some("124")),
            "CONFIG_PAHOLE_VERSION=124\nCONFIG_DEBUG_INFO_BTF=y\nCONFIG_X=y\n"
        );
        assert_eq!(adapt(text, true, Some("130")), text);
        assert_eq!(
            adapt(text, false, None),
            "CONFIG_PAHOLE_VERSION=130\nCONFIG_X=y\n"
        );
    }
}
