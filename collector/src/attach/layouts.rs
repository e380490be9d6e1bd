//! Layouts of structs in kernels without type information, by build id.
//!
//! Gives offsets for exactly the binaries that they were read from: an offset is used only where the GNU build id of the
//! module (or kernel) that has the struct is the one of the table. Does not know of versions: two builds of one release
//! may differ in any option.

use std::fmt;

use super::offsets::Field;

/// A GNU build id.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct BuildId(Vec<u8>);

/// `NT_GNU_BUILD_ID` (include/uapi/linux/elf.h).
const NT_GNU_BUILD_ID: u32 = 3;

/// Bytes of the longest build id: `BUILD_ID_SIZE_MAX` is 20 (include/linux/buildid.h); 32 leaves room for others.
const MAX_BUILD_ID: usize = 32;

/// Bytes of notes that are looked at.
const MAX_NOTES: usize = 64 << 10;

impl BuildId {
    /// The build id among ELF notes in either byte order: `/sys/kernel/notes`, or `/sys/module/NAME/notes/*`.
    #[must_use]
    pub fn from_notes(notes: &[u8]) -> Option<Self> {
        let notes = &notes[..notes.len().min(MAX_NOTES)];
        [u32::from_be_bytes, u32::from_le_bytes]
            .into_iter()
            .find_map(|order| Self::find(notes, order))
    }

    fn find(mut notes: &[u8], order: fn([u8; 4]) -> u32) -> Option<Self> {
        loop {
            let word = |at: usize| Some(order(*notes.get(at..)?.first_chunk()?));
            let (name, length, kind) = (word(0)? as usize, word(4)? as usize, word(8)?);
            let data = 12_usize.checked_add(name.checked_next_multiple_of(4)?)?;
            let end = data.checked_add(length)?;
            if kind == NT_GNU_BUILD_ID && notes.get(12..16)? == b"GNU\0" && name == 4 {
                return (1..=MAX_BUILD_ID)
                    .contains(&length)
                    .then(|| notes.get(data..end).map(|id| Self(id.to_vec())))?;
            }
            notes = notes.get(end.checked_next_multiple_of(4)?..)?;
        }
    }

    /// Whether this is the id of these hexadecimal digits.
    #[must_use]
    pub fn is(&self, hex: &str) -> bool {
        self.to_string() == hex
    }
}

impl fmt::Display for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BuildId({self})")
    }
}

/// What is known of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// Its offset (or a size) in bytes.
    At(u32),
    /// The struct has no such member.
    Absent,
}

/// What is known of the structs of one binary.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// The module, or `vmlinux`.
    pub object: &'static str,
    /// Its build id, in hexadecimal digits.
    pub build_id: &'static str,
    /// The kernel's release, for messages.
    pub release: &'static str,
    /// What is known.
    pub fields: &'static [(Field, Known)],
}

use Known::{Absent, At};

/// All known layouts.
///
/// Both kernels are v5.10.223, built for tests, without types of modules; the second one has lockdep. Each number was
/// read from the instructions of the module that it stands at (`objdump -dr`), as said beside it: the instruction's
/// displacement, where the source (v5.10) names the member. Numbers of structs of vmlinux were read from modules too,
/// which were compiled with the same headers. What no instruction shows is not in the table.
pub const LAYOUTS: &[Layout] = &[
    Layout {
        object: "kvm",
        build_id: "8e6759bd4a994f582e39ee187a90272f8872da31",
        release: "5.10.223-lab510",
        fields: &[
            // kvm_vcpu_ioctl: `lg %r8,192(%r2)`, vcpu = filp->private_data.
            (Field::FilePrivateData, At(192)),
            // kvm_vcpu_ioctl: `lg %r1,0(%r8)` before the comparison of kvm->mm.
            (Field::KvmVcpuKvm, At(0)),
            // kvm_arch_vcpu_destroy: `lgf %r5,36(%r11)`, the argument of the event "free cpu %d".
            (Field::KvmVcpuId, At(36)),
            // kvm_vcpu_ioctl: `la %r9,96(%r8)` before mutex_lock_killable; kvm_s390_cpus_from_pv has the same.
            (Field::KvmVcpuMutex, At(96)),
            // kvm_s390_handle_b2: `lg %r3,1008(%r2)`.
            (Field::KvmVcpuSieBlock, At(1008)),
            // kvm_s390_handle_b2: `lh %r4,86(%r3)`, whose low byte selects the handler.
            (Field::SieBlockIpa, At(86)),
            // kvm_handle_sie_intercept: `llc %r1,80(%r5)` before the switch.
            (Field::SieBlockIcptcode, At(80)),
            // kvm_arch_crypto_set_masks: `la %r7,2128(%r2)` before mutex_lock.
            (Field::KvmLock, At(2128)),
            // struct kvm_s390_crypto of v5.10 has none; the hook of handle_pqap is called without a lock.
            (Field::KvmPqapHookRwsem, Absent),
            // kvm_s390_handle_b2: `ltg %r1,7456(%r1)`, whose target's second word goes to try_module_get.
            (Field::KvmPqapHook, At(7456)),
            // kvm_s390_cpus_from_pv: `l %r1,2096(%r2)`, the bound of the loop over vCPUs.
            (Field::KvmOnlineVcpus, At(2096)),
            // kvm_s390_cpus_from_pv: `ltg %r10,56(%r1,%r8)`, %r1 being 8 times the index.
            (Field::KvmVcpus, At(56)),
            (Field::KvmVcpuArray, Absent),
            // kvm_uevent_notify_change: `sty %r4,10848(%r10)`, task_pid_nr(current).
            (Field::KvmUserspacePid, At(10848)),
            // kvm_vfio_set_attr: `lg %r10,16(%r9)`, kv = dev->private.
            (Field::KvmDevicePrivate, At(16)),
            // kvm_vfio_set_attr: `la %r1,16(%r10)` before mutex_lock.
            (Field::KvmVfioLock, At(16)),
        ],
    },
    Layout {
        object: "vfio_ap",
        build_id: "c9d6c4d950001132e0ab275f8a09e73aa5728f65",
        release: "5.10.223-lab510",
        fields: &[
            // handle_pqap: `lg %r1,128(%r2)`, then registers 0, 1 and 2 at 328, 336 and 344.
            (Field::KvmVcpuRun, At(128)),
            (Field::KvmRunGprs, At(328)),
            // handle_pqap: `aghik %r2,%r1,592` before mutex_lock, %r1 being matrix_dev.
            (Field::MatrixDevLock, At(592)),
            (Field::MatrixDevMdevsLock, Absent),
            (Field::MatrixDevGuestsLock, Absent),
            // vfio_ap_mdev_create: `stg %r11,576(%r1)`, list_add().
            (Field::MatrixDevMdevList, At(576)),
            // handle_pqap: `lg %r2,624(%r2)`, vfio_ap_drv, a pointer and the last member.
            (Field::MatrixDevSize, At(632)),
            // vfio_ap_mdev_create: `stg %r3,0(%r11)`, list_add().
            (Field::MdevNode, At(0)),
            // vfio_ap_mdev_create: `stg %r2,16(%r11)`, apm_max, the first member of the matrix.
            (Field::MdevMatrix, At(16)),
            // vfio_ap_mdev_group_notifier: `cg %r11,184(%r1)`; `lay %r4,-136(%r10)` is container_of of its argument.
            (Field::MdevKvm, At(184)),
            (Field::MdevGroupNotifier, At(136)),
            // vfio_ap_mdev_create: `stg %r1,192(%r11)`, the address of handle_pqap.
            (Field::MdevPqapHook, At(192)),
            // vfio_ap_mdev_create: `stg %r10,208(%r2)`; the size, 216, goes to kmalloc and leaves room for nothing else:
            // 184 kvm, 192 hook, 200 owner, 208 mdev.
            (Field::MdevMdev, At(208)),
            (Field::MdevKvmBusy, Absent),
            (Field::MdevWaitForKvm, Absent),
            (Field::MdevVdev, Absent),
            // handle_pqap: `stg %r7,0(%r8)`; vfio_ap_queue_dev_probe: `st %r1,16(%r2)`, and 24 bytes in all.
            (Field::QueueMatrixMdev, At(0)),
            (Field::QueueApqn, At(16)),
            (Field::QueueResetWork, Absent),
            // vfio_ap_queue_dev_probe: `l %r1,504(%r11)`, %r11 being the ap_device, which is first in struct ap_queue.
            (Field::ApQueueApDev, At(0)),
            (Field::ApQueueQid, At(504)),
            // match_apqn: `lg %r1,120(%r2)`, dev_get_drvdata().
            (Field::DeviceDriverData, At(120)),
        ],
    },
    Layout {
        object: "mdev",
        build_id: "247de98a2700428850299f91e09edfc54742a18d",
        release: "5.10.223-lab510",
        fields: MDEV_5_10,
    },
    // mdev's exports are called by vfio_ap; where mdev's own build id cannot be read, vfio_ap's stands for it, since both
    // came from one build.
    Layout {
        object: "vfio_ap",
        build_id: "c9d6c4d950001132e0ab275f8a09e73aa5728f65",
        release: "5.10.223-lab510",
        fields: MDEV_5_10,
    },
    Layout {
        object: "kvm",
        build_id: "8d0b4221916f5cfcee339c0cdb48245dc874292f",
        release: "5.10.223-lab510-lockdep",
        // The same instructions as in the build without lockdep.
        fields: &[
            (Field::FilePrivateData, At(456)),
            (Field::KvmVcpuKvm, At(0)),
            (Field::KvmVcpuId, At(36)),
            (Field::KvmVcpuMutex, At(96)),
            (Field::KvmVcpuSieBlock, At(1200)),
            (Field::SieBlockIpa, At(86)),
            (Field::SieBlockIcptcode, At(80)),
            (Field::KvmLock, At(2320)),
            (Field::KvmPqapHookRwsem, Absent),
            (Field::KvmPqapHook, At(8480)),
            (Field::KvmOnlineVcpus, At(2288)),
            (Field::KvmVcpus, At(248)),
            (Field::KvmVcpuArray, Absent),
            (Field::KvmUserspacePid, At(13712)),
            (Field::KvmDevicePrivate, At(16)),
            (Field::KvmVfioLock, At(16)),
            // kvm_uevent_notify_change: `l %r4,1360(%r1)`, %r1 being current; tgid follows pid (include/linux/sched.h).
            (Field::TaskPid, At(1360)),
            (Field::TaskTgid, At(1364)),
        ],
    },
    Layout {
        object: "vfio_ap",
        build_id: "f77c16afe653bdf73612dc98f4ce3de6d8aecebd",
        release: "5.10.223-lab510-lockdep",
        // The same instructions as in the build without lockdep.
        fields: &[
            (Field::KvmVcpuRun, At(256)),
            (Field::KvmRunGprs, At(328)),
            (Field::MatrixDevLock, At(1016)),
            (Field::MatrixDevMdevsLock, Absent),
            (Field::MatrixDevGuestsLock, Absent),
            (Field::MatrixDevMdevList, At(1000)),
            // handle_pqap: `lg %r2,1176(%r2)`, vfio_ap_drv: the mutex is the 160 bytes before it.
            (Field::MatrixDevSize, At(1184)),
            (Field::MutexSize, At(160)),
            (Field::MdevNode, At(0)),
            (Field::MdevMatrix, At(16)),
            (Field::MdevKvm, At(184)),
            (Field::MdevGroupNotifier, At(136)),
            (Field::MdevPqapHook, At(192)),
            (Field::MdevMdev, At(208)),
            (Field::MdevKvmBusy, Absent),
            (Field::MdevWaitForKvm, Absent),
            (Field::MdevVdev, Absent),
            (Field::QueueMatrixMdev, At(0)),
            (Field::QueueApqn, At(16)),
            (Field::QueueResetWork, Absent),
            (Field::ApQueueApDev, At(0)),
            (Field::ApQueueQid, At(992)),
            (Field::DeviceDriverData, At(120)),
        ],
    },
    Layout {
        object: "mdev",
        build_id: "8d3f3c2f1c7282391c28c7521491b83c9a1329f2",
        release: "5.10.223-lab510-lockdep",
        fields: MDEV_5_10_LOCKDEP,
    },
    Layout {
        object: "vfio_ap",
        build_id: "f77c16afe653bdf73612dc98f4ce3de6d8aecebd",
        release: "5.10.223-lab510-lockdep",
        fields: MDEV_5_10_LOCKDEP,
    },
    Layout {
        object: "vmlinux",
        build_id: "e75e740318bb147fa789437b0ee2178fd9061844",
        release: "5.10.223-lab510-lockdep",
        fields: &[
            // The first member of struct mutex in every configuration of v5.10 (include/linux/mutex.h).
            (Field::MutexOwner, At(0)),
        ],
    },
];

/// mdev_dev returns its argument, mdev_uuid adds 448 to it, mdev_get_drvdata is `lg %r2,464(%r2)`.
const MDEV_5_10: &[(Field, Known)] = &[
    (Field::MdevDeviceDev, At(0)),
    (Field::MdevDeviceUuid, At(448)),
    (Field::MdevDeviceDriverData, At(464)),
];

/// As above: 872 and 888.
const MDEV_5_10_LOCKDEP: &[(Field, Known)] = &[
    (Field::MdevDeviceDev, At(0)),
    (Field::MdevDeviceUuid, At(872)),
    (Field::MdevDeviceDriverData, At(888)),
];

/// Whether a layout of an object with this build id is known.
#[must_use]
pub fn knows(object: &str, id: &BuildId) -> bool {
    LAYOUTS
        .iter()
        .any(|layout| layout.object == object && id.is(layout.build_id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(kind: u32, name: &[u8], data: &[u8], order: fn(u32) -> [u8; 4]) -> Vec<u8> {
        let mut note = Vec::new();
        for word in [name.len() as u32, data.len() as u32, kind] {
            note.extend(order(word));
        }
        for part in [name, data] {
            note.extend(part);
            note.resize(note.len().next_multiple_of(4), 0);
        }
        note
    }

    #[test]
    fn a_build_id_is_found_among_notes_of_either_byte_order() {
        for order in [u32::to_be_bytes, u32::to_le_bytes] {
            let id: Vec<u8> = (1..=20).collect();
            let mut notes = note(0x100, b"Linux\0", &[0; 5], order);
            notes.extend(note(3, b"GNU\0", &id, order));
            notes.extend(note(6, b"Linux\0", &[1], order));
            let found = BuildId::from_notes(&notes).unwrap();
            assert!(found.is("0102030405060708090a0b0c0d0e0f1011121314"));
            for length in 0..56 {
                assert_eq!(BuildId::from_notes(&notes[..length]), None, "{length}");
            }
        }
        assert_eq!(BuildId::from_notes(&[0xff; 64]), None);
        assert_eq!(
            BuildId::from_notes(&note(3, b"GNU\0", &[0; 64], u32::to_be_bytes)),
            None
        );
    }

    #[test]
    fn no_field_has_two_values_for_one_key() {
        for (at, a) in LAYOUTS.iter().enumerate() {
            assert_eq!(a.build_id.len(), 40);
            let later = LAYOUTS[at..].iter().filter(|b| b.build_id == a.build_id);
            for (field, known) in a.fields {
                let others = later.clone().flat_map(|b| b.fields);
                for (_, other) in others.filter(|(of, _)| of == field) {
                    assert_eq!(known, other, "{field:?}");
                }
            }
        }
    }
}
