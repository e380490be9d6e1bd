//! What a machine is and what it allows.
//!
//! [`Facts`] is what files below a root folder say, of this machine (`/`) or of a copy of another's /sys and /proc.
//! [`Allowed`] is what its kernel lets this process do, tried where it is this machine. Neither knows of attach
//! points, sources, or what is done with the answers.
//!
//! Nothing here opens a file whose read may take a traced lock: the module `files` has the list of what is opened.

mod allowed;
mod calls;
mod collectors;
mod driver;
mod files;
mod kernel;
mod obstacles;
mod privileges;
mod tables;
mod tracing;
mod trials;

use std::path::{Path, PathBuf};

use serde::Serialize;

pub use allowed::{Allowed, Basis, Mechanism};
pub use collectors::Others;
pub use driver::{Driver, MODULES, Module};
pub use files::{Root, Unreadable};
pub use kernel::{Kernel, Lockdown, Settings};
pub use obstacles::{Obstacle, UPROBES_NEED_ADMIN, against};
pub use privileges::{Capability, Privileges};
pub use tables::Tables;
pub use tracing::{Tracefs, Tracing};

/// What files say of a machine.
///
/// Something that is absent is not there, unless its file is among `unreadable`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Facts {
    /// The root folder that was read.
    pub root: PathBuf,
    /// The kernel.
    pub kernel: Kernel,
    /// What this process may do.
    pub privileges: Privileges,
    /// Settings of the administrator.
    pub settings: Settings,
    /// Tracing that the kernel offers.
    pub tracing: Tracing,
    /// The driver and what it stands on.
    pub driver: Driver,
    /// Other collectors that are attached here.
    pub others: Others,
    /// Files that are there and could not be read.
    pub unreadable: Vec<Unreadable>,
}

impl Facts {
    /// Reads the facts below a root folder. What cannot be read is in `unreadable`.
    pub fn read(root: &Path) -> Self {
        let mut files = Root::new(root);
        let kernel = Kernel::read(&mut files);
        let privileges = Privileges::read(&mut files);
        let settings = Settings::read(&mut files);
        let tracing = Tracing::read(&mut files);
        let driver = Driver::read(&mut files);
        let others = if !files.is_live() {
            Others::Unknown("not this machine".into())
        } else if privileges.has(Capability::SysAdmin) {
            collectors::attached()
        } else {
            Others::Unknown("needs CAP_SYS_ADMIN".into())
        };
        Self {
            root: root.to_owned(),
            kernel,
            privileges,
            settings,
            tracing,
            driver,
            others,
            unreadable: files.unreadable().to_vec(),
        }
    }

    /// What says that a real driver could be on this machine; `None` if nothing does. Where something does, nothing is
    /// emulated unless it is asked for.
    pub fn real_host(&self) -> Option<&'static str> {
        real(
            self.kernel.arch == "s390x",
            self.driver.module("vfio_ap").is_some(),
            self.driver.ap_bus,
        )
    }

    /// Whether they are of this machine, and not of a copy of one.
    pub fn is_live(&self) -> bool {
        self.root == Path::new("/")
    }
}

/// As [`Facts::real_host`], of the machine this runs on, without reading anything else.
pub fn real_host() -> Option<&'static str> {
    let root = Root::new(Path::new("/"));
    real(
        cfg!(target_arch = "s390x"),
        root.has("sys/module/vfio_ap"),
        root.has("sys/bus/ap"),
    )
}

fn real(s390x: bool, module: bool, bus: bool) -> Option<&'static str> {
    match (s390x, module, bus) {
        (true, ..) => Some("this is an s390x machine"),
        (_, true, _) => Some("the module vfio_ap is loaded"),
        (.., true) => Some("this machine has an AP bus"),
        (false, false, false) => None,
    }
}
