//! A recorder of one thread's lock operations, for the tests that compare sequences with the written record. Outside
//! tests it is nothing.

/// One operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Mutex or rwsem at this address obtained; `R`, `W`, or `L` for a mutex.
    Lock(char, u64),
    /// The same released; `U`, or `UR` and `UW` as `r` and `w`.
    Unlock(char, u64),
    /// `msleep` of so many milliseconds.
    Msleep(u32),
    /// `flush_work` of the work item at this address was entered.
    Flush(u64),
    /// The flag at this address was set or cleared.
    Flag(bool, u64),
    /// `__wake_up` on the queue at this address.
    Wake(u64),
    /// `prepare_to_wait_event` on the queue at this address.
    Prepare(u64),
    /// `finish_wait` on the queue at this address.
    Finish(u64),
}

#[cfg(test)]
thread_local! {
    static EVENTS: std::cell::RefCell<Option<Vec<Event>>> = const { std::cell::RefCell::new(None) };
}

/// Notes an operation of the calling thread.
#[cfg(test)]
pub fn note(event: Event) {
    EVENTS.with_borrow_mut(|events| {
        if let Some(events) = events {
            events.push(event);
        }
    });
}

/// Notes nothing.
#[cfg(not(test))]
#[inline(always)]
pub fn note(_event: Event) {}

/// Runs `f` and returns what the calling thread did meanwhile.
#[cfg(test)]
pub fn record(f: impl FnOnce()) -> Vec<Event> {
    EVENTS.set(Some(Vec::new()));
    f();
    EVENTS.take().unwrap_or_default()
}
