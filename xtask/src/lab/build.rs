//! `cargo xtask lab fetch` and `lab build`: kernels from Debian's packages, into `target/lab/kernels`, in the layout of
//! [`super::kernels`]. Two flavours. *Stock* is Debian's own image with the genuine driver, which Debian does not build for
//! s390x, built for it: a minute. *Trimmed* is a kernel of Debian's sources with a small configuration, JIT and trampolines:
//! ten minutes. Sources are not changed, but by `--driver-patch`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use super::packages::Archive;
use super::{doctor, kernels, tree};
use crate::failure::Failure;
use crate::process;

/// The kernel that can be stock: before, Debian's image has no vfio; and of later ones, 6.12 is in a stable release.
pub const STOCK: &str = "6.12";

/// How a kernel is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Flavour {
    /// Debian's image, with the driver's modules built for it
    Stock,
    /// A kernel of Debian's sources, with a small configuration
    Trimmed,
}

/// What to make.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Kernel: 5.10, 5.10-lockdep, 6.1, 6.12 or 7.2; stock: 6.12
    #[arg(long, value_name = "V", default_value = "6.12")]
    kernel: String,
    /// Stock where that is possible, if nothing is said
    #[arg(long, value_enum, value_name = "FLAVOUR")]
    flavour: Option<Flavour>,
    /// Debian mirror, instead of this machine's
    #[arg(long, value_name = "URL")]
    mirror: Option<String>,
}

/// A source that kernels are made of.
struct Source {
    kernel: &'static str,
    package: &'static str,
    suite: &'static str,
    config: &'static str,
}

/// Where Debian has the sources, and which configuration is for them.
const SOURCES: [Source; 5] = [
    source("5.10", "linux-source-5.10", "bullseye", "5.10.config"),
    source(
        "5.10-lockdep",
        "linux-source-5.10",
        "bullseye",
        "5.10-lockdep.config",
    ),
    source("6.1", "linux-source-6.1", "bookworm", "6.x.config"),
    source("6.12", "linux-source-6.12", "trixie", "6.x.config"),
    source("7.2", "linux-source-7.2", "sid", "6.x.config"),
];

const fn source(
    kernel: &'static str,
    package: &'static str,
    suite: &'static str,
    config: &'static str,
) -> Source {
    Source {
        kernel,
        package,
        suite,
        config,
    }
}

/// Modules of Debian's image that the guest needs beside those that are built.
const STOCK_MODULES: [&str; 7] = [
    "kernel/fs/netfs/netfs",
    "kernel/net/9p/9pnet",
    "kernel/net/9p/9pnet_virtio",
    "kernel/fs/9p/9p",
    "kernel/arch/s390/kvm/kvm",
    "kernel/drivers/vfio/vfio",
    "kernel/drivers/vfio/vfio_iommu_type1",
];

/// A kernel that is being made.
struct Job<'a> {
    root: &'a Path,
    lab: PathBuf,
    source: &'static Source,
    mirror: Option<&'a str>,
    patch: Option<&'a Path>,
}

impl Options {
    fn job<'a>(
        &'a self,
        root: &'a Path,
        patch: Option<&'a Path>,
    ) -> Result<(Job<'a>, Flavour), Failure> {
        let source = SOURCES
            .iter()
            .find(|source| source.kernel == self.kernel)
            .ok_or_else(|| {
                let known: Vec<_> = SOURCES.iter().map(|source| source.kernel).collect();
                Failure::new(format!("no kernel {}", self.kernel))
                    .cause(format!("there are {}", known.join(", ")))
            })?;
        let can_be_stock = source.kernel == STOCK && patch.is_none();
        let flavour = self.flavour.unwrap_or(if can_be_stock {
            Flavour::Stock
        } else {
            Flavour::Trimmed
        });
        if flavour == Flavour::Stock && !can_be_stock {
            return Err(Failure::new("only an unpatched 6.12 can be stock")
                .cause("other images of Debian for s390x have no KVM with mediated devices, or no types")
                .hint("--flavour trimmed"));
        }
        let lab = root.join("target/lab");
        fs::create_dir_all(&lab).map_err(|e| Failure::file("creating", &lab, &e))?;
        let job = Job {
            root,
            lab: lab
                .canonicalize()
                .map_err(|e| Failure::file("finding", &lab, &e))?,
            source,
            mirror: self.mirror.as_deref(),
            patch,
        };
        Ok((job, flavour))
    }
}

/// Downloads and unpacks what a build needs.
pub fn fetch(root: &Path, options: &Options) -> Result<(), Failure> {
    doctor::require(doctor::Use::Build)?;
    let (job, flavour) = options.job(root, None)?;
    match flavour {
        Flavour::Stock => job.stock_tree().map(drop),
        Flavour::Trimmed => job.whole_source().map(drop),
    }
}

/// Makes the stock kernel.
pub fn stock(root: &Path) -> Result<(), Failure> {
    let options = Options {
        kernel: STOCK.into(),
        flavour: Some(Flavour::Stock),
        mirror: None,
    };
    build(root, &options, None)
}

/// Makes a kernel, fetching what is not there.
pub fn build(root: &Path, options: &Options, patch: Option<&Path>) -> Result<(), Failure> {
    doctor::require(doctor::Use::Build)?;
    let patch = patch
        .map(|path| {
            path.canonicalize()
                .map_err(|e| Failure::file("finding", path, &e))
        })
        .transpose()?;
    let (job, flavour) = options.job(root, patch.as_deref())?;
    let folder = match flavour {
        Flavour::Stock => job.stock()?,
        Flavour::Trimmed => job.trimmed()?,
    };
    println!("kernel in {}", folder.display());
    Ok(())
}

impl Job<'_> {
    fn archive(&self, suite: &str, arch: &str) -> Result<Archive, Failure> {
        Archive::open(&self.lab, self.mirror, suite, arch)
    }

    /// Packages of the kernel's release, unpacked.
    fn unpacked(&self) -> PathBuf {
        self.lab.join("packages").join(self.source.suite)
    }

    /// The source's archive, and where its tree is when it is unpacked.
    fn source_archive(&self) -> Result<(PathBuf, PathBuf), Failure> {
        let (package, into) = (self.source.package, self.unpacked());
        // The package is for all architectures; of bullseye, those of s390x have left the mirrors.
        let arch = if self.source.suite == "bullseye" {
            "amd64"
        } else {
            "s390x"
        };
        self.archive(self.source.suite, arch)?
            .unpack(package, &into)?;
        let archive = into.join("usr/src").join(format!("{package}.tar.xz"));
        Ok((archive, self.lab.join("source").join(package)))
    }

    /// Unpacks the parts of the source that the driver's modules are built of.
    fn driver_source(&self) -> Result<PathBuf, Failure> {
        let (archive, tree) = self.source_archive()?;
        let parts = ["drivers/s390/crypto", "drivers/vfio/mdev"];
        if !parts.iter().all(|part| tree.join(part).exists()) {
            let parts = parts.map(|part| format!("{}/{part}", self.source.package));
            self.untar(&archive, &parts)?;
        }
        Ok(tree)
    }

    /// Unpacks the whole source.
    fn whole_source(&self) -> Result<PathBuf, Failure> {
        let (archive, tree) = self.source_archive()?;
        let stamp = tree.join(".whole");
        if !stamp.exists() {
            println!("unpacking {}", self.source.package);
            self.untar(&archive, &[])?;
            fs::write(&stamp, "").map_err(|e| Failure::file("writing", &stamp, &e))?;
        }
        self.busybox()?;
        Ok(tree)
    }

    fn untar(&self, archive: &Path, parts: &[String]) -> Result<(), Failure> {
        let into = self.lab.join("source");
        fs::create_dir_all(&into).map_err(|e| Failure::file("creating", &into, &e))?;
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(&into).arg("-xf").arg(archive).args(parts);
        process::run(&mut tar, "unpacking the kernel's source")
    }

    /// The guest's busybox, beside the kernels.
    fn busybox(&self) -> Result<(), Failure> {
        let into = self.lab.join("packages/busybox");
        self.archive("trixie", "s390x")?
            .unpack("busybox-static", &into)?;
        let kernels = self.lab.join("kernels");
        fs::create_dir_all(&kernels).map_err(|e| Failure::file("creating", &kernels, &e))?;
        tree::copy(
            &into.join("usr/bin/busybox"),
            &kernels.join("busybox-s390x"),
        )
    }

    /// Debian's image and headers, unpacked and made usable here: the release, and the headers.
    fn stock_tree(&self) -> Result<(String, PathBuf), Failure> {
        let into = self.unpacked();
        let archive = self.archive(self.source.suite, "s390x")?;
        let images = archive.names(&format!("linux-image-{}", self.source.kernel), "-s390x")?;
        let image = archive.unpack_newest(images, &into)?;
        let release = image.trim_start_matches("linux-image-").to_owned();
        let common = release.trim_end_matches("-s390x").to_owned();
        for package in [
            format!("linux-headers-{common}-common"),
            format!("linux-headers-{release}"),
        ] {
            archive.unpack(&package, &into)?;
        }
        self.kbuild(&common)?;
        let headers = into
            .join("usr/src")
            .join(format!("linux-headers-{release}"));
        tree::relocate_headers(&headers, &into)?;
        self.busybox()?;
        Ok((release, headers))
    }

    /// The tools of Debian's kernel build, for this machine. Bookworm's C library is too old for trixie's; its backports
    /// have them, in another version of the same series.
    fn kbuild(&self, common: &str) -> Result<(), Failure> {
        let arch = process::output_of("dpkg", &["--print-architecture"])
            .ok_or_else(|| Failure::new("`dpkg --print-architecture` failed"))?;
        let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let suite = if release.contains("VERSION_CODENAME=bookworm") {
            "bookworm-backports"
        } else {
            self.source.suite
        };
        let archive = self.archive(suite, &arch)?;
        let packages = archive.names(&format!("linux-kbuild-{}", self.source.kernel), "")?;
        let package = archive.unpack_newest(packages, &self.unpacked())?;
        // The headers name the tools of their own version.
        let lib = self.unpacked().join("usr/lib");
        let named = format!("linux-kbuild-{common}");
        if package != named && !lib.join(&named).exists() {
            std::os::unix::fs::symlink(&package, lib.join(&named))
                .map_err(|e| Failure::file("linking", &lib.join(&named), &e))?;
        }
        Ok(())
    }

    fn stock(&self) -> Result<PathBuf, Failure> {
        let (release, headers) = self.stock_tree()?;
        let source = self.driver_source()?;
        let name = format!("{}{}", self.source.kernel, kernels::STOCK);
        let modules = self.outside(&name, &source, false)?;
        self.make(
            &headers,
            &[format!("M={}", modules.display()), "modules".into()],
        )?;
        let out = tree::Kernel::begin(&self.lab, &name)?;
        out.driver(&source)?;
        out.strip(&modules)?;
        for module in STOCK_MODULES {
            let folder = self.unpacked().join("usr/lib/modules").join(&release);
            out.unpack(&folder.join(format!("{module}.ko.xz")))?;
        }
        let image = self
            .unpacked()
            .join("boot")
            .join(format!("vmlinuz-{release}"));
        out.finish(&image)
    }

    fn trimmed(&self) -> Result<PathBuf, Failure> {
        let (name, source) = self.patched(&self.whole_source()?)?;
        let build = self.lab.join("build").join(&name);
        fs::create_dir_all(&build).map_err(|e| Failure::file("creating", &build, &e))?;
        let output = format!("O={}", build.display());
        let config = build.join(".config");
        if !config.exists() {
            let small = self.root.join("xtask/lab/config").join(self.source.config);
            let small = format!("KCONFIG_ALLCONFIG={}", small.display());
            self.make(&source, &[output.clone(), small, "allnoconfig".into()])?;
        }
        println!("building {name}, which takes minutes");
        self.make(&source, &[output, "bzImage".into(), "modules".into()])?;
        let config =
            fs::read_to_string(&config).map_err(|e| Failure::file("reading", &config, &e))?;
        let only_shim = config.lines().any(|line| line == "CONFIG_AP=m");
        let modules = self.outside(&name, &source, only_shim)?;
        self.make(
            &build,
            &[format!("M={}", modules.display()), "modules".into()],
        )?;
        let out = tree::Kernel::begin(&self.lab, &name)?;
        out.driver(&source)?;
        out.strip(&build)?;
        out.strip(&modules)?;
        // The kernel has no types for modules before Linux 5.11: apscope is told by a file.
        if self.source.kernel.starts_with("5.10") {
            out.types(&build, &modules)?;
        }
        out.finish(&build.join("arch/s390/boot/bzImage"))
    }

    /// The kernel's name and source with the patch, in a tree of its own; files that the patch does not change are shared
    /// with the original by hard links, which `patch` replaces instead of writing into them.
    fn patched(&self, source: &Path) -> Result<(String, PathBuf), Failure> {
        let Some(patch) = self.patch else {
            return Ok((self.source.kernel.to_owned(), source.to_owned()));
        };
        let stem = patch.file_stem().unwrap_or_default().to_string_lossy();
        let name = format!("{}+{stem}", self.source.kernel);
        let tree = source.with_file_name(format!("{}+{stem}", self.source.package));
        let text = fs::read(patch).map_err(|e| Failure::file("reading", patch, &e))?;
        let stamp = tree.join(".patch");
        if fs::read(&stamp).is_ok_and(|applied| applied == text) {
            return Ok((name, tree));
        }
        // Of another version of the patch.
        let _ = fs::remove_dir_all(&tree);
        process::run(
            Command::new("cp").arg("-al").arg(source).arg(&tree),
            "copying the kernel's source",
        )?;
        let mut command = Command::new("patch");
        command
            .arg("-d")
            .arg(&tree)
            .args(["-s", "-p1", "-i"])
            .arg(patch);
        process::run(&mut command, "patching the kernel's source")?;
        fs::write(&stamp, text).map_err(|e| Failure::file("writing", &stamp, &e))?;
        Ok((name, tree))
    }

    /// The modules that are built outside of the kernel's tree, with the driver's sources beside their build files.
    fn outside(&self, name: &str, source: &Path, only_shim: bool) -> Result<PathBuf, Failure> {
        let folder = self.lab.join("build").join(format!("{name}-modules"));
        tree::copy_folder(&self.root.join("xtask/lab/modules"), &folder)?;
        tree::copy(
            &self.root.join("xtask/lab/ap_shim.c"),
            &folder.join("shim/ap_shim.c"),
        )?;
        if only_shim {
            return Ok(folder);
        }
        let crypto = source.join("drivers/s390/crypto");
        for name in [
            "ap_bus.c",
            "ap_bus.h",
            "ap_card.c",
            "ap_queue.c",
            "ap_debug.h",
        ] {
            tree::copy(&crypto.join(name), &folder.join("aplab").join(name))?;
        }
        tree::copy(&crypto.join("ap_bus.h"), &folder.join("vfio_ap/ap_bus.h"))?;
        tree::copy_matching(&crypto, &folder.join("vfio_ap"), |name| {
            name.starts_with("vfio_ap_")
        })?;
        tree::copy_matching(
            &source.join("drivers/vfio/mdev"),
            &folder.join("mdev"),
            |name| {
                Path::new(name)
                    .extension()
                    .is_some_and(|e| e == "c" || e == "h")
            },
        )?;
        Ok(folder)
    }

    fn make(&self, folder: &Path, targets: &[String]) -> Result<(), Failure> {
        let jobs = thread::available_parallelism().map_or(1, usize::from);
        let mut make = Command::new("make");
        make.arg("--no-print-directory")
            .arg("-C")
            .arg(folder)
            .arg(format!("-j{jobs}"))
            .args(["ARCH=s390", "CROSS_COMPILE=s390x-linux-gnu-"])
            .args(targets)
            // A `make` around us is not theirs.
            .env_remove("MAKEFLAGS");
        process::run_counting(&mut make, &format!("building {}", self.source.kernel))
    }
}
