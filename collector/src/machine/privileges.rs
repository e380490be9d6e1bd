//! What this process may do: its effective capabilities, and what each is for.

use serde::Serialize;

use super::files::Root;

/// A capability that apscope has a use for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Capability {
    /// Passing over the permissions of files and folders, also for writing.
    DacOverride,
    /// Passing over the permissions of files and folders, for reading.
    DacReadSearch,
    /// Looking at processes of others.
    SysPtrace,
    /// Administration, and everything that CAP_BPF and CAP_PERFMON permit.
    SysAdmin,
    /// Going over resource limits.
    SysResource,
    /// Kernel addresses.
    Syslog,
    /// Tracing programs and events.
    Perfmon,
    /// eBPF maps and programs.
    Bpf,
}

impl Capability {
    /// All of them, the most important first.
    pub const ALL: [Self; 8] = [
        Self::Bpf,
        Self::Perfmon,
        Self::SysAdmin,
        Self::Syslog,
        Self::DacReadSearch,
        Self::DacOverride,
        Self::SysPtrace,
        Self::SysResource,
    ];

    /// Its number (include/uapi/linux/capability.h).
    pub const fn bit(self) -> u32 {
        match self {
            Self::DacOverride => 1,
            Self::DacReadSearch => 2,
            Self::SysPtrace => 19,
            Self::SysAdmin => 21,
            Self::SysResource => 24,
            Self::Syslog => 34,
            Self::Perfmon => 38,
            Self::Bpf => 39,
        }
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::DacOverride => "CAP_DAC_OVERRIDE",
            Self::DacReadSearch => "CAP_DAC_READ_SEARCH",
            Self::SysPtrace => "CAP_SYS_PTRACE",
            Self::SysAdmin => "CAP_SYS_ADMIN",
            Self::SysResource => "CAP_SYS_RESOURCE",
            Self::Syslog => "CAP_SYSLOG",
            Self::Perfmon => "CAP_PERFMON",
            Self::Bpf => "CAP_BPF",
        }
    }

    /// What apscope needs it for.
    pub const fn purpose(self) -> &'static str {
        match self {
            Self::Bpf => "loading eBPF maps and programs",
            Self::Perfmon => "tracing programs, kprobes and uprobes, reading kernel memory",
            Self::SysAdmin => "run-time statistics, seeing other collectors",
            Self::Syslog => "kernel addresses of symbols",
            Self::DacReadSearch => "reading tracefs as another user than root",
            Self::DacOverride => "writing kprobe_events as another user than root",
            Self::SysPtrace => "attaching to an emulated driver of another user",
            Self::SysResource => "locked memory over the limit, before Linux 5.11",
        }
    }
}

/// What this process may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Privileges {
    /// Effective user id.
    pub uid: u32,
    /// Effective capabilities, one bit each.
    #[serde(skip)]
    pub effective: u64,
    /// Names of those that apscope has a use for and that are in effect.
    pub held: Vec<&'static str>,
    /// Names of those that are not.
    pub missing: Vec<&'static str>,
    /// The process is in the initial user namespace. In another, capabilities count for nothing in bpf(2) and
    /// perf_event_open(2), which ask with capable() for the initial one.
    pub initial_user_namespace: bool,
    /// Soft limit of locked memory in bytes; absent where there is none. Before Linux 5.11 eBPF maps count against it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memlock_bytes: Option<u64>,
}

impl Privileges {
    /// Reads /proc/self. Where that cannot be read nothing is permitted.
    pub(super) fn read(root: &mut Root) -> Self {
        let status = root.text("proc/self/status").unwrap_or_default();
        let field = |name: &str| {
            let value = status.lines().find_map(|line| line.strip_prefix(name))?;
            value.strip_prefix(':').map(str::trim)
        };
        let effective = field("CapEff")
            .and_then(|hex| u64::from_str_radix(hex, 16).ok())
            .unwrap_or(0);
        // Real, effective, saved and file system id.
        let uid = field("Uid")
            .and_then(|ids| ids.split_whitespace().nth(1)?.parse().ok())
            .unwrap_or(u32::MAX);
        // One range of everything is the initial namespace, or as good as that.
        let map = root.text("proc/self/uid_map");
        let initial_user_namespace = map.is_none_or(|map| {
            map.lines()
                .next()
                .is_none_or(|line| line.split_whitespace().eq(["0", "0", "4294967295"]))
        });
        let limits = root.text("proc/self/limits").unwrap_or_default();
        let memlock_bytes = limits
            .lines()
            .find_map(|line| line.strip_prefix("Max locked memory"))
            .and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        let in_effect = |cap: &Capability| effective & (1 << cap.bit()) != 0;
        let (held, missing): (Vec<_>, Vec<_>) = Capability::ALL.iter().partition(|c| in_effect(c));
        let names = |list: Vec<Capability>| list.iter().map(|c| c.name()).collect();
        Self {
            uid,
            effective,
            held: names(held),
            missing: names(missing),
            initial_user_namespace,
            memlock_bytes,
        }
    }

    /// Whether a capability is in effect. CAP_SYS_ADMIN stands for CAP_BPF and CAP_PERFMON too (bpf_capable() and
    /// perfmon_capable(), 5.8), CAP_DAC_OVERRIDE for CAP_DAC_READ_SEARCH.
    pub fn has(&self, capability: Capability) -> bool {
        let set = |c: Capability| self.effective & (1 << c.bit()) != 0;
        set(capability)
            || match capability {
                Capability::Bpf | Capability::Perfmon => set(Capability::SysAdmin),
                Capability::DacReadSearch => set(Capability::DacOverride),
                _ => false,
            }
    }

    /// Whether folders of root's alone can be read.
    pub fn reads_as_root(&self) -> bool {
        self.uid == 0 || self.has(Capability::DacReadSearch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(status: &str, map: Option<&str>) -> Privileges {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("proc/self");
        std::fs::create_dir_all(&own).unwrap();
        std::fs::write(own.join("status"), status).unwrap();
        if let Some(map) = map {
            std::fs::write(own.join("uid_map"), map).unwrap();
        }
        Privileges::read(&mut Root::new(folder.path()))
    }

    #[test]
    fn administration_stands_for_the_two_that_were_part_of_it() {
        let admin = read("Uid:\t5\t5\t5\t5\nCapEff:\t0000000000200000\n", None);
        assert!(admin.has(Capability::Bpf) && admin.has(Capability::Perfmon));
        assert!(!admin.has(Capability::Syslog) && !admin.reads_as_root());
        assert_eq!(admin.held, ["CAP_SYS_ADMIN"]);
        let bpf = read("Uid:\t0\t0\t0\t0\nCapEff:\t0000008000000000\n", None);
        assert!(bpf.has(Capability::Bpf) && !bpf.has(Capability::Perfmon));
        assert!(!bpf.has(Capability::SysAdmin) && bpf.reads_as_root());
    }

    #[test]
    fn nothing_is_permitted_where_nothing_is_known() {
        let none = read("nonsense", None);
        assert!(Capability::ALL.iter().all(|c| !none.has(*c)));
        assert_eq!(none.missing.len(), Capability::ALL.len());
        assert!(!none.reads_as_root());
    }

    #[test]
    fn a_mapped_namespace_is_not_the_initial_one() {
        let status = "Uid:\t0\t0\t0\t0\nCapEff:\t000001ffffffffff\n";
        let initial = "         0          0 4294967295\n";
        assert!(read(status, Some(initial)).initial_user_namespace);
        assert!(!read(status, Some("0 1000 1\n")).initial_user_namespace);
    }
}
