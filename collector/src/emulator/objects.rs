//! The driver's and KVM's structures, as far as the emulated code uses them.
//!
//! `#[repr(C)]`, because probes read them by offset ([`offsets`]). Fields that several threads touch are atomics; which
//! emulated lock guards them is said at each. All objects stay until the process ends, like the pointers to them.

use std::mem::offset_of;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32, AtomicU64, Ordering};
use std::sync::{OnceLock, RwLock};

use super::primitives::trace::{self, Event};
use super::primitives::{LockCounters, Mutex, RwSemaphore, WaitQueueHead};
use super::protocol::Offsets;
use crate::emulator::kvm::sie::SieBlock;

/// A pointer in a structure: NULL, or an object that stays.
#[derive(Debug)]
#[repr(transparent)]
pub struct Link<T: 'static>(AtomicPtr<T>);

impl<T> Default for Link<T> {
    fn default() -> Self {
        Self(AtomicPtr::new(std::ptr::null_mut()))
    }
}

impl<T: Sync> Link<T> {
    /// A pointer to `target`.
    pub fn to(target: &'static T) -> Self {
        let link = Self::default();
        link.set(Some(target));
        link
    }

    /// Reads the pointer.
    pub fn get(&self) -> Option<&'static T> {
        // SAFETY: only `set` stores here, and it stores NULL or a reference with static lifetime.
        unsafe { self.0.load(Ordering::Acquire).as_ref() }
    }

    /// Writes the pointer.
    pub fn set(&self, target: Option<&'static T>) {
        let pointer = target.map_or(std::ptr::null(), std::ptr::from_ref);
        self.0.store(pointer.cast_mut(), Ordering::Release);
    }

    /// Both are NULL, or both point to the same object.
    pub fn is(&self, target: Option<&'static T>) -> bool {
        match (self.get(), target) {
            (Some(a), Some(b)) => std::ptr::eq(a, b),
            (None, None) => true,
            _ => false,
        }
    }
}

/// A bitmap of 256 bits, numbered as the AP architecture numbers them: bit 0 is the leftmost of word 0.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct Bitmap([AtomicU64; 4]);

impl Bitmap {
    /// Number of bits.
    pub const BITS: u16 = 256;

    fn place(bit: u16) -> (usize, u64) {
        (usize::from(bit / 64 % 4), 1 << (63 - bit % 64))
    }

    /// `set_bit_inv`.
    pub fn set(&self, bit: u16) {
        let (word, mask) = Self::place(bit);
        self.0[word].fetch_or(mask, Ordering::Relaxed);
    }

    /// `clear_bit_inv`.
    pub fn clear(&self, bit: u16) {
        let (word, mask) = Self::place(bit);
        self.0[word].fetch_and(!mask, Ordering::Relaxed);
    }

    /// `test_bit_inv`.
    pub fn test(&self, bit: u16) -> bool {
        let (word, mask) = Self::place(bit);
        self.0[word].load(Ordering::Relaxed) & mask != 0
    }

    /// Bits that are set, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        (0..Self::BITS).filter(|bit| self.test(*bit))
    }

    /// No bit is set.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|w| w.load(Ordering::Relaxed) == 0)
    }

    /// Both have a bit in common.
    pub fn intersects(&self, other: &Self) -> bool {
        self.0
            .iter()
            .zip(&other.0)
            .any(|(a, b)| a.load(Ordering::Relaxed) & b.load(Ordering::Relaxed) != 0)
    }

    /// Takes over all bits of `other`.
    pub fn copy_from(&self, other: &Self) {
        for (to, from) in self.0.iter().zip(&other.0) {
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    /// Clears all bits.
    pub fn clear_all(&self) {
        for word in &self.0 {
            word.store(0, Ordering::Relaxed);
        }
    }
}

/// `struct ap_matrix`: adapters, usage domains, control domains. Guarded by the driver's lock.
#[derive(Debug)]
#[repr(C)]
pub struct ApMatrix {
    /// Largest adapter number.
    pub apm_max: u64,
    /// Adapters.
    pub apm: Bitmap,
    /// Largest domain number.
    pub aqm_max: u64,
    /// Usage domains.
    pub aqm: Bitmap,
    /// Largest control domain number.
    pub adm_max: u64,
    /// Control domains.
    pub adm: Bitmap,
}

impl Default for ApMatrix {
    /// `vfio_ap_matrix_init` on a machine with APXA: 256 adapters, 256 domains.
    fn default() -> Self {
        Self {
            apm_max: 255,
            apm: Bitmap::default(),
            aqm_max: 255,
            aqm: Bitmap::default(),
            adm_max: 255,
            adm: Bitmap::default(),
        }
    }
}

/// `struct device`, and its driver data.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Device {
    reserved: [u64; 15],
    /// The mdev that the device stands for.
    pub driver_data: Link<ApMatrixMdev>,
}

/// `struct mdev_device`, argument of open, release and ioctl.
#[derive(Debug, Default)]
#[repr(C)]
pub struct MdevDevice {
    /// The device behind the sysfs attributes.
    pub dev: Device,
}

/// `struct vfio_device`, argument of the same functions in later generations. Its driver data is where an
/// [`MdevDevice`] has it.
pub type VfioDevice = MdevDevice;

/// `struct notifier_block`. The kernel finds the mdev around it by `container_of`; here it is a field.
#[derive(Debug, Default)]
#[repr(C)]
pub struct NotifierBlock {
    /// The mdev that contains the block.
    pub mdev: Link<ApMatrixMdev>,
}

/// What `kvm->arch.crypto.pqap_hook` points to, inside the mdev (`container_of`, here a field).
#[derive(Debug, Default)]
#[repr(C)]
pub struct PqapHook {
    /// The mdev that contains the hook.
    pub mdev: Link<ApMatrixMdev>,
}

/// `struct ap_matrix_mdev`. All fields are guarded by `matrix_dev->lock`.
#[derive(Debug)]
#[repr(C)]
pub struct ApMatrixMdev {
    /// What is assigned.
    pub matrix: ApMatrix,
    /// Called when a guest is bound.
    pub group_notifier: NotifierBlock,
    /// The open-coded lock's flag: the kvm pointer is in flux.
    kvm_busy: AtomicBool,
    /// The open-coded lock's wait queue.
    pub wait_for_kvm: WaitQueueHead,
    /// The guest that uses it.
    pub kvm: Link<Kvm>,
    /// What KVM calls on PQAP.
    pub pqap_hook: PqapHook,
    /// Guest number, for names.
    pub guest: u32,
    /// The group whose notifier chain tells about the guest.
    pub group: VfioGroup,
    truth_busy: LockCounters,
}

impl ApMatrixMdev {
    /// An mdev without assignments, for guest number `guest`. Stays until the process ends.
    pub fn create(guest: u32) -> &'static Self {
        let mdev: &'static Self = Box::leak(Box::new(Self {
            matrix: ApMatrix::default(),
            group_notifier: NotifierBlock::default(),
            kvm_busy: AtomicBool::new(false),
            wait_for_kvm: WaitQueueHead::default(),
            kvm: Link::default(),
            pqap_hook: PqapHook::default(),
            guest,
            group: VfioGroup::default(),
            truth_busy: LockCounters::default(),
        }));
        mdev.group_notifier.mdev.set(Some(mdev));
        mdev.pqap_hook.mdev.set(Some(mdev));
        mdev
    }

    /// The flag.
    pub fn kvm_busy(&self) -> bool {
        self.kvm_busy.load(Ordering::Relaxed)
    }

    /// Sets the flag; the caller holds the guard and is about to drop it.
    pub fn set_kvm_busy(&self) {
        trace::note(Event::Flag(true, self.kvm_busy_address()));
        self.truth_busy.acquired();
        self.kvm_busy.store(true, Ordering::Relaxed);
    }

    /// Clears the flag; the caller holds the guard.
    pub fn clear_kvm_busy(&self) {
        trace::note(Event::Flag(false, self.kvm_busy_address()));
        self.truth_busy.released();
        self.kvm_busy.store(false, Ordering::Relaxed);
    }

    /// Address of the flag.
    pub fn kvm_busy_address(&self) -> u64 {
        std::ptr::from_ref(&self.kvm_busy) as u64
    }

    /// What was counted of the open-coded lock.
    pub fn truth_busy(&self) -> &LockCounters {
        &self.truth_busy
    }
}

/// `struct ap_matrix_dev`, of which there is one.
#[derive(Debug, Default)]
#[repr(C)]
pub struct ApMatrixDev {
    /// The device `/sys/devices/vfio_ap/matrix`.
    pub device: Device,
    /// Mdevs that can still be created.
    pub available_instances: AtomicI32,
    /// The driver's one lock.
    pub lock: Mutex,
    /// All mdevs. The kernel's list is guarded by `lock`; the inner lock is Rust's and is held for a scan only.
    pub mdev_list: RwLock<Vec<&'static ApMatrixMdev>>,
}

/// `struct vfio_group`: the notifier chain and the guest it was told of.
#[derive(Debug, Default)]
#[repr(C)]
pub struct VfioGroup {
    /// `blocking_notifier_head`: its rwsem.
    pub rwsem: RwSemaphore,
    /// Its chain, guarded by the rwsem.
    pub head: RwLock<Vec<&'static NotifierBlock>>,
    /// The guest set by the kvm-vfio device.
    pub kvm: Link<Kvm>,
}

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

/// Where probes find the fields they read.
pub fn offsets() -> Offsets {
    Offsets {
        mdev_flag: offset_of!(ApMatrixMdev, kvm_busy) as u32,
        mdev_notifier: offset_of!(ApMatrixMdev, group_notifier) as u32,
        mdev_hook: offset_of!(ApMatrixMdev, pqap_hook) as u32,
        device_driver_data: offset_of!(Device, driver_data) as u32,
        mdev_device_driver_data: offset_of!(MdevDevice, dev.driver_data) as u32,
        vcpu_kvm: offset_of!(KvmVcpu, kvm) as u32,
        vcpu_run: offset_of!(KvmVcpu, run) as u32,
        kvm_hook: offset_of!(Kvm, crypto.pqap_hook) as u32,
        run_gprs: offset_of!(KvmRun, gprs) as u32,
        ap_device_qid: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_numbered_from_the_left() {
        let map = Bitmap::default();
        assert!(map.is_empty());
        for bit in [0, 63, 64, 255] {
            map.set(bit);
        }
        assert_eq!(map.0[0].load(Ordering::Relaxed), (1 << 63) | 1);
        assert_eq!(map.0[1].load(Ordering::Relaxed), 1 << 63);
        assert_eq!(map.0[3].load(Ordering::Relaxed), 1);
        assert_eq!(map.iter().collect::<Vec<_>>(), [0, 63, 64, 255]);
        map.clear(63);
        assert!(!map.test(63));
        let other = Bitmap::default();
        assert!(!map.intersects(&other));
        other.set(255);
        assert!(map.intersects(&other));
    }

    #[test]
    fn the_offsets_reach_the_fields() {
        let kvm = Kvm::create(0, 1);
        let mdev = ApMatrixMdev::create(0);
        kvm.crypto.pqap_hook.set(Some(&mdev.pqap_hook));
        let at = |address: u64, offset: u32| {
            // SAFETY: every use below reads a pointer field of a live object.
            unsafe { *((address + u64::from(offset)) as *const u64) }
        };
        let o = offsets();
        let vcpu = kvm.vcpus()[0];
        let address = at(std::ptr::from_ref(vcpu) as u64, o.vcpu_kvm);
        assert_eq!(address, std::ptr::from_ref(kvm) as u64);
        let hook = at(address, o.kvm_hook);
        assert_eq!(
            hook - u64::from(o.mdev_hook),
            std::ptr::from_ref(mdev) as u64
        );
        vcpu.set_gpr(0, 77);
        let run = at(std::ptr::from_ref(vcpu) as u64, o.vcpu_run);
        assert_eq!(at(run, o.run_gprs), 77);
        assert_eq!(
            mdev.kvm_busy_address() - u64::from(o.mdev_flag),
            std::ptr::from_ref(mdev) as u64
        );
    }
}
