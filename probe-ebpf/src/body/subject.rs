//! What a call acts on: its mdev, and its guest.
//!
//! Takes the arguments of the call; gives the addresses of two structs of the driver and of KVM. Knows no names: the
//! collector has those.

use super::Env;
use super::adopt::pointer;
use crate::abi::{EntryInfo, Inside, Resolve};
use crate::names::entry_id;

/// Writes to a call's record what it acts on. `object`: what [`Resolve`] has found.
///
/// Read without a lock, as everything here is: the hook of a guest may change while a call is on its way to it.
///
/// A function of its own: the eBPF programs that call it share its code.
#[inline(never)]
pub(super) fn at_call<E: Env>(
    env: &E,
    inside: &Inside,
    info: EntryInfo,
    args: &[u64; 6],
    object: u64,
) {
    let config = env.config();
    let is = |resolve: Resolve| info.resolve == resolve as u8;
    let (mut mdev, mut guest) = (0, 0);
    if is(Resolve::Vcpu) || is(Resolve::VcpuB2) {
        guest = pointer(env, args[0], config.vcpu_kvm);
        mdev = hooked(env, guest);
    } else if is(Resolve::VcpuCall) {
        guest = pointer(env, args[0], config.vcpu_kvm);
    } else if is(Resolve::VcpuFile) {
        let vcpu = pointer(env, args[0], config.file_private_data);
        guest = pointer(env, vcpu, config.vcpu_kvm);
    } else if is(Resolve::KvmFilePv) {
        guest = pointer(env, args[0], config.file_private_data);
    } else if is(Resolve::Kvm) {
        guest = args[0];
    } else if is(Resolve::KvmDevice) {
        guest = pointer(env, args[0], config.kvm_device_kvm);
    } else if is(Resolve::ApDevice) || is(Resolve::Work) {
        mdev = pointer(env, object, config.queue_mdev);
    } else {
        mdev = object;
        if is(Resolve::Notifier) {
            guest = args[2];
        } else if is(Resolve::VfioDevice) {
            guest = pointer(env, args[0], config.vdev_kvm);
        }
    }
    if guest == 0 {
        guest = pointer(env, mdev, config.mdev_kvm);
    }
    inside.mdev.set(mdev);
    inside.guest.set(guest);
}

/// The mdev whose hook a guest has.
#[inline(always)]
pub(super) fn hooked<E: Env>(env: &E, kvm: u64) -> u64 {
    let config = env.config();
    match pointer(env, kvm, config.kvm_hook) {
        0 => 0,
        hook => hook.wrapping_sub(u64::from(config.mdev_hook)),
    }
}

/// What a call has acted on, now that it returns. `failed`: it returned an error.
#[inline(always)]
pub(super) fn at_return<E: Env>(
    env: &E,
    entry: u8,
    info: EntryInfo,
    inside: &Inside,
    failed: bool,
) -> (u64, u64) {
    let (mut mdev, mut guest) = (inside.mdev.get(), inside.guest.get());
    // The memory of what a removal has ended is another's.
    if entry == entry_id::REMOVE || failed {
        return (mdev, guest);
    }
    if mdev == 0 {
        mdev = made(env, info, inside);
    }
    if guest == 0 {
        guest = pointer(env, mdev, env.config().mdev_kvm);
    }
    (mdev, guest)
}

/// The mdev that a call has made, which its device has from then on.
#[inline(always)]
fn made<E: Env>(env: &E, info: EntryInfo, inside: &Inside) -> u64 {
    let device = if info.resolve == Resolve::MdevDevice as u8 {
        inside.first.get()
    } else if info.resolve == Resolve::NewMdev as u8 {
        inside.arg.get()
    } else {
        0
    };
    pointer(env, device, env.config().mdev_device_driver_data)
}
