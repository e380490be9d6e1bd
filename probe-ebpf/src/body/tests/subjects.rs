//! What a call acts on: its mdev and its guest.

use super::*;
use crate::abi::{ENTRY_RETURNS_INT, ENTRY_RETURNS_VOID};

/// What has a pointer to the mdev, or to a queue, where its driver data is.
const DEVICE: u64 = 0xe000;
/// A queue of the driver.
const TAKEN_QUEUE: u64 = 0xf000;

fn fake() -> Fake {
    let mut env = Fake::new();
    env.config = Config {
        mdev_kvm: 0x30,
        queue_mdev: 0,
        ap_device_queue: 0x20,
        vdev_kvm: 0x38,
        file_private_data: 0x40,
        kvm_device_kvm: 0x48,
        queue_reset_work: 0x28,
        ..env.config
    };
    env.memory.borrow_mut().extend([
        (DEVICE + 8, MDEV),
        (DEVICE + 0x20, TAKEN_QUEUE),
        (DEVICE + 0x40, VCPU),
        (DEVICE + 0x48, KVM),
        (TAKEN_QUEUE, MDEV),
        (MDEV + 0x30, KVM),
    ]);
    env
}

/// What a call acts on, of which the entry point's arguments are to be read so. `meanwhile` happens inside.
fn call(
    env: &mut Fake,
    entry: u8,
    resolve: Resolve,
    args: [u64; 6],
    value: i64,
    meanwhile: impl FnOnce(&Fake),
) -> (u64, u64) {
    let flags = if entry == entry_id::CLOSE_DEVICE {
        ENTRY_RETURNS_VOID
    } else {
        ENTRY_RETURNS_INT
    };
    env.entries.insert(
        entry,
        EntryInfo {
            flags,
            resolve: resolve as u8,
            reserved: [0; 6],
        },
    );
    entries::enter(env, entry, args);
    meanwhile(env);
    entries::leave(env, entry, value as u64);
    let subjects = env.subjects.take();
    let [subject] = subjects[..] else {
        panic!("one call, but {subjects:?}");
    };
    subject
}

#[test]
fn every_kind_of_call_leads_to_its_mdev_and_its_guest() {
    const FIRST: [u64; 6] = [DEVICE, 0, 0, 0, 0, 0];
    let at = |address: u64| [address, 0, 0, 0, 0, 0];
    for (resolve, args, expected) in [
        (Resolve::Device, FIRST, (MDEV, KVM)),
        (Resolve::Show, FIRST, (MDEV, KVM)),
        (Resolve::MdevDevice, FIRST, (MDEV, KVM)),
        (Resolve::NewMdev, [1, DEVICE, 0, 0, 0, 0], (MDEV, KVM)),
        (Resolve::Mdev, at(MDEV), (MDEV, KVM)),
        (Resolve::VfioDevice, at(MDEV), (MDEV, KVM)),
        (Resolve::Notifier, at(NOTIFIER_BLOCK), (MDEV, KVM)),
        (Resolve::Vcpu, at(VCPU), (MDEV, KVM)),
        (Resolve::VcpuCall, at(VCPU), (0, KVM)),
        (Resolve::Kvm, at(KVM), (0, KVM)),
        (Resolve::KvmDevice, FIRST, (0, KVM)),
        (Resolve::ApDevice, FIRST, (MDEV, KVM)),
        (Resolve::Work, at(TAKEN_QUEUE + 0x28), (MDEV, KVM)),
        (Resolve::BusText, FIRST, (0, 0)),
        (Resolve::Action, FIRST, (0, 0)),
        (Resolve::None, FIRST, (0, 0)),
    ] {
        let mut env = fake();
        let subject = call(&mut env, entry_id::IOCTL, resolve, args, 0, |_| {});
        assert_eq!(subject, expected, "{resolve:?}");
    }
    let mut env = fake();
    let file = call(
        &mut env,
        entry_id::KVM_VCPU_IOCTL,
        Resolve::VcpuFile,
        FIRST,
        0,
        |_| {},
    );
    assert_eq!(file, (0, KVM));
}

#[test]
fn without_offsets_a_call_acts_on_nothing_that_is_known() {
    let mut env = fake();
    env.config.mdev_kvm = abi::NO_OFFSET;
    env.config.vcpu_kvm = abi::NO_OFFSET;
    let args = [VCPU, 0, 0, 0, 0, 0];
    let pqap = call(
        &mut env,
        entry_id::HANDLE_PQAP,
        Resolve::Vcpu,
        args,
        0,
        |_| {},
    );
    assert_eq!(pqap, (0, 0));
    let args = [MDEV, 0, 0, 0, 0, 0];
    let mdev = call(&mut env, entry_id::IOCTL, Resolve::Mdev, args, 0, |_| {});
    assert_eq!(mdev, (MDEV, 0));
}

#[test]
fn opening_gives_an_mdev_its_guest_and_closing_takes_it() {
    let mut env = fake();
    let set = |kvm| {
        move |env: &Fake| {
            env.memory.borrow_mut().insert(MDEV + 0x30, kvm);
        }
    };
    set(0)(&env);
    let args = [MDEV, 0, 0, 0, 0, 0];
    let (open, close) = (entry_id::OPEN_DEVICE, entry_id::CLOSE_DEVICE);
    assert_eq!(
        call(&mut env, open, Resolve::VfioDevice, args, 0, set(KVM)),
        (MDEV, KVM)
    );
    assert_eq!(
        call(&mut env, close, Resolve::VfioDevice, args, 0, set(0)),
        (MDEV, KVM)
    );
    // An open that is refused: whatever is there is not its guest.
    assert_eq!(
        call(&mut env, open, Resolve::VfioDevice, args, -22, set(KVM)),
        (MDEV, 0)
    );
    // From v5.19 on the vfio device has the guest before.
    env.memory.borrow_mut().insert(MDEV + 0x38, KVM);
    set(0)(&env);
    assert_eq!(
        call(&mut env, open, Resolve::VfioDevice, args, -22, |_| {}),
        (MDEV, KVM)
    );
}

#[test]
fn a_new_mdev_is_told_by_its_device_when_its_call_returns() {
    let mut env = fake();
    let device = |mdev| {
        move |env: &Fake| {
            env.memory.borrow_mut().insert(DEVICE + 8, mdev);
        }
    };
    for (entry, resolve, args) in [
        (
            entry_id::PROBE,
            Resolve::MdevDevice,
            [DEVICE, 0, 0, 0, 0, 0],
        ),
        (entry_id::CREATE, Resolve::NewMdev, [1, DEVICE, 0, 0, 0, 0]),
    ] {
        device(0)(&env);
        let subject = call(&mut env, entry, resolve, args, 0, device(MDEV));
        assert_eq!(subject, (MDEV, KVM));
        device(0)(&env);
        let failed = call(&mut env, entry, resolve, args, -12, device(MDEV));
        assert_eq!(failed, (0, 0));
    }
}

#[test]
fn nothing_is_read_of_an_mdev_that_was_removed() {
    let mut env = fake();
    env.memory.borrow_mut().insert(MDEV + 0x30, 0);
    let args = [DEVICE, 0, 0, 0, 0, 0];
    let subject = call(
        &mut env,
        entry_id::REMOVE,
        Resolve::MdevDevice,
        args,
        0,
        |env| {
            env.memory.borrow_mut().insert(MDEV + 0x30, 0x4242);
        },
    );
    assert_eq!(subject, (MDEV, 0));
}
