//! The emulated driver's sysfs as files, through FUSE: what `echo` and `mdevctl` write reaches the driver.
//!
//! [`tree`] is the tree in front of a [`backend`], with the kernel's names ([`node`]) and the kernel's rules
//! ([`active`]); [`machine`] is the emulated machine as its backend. [`filesystem`] offers the tree to the kernel, with
//! a thread for each call in progress ([`writers`]). [`place`] checks the mount point, [`guard`] unmounts when nobody
//! else does.
//!
//! No thread of the emulator opens a file below the mount point: it would wait for itself.

mod active;
pub mod backend;
mod filesystem;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod guard;
mod machine;
pub mod node;
pub mod place;
pub mod tree;
mod writers;

#[cfg(test)]
mod mounted_tests;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fuser::{Config, MountOption, Session, SessionACL};

use super::Problem;
use super::machine::Machine;
use backend::Backend as _;
use filesystem::Sysfs;
use tree::Tree;
use writers::Writers;

pub use machine::Driver;
pub use writers::MOST as MOST_CALLS;

/// The tree, mounted. Unmounted when dropped.
pub struct Mounted {
    point: PathBuf,
    source: String,
    writers: Writers,
    /// Not dropped: that would wait for those who have files open.
    _session: std::mem::ManuallyDrop<fuser::BackgroundSession>,
    /// Last, so that the guard finds nothing to do.
    _lifeline: guard::Lifeline,
}

impl std::fmt::Debug for Mounted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mounted")
            .field("point", &self.point)
            .finish_non_exhaustive()
    }
}

impl Mounted {
    /// Mounts a machine's tree on a folder.
    ///
    /// # Errors
    ///
    /// The folder is none, or not empty, or FUSE is not to be had.
    pub fn on(folder: &Path, machine: &'static Machine) -> Result<Self, Problem> {
        let point = place::check(folder)?;
        let source = place::source(std::process::id());
        let failed = |error: std::io::Error| place::refused(folder, &error);
        let lifeline = guard::start(&point, &source).map_err(failed)?;
        let tree = Arc::new(Tree::new(Driver::new(machine)));
        let entering = Arc::clone(&tree);
        let writers = Writers::new(Arc::new(move || entering.backend().enter()));
        // SAFETY: these have no precondition.
        let owner = unsafe { (libc::geteuid(), libc::getegid()) };
        let filesystem = Sysfs::new(tree, writers.clone(), owner);
        let mut config = Config::default();
        config.mount_options = vec![
            MountOption::FSName(source.clone()),
            MountOption::Subtype("apscope".into()),
            // The kernel checks the permission bits.
            MountOption::DefaultPermissions,
            MountOption::NoExec,
        ];
        if owner.0 == 0 {
            // Sysfs is everybody's to read.
            config.acl = SessionACL::All;
        }
        let session = Session::new(filesystem, &point, &config)
            .and_then(Session::spawn)
            .map_err(failed)?;
        Ok(Self {
            point,
            source,
            writers,
            _session: std::mem::ManuallyDrop::new(session),
            _lifeline: lifeline,
        })
    }

    /// Takes the tree away; calls that have begun go on.
    pub fn unmount(&self) {
        place::unmount(&self.point, &self.source);
    }

    /// Begins no further call of the driver, and waits until those in progress have ended or none has for `patience`;
    /// those that are left, `cat (123) reads matrix`.
    pub fn finish(&self, patience: Duration) -> Vec<String> {
        self.writers.finish(patience)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.unmount();
    }
}
