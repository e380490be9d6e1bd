//! What both kinds of probes are told of an emulated driver before it starts.

use probe_ebpf::abi::{
    Config, LOCK_GUARDS_FLAG, LOCK_IS_ONLY_INSTANCE, LOCK_IS_WAIT_QUEUE, LockInfo,
};
use probe_ebpf::names::CLASSES;

use super::budget::Sizes;
use super::instances::Instances;
use crate::emulator::protocol::Hello;

/// The configuration of the probe bodies.
#[must_use]
pub fn config(hello: &Hello, sizes: &Sizes) -> Config {
    let o = &hello.offsets;
    Config {
        shard_mask: sizes.shards - 1,
        user_memory: 1,
        ring_wake_bytes: sizes.ring_bytes / 2,
        mdev_flag: o.mdev_flag,
        mdev_notifier: o.mdev_notifier,
        mdev_hook: o.mdev_hook,
        device_driver_data: o.device_driver_data,
        mdev_device_driver_data: o.mdev_device_driver_data,
        vcpu_kvm: o.vcpu_kvm,
        vcpu_run: o.vcpu_run,
        kvm_hook: o.kvm_hook,
        run_gprs: o.run_gprs,
        ap_device_qid: o.ap_device_qid,
        queue_reset_work: o.queue_reset_work,
        queue_reset_rc: o.queue_reset_rc,
        mdev_kvm: o.mdev_kvm,
        queue_mdev: o.queue_mdev,
        ap_device_queue: o.ap_device_queue,
        kvm_device_kvm: o.kvm_device_kvm,
        has_flag: u32::from(has_flag(hello)),
        contention_events: 1,
        ..Config::EMPTY
    }
}

/// The generation has the open-coded lock.
#[must_use]
pub fn has_flag(hello: &Hello) -> bool {
    hello.locks.iter().any(|lock| lock.wait_queue.is_some())
}

/// Every traced address: locks, flags and their wait queues.
#[must_use]
pub fn addresses(hello: &Hello, instances: &Instances) -> Vec<(u64, LockInfo)> {
    let mut all = Vec::with_capacity(hello.locks.len());
    for (lock, slot) in hello.locks.iter().zip(&instances.first_slots) {
        let kind = CLASSES
            .get(lock.class as usize)
            .map_or(0, |class| class.kind as u8);
        let mut flags = if lock.guards_flag {
            LOCK_GUARDS_FLAG
        } else {
            0
        };
        if instances.only.get(lock.class as usize) == Some(&true) {
            flags |= LOCK_IS_ONLY_INSTANCE;
        }
        let info = LockInfo {
            target: 0,
            instance: *slot,
            class: lock.class,
            kind,
            flags,
            reserved: 0,
        };
        all.push((lock.address, info));
        if let Some(queue) = lock.wait_queue {
            all.push((
                queue,
                LockInfo {
                    target: lock.address,
                    flags: LOCK_IS_WAIT_QUEUE,
                    ..info
                },
            ));
        }
    }
    all
}
