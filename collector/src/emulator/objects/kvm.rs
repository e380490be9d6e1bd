//! KVM's structures.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::sync::{OnceLock, RwLock};

use super::{Bitmap, Link, PqapHook, VfioGroup};
use crate::emulator::kvm::sie::SieBlock;
use crate::emulator::primitives::{Mutex, RwSemaphore};

/// `struct kvm_s390_crypto` of `struct kvm_arch`.
#[derive(Debug)]
#[repr(C)]
pub struct KvmS390Crypto {
    /// Guards `pqap_hook`, from v5.15 on.
    pub pqap_hook_rwsem: RwSemaphore,
    /// Who handles PQAP; NULL when no driver does.
    pub pqap_hook: Link<PqapHook>,
    /// Crypto control block designation: 0 without AP, bit 1 format 2 (APXA).
    pub crycbd: AtomicU32,
    /// Adapters the guest sees.
    pub apm: Bitmap,
    /// Domains the guest sees.
    pub aqm: Bitmap,
    /// Control domains the guest sees.
    pub adm: Bitmap,
}

/// `struct kvm`.
#[derive(Debug)]
#[repr(C)]
pub struct Kvm {
    /// VM state.
    pub lock: Mutex,
    /// References.
    pub users_count: AtomicI32,
    /// The VM is protected (Secure Execution).
    pub protected: AtomicBool,
    /// Crypto state.
    pub crypto: KvmS390Crypto,
    /// vCPUs.
    pub vcpus: OnceLock<Vec<&'static KvmVcpu>>,
    /// References to each guest interruption subclass, `gisa_int.alert.ref_count`.
    pub gisc_ref: [AtomicU32; 8],
    /// Guest number, for names.
    pub guest: u32,
}

/// `crycbd` of a guest with format 2 crypto control block.
pub const CRYCB_FORMAT2: u32 = 3;

impl Kvm {
    /// A VM with `vcpus` vCPUs, for guest number `guest`. Stays until the process ends.
    pub fn create(guest: u32, vcpus: u32) -> &'static Self {
        let kvm: &'static Self = Box::leak(Box::new(Self {
            lock: Mutex::default(),
            users_count: AtomicI32::new(1),
            protected: AtomicBool::new(false),
            crypto: KvmS390Crypto {
                pqap_hook_rwsem: RwSemaphore::default(),
                pqap_hook: Link::default(),
                crycbd: AtomicU32::new(CRYCB_FORMAT2),
                apm: Bitmap::default(),
                aqm: Bitmap::default(),
                adm: Bitmap::default(),
            },
            vcpus: OnceLock::new(),
            gisc_ref: [const { AtomicU32::new(0) }; 8],
            guest,
        }));
        let vcpus = (0..vcpus).map(|id| KvmVcpu::create(kvm, id)).collect();
        // The cell is new: this is its only `set`.
        let _ = kvm.vcpus.set(vcpus);
        kvm
    }

    /// The vCPUs.
    pub fn vcpus(&self) -> &[&'static KvmVcpu] {
        self.vcpus.get().map_or(&[], Vec::as_slice)
    }
}

/// `struct kvm_run`: what the host and user space share of a vCPU.
#[derive(Debug, Default)]
#[repr(C)]
pub struct KvmRun {
    /// Why KVM_RUN returned.
    pub exit_reason: AtomicU32,
    reserved: u32,
    /// Registers: `s.regs.gprs`.
    pub gprs: [AtomicU64; 16],
}

/// `struct kvm_vcpu`.
#[derive(Debug)]
#[repr(C)]
pub struct KvmVcpu {
    /// The VM.
    pub kvm: Link<Kvm>,
    /// Number in the VM.
    pub vcpu_id: u32,
    /// Held by every ioctl on the vCPU, KVM_RUN included.
    pub mutex: Mutex,
    /// Shared with user space.
    pub run: Link<KvmRun>,
    /// The hardware's control block.
    pub sie_block: SieBlock,
}

impl KvmVcpu {
    fn create(kvm: &'static Kvm, vcpu_id: u32) -> &'static Self {
        Box::leak(Box::new(Self {
            kvm: Link::to(kvm),
            vcpu_id,
            mutex: Mutex::default(),
            run: Link::to(Box::leak(Box::default())),
            sie_block: SieBlock::default(),
        }))
    }

    /// A register.
    pub fn gpr(&self, n: usize) -> u64 {
        self.run
            .get()
            .map_or(0, |run| run.gprs[n % 16].load(Ordering::Relaxed))
    }

    /// Writes a register.
    pub fn set_gpr(&self, n: usize, value: u64) {
        if let Some(run) = self.run.get() {
            run.gprs[n % 16].store(value, Ordering::Relaxed);
        }
    }
}

/// The kvm-vfio pseudo device: `struct kvm_device` with `struct kvm_vfio`.
#[derive(Debug)]
#[repr(C)]
pub struct KvmDevice {
    /// The VM.
    pub kvm: Link<Kvm>,
    /// `kv->lock`.
    pub lock: Mutex,
    /// Groups added, guarded by `lock`.
    pub group_list: RwLock<Vec<&'static VfioGroup>>,
}

impl KvmDevice {
    /// The device of a VM. Stays until the process ends.
    pub fn create(kvm: &'static Kvm) -> &'static Self {
        Box::leak(Box::new(Self {
            kvm: Link::to(kvm),
            lock: Mutex::default(),
            group_list: RwLock::default(),
        }))
    }
}

/// `struct kvm_device_attr` of `KVM_SET_DEVICE_ATTR`.
#[derive(Debug)]
#[repr(C)]
pub struct KvmDeviceAttr {
    /// `KVM_DEV_VFIO_GROUP`.
    pub group: u32,
    /// `KVM_DEV_VFIO_GROUP_ADD` or `_DEL`.
    pub attr: u64,
    /// The group, which user space names by a file descriptor.
    pub target: Link<VfioGroup>,
}
