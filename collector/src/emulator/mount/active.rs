//! Which devices have functions of their attributes running, and which are being removed.
//!
//! What kernfs calls active references: a device is removed only when none of its attributes' functions runs any more,
//! and none begins once the removal has (`kernfs_get_active`, `kernfs_drain`, v5.19). So a store that is stuck in the
//! driver makes the removal of its device stuck too, here as there.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

#[derive(Debug, Clone, Copy, Default)]
struct State {
    running: u32,
    going: bool,
}

/// The devices that are in use.
#[derive(Debug, Default)]
pub struct Active {
    devices: Mutex<HashMap<u64, State>>,
    changed: Condvar,
}

/// A function of an attribute runs.
#[derive(Debug)]
pub struct Running<'a>(&'a Active, u64);

/// The device is being removed.
#[derive(Debug)]
pub struct Going<'a>(&'a Active, u64);

impl Active {
    // What panics in the driver panics with no lock of ours held.
    fn devices(&self) -> MutexGuard<'_, HashMap<u64, State>> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It is being removed.
    pub fn is_going(&self, device: u64) -> bool {
        self.devices().get(&device).is_some_and(|s| s.going)
    }

    /// A function begins; `None` when the device is being removed.
    pub fn enter(&self, device: u64) -> Option<Running<'_>> {
        let mut devices = self.devices();
        let state = devices.entry(device).or_default();
        if state.going {
            return None;
        }
        state.running += 1;
        Some(Running(self, device))
    }

    /// The removal begins, once no function runs any more. `None` when another one was first, after that has ended.
    pub fn go(&self, device: u64) -> Option<Going<'_>> {
        let mut devices = self.devices();
        if devices.get(&device).is_some_and(|s| s.going) {
            while devices.get(&device).is_some_and(|s| s.going) {
                devices = self.wait(devices);
            }
            return None;
        }
        devices.entry(device).or_default().going = true;
        while devices.get(&device).is_some_and(|s| s.running != 0) {
            devices = self.wait(devices);
        }
        Some(Going(self, device))
    }

    fn wait<'a>(
        &self,
        devices: MutexGuard<'a, HashMap<u64, State>>,
    ) -> MutexGuard<'a, HashMap<u64, State>> {
        self.changed
            .wait(devices)
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, device: u64, change: fn(&mut State)) {
        let mut devices = self.devices();
        if let Some(state) = devices.get_mut(&device) {
            change(state);
            if state.running == 0 && !state.going {
                devices.remove(&device);
            }
        }
        self.changed.notify_all();
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.change(self.1, |s| s.running -= 1);
    }
}

impl Drop for Going<'_> {
    fn drop(&mut self) {
        self.0.change(self.1, |s| s.going = false);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_device_goes_when_nothing_runs_and_only_once() {
        let active = Active::default();
        let (sender, receiver) = mpsc::channel();
        let first = active.enter(7).unwrap();
        std::thread::scope(|scope| {
            let active = &active;
            let told = sender.clone();
            scope.spawn(move || {
                let going = active.go(7).unwrap();
                told.send("going").unwrap();
                drop(going);
                told.send("gone").unwrap();
            });
            while !active.is_going(7) {
                std::thread::yield_now();
            }
            assert!(active.enter(7).is_none());
            assert!(active.enter(8).is_some());
            let told = sender.clone();
            let second = scope.spawn(move || {
                let none = active.go(7).is_none();
                told.send("second").unwrap();
                none
            });
            assert!(receiver.try_recv().is_err());
            // Only now can the second have come too late.
            std::thread::sleep(std::time::Duration::from_millis(20));
            drop(first);
            assert_eq!(receiver.recv().unwrap(), "going");
            second.join().unwrap();
        });
        assert!(active.devices().is_empty());
    }
}
