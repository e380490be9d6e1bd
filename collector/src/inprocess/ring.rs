//! The span ring in shared memory: many writers (the emulator's threads), one reader (the collector).
//!
//! Each record has a sequence word in front of its seven words, a cache line together. Position `p` (a running number) lives in place
//! `p % capacity`. A place is free for position `p` while its sequence is `p`, and holds its span when it is `p + 1`;
//! the reader sets it to `p + capacity` (D. Vyukov's bounded queue). A writer never waits: a full ring drops the span.

use std::sync::atomic::{AtomicU64, Ordering};

use probe_ebpf::abi::{Call, Span, Word};

use crate::source::memory::View;
use crate::source::reader::SpanRing;

/// Words of a record: its sequence, and the span, with what it acted on.
const RECORD: usize = 1 + size_of::<Call>() / size_of::<u64>();
/// Index of the tail in the control words; the head is word 0.
const TAIL: usize = 16;

/// One end of the ring.
pub struct SharedRing {
    control: View<Word>,
    records: View<Word>,
    capacity: u64,
}

/// A word as an atomic, for the orderings the ring needs.
fn atomic(word: &Word) -> &AtomicU64 {
    // SAFETY: a `Word` is one aligned 64-bit cell that is only accessed atomically.
    unsafe { AtomicU64::from_ptr(std::ptr::from_ref(word).cast_mut().cast()) }
}

impl SharedRing {
    /// A ring over these words, in whatever state they are.
    pub fn new(control: View<Word>, records: View<Word>) -> Self {
        let capacity = (records.len() / RECORD) as u64;
        Self {
            control,
            records,
            capacity,
        }
    }

    /// Makes the ring empty. For its creator, before anybody else sees it.
    pub fn clear(&self) {
        for place in 0..self.capacity {
            atomic(&self.records[place as usize * RECORD]).store(place, Ordering::Release);
        }
    }

    /// Adds a record; false if there is no room.
    pub fn push(&self, call: &Call) -> bool {
        if self.capacity == 0 {
            return false;
        }
        let head = atomic(&self.control[0]);
        let mut position = head.load(Ordering::Relaxed);
        loop {
            let first = (position % self.capacity) as usize * RECORD;
            let sequence = atomic(&self.records[first]);
            let state = sequence.load(Ordering::Acquire);
            if state < position {
                return false;
            }
            if state == position {
                match head.compare_exchange_weak(
                    position,
                    position + 1,
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                ) {
                    Ok(_) => {
                        for (word, value) in self.records[first + 1..first + RECORD]
                            .iter()
                            .zip(to_words(call))
                        {
                            word.set(value);
                        }
                        sequence.store(position + 1, Ordering::Release);
                        return true;
                    }
                    Err(now) => position = now,
                }
            } else {
                position = head.load(Ordering::Relaxed);
            }
        }
    }
}

fn to_words(call: &Call) -> [u64; RECORD - 1] {
    let Call { span, mdev, guest } = *call;
    let Span {
        start_ns,
        duration_ns,
        extra,
        tid,
        instance,
        result,
        kind,
        what,
        inside,
        flags,
    } = span;
    let small = u32::from_be_bytes([kind, what, inside, flags]);
    [
        start_ns,
        duration_ns,
        extra,
        (u64::from(tid) << 32) | u64::from(instance),
        (u64::from(result as u32) << 32) | u64::from(small),
        mdev,
        guest,
    ]
}

fn from_words(words: &[Word]) -> Call {
    let [kind, what, inside, flags] = (words[4].get() as u32).to_be_bytes();
    let span = Span {
        start_ns: words[0].get(),
        duration_ns: words[1].get(),
        extra: words[2].get(),
        tid: (words[3].get() >> 32) as u32,
        instance: words[3].get() as u32,
        result: (words[4].get() >> 32) as u32 as i32,
        kind,
        what,
        inside,
        flags,
    };
    Call {
        span,
        mdev: words[5].get(),
        guest: words[6].get(),
    }
}

impl SpanRing for SharedRing {
    fn drain(&mut self, sink: &mut dyn FnMut(&Call)) -> u64 {
        if self.capacity == 0 {
            return 0;
        }
        let tail = atomic(&self.control[TAIL]);
        let start = tail.load(Ordering::Relaxed);
        let mut position = start;
        // At most one round: the writers go on meanwhile.
        while position < start + self.capacity {
            let first = (position % self.capacity) as usize * RECORD;
            let sequence = atomic(&self.records[first]);
            if sequence.load(Ordering::Acquire) != position + 1 {
                break;
            }
            sink(&from_words(&self.records[first + 1..first + RECORD]));
            sequence.store(position + self.capacity, Ordering::Release);
            position += 1;
        }
        tail.store(position, Ordering::Relaxed);
        (position - start) * (RECORD * size_of::<u64>()) as u64
    }

    fn size(&self) -> u64 {
        self.capacity * (RECORD * size_of::<u64>()) as u64
    }
}
