//! The kernel's objects: where the driver's locks are, what adopted locks belong to, and what people call them.
//!
//! Nothing is asked for on paths that may block on a stuck guest: names come from kernel memory, from a process's cgroup
//! and from its main thread's name, never from its command line (which takes its memory's lock).

use std::collections::BTreeMap;
use std::fs;

use probe_ebpf::abi::{Adopted, InstanceInfo, LockKind, Mode, series};
use probe_ebpf::names::{CLASSES, class_id};

use super::words::Memory;
use crate::attach::offsets::{Field, Offsets};
use crate::frame;
use crate::source::snapshot::lists;

/// Longest list of mdevs that is walked.
const MOST_MDEVS: usize = 4096;
/// Guests in KVM's list that are read.
const MOST_GUESTS: usize = 4096;
/// vCPUs of a guest: `KVM_MAX_VCPUS` of s390 is 255 (arch/s390/include/asm/kvm_host.h).
const MOST_VCPUS: u32 = 256;
/// Nodes of an xarray that are visited: a guest's vCPUs fit into a few.
const MOST_XARRAY_NODES: u32 = 64;
/// `XA_CHUNK_SIZE` (include/linux/xarray.h).
const MOST_XARRAY_SLOTS: usize = 64;
/// Longest name of a device.
const NAME_BYTES: usize = 64;

/// A lock that is known before anything is measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FixedLock {
    /// Address of the lock.
    pub address: u64,
    /// Class id.
    pub class: u8,
    /// Kind.
    pub kind: LockKind,
    /// Name of the instance.
    pub name: String,
    /// It guards an open-coded flag.
    pub guards_flag: bool,
}

/// Names of what was adopted.
#[derive(Debug, Default)]
pub struct Names {
    /// Guests by the address of their `struct kvm`: number (from 1) and name.
    guests: BTreeMap<u64, (u32, String)>,
    /// Guests named so far.
    numbers: u32,
    /// mdevs by address.
    mdevs: BTreeMap<u64, String>,
}

/// The driver's own locks, from `matrix_dev`.
pub fn driver_locks(
    memory: &impl Memory,
    offsets: &Offsets,
    matrix_dev: u64,
    has_flag: bool,
) -> Vec<FixedLock> {
    [
        (Field::MatrixDevLock, class_id::MATRIX_DEV_LOCK),
        (Field::MatrixDevGuestsLock, class_id::GUESTS_LOCK),
        (Field::MatrixDevMdevsLock, class_id::MDEVS_LOCK),
    ]
    .into_iter()
    .filter_map(|(field, class)| {
        let address = matrix_dev.checked_add(u64::from(offsets.get(field)?))?;
        // An address that cannot be read is no lock.
        memory.u64(address)?;
        Some(FixedLock {
            address,
            class,
            kind: LockKind::Mutex,
            name: CLASSES[usize::from(class)].name.to_owned(),
            guards_flag: has_flag && class == class_id::MATRIX_DEV_LOCK,
        })
    })
    .collect()
}

/// Whether locks of this class lie in the memory of the driver's module.
pub const fn is_drivers(class: u8) -> bool {
    matches!(
        class,
        class_id::MATRIX_DEV_LOCK | class_id::GUESTS_LOCK | class_id::MDEVS_LOCK
    )
}

/// Offset and class of the lock of a vfio group, as far as it is known: a mutex, or an rwsem, which it was before v6.1.
pub fn group_lock(offsets: &Offsets) -> Option<(u32, u8)> {
    let mutex = offsets
        .get(Field::VfioGroupLock)
        .map(|offset| (offset, class_id::GROUP_LOCK));
    let rwsem = || Some((offsets.get(Field::VfioGroupRwsem)?, class_id::GROUP_RWSEM));
    mutex.or_else(rwsem)
}

/// Locks around the vfio device that a matrix mdev begins with: those of its set and its group.
fn around_device(memory: &impl Memory, offsets: &Offsets, mdev: u64) -> Vec<Adopted> {
    if offsets.get(Field::MdevVdev) != Some(0) {
        return Vec::new();
    }
    let set_lock = offsets
        .get(Field::DevSetLock)
        .map(|offset| (offset, class_id::DEV_SET_LOCK));
    [
        (Field::VfioDeviceDevSet, set_lock),
        (Field::VfioDeviceGroup, group_lock(offsets)),
    ]
    .into_iter()
    .filter_map(|(pointer, lock)| {
        let (offset, class) = lock?;
        let at = mdev.wrapping_add(u64::from(offsets.get(pointer)?));
        let around = memory.u64(at).filter(|around| *around != 0)?;
        Some(Adopted {
            address: around.wrapping_add(u64::from(offset)),
            class,
            kind: CLASSES[usize::from(class)].kind as u8,
            object: mdev,
            number: 0,
            wait_queue: 0,
        })
    })
    .collect()
}

/// Addresses of all mdevs, from the driver's list: bounded, and safe against lists that change or have no end.
pub fn mdevs(memory: &impl Memory, offsets: &Offsets, matrix_dev: u64) -> Vec<u64> {
    let (Some(list), Some(node)) = (
        offsets.get(Field::MatrixDevMdevList),
        offsets.get(Field::MdevNode),
    ) else {
        return Vec::new();
    };
    let head = matrix_dev.wrapping_add(u64::from(list));
    let walk = lists::headed(memory, head, MOST_MDEVS);
    let mdevs = walk.links.into_iter();
    mdevs.map(|at| at.wrapping_sub(u64::from(node))).collect()
}

/// Open-coded locks of the mdevs that are there now, and locks of the guests that have them, each with the process of its
/// guest: found without waiting for a call.
///
/// `known`: guests that KVM knows. What an mdev has beyond these is a guest that has ended, whose memory is somebody else's.
pub fn guests_now(
    memory: &impl Memory,
    offsets: &Offsets,
    matrix_dev: u64,
    known: Option<&[u64]>,
) -> Vec<(Adopted, u32)> {
    let Some(kvm_of) = offsets.get(Field::MdevKvm) else {
        return Vec::new();
    };
    let mut found: Vec<(Adopted, u32)> = Vec::new();
    let flag = offsets
        .get(Field::MdevKvmBusy)
        .zip(offsets.get(Field::MdevWaitForKvm));
    for mdev in mdevs(memory, offsets, matrix_dev) {
        if let Some((busy, queue)) = flag {
            let lock = Adopted {
                address: mdev.wrapping_add(u64::from(busy)),
                class: class_id::KVM_BUSY,
                kind: LockKind::Flag as u8,
                object: mdev,
                number: 0,
                wait_queue: mdev.wrapping_add(u64::from(queue)),
            };
            let guest = guest_of(memory, offsets, mdev);
            let process = if guest == 0 {
                0
            } else {
                process_of(memory, offsets, guest)
            };
            found.push((lock, process));
        }
        let around = around_device(memory, offsets, mdev);
        found.extend(around.into_iter().map(|lock| (lock, 0)));
        let kvm = memory
            .u64(mdev.wrapping_add(u64::from(kvm_of)))
            .unwrap_or(0);
        let ended = known.is_some_and(|known| !known.contains(&kvm));
        if kvm == 0 || ended || found.iter().any(|(lock, _)| lock.object == kvm) {
            continue;
        }
        let at = |field| Some(kvm.wrapping_add(u64::from(offsets.get(field)?)));
        let tgid = process_of(memory, offsets, kvm);
        for (field, class) in [
            (Field::KvmLock, class_id::KVM_LOCK),
            (Field::KvmPqapHookRwsem, class_id::PQAP_HOOK_RWSEM),
        ] {
            let Some(address) = at(field) else { continue };
            let lock = Adopted {
                address,
                class,
                kind: CLASSES[usize::from(class)].kind as u8,
                object: kvm,
                number: 0,
                wait_queue: 0,
            };
            found.push((lock, tgid));
        }
        let mutex = offsets.get(Field::KvmVcpuMutex);
        for (number, vcpu) in vcpus(memory, offsets, kvm) {
            let Some(mutex) = mutex else { break };
            let lock = Adopted {
                address: vcpu.wrapping_add(u64::from(mutex)),
                class: class_id::VCPU_MUTEX,
                kind: LockKind::Mutex as u8,
                object: kvm,
                number,
                wait_queue: 0,
            };
            found.push((lock, tgid));
        }
    }
    found
}

/// Numbers and addresses of a guest's vCPUs: from an array in `struct kvm` until v5.15, from an xarray since v5.17.
fn vcpus(memory: &impl Memory, offsets: &Offsets, kvm: u64) -> Vec<(u32, u64)> {
    let at = |object: u64, field| Some(object.wrapping_add(u64::from(offsets.get(field)?)));
    let online = at(kvm, Field::KvmOnlineVcpus)
        .and_then(|address| memory.u32(address))
        .unwrap_or(0)
        .min(MOST_VCPUS);
    let pointer = |address: u64| memory.u64(address).filter(|pointer| *pointer != 0);
    let all: Vec<u64> = if let Some(array) = at(kvm, Field::KvmVcpus) {
        (0..u64::from(online))
            .filter_map(|n| pointer(array.wrapping_add(n * 8)))
            .collect()
    } else {
        let head = at(kvm, Field::KvmVcpuArray)
            .and_then(|array| at(array, Field::XarrayHead))
            .and_then(pointer);
        let mut found = Vec::new();
        if let Some(head) = head {
            let mut budget = MOST_XARRAY_NODES;
            entries(
                memory,
                offsets,
                head,
                &mut budget,
                online as usize,
                &mut found,
            );
        }
        found
    };
    let id = |vcpu| memory.u32(at(vcpu, Field::KvmVcpuId)?);
    let kvm_of = |vcpu| memory.u64(at(vcpu, Field::KvmVcpuKvm)?);
    all.into_iter()
        // What does not point back is no vCPU of this guest, or not any more.
        .filter(|&vcpu| kvm_of(vcpu) == Some(kvm))
        .filter_map(|vcpu| Some((id(vcpu)?, vcpu)))
        .collect()
}

/// Entries below a node of an xarray (include/linux/xarray.h, v5.17 to v7.2): a pointer whose lowest bits are 10 is a node
/// (`xa_is_node`), one whose lowest bits are 00 an entry.
fn entries(
    memory: &impl Memory,
    offsets: &Offsets,
    entry: u64,
    budget: &mut u32,
    most: usize,
    found: &mut Vec<u64>,
) {
    if found.len() >= most {
        return;
    }
    match entry & 3 {
        0 if entry != 0 => found.push(entry),
        2 if entry > 4096 => {
            let (Some(slots), Some(end)) = (
                offsets.get(Field::XaNodeSlots),
                offsets.get(Field::XaNodeMarks),
            ) else {
                return;
            };
            // A node that lies in memory which is somebody else's by now may lead to itself.
            let Some(left) = budget.checked_sub(1) else {
                return;
            };
            *budget = left;
            let node = entry - 2;
            for slot in (slots..end).step_by(8).take(MOST_XARRAY_SLOTS) {
                if let Some(next) = memory.u64(node.wrapping_add(u64::from(slot))) {
                    entries(memory, offsets, next, budget, most, found);
                }
            }
        }
        _ => {}
    }
}

/// Guests that KVM knows, by the address of their `struct kvm`, from its list `vm_list` (virt/kvm/kvm_main.c), those that have
/// no mdev among them; `None` where it cannot be read, or was changed meanwhile.
pub fn all_guests(memory: &impl Memory, offsets: &Offsets, vm_list: u64) -> Option<Vec<u64>> {
    let link = offsets.get(Field::KvmVmList)?;
    let walk = lists::headed(memory, vm_list, MOST_GUESTS);
    let guests = walk.links.into_iter();
    let guests = guests.map(|at| at.wrapping_sub(u64::from(link)));
    walk.whole.then(|| guests.collect())
}

/// The process of a guest; 0 where that is not known.
pub fn process_of(memory: &impl Memory, offsets: &Offsets, kvm: u64) -> u32 {
    offsets
        .get(Field::KvmUserspacePid)
        .and_then(|offset| memory.u32(kvm.wrapping_add(u64::from(offset))))
        .unwrap_or(0)
}

/// The guest that has an mdev; 0 where it has none.
pub fn guest_of(memory: &impl Memory, offsets: &Offsets, mdev: u64) -> u64 {
    offsets
        .get(Field::MdevKvm)
        .and_then(|offset| memory.u64(mdev.wrapping_add(u64::from(offset))))
        .unwrap_or(0)
}

impl Names {
    /// Name of an adopted instance, its series (an rwsem has two: write, then read), and its guest's number. Ids are given
    /// from `first_id` on.
    pub fn describe(
        &mut self,
        memory: &impl Memory,
        offsets: &Offsets,
        first_id: u32,
        info: &InstanceInfo,
    ) -> Vec<frame::Instance> {
        let address = info.address.get();
        let class = info.class.get() as u8;
        let Some(known) = CLASSES.get(usize::from(class)) else {
            return Vec::new();
        };
        let object = info.object.get();
        let tgid = info.tgid.get() as u32;
        let (guest, what) = match class {
            class_id::KVM_LOCK | class_id::PQAP_HOOK_RWSEM => self.guest(object, tgid),
            class_id::VCPU_MUTEX => {
                let (guest, name) = self.guest(object, tgid);
                (guest, format!("{name}/{}", info.number.get()))
            }
            class_id::KV_LOCK if self.guests.contains_key(&object) => self.guest(object, tgid),
            class_id::KVM_BUSY
            | class_id::DEV_SET_LOCK
            | class_id::GROUP_LOCK
            | class_id::GROUP_RWSEM => (0, self.mdev(memory, offsets, object)),
            class_id::RESET_WORK => (0, queue(memory, offsets, object)),
            _ => (0, format!("{object:#x}")),
        };
        let modes: &[Mode] = if known.kind == LockKind::Rwsem {
            &[Mode::Write, Mode::Read]
        } else {
            &[Mode::Exclusive]
        };
        modes
            .iter()
            .zip(first_id..)
            .map(|(mode, id)| frame::Instance {
                id,
                name: format!("{}[{what}]", known.name),
                address,
                series: u32::from(series(class, *mode)),
                guest,
            })
            .collect()
    }

    /// Number and name of the guest whose `struct kvm` is at this address.
    pub fn guest(&mut self, kvm: u64, tgid: u32) -> (u32, String) {
        let numbers = &mut self.numbers;
        self.guests
            .entry(kvm)
            .or_insert_with(|| {
                *numbers += 1;
                (*numbers, guest_name(tgid))
            })
            .clone()
    }

    /// Number of a guest that has been named; 0 if it has not.
    pub fn number(&self, kvm: u64) -> u32 {
        self.guests.get(&kvm).map_or(0, |(number, _)| *number)
    }

    /// Guests seen so far.
    pub fn guests(&self) -> u32 {
        self.numbers
    }

    /// An object has ended: what has its address from now on is another one.
    pub fn forget(&mut self, object: u64) {
        self.guests.remove(&object);
        self.mdevs.remove(&object);
    }

    /// Name of an mdev: its UUID, which is its device's name.
    pub fn mdev(&mut self, memory: &impl Memory, offsets: &Offsets, mdev: u64) -> String {
        if let Some(name) = self.mdevs.get(&mdev) {
            return name.clone();
        }
        let name = mdev_name(memory, offsets, mdev).unwrap_or_else(|| format!("{mdev:#x}"));
        self.mdevs.insert(mdev, name.clone());
        name
    }
}

fn mdev_name(memory: &impl Memory, offsets: &Offsets, mdev: u64) -> Option<String> {
    let at = |object: u64, field| Some(object.wrapping_add(u64::from(offsets.get(field)?)));
    let device = memory.u64(at(mdev, Field::MdevMdev)?)?;
    let device = device.wrapping_add(u64::from(offsets.get(Field::MdevDeviceDev).unwrap_or(0)));
    let name = memory.u64(at(device, Field::DeviceName)?)?;
    let name = memory.text(name, NAME_BYTES)?;
    let plausible = !name.is_empty() && name.chars().all(|c| c.is_ascii_graphic());
    plausible.then_some(name)
}

/// Name of a queue: its APQN as the driver writes it, `05.0004`.
fn queue(memory: &impl Memory, offsets: &Offsets, queue: u64) -> String {
    let apqn = offsets
        .get(Field::QueueApqn)
        .and_then(|offset| memory.u32(queue.wrapping_add(u64::from(offset))));
    apqn.map_or_else(
        || format!("{queue:#x}"),
        |apqn| format!("{:02x}.{:04x}", (apqn >> 8) & 0xff, apqn & 0xff),
    )
}

/// What people call the guest of this process: libvirt's name from the cgroup, else the process's name and id.
fn guest_name(tgid: u32) -> String {
    let cgroup = fs::read_to_string(format!("/proc/{tgid}/cgroup")).unwrap_or_default();
    if let Some(name) = machine_of(&cgroup) {
        return name;
    }
    let comm = fs::read_to_string(format!("/proc/{tgid}/comm")).unwrap_or_default();
    match comm.trim() {
        "" => format!("pid {tgid}"),
        comm => format!("{comm}-{tgid}"),
    }
}

/// The guest's name in `…/machine-qemu\x2d7\x2dpayroll.scope/…` (systemd-machined; libvirt escapes its dashes).
fn machine_of(cgroup: &str) -> Option<String> {
    let unit = cgroup
        .split(['/', '\n', ':'])
        .find_map(|part| part.strip_prefix("machine-")?.strip_suffix(".scope"))?;
    let unit = unescape(unit);
    let name = unit
        .strip_prefix("qemu-")
        .and_then(|rest| {
            let (number, name) = rest.split_once('-')?;
            number.parse::<u32>().ok()?;
            Some(name)
        })
        .unwrap_or(&unit);
    (!name.is_empty()).then(|| name.to_owned())
}

/// systemd's escapes, `\x2d`.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escaped = rest
            .strip_prefix(b"\\x")
            .and_then(|hex| hex.get(..2))
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        if let Some(byte) = escaped {
            bytes.push(byte);
            rest = &rest[4..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    /// Memory of 8-byte words at chosen addresses.
    struct Words(BTreeMap<u64, u64>, Cell<u32>);

    impl Memory for Words {
        fn read(&self, address: u64, into: &mut [u8]) -> bool {
            self.1.set(self.1.get() + 1);
            let Some(word) = self.0.get(&address) else {
                return false;
            };
            let length = into.len().min(8);
            into[..length].copy_from_slice(&word.to_ne_bytes()[..length]);
            true
        }
    }

    fn offsets() -> Offsets {
        // Layouts are keyed by build ids, so types are what a test can give: none, here.
        Offsets::resolve(
            &crate::attach::offsets::Types::default(),
            &crate::attach::offsets::BuildIds::default(),
        )
    }

    #[test]
    fn a_guest_is_named_by_its_machine() {
        let cgroup = "0::/machine.slice/machine-qemu\\x2d7\\x2dpayroll.scope/libvirt/emulator\n";
        assert_eq!(machine_of(cgroup).as_deref(), Some("payroll"));
        let dashes = "0::/machine.slice/machine-qemu\\x2d12\\x2dweb\\x2dfront.scope\n";
        assert_eq!(machine_of(dashes).as_deref(), Some("web-front"));
        let other = "0::/machine.slice/machine-build.scope";
        assert_eq!(machine_of(other).as_deref(), Some("build"));
        assert_eq!(machine_of("0::/user.slice/session-1.scope"), None);
        assert_eq!(machine_of(""), None);
        assert_eq!(unescape("\\x"), "\\x");
        assert_eq!(unescape("\\xzz"), "\\xzz");
    }

    #[test]
    fn without_offsets_nothing_is_read() {
        let memory = Words(BTreeMap::new(), Cell::new(0));
        assert!(mdevs(&memory, &offsets(), 0x1000).is_empty());
        assert!(driver_locks(&memory, &offsets(), 0x1000, false).is_empty());
        assert_eq!(memory.1.get(), 0);
        assert_eq!(queue(&memory, &offsets(), 0x30), "0x30");
    }
}
