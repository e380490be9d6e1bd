//! Other collectors that are attached on this machine.

use std::collections::BTreeMap;

use probe_ebpf::abi::PROGRAM_NAMES;
use serde::Serialize;

use super::calls;

/// Most programs that are looked at; a machine has some hundreds.
const MOST: usize = 65_536;

/// Programs that a collector has loaded whatever it measures of a kernel, and at whatever level: its beat, and what reads
/// the kernel's memory. One that measures the emulated driver has no use for the second.
const OF_KERNEL: [&str; 2] = ["heartbeat", "peek"];

/// What is known of other collectors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Others {
    /// None has programs loaded here.
    None,
    /// So many have.
    Attached {
        /// Those that measure the kernel.
        kernel: usize,
        /// Those that measure an emulated driver.
        emulated: usize,
    },
    /// It cannot be known.
    Unknown(String),
}

impl Serialize for Others {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let mut others = serializer.serialize_struct("Others", 3)?;
        let known = !matches!(self, Self::Unknown(_));
        others.serialize_field("known", &known)?;
        match self {
            Self::None => {
                others.serialize_field("kernel", &0)?;
                others.serialize_field("emulated", &0)?;
            }
            Self::Attached { kernel, emulated } => {
                others.serialize_field("kernel", kernel)?;
                others.serialize_field("emulated", emulated)?;
            }
            Self::Unknown(reason) => others.serialize_field("reason", reason)?,
        }
        others.end()
    }
}

/// Counts the loaded programs that are named as apscope's, those of this process among them.
///
/// Needs CAP_SYS_ADMIN (bpf_prog_get_fd_by_id()).
pub fn attached() -> Others {
    let mut counts: BTreeMap<&str, usize> = PROGRAM_NAMES
        .iter()
        .map(|name| kernel_name(name))
        .chain(OF_KERNEL)
        .map(|name| (name, 0))
        .collect();
    let mut id = 0;
    for _ in 0..MOST {
        id = match calls::next_program(id) {
            Ok(Some(id)) => id,
            Ok(None) => break,
            Err(error) => return Others::Unknown(error.to_string()),
        };
        let info = match calls::program_info(id) {
            Ok(Some(info)) => info,
            Ok(None) => continue,
            Err(error) => return Others::Unknown(error.to_string()),
        };
        let end = info
            .name
            .iter()
            .position(|b| *b == 0)
            .unwrap_or(info.name.len());
        let name = std::str::from_utf8(&info.name[..end]).unwrap_or_default();
        if let Some(count) = counts.get_mut(name) {
            *count += 1;
        }
    }
    let count = |name: &str| counts.get(name).copied().unwrap_or(0);
    let kernel = OF_KERNEL.into_iter().map(count).min().unwrap_or(0);
    let emulated = sets(PROGRAM_NAMES.iter().map(|name| count(kernel_name(name))));
    match (kernel, emulated) {
        (0, 0) => Others::None,
        (kernel, emulated) => Others::Attached { kernel, emulated },
    }
}

/// Somebody else's program may have one of the names, but not several: a set is there where half of the names are.
fn sets(counts: impl Iterator<Item = usize>) -> usize {
    let mut counts: Vec<usize> = counts.collect();
    counts.sort_unstable();
    counts.get(counts.len() / 2).copied().unwrap_or(0)
}

/// The kernel keeps 15 bytes of a name (BPF_OBJ_NAME_LEN).
fn kernel_name(name: &str) -> &str {
    name.get(..15).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_name_is_no_collector() {
        assert_eq!(sets([0, 0, 3, 0].into_iter()), 0);
        assert_eq!(sets([2, 2, 2, 3].into_iter()), 2);
        assert_eq!(sets([0, 1, 1, 1].into_iter()), 1);
    }
}
