//! v7.3, and the stable releases with the fixes of 2026.
//!
//! The hook's rwsem is taken for writing between `kvm->lock` and `mdevs_lock` when a guest is set and unset, so that
//! the hook and the guest change together: a refused guest leaves no hook behind. `guests_lock` guards the list of
//! mdevs everywhere, a missing guest is tested for, and the request callback takes the queues from the guest first. The
//! AP bus's mutex is called `ap_attr_mutex`. Otherwise as [`v6_6`]; `hotplug` asks for the fixes where the two
//! differ inside a function.

use super::hotplug::device;
use super::{Generation, v6_6};

/// The functions of this generation.
pub const GENERATION: Generation = Generation {
    name: "v7.3",
    about: "as v6.6, with the hook's rwsem taken inside the chain and the fixes of 2026",
    has_ap_attr_mutex: true,
    has_2026_fixes: true,
    request: device::vfio_ap_mdev_request_clearing,
    ..v6_6::GENERATION
};
