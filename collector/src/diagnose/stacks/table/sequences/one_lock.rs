//! Until v5.19: one lock for all of the driver. All but binding a guest.

use super::{
    BUSY, DRAFT_7, DRAFTS, G5_19, Generations, KVM_BUSY, MATRIX_DEV_LOCK, ONE_LOCK, PQAP, RESETS,
    SHOWS, STAY, STORES, Sequence, UNREGISTER_DEVICE, V5_10, V5_13, V5_15, V5_15Rc, V5_19, driver,
    mutex, wait_flag,
};

pub(super) const RULES: &[Sequence] = &[
    driver(
        STORES,
        ONE_LOCK,
        "attributes are written under matrix_dev->lock (until v5.19)",
        &[mutex(MATRIX_DEV_LOCK)],
    ),
    driver(
        SHOWS,
        ONE_LOCK,
        "attributes are read under matrix_dev->lock (until v5.19)",
        &[mutex(MATRIX_DEV_LOCK)],
    ),
    driver(
        &["status_show", "vfio_ap_queue_dev_probe"],
        G5_19,
        "the status of a queue is read under matrix_dev->lock (v5.17 to v5.19)",
        &[mutex(MATRIX_DEV_LOCK)],
    ),
    driver(
        &["vfio_ap_queue_dev_remove"],
        ONE_LOCK,
        "a queue is reset under matrix_dev->lock when it goes (until v5.19)",
        &[mutex(MATRIX_DEV_LOCK), STAY.within(RESETS)],
    ),
    driver(
        &["vfio_ap_mdev_create", "vfio_ap_mdev_probe"],
        ONE_LOCK,
        "the list of mdevs is under matrix_dev->lock (until v5.19)",
        &[mutex(MATRIX_DEV_LOCK)],
    ),
    driver(
        &["vfio_ap_mdev_remove"],
        Generations::range(V5_10, V5_13).or(DRAFTS),
        "queues are reset under matrix_dev->lock when an mdev goes (v5.10)",
        &[mutex(MATRIX_DEV_LOCK), STAY.within(RESETS)],
    ),
    driver(
        &["vfio_ap_mdev_remove"],
        Generations::of(&[V5_15Rc, V5_15, V5_19]),
        "removal waits until the device is closed, then resets under matrix_dev->lock (v5.15)",
        &[
            STAY.always_within(UNREGISTER_DEVICE),
            mutex(MATRIX_DEV_LOCK),
            STAY.within(RESETS),
        ],
    ),
    driver(
        &["vfio_ap_mdev_ioctl"],
        ONE_LOCK.and(BUSY.not()),
        "the whole ioctl, and a reset, are under matrix_dev->lock (until v5.19)",
        &[mutex(MATRIX_DEV_LOCK), STAY.within(RESETS), STAY],
    )
    .of_own_guest(),
    driver(
        &["vfio_ap_mdev_ioctl"],
        BUSY,
        "VFIO_DEVICE_RESET waits for kvm_busy, with matrix_dev->lock dropped (v5.13)",
        &[
            mutex(MATRIX_DEV_LOCK),
            wait_flag(KVM_BUSY, MATRIX_DEV_LOCK),
            STAY.within(RESETS),
            STAY,
        ],
    )
    .of_own_guest(),
    driver(
        PQAP,
        ONE_LOCK.and(BUSY.or(DRAFT_7).not()),
        "the driver's handle_pqap() takes matrix_dev->lock (v5.10)",
        &[mutex(MATRIX_DEV_LOCK), STAY],
    )
    .of_own_guest(),
    driver(
        PQAP,
        BUSY,
        "the driver's handle_pqap() waits for kvm_busy, with matrix_dev->lock dropped (v5.13)",
        &[
            mutex(MATRIX_DEV_LOCK),
            wait_flag(KVM_BUSY, MATRIX_DEV_LOCK),
            STAY,
        ],
    )
    .of_own_guest(),
    driver(
        PQAP,
        DRAFT_7,
        "the driver's handle_pqap() takes no lock (draft of July 2021)",
        &[STAY],
    )
    .of_own_guest(),
];
