//! Who may use the processors: machines that run side by side, or one that is alone because its times are looked at.

use std::collections::VecDeque;
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
    /// Who waits, the first in front. Nobody passes them.
    line: VecDeque<u64>,
    /// The next number in the line.
    next: u64,
}

/// A place in the line.
#[derive(Debug)]
pub struct Turn(u64);

/// A machine's place, until the last copy goes.
#[derive(Debug, Clone)]
pub struct Place(Arc<Held>);

#[derive(Debug)]
struct Held(Room);

impl Room {
    /// Goes to the end of the line. Who does that must enter.
    pub fn line_up(&self) -> Turn {
        let mut inside = self.lock();
        let turn = inside.next;
        inside.next += 1;
        inside.line.push_back(turn);
        Turn(turn)
    }

    /// Waits until it is this turn and there is a place, or until nobody else has one.
    pub fn enter(&self, turn: &Turn, alone: bool) -> Place {
        let fits = |inside: &Inside| {
            let first = inside.line.front() == Some(&turn.0);
            first && !inside.alone && (!alone || inside.machines == 0)
        };
        let inside = self.lock();
        let mut inside = self
            .0
            .changed
            .wait_while(inside, |inside| !fits(inside))
            .unwrap_or_else(PoisonError::into_inner);
        inside.line.pop_front();
        inside.machines += 1;
        inside.alone = alone;
        drop(inside);
        // It is the next one's turn.
        self.0.changed.notify_all();
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

    fn enter(room: &Room, alone: bool) -> Place {
        room.enter(&room.line_up(), alone)
    }

    #[test]
    fn who_is_alone_shares_or_goes_before_others_come() {
        let room = Room::default();
        let (said, heard) = mpsc::channel();
        let alone = enter(&room, true);
        let other = {
            let (room, said) = (room.clone(), said.clone());
            thread::spawn(move || {
                let place = enter(&room, false);
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
    fn who_is_to_be_alone_waits_for_all_and_is_not_passed() {
        let room = Room::default();
        let places = [enter(&room, false), enter(&room, false)];
        let (alone, late) = (room.line_up(), room.line_up());
        let later = |turn: Turn, alone| {
            let room = room.clone();
            thread::spawn(move || {
                let place = room.enter(&turn, alone);
                (room.lock().machines, place)
            })
        };
        let late = later(late, false);
        let alone = later(alone, true);
        for place in places {
            assert!(!alone.is_finished() && !late.is_finished());
            drop(place);
        }
        let (machines, place) = alone.join().unwrap();
        assert_eq!(machines, 1);
        assert!(room.lock().alone && !late.is_finished());
        drop(place);
        assert_eq!(late.join().unwrap().0, 1);
        drop(enter(&room, true));
    }
}
