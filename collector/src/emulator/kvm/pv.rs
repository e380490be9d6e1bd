//! Protected virtualisation (Secure Execution): the conversion takes each `vcpu->mutex` with `kvm->lock` held.

use std::sync::atomic::Ordering;

use crate::emulator::machine::Machine;
use crate::emulator::objects::Kvm;
use crate::emulator::points;
use crate::emulator::points::kernel::{mutex_lock, mutex_unlock};

/// `KVM_PV_ENABLE`.
pub const KVM_PV_ENABLE: u32 = 0;
/// `KVM_PV_DISABLE`.
pub const KVM_PV_DISABLE: u32 = 1;

/// `struct kvm_pv_cmd`.
#[derive(Debug)]
#[repr(C)]
pub struct KvmPvCmd {
    /// `KVM_PV_*`.
    pub cmd: u32,
}

/// `kvm_arch_vm_ioctl(KVM_S390_PV_COMMAND)`. Up to v6.0 it holds `kvm->lock` over the command.
pub fn kvm_arch_vm_ioctl_pv_command(machine: &Machine, kvm: &'static Kvm, cmd: u32) -> i32 {
    let cmd = KvmPvCmd { cmd };
    if machine.generation.pv_takes_kvm_lock {
        return points::kvm::kvm_s390_handle_pv(kvm, &cmd);
    }
    mutex_lock(&kvm.lock);
    let ret = points::kvm::kvm_s390_handle_pv(kvm, &cmd);
    mutex_unlock(&kvm.lock);
    ret
}

/// `kvm_s390_handle_pv`. `-EINVAL` for a command that does not fit the VM's state.
pub fn kvm_s390_handle_pv(machine: &Machine, kvm: &'static Kvm, cmd: &KvmPvCmd) -> i32 {
    if !machine.generation.pv_takes_kvm_lock {
        return handle_pv_locked(kvm, cmd);
    }
    mutex_lock(&kvm.lock);
    let ret = handle_pv_locked(kvm, cmd);
    mutex_unlock(&kvm.lock);
    ret
}

fn handle_pv_locked(kvm: &'static Kvm, cmd: &KvmPvCmd) -> i32 {
    let protected = kvm.protected.load(Ordering::Relaxed);
    match cmd.cmd {
        KVM_PV_ENABLE if !protected => {
            kvm_s390_cpus_to_pv(kvm);
            kvm.protected.store(true, Ordering::Relaxed);
            0
        }
        KVM_PV_DISABLE if protected => {
            kvm_s390_cpus_from_pv(kvm);
            kvm.protected.store(false, Ordering::Relaxed);
            0
        }
        _ => -libc::EINVAL,
    }
}

/// Converts each vCPU, one at a time.
fn kvm_s390_cpus_to_pv(kvm: &'static Kvm) {
    for vcpu in kvm.vcpus() {
        mutex_lock(&vcpu.mutex);
        ultravisor_call();
        mutex_unlock(&vcpu.mutex);
    }
}

/// Converts each vCPU back.
fn kvm_s390_cpus_from_pv(kvm: &'static Kvm) {
    for vcpu in kvm.vcpus() {
        mutex_lock(&vcpu.mutex);
        ultravisor_call();
        mutex_unlock(&vcpu.mutex);
    }
}

/// The ultravisor takes its time to create or destroy a protected vCPU.
fn ultravisor_call() {
    std::thread::sleep(std::time::Duration::from_micros(100));
}
