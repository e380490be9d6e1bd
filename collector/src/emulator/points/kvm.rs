//! KVM's points.

use super::points;
use crate::emulator::kvm::pv::KvmPvCmd;
use crate::emulator::objects::{Bitmap, Kvm, KvmDevice, KvmDeviceAttr, KvmVcpu};

points! {
    "kvm";
    /// The PQAP intercept.
    handle_pqap(vcpu: &'static KvmVcpu) -> i32 = at::handle_pqap;
    /// An ioctl on a vCPU.
    kvm_vcpu_ioctl(vcpu: &'static KvmVcpu, ioctl: u32, arg: u64) -> i64 = at::kvm_vcpu_ioctl;
    /// A protected-virtualisation command.
    kvm_s390_handle_pv(kvm: &'static Kvm, cmd: &KvmPvCmd) -> i32 = at::kvm_s390_handle_pv;
    /// Gives the guest adapters and domains.
    kvm_arch_crypto_set_masks(kvm: &'static Kvm, apm: &Bitmap, aqm: &Bitmap, adm: &Bitmap) = at::kvm_arch_crypto_set_masks;
    /// Takes them away.
    kvm_arch_crypto_clear_masks(kvm: &'static Kvm) = at::kvm_arch_crypto_clear_masks;
    /// Adds or removes a group of the kvm-vfio device.
    kvm_vfio_set_attr(dev: &'static KvmDevice, attr: &KvmDeviceAttr) -> i32 = at::kvm_vfio_set_attr;
}

/// What the points jump to.
mod at {
    use super::{Bitmap, Kvm, KvmDevice, KvmDeviceAttr, KvmPvCmd, KvmVcpu};
    use crate::emulator::driver::dispatch::{call, call_pqap, word};
    use crate::emulator::kvm;
    use probe_ebpf::names::entry_id;

    pub(super) extern "C" fn handle_pqap(vcpu: &'static KvmVcpu) -> i32 {
        call_pqap(entry_id::KVM_HANDLE_PQAP, vcpu, |m| {
            kvm::intercept::handle_pqap(m, vcpu)
        })
    }

    pub(super) extern "C" fn kvm_vcpu_ioctl(vcpu: &'static KvmVcpu, ioctl: u32, arg: u64) -> i64 {
        let args = [word(vcpu), ioctl.into(), arg, 0, 0, 0];
        call(entry_id::KVM_VCPU_IOCTL, args, |_| {
            kvm::run::kvm_vcpu_ioctl(vcpu, ioctl)
        })
    }

    pub(super) extern "C" fn kvm_s390_handle_pv(kvm: &'static Kvm, cmd: &KvmPvCmd) -> i32 {
        let args = [word(kvm), word(cmd), 0, 0, 0, 0];
        call(entry_id::KVM_S390_HANDLE_PV, args, |m| {
            kvm::pv::kvm_s390_handle_pv(m, kvm, cmd)
        })
    }

    pub(super) extern "C" fn kvm_arch_crypto_set_masks(
        kvm: &'static Kvm,
        apm: &Bitmap,
        aqm: &Bitmap,
        adm: &Bitmap,
    ) {
        let args = [word(kvm), word(apm), word(aqm), word(adm), 0, 0];
        call(entry_id::SET_MASKS, args, |m| {
            kvm::crypto::kvm_arch_crypto_set_masks(m, kvm, apm, aqm, adm);
        });
    }

    pub(super) extern "C" fn kvm_arch_crypto_clear_masks(kvm: &'static Kvm) {
        call(entry_id::CLEAR_MASKS, [word(kvm), 0, 0, 0, 0, 0], |m| {
            kvm::crypto::kvm_arch_crypto_clear_masks(m, kvm);
        });
    }

    pub(super) extern "C" fn kvm_vfio_set_attr(
        dev: &'static KvmDevice,
        attr: &KvmDeviceAttr,
    ) -> i32 {
        let args = [word(dev), word(attr), 0, 0, 0, 0];
        call(entry_id::KVM_VFIO_SET_ATTR, args, |m| {
            kvm::vfio::kvm_vfio_set_attr(m, dev, attr)
        })
    }
}
