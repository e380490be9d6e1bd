//! Who may use the processors: machines that run side by side, or one that is alone because its times are looked at.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Where machines run.
#[derive(Debug, Clone, Default)]
pub struct Room(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    inside: Mutex<Inside>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Inside {
    machines: usize,
    /// One of them, the only one, is to stay so.
    alone: bool,
    /// Who waits until there are none. Nobody comes in before them.
    waiting: usize,
}

/// A machine's place, until the last copy goes.
#[derive(Debug, Clone)]
pub struct Place(Arc<Held>);

#[derive(Debug)]
struct Held(Room);

impl Room {
    /// Waits until there is a place, or until nobody else has one.
    pub fn enter(&self, alone: bool) -> Place {
        let fits = |inside: &Inside| {
            let others = if alone {
                inside.machines
            } else {
                inside.waiting
            };
            !inside.alone && others == 0
        };
        let mut inside = self.lock();
        inside.waiting += usize::from(alone);
        inside = self
            .0
            .changed
            .wait_while(inside, |inside| !fits(inside))
            .unwrap_or_else(PoisonError::into_inner);
        inside.waiting -= usize::from(alone);
        inside.machines += 1;
        inside.alone = alone;
        Place(Arc::new(Held(self.clone())))
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        // Nothing can panic between two changes that belong together.
        self.0.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Others may come in, if they could not before.
    pub fn share(&self) {
        let Held(room) = &*self.0;
        room.lock().alone = false;
        room.0.changed.notify_all();
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut inside = self.0.lock();
        inside.machines -= 1;
        if inside.machines == 0 {
            inside.alone = false;
        }
        drop(inside);
        self.0.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    #[test]
    fn who_is_alone_shares_or_goes_before_others_come() {
        let room = Room::default();
        let (said, heard) = mpsc::channel();
        let alone = room.enter(true);
        let other = {
            let (room, said) = (room.clone(), said.clone());
            thread::spawn(move || {
                let place = room.enter(false);
                said.send("in").unwrap();
                place
            })
        };
        said.send("alone").unwrap();
        assert_eq!(heard.recv().unwrap(), "alone");
        assert_eq!(room.lock().machines, 1);
        // A copy that goes leaves the place.
        drop(alone.clone());
        assert!(room.lock().alone);
        alone.share();
        assert_eq!(heard.recv().unwrap(), "in");
        drop((alone, other.join().unwrap()));
        assert_eq!(room.lock().machines, 0);
    }

    #[test]
    fn who_is_to_be_alone_waits_for_all() {
        let room = Room::default();
        let places = [room.enter(false), room.enter(false)];
        let waiting = {
            let room = room.clone();
            thread::spawn(move || {
                let place = room.enter(true);
                (room.lock().machines, place)
            })
        };
        for place in places {
            assert!(!waiting.is_finished());
            drop(place);
        }
        assert_eq!(waiting.join().unwrap().0, 1);
        drop(room.enter(true));
    }

    #[test]
    fn who_is_to_be_alone_is_not_passed_over() {
        let room = Room::default();
        let first = room.enter(false);
        let enter = |alone| {
            let room = room.clone();
            thread::spawn(move || room.enter(alone))
        };
        let alone = enter(true);
        while room.lock().waiting == 0 {
            thread::yield_now();
        }
        let late = enter(false);
        drop(first);
        let alone = alone.join().unwrap();
        assert_eq!(room.lock().machines, 1);
        assert!(room.lock().alone && !late.is_finished());
        drop(alone);
        drop(late.join().unwrap());
    }
}
