//! ioctls on a vCPU, of which KVM_RUN is the one that matters: `vcpu->mutex` is held as long as it lasts.

use std::sync::atomic::Ordering;

use super::sie::GuestStep;
use crate::emulator::objects::KvmVcpu;
use crate::emulator::points;
use crate::emulator::points::kernel::{mutex_lock_killable, mutex_unlock};

/// `KVM_RUN`.
pub const KVM_RUN: u32 = 0xae80;
/// Exit to user space for an instruction that KVM does not handle.
const KVM_EXIT_S390_SIEIC: u32 = 13;
/// Exit to user space for input and output.
const KVM_EXIT_S390_TSCH: u32 = 22;

/// `kvm_vcpu_ioctl`.
pub fn kvm_vcpu_ioctl(vcpu: &'static KvmVcpu, ioctl: u32) -> i64 {
    if mutex_lock_killable(&vcpu.mutex) != 0 {
        return -i64::from(libc::EINTR);
    }
    let ret = match ioctl {
        KVM_RUN => kvm_arch_vcpu_ioctl_run(vcpu),
        _ => -libc::ENOTTY,
    };
    mutex_unlock(&vcpu.mutex);
    ret.into()
}

/// Runs the guest until it needs user space.
fn kvm_arch_vcpu_ioctl_run(vcpu: &'static KvmVcpu) -> i32 {
    let exit = loop {
        match vcpu.sie_block.next_step() {
            Some(GuestStep::Compute(length)) => vcpu.sie_block.run(length),
            Some(GuestStep::Pqap(registers)) => {
                if kvm_s390_handle_b2(vcpu, registers) == -libc::EOPNOTSUPP {
                    break KVM_EXIT_S390_SIEIC;
                }
            }
            // The guest waits for a device.
            None => break KVM_EXIT_S390_TSCH,
        }
    };
    if let Some(run) = vcpu.run.get() {
        run.exit_reason.store(exit, Ordering::Relaxed);
    }
    0
}

/// An intercepted instruction 0xB2xx: PQAP. In a protected guest the ultravisor answers it, and there is no intercept.
fn kvm_s390_handle_b2(vcpu: &'static KvmVcpu, registers: [u64; 3]) -> i32 {
    if vcpu
        .kvm
        .get()
        .is_some_and(|kvm| kvm.protected.load(Ordering::Relaxed))
    {
        return 0;
    }
    for (n, value) in registers.into_iter().enumerate() {
        vcpu.set_gpr(n, value);
    }
    points::kvm::handle_pqap(vcpu)
}
