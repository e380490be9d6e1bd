//! Whether the driver's module is still the one that was attached to.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// A module that is loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    folder: PathBuf,
    /// The kernel numbers folders of sysfs one after the other (`idr_alloc_cyclic`, fs/kernfs/dir.c): a module that is
    /// loaded again has another one.
    inode: u64,
}

impl Module {
    /// The module with this folder in sysfs, if it is loaded.
    pub fn at(folder: &Path) -> Option<Self> {
        Some(Self {
            folder: folder.to_owned(),
            inode: inode(folder)?,
        })
    }

    /// What has become of it; `None` while it is there. One that was unloaded and loaded again between two looks was
    /// reloaded.
    pub fn gone(&self) -> Option<&'static str> {
        match inode(&self.folder) {
            Some(inode) if inode == self.inode => None,
            Some(_) => Some("reloaded"),
            None => Some("unloaded"),
        }
    }
}

fn inode(folder: &Path) -> Option<u64> {
    std::fs::metadata(folder).ok().map(|found| found.ino())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_module_that_was_loaded_again_is_another_one() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("vfio_ap");
        assert_eq!(Module::at(&folder), None);
        fs::create_dir(&folder).unwrap();
        let module = Module::at(&folder).unwrap();
        assert_eq!(module.gone(), None);
        // Both are there for a moment, so that they have different numbers.
        let again = place.path().join("again");
        fs::create_dir(&again).unwrap();
        fs::remove_dir(&folder).unwrap();
        assert_eq!(module.gone(), Some("unloaded"));
        fs::rename(&again, &folder).unwrap();
        assert_eq!(module.gone(), Some("reloaded"));
    }
}
