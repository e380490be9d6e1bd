//! What is probed, and what the probes are told: which program at which symbol, and the annotations of entry points.

use probe_ebpf::abi::{
    ENTRY_PQAP, ENTRY_RETURNS_INT, ENTRY_RETURNS_NOTIFY, ENTRY_RETURNS_VOID, ENTRY_SETS_FLAG,
    ENTRY_TESTS_FLAG, ENTRY_TESTS_FLAG_IF_NO_DATA, EntryInfo, MAX_ENTRY_POINTS, Mode, Program,
    Resolve,
};
use probe_ebpf::names::{ENTRY_POINTS, ReturnKind, entry_id};

/// A program at a symbol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hook {
    /// The program.
    pub program: Program,
    /// What it is told: a mode, or an entry point id.
    pub cookie: u8,
}

/// Programs to attach to a probe point of the emulated driver; empty for points that only peers use
/// (`mutex_lock`, ...).
#[must_use]
pub fn hooks(module: &str, symbol: &str) -> Vec<Hook> {
    let lock = |program, mode: Mode| {
        vec![Hook {
            program,
            cookie: mode as u8,
        }]
    };
    match (module, symbol) {
        ("kernel", "lock_acquired") => lock(Program::Acquired, Mode::Exclusive),
        ("kernel", "lock_attempt_failed") => lock(Program::Failed, Mode::Exclusive),
        ("kernel", "mutex_unlock") => lock(Program::Release, Mode::Exclusive),
        ("kernel", "up_read") => lock(Program::Release, Mode::Read),
        ("kernel", "up_write") => lock(Program::Release, Mode::Write),
        ("kernel", "__mutex_lock_slowpath") => lock(Program::Contended, Mode::Exclusive),
        ("kernel", "rwsem_down_read_slowpath") => lock(Program::Contended, Mode::Read),
        ("kernel", "rwsem_down_write_slowpath") => lock(Program::Contended, Mode::Write),
        ("kernel", "prepare_to_wait_event") => lock(Program::WaitPrepare, Mode::Exclusive),
        ("kernel", "finish_wait") => lock(Program::WaitFinish, Mode::Exclusive),
        ("kernel", "__wake_up") => lock(Program::Wake, Mode::Exclusive),
        _ => match entry_point(module, symbol) {
            Some(id) => vec![
                Hook {
                    program: Program::Enter,
                    cookie: id,
                },
                Hook {
                    program: Program::Return,
                    cookie: id,
                },
            ],
            None => Vec::new(),
        },
    }
}

/// Id of the entry point with this symbol in this module.
#[must_use]
pub fn entry_point(module: &str, symbol: &str) -> Option<u8> {
    let position = ENTRY_POINTS
        .iter()
        .skip(1)
        .position(|e| e.module == module && e.symbol == symbol)?;
    u8::try_from(position + 1).ok()
}

/// Attach-time facts of every entry point. `has_flag`: the generation has the open-coded lock `kvm_busy`.
#[must_use]
pub fn entry_info(has_flag: bool) -> [EntryInfo; MAX_ENTRY_POINTS] {
    let mut table = [EntryInfo {
        flags: 0,
        resolve: Resolve::None as u8,
        reserved: [0; 6],
    }; MAX_ENTRY_POINTS];
    for (id, (entry, info)) in ENTRY_POINTS.iter().zip(&mut table).enumerate() {
        let id = id as u8;
        info.flags = match entry.returns {
            ReturnKind::Void => ENTRY_RETURNS_VOID,
            ReturnKind::Int => ENTRY_RETURNS_INT,
            ReturnKind::Long => 0,
            ReturnKind::Notify => ENTRY_RETURNS_NOTIFY | ENTRY_RETURNS_INT,
        };
        if entry.pqap {
            info.flags |= ENTRY_PQAP;
        }
        info.flags |= if has_flag { flag_annotation(id) } else { 0 };
        info.resolve = resolve(id) as u8;
    }
    table
}

/// Which entry points set and which test `kvm_busy`, in v5.13 (vfio_ap_ops.c): set_kvm and unset_kvm run inside
/// the group notifier and inside release; unset_kvm, handle_pqap and the RESET ioctl wait for it.
const fn flag_annotation(id: u8) -> u8 {
    match id {
        entry_id::GROUP_NOTIFIER => ENTRY_SETS_FLAG | ENTRY_TESTS_FLAG_IF_NO_DATA,
        entry_id::RELEASE => ENTRY_SETS_FLAG | ENTRY_TESTS_FLAG,
        entry_id::HANDLE_PQAP | entry_id::IOCTL => ENTRY_TESTS_FLAG,
        _ => 0,
    }
}

/// How the object of an entry point is found.
const fn resolve(id: u8) -> Resolve {
    match id {
        entry_id::GROUP_NOTIFIER => Resolve::Notifier,
        entry_id::OPEN
        | entry_id::RELEASE
        | entry_id::OPEN_DEVICE
        | entry_id::CLOSE_DEVICE
        | entry_id::IOCTL => Resolve::MdevDevice,
        entry_id::ASSIGN_ADAPTER
        | entry_id::UNASSIGN_ADAPTER
        | entry_id::ASSIGN_DOMAIN
        | entry_id::UNASSIGN_DOMAIN
        | entry_id::ASSIGN_CONTROL_DOMAIN
        | entry_id::UNASSIGN_CONTROL_DOMAIN => Resolve::Device,
        entry_id::MATRIX_SHOW | entry_id::CONTROL_DOMAINS_SHOW => Resolve::Show,
        entry_id::HANDLE_PQAP | entry_id::KVM_HANDLE_PQAP => Resolve::Vcpu,
        entry_id::KVM_S390_HANDLE_PV | entry_id::SET_MASKS | entry_id::CLEAR_MASKS => Resolve::Kvm,
        _ => Resolve::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_pqap_handlers_are_told_apart() {
        assert_eq!(
            entry_point("vfio_ap", "handle_pqap"),
            Some(entry_id::HANDLE_PQAP)
        );
        assert_eq!(
            entry_point("kvm", "handle_pqap"),
            Some(entry_id::KVM_HANDLE_PQAP)
        );
        assert_eq!(entry_point("kvm", "assign_adapter_store"), None);
    }

    #[test]
    fn without_the_flag_nothing_is_annotated() {
        let annotations = ENTRY_SETS_FLAG | ENTRY_TESTS_FLAG | ENTRY_TESTS_FLAG_IF_NO_DATA;
        assert!(entry_info(false).iter().all(|e| e.flags & annotations == 0));
        let with = entry_info(true);
        assert_eq!(
            with[entry_id::RELEASE as usize].flags & annotations,
            ENTRY_SETS_FLAG | ENTRY_TESTS_FLAG
        );
        assert_eq!(
            with[entry_id::ASSIGN_ADAPTER as usize].flags & annotations,
            0
        );
    }
}
