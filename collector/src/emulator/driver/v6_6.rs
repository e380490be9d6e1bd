//! v6.6 to v7.2, as of 6.12: a reset is verified by a work item, without an upper limit of time.
//!
//! Whoever resets queues waits for the work items (`flush_work`) with all its locks held, so one queue that never
//! leaves response code 02 or 05 stops every operation of the driver, PQAP of all guests, and KVM's operations on that
//! VM. New: `ap_config`, the request callback with its eventfd, interruptions turned off on DMA unmap. VFIO core takes
//! `group_lock` before `dev_set->lock`. Otherwise as [`v6_0`].

use super::hotplug::{config, device, stores};
use super::{Generation, VfioCore, reset_work, v6_0};

/// The functions of this generation.
pub const GENERATION: Generation = Generation {
    name: "v6.6",
    about: "as v6.0; a reset is waited for without limit, by a work item, with all locks held",
    has_reset_work: true,
    has_ap_config: true,
    pv_takes_kvm_lock: true,
    vfio_core: VfioCore::GroupLockDevSet,
    dma_unmap: device::vfio_ap_mdev_dma_unmap,
    request: device::vfio_ap_mdev_request,
    reset_queues: reset_work::vfio_ap_mdev_reset_queues,
    ap_config_store: config::ap_config_store,
    ap_config_show: stores::ap_config_show,
    ..v6_0::GENERATION
};
