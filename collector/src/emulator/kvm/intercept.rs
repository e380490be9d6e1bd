//! KVM's handler of an intercepted PQAP (`arch/s390/kvm/priv.c`).

use std::sync::atomic::Ordering;

use crate::emulator::hardware::{AP_RESPONSE_Q_NOT_AVAIL, ApQueueStatus};
use crate::emulator::machine::Machine;
use crate::emulator::objects::KvmVcpu;
use crate::emulator::points;
use crate::emulator::points::kernel::{down_read, up_read};

/// PQAP(AQIC).
const FC_AQIC: u64 = 3;

/// Handles AQIC through the driver's hook; everything else is user space's. A guest's mistakes end in a program
/// interruption, which is success for the handler.
pub fn handle_pqap(machine: &Machine, vcpu: &'static KvmVcpu) -> i32 {
    let Some(kvm) = vcpu.kvm.get() else {
        return -libc::EOPNOTSUPP;
    };
    if !vcpu.sie_block.has_apie() {
        return -libc::EOPNOTSUPP;
    }
    let reg0 = vcpu.gpr(0);
    if (reg0 >> 24) & 0xff != FC_AQIC {
        return -libc::EOPNOTSUPP;
    }
    // Bits 41 to 47 must be zero, and without APXA there are 64 adapters and 16 domains.
    let apxa = kvm.crypto.crycbd.load(Ordering::Relaxed) & 2 != 0;
    if reg0 & 0x007f_0000 != 0 || (!apxa && reg0 & 0x0000_c0f0 != 0) {
        // Specification exception.
        return 0;
    }
    if !machine.generation.has_hook_rwsem {
        // Up to v5.14 a reference on the module stands where a lock should.
        return match kvm.crypto.pqap_hook.get() {
            Some(_) => points::vfio_ap::handle_pqap(vcpu),
            None => no_driver(vcpu),
        };
    }
    down_read(&kvm.crypto.pqap_hook_rwsem);
    if kvm.crypto.pqap_hook.get().is_some() {
        let ret = points::vfio_ap::handle_pqap(vcpu);
        up_read(&kvm.crypto.pqap_hook_rwsem);
        return ret;
    }
    up_read(&kvm.crypto.pqap_hook_rwsem);
    no_driver(vcpu)
}

/// No driver, no queues: response code 01. KVM copies the status to the start of GR1, that is to its high word.
fn no_driver(vcpu: &KvmVcpu) -> i32 {
    let status = ApQueueStatus::response(AP_RESPONSE_Q_NOT_AVAIL).word();
    let low = vcpu.gpr(1) & u64::from(u32::MAX);
    vcpu.set_gpr(1, (u64::from(status) << 32) | low);
    0
}
