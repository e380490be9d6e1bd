//! v6.0 to v6.5: queues are plugged into running guests.
//!
//! `matrix_dev->lock` is called `mdevs_lock`; `guests_lock` is taken before `kvm->lock`, the AP bus's `ap_perms_mutex`
//! before all. Stores no longer refuse while a guest runs. The bus tells the driver of changes of the host's
//! configuration and asks it before it takes queues back. A refused guest leaves the hook set, as before. Otherwise as
//! [`v5_19`].

use super::hotplug::{bus, device, queues, stores};
use super::{Generation, VfioCore, reset, v5_19};

/// The functions of this generation.
pub const GENERATION: Generation = Generation {
    name: "v6.0",
    about: "hot plug: guests_lock, kvm->lock, mdevs_lock, in this order, ap_perms_mutex outermost",
    has_hot_plug: true,
    vfio_core: VfioCore::DevSetGroupLock,
    refuses_change: |_| false,
    handle_pqap: device::handle_pqap,
    dma_unmap: device::vfio_ap_mdev_dma_unmap_unlocked,
    open: device::vfio_ap_mdev_open_device,
    release: device::vfio_ap_mdev_close_device,
    ioctl: device::vfio_ap_mdev_ioctl,
    create: device::vfio_ap_mdev_probe,
    remove: device::vfio_ap_mdev_remove,
    queue_probe: queues::vfio_ap_mdev_probe_queue,
    queue_remove: queues::vfio_ap_mdev_remove_queue,
    reset_queues: reset::vfio_ap_mdev_reset_linked_queues,
    in_use: bus::vfio_ap_mdev_resource_in_use,
    cfg_changed: bus::vfio_ap_on_cfg_changed,
    scan_complete: bus::vfio_ap_on_scan_complete,
    assign_adapter_store: stores::assign_adapter_store,
    unassign_adapter_store: stores::unassign_adapter_store,
    assign_domain_store: stores::assign_domain_store,
    unassign_domain_store: stores::unassign_domain_store,
    assign_control_domain_store: stores::assign_control_domain_store,
    unassign_control_domain_store: stores::unassign_control_domain_store,
    matrix_show: stores::matrix_show,
    control_domains_show: stores::control_domains_show,
    guest_matrix_show: stores::guest_matrix_show,
    status_show: queues::status_show,
    ..v5_19::GENERATION
};
