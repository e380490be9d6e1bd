//! Kernels that the lab can boot: a folder for each, with `bzImage` and `modules/*.ko`, and beside them the programs that
//! all share. Ready kernels (`--kernels DIR`) and those that `lab build` makes have the same layout. Knows nothing of how
//! a kernel is made or run.

use std::fs;
use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// Names of kernels that the lab knows how to make, oldest first.
pub const NAMES: [&str; 5] = ["5.10", "5.10-lockdep", "6.1", "6.12", "7.2"];

/// What is appended to the name of a kernel of Debian with the driver built for it.
pub const STOCK: &str = "-stock";

/// A kernel that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// As in [`NAMES`], perhaps with [`STOCK`].
    pub name: String,
    /// The image to boot.
    pub image: PathBuf,
    /// Modules that go into the initramfs, in the order of their names.
    pub modules: Vec<PathBuf>,
    /// Statically linked busybox for s390x.
    pub busybox: PathBuf,
    /// Types of the driver's modules for `apscope --btf`, where the kernel has none of its own.
    pub btf: Vec<PathBuf>,
    /// The driver's generation by its source, as the emulated driver names it, where the series does not say it.
    pub generation: Option<String>,
}

/// The file beside a kernel that names the generation of its driver.
pub const GENERATION: &str = "generation";

impl Kernel {
    /// The kernel of a name in a folder of kernels.
    pub fn find(kernels: &Path, name: &str) -> Result<Self, Failure> {
        let folder = kernels.join(name);
        let image = folder.join("bzImage");
        let busybox = kernels.join("busybox-s390x");
        for file in [&image, &busybox] {
            if !file.exists() {
                return Err(Failure::new(format!("no kernel {name}"))
                    .cause(format!("{} does not exist", file.display()))
                    .hint(hint(name)));
            }
        }
        let modules = files(&folder.join("modules"), "ko")?;
        if !modules.iter().any(|path| path.ends_with("vfio_ap.ko")) {
            return Err(Failure::new(format!("kernel {name} is not whole"))
                .cause(format!("{} has no vfio_ap.ko", folder.display()))
                .hint(hint(name)));
        }
        let btf = folder.join("btf");
        let btf = if btf.exists() {
            files(&btf, "btf")?
        } else {
            Vec::new()
        };
        let generation = fs::read_to_string(folder.join(GENERATION)).ok();
        Ok(Self {
            name: name.into(),
            image,
            modules,
            busybox,
            btf,
            generation: generation.map(|text| text.trim().to_owned()),
        })
    }

    /// Whether it is Debian's own image: no JIT, no trampolines.
    pub fn is_stock(&self) -> bool {
        self.name.ends_with(STOCK)
    }

    /// Whether it has lockdep.
    pub fn has_lockdep(&self) -> bool {
        self.name.contains("-lockdep")
    }

    /// The release that it is of, as in `5.10`.
    pub fn series(&self) -> &str {
        self.name.split(['-', '+']).next().unwrap_or_default()
    }
}

/// How a kernel is had.
fn hint(name: &str) -> String {
    match name.strip_suffix(STOCK) {
        Some(series) => format!("cargo xtask lab build --flavour stock --kernel {series}"),
        None => format!(
            "cargo xtask lab build --flavour trimmed --kernel {name}, or --kernels with a folder of ready ones"
        ),
    }
}

/// Files of a folder with an extension, sorted.
fn files(folder: &Path, extension: &str) -> Result<Vec<PathBuf>, Failure> {
    let entries = fs::read_dir(folder).map_err(|e| Failure::file("reading", folder, &e))?;
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == extension))
        .collect();
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apscope::Scratch;

    #[test]
    fn a_folder_is_a_kernel_when_everything_is_there() {
        let scratch = Scratch::new().expect("a folder");
        let folder = scratch.path().join("6.12/modules");
        fs::create_dir_all(&folder).expect("created");
        let touch = |path: &str| fs::write(scratch.path().join(path), "").expect("written");
        let find = || Kernel::find(scratch.path(), "6.12");
        touch("busybox-s390x");
        assert!(find().expect_err("no image").to_string().contains("try: "));
        touch("6.12/bzImage");
        let failure = find().expect_err("no driver").to_string();
        assert!(failure.contains("no vfio_ap.ko"), "{failure}");
        touch("6.12/modules/vfio_ap.ko");
        touch("6.12/modules/kvm.ko");
        touch("6.12/modules/load-order");
        let kernel = find().expect("whole");
        let names: Vec<_> = kernel.modules.iter().map(|p| p.file_name()).collect();
        assert_eq!(
            names,
            [Some("kvm.ko".as_ref()), Some("vfio_ap.ko".as_ref())]
        );
        assert_eq!(kernel.series(), "6.12");
        assert!(!kernel.is_stock() && !kernel.has_lockdep());
    }
}
