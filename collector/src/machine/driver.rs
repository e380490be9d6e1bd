//! The driver and what it stands on: modules, their build ids and type information, the AP bus.

use serde::Serialize;

use super::files::Root;
use crate::attach::layouts::BuildId;

/// Modules that are looked for.
pub const MODULES: [&str; 4] = ["vfio_ap", "kvm", "mdev", "vfio"];

/// The driver's surroundings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Driver {
    /// Modules that are loaded or built in, of [`MODULES`].
    pub modules: Vec<Module>,
    /// This machine has an AP bus.
    pub ap_bus: bool,
    /// The kernel's own type information is there.
    pub btf: bool,
}

/// A module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Module {
    /// Its name.
    pub name: &'static str,
    /// GNU build id, hexadecimal; absent for a module that is built in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build_id: Option<String>,
    /// Its type information is there.
    pub btf: bool,
}

impl Driver {
    pub(super) fn read(root: &mut Root) -> Self {
        let modules = MODULES
            .into_iter()
            .filter(|name| root.has(&format!("sys/module/{name}")))
            .collect::<Vec<_>>();
        Self {
            modules: modules
                .into_iter()
                .map(|name| Module {
                    name,
                    build_id: root
                        .bytes(&format!("sys/module/{name}/notes/.note.gnu.build-id"), 4096)
                        .and_then(|notes| BuildId::from_notes(&notes))
                        .map(|id| id.to_string()),
                    btf: root.has(&format!("sys/kernel/btf/{name}")),
                })
                .collect(),
            ap_bus: root.has("sys/bus/ap"),
            btf: root.has("sys/kernel/btf/vmlinux"),
        }
    }

    /// A module, where it is loaded.
    pub fn module(&self, name: &str) -> Option<&Module> {
        self.modules.iter().find(|module| module.name == name)
    }
}
