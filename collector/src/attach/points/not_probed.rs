//! Functions of the driver and around it that are not probed, with the reason.

/// Functions, and why they are not probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotProbed {
    /// Symbols of the source.
    pub symbols: &'static [&'static str],
    /// Why.
    pub why: &'static str,
}

/// All of them.
pub const NOT_PROBED: &[NotProbed] = &[
    NotProbed {
        symbols: &["vfio_ap_mdev_set_kvm", "vfio_ap_mdev_unset_kvm"],
        why: "steps of their callers, which are probed, and which compilers inline them into (so on Linux 5.10 to 7.2); that a \
              guest gets and loses its masks is seen at kvm_arch_crypto_set_masks and kvm_arch_crypto_clear_masks, which are \
              there whatever the compiler does",
    },
    NotProbed {
        symbols: &["vfio_ap_mdev_reset_queue", "vfio_ap_mdev_reset_qlist"],
        why: "often clones by the compiler, with other arguments than in the source; who resets is seen at their callers, and \
              what takes long at reset_work",
    },
    NotProbed {
        symbols: &["features_show", "name_show"],
        why: "they print what never changes, and take no lock",
    },
    NotProbed {
        symbols: &[
            "vfio_ap_irq_enable",
            "vfio_ap_irq_disable",
            "vfio_ap_free_aqic_resources",
            "vfio_ap_wait_for_irqclear",
        ],
        why: "steps of a PQAP, of a reset or of a removal, which are probed as a whole",
    },
    NotProbed {
        symbols: &[
            "vfio_ap_mdev_filter_matrix",
            "vfio_ap_mdev_hot_unplug_adapters",
            "vfio_ap_mdev_hot_unplug_domains",
            "vfio_ap_mdev_update_guest_apcb",
            "vfio_ap_mdev_get_update_locks_for_apqn",
            "vfio_ap_mdev_verify_no_sharing",
            "vfio_ap_mdev_cfg_remove",
        ],
        why: "steps inside entry points that are probed, under locks that are seen themselves",
    },
    NotProbed {
        symbols: &["vfio_ap_mdev_register", "vfio_ap_mdev_unregister"],
        why: "they run when the module comes and goes, and nothing is attached to it then",
    },
    NotProbed {
        symbols: &[
            "kvm_s390_cpus_to_pv",
            "kvm_s390_cpus_from_pv",
            "kvm_s390_pv_create_cpu",
            "kvm_s390_pv_destroy_cpu",
        ],
        why: "steps of KVM_S390_PV_COMMAND, which is probed",
    },
    NotProbed {
        symbols: &[
            "kvm_s390_vcpu_block",
            "kvm_s390_vcpu_block_all",
            "exit_sie",
            "kvm_s390_gisc_register",
            "kvm_s390_gisc_unregister",
            "kvm_put_kvm",
        ],
        why: "KVM calls them for much else; what the driver does with them is inside entry points that are probed",
    },
    NotProbed {
        symbols: &["kvm_vm_ioctl", "kvm_arch_vcpu_ioctl_run"],
        why: "kvm_vcpu_ioctl, and of a guest's ioctls the one that converts it, are what takes the locks",
    },
    NotProbed {
        symbols: &[
            "kvm_device_release",
            "kvm_vfio_create",
            "kvm_vfio_release",
            "kvm_vfio_file_add",
            "kvm_vfio_file_del",
        ],
        why: "kv->lock is adopted at kvm_vfio_set_attr, and its waits are seen wherever it is taken",
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attach::points::points;

    #[test]
    fn nothing_is_probed_that_is_said_not_to_be() {
        for symbol in NOT_PROBED.iter().flat_map(|group| group.symbols) {
            let names = points().flat_map(|point| point.names);
            let found = names.filter(|name| name.symbol == *symbol).count();
            assert_eq!(found, 0, "{symbol}");
        }
    }

    #[test]
    fn what_is_not_probed_is_in_the_manual() {
        let page = include_str!("../../../../docs/kernel.md");
        for group in NOT_PROBED {
            let symbols: Vec<_> = group.symbols.iter().map(|s| format!("`{s}`")).collect();
            let row = format!("| {} | {} |", symbols.join(", "), group.why);
            assert!(page.contains(&row), "{row}");
        }
    }
}
