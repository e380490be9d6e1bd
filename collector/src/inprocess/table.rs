//! A fixed table from 64-bit keys to slots, filled by any thread and never emptied: what the eBPF hash maps and free
//! stacks are for the programs.

use std::sync::atomic::{AtomicU64, Ordering};

use probe_ebpf::abi::LockInfo;

/// Keys to slots. Key 0 is not allowed.
pub struct Table {
    keys: Vec<AtomicU64>,
    slots: Vec<AtomicU64>,
    next: AtomicU64,
    capacity: u64,
}

/// Slot value while another thread is filling it.
const PENDING: u64 = 0;

/// Spreads a key over the table (the finalizer of splitmix64).
fn hash(key: u64) -> u64 {
    let mut h = key;
    h = (h ^ (h >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    h = (h ^ (h >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    h ^ (h >> 31)
}

impl Table {
    /// A table that gives out `capacity` slots.
    pub fn new(capacity: u32) -> Self {
        let places = (capacity as usize * 2).next_power_of_two();
        Self {
            keys: (0..places).map(|_| AtomicU64::new(0)).collect(),
            slots: (0..places).map(|_| AtomicU64::new(PENDING)).collect(),
            next: AtomicU64::new(0),
            capacity: u64::from(capacity),
        }
    }

    /// The key's slot, or a fresh one for which `fill` is called first. `None` when there are none left.
    pub fn slot(&self, key: u64, fill: impl FnOnce(u32)) -> Option<u32> {
        let mask = self.keys.len() - 1;
        let mut place = hash(key) as usize & mask;
        for _ in 0..self.keys.len() {
            let present = self.keys[place].load(Ordering::Acquire);
            if present == key {
                return self.wait(place);
            }
            if present == 0 {
                if self.next.load(Ordering::Relaxed) >= self.capacity {
                    return None;
                }
                match self.keys[place].compare_exchange(0, key, Ordering::AcqRel, Ordering::Acquire)
                {
                    Ok(_) => {
                        let slot = self.next.fetch_add(1, Ordering::Relaxed);
                        if slot >= self.capacity {
                            self.slots[place].store(u64::MAX, Ordering::Release);
                            return None;
                        }
                        fill(slot as u32);
                        self.slots[place].store(slot + 1, Ordering::Release);
                        return Some(slot as u32);
                    }
                    Err(now) if now == key => return self.wait(place),
                    Err(_) => {}
                }
            }
            place = (place + 1) & mask;
        }
        None
    }

    /// The slot of a key that is present: another thread may still be filling it.
    fn wait(&self, place: usize) -> Option<u32> {
        loop {
            match self.slots[place].load(Ordering::Acquire) {
                PENDING => std::thread::yield_now(),
                u64::MAX => return None,
                slot => return Some((slot - 1) as u32),
            }
        }
    }
}

/// What is known about each traced address; never changes.
pub struct Addresses {
    /// Open addressing; address 0 marks a free place.
    places: Vec<(u64, Option<LockInfo>)>,
}

impl Addresses {
    /// A table of these addresses.
    pub fn new(known: &[(u64, LockInfo)]) -> Self {
        let len = (known.len() * 2 + 1).next_power_of_two();
        let mut places = vec![(0, None); len];
        for (address, info) in known {
            let mut place = hash(*address) as usize & (len - 1);
            while places[place].0 != 0 && places[place].0 != *address {
                place = (place + 1) & (len - 1);
            }
            places[place] = (*address, Some(*info));
        }
        Self { places }
    }

    /// What is known about an address.
    #[inline]
    pub fn get(&self, address: u64) -> Option<LockInfo> {
        let mask = self.places.len() - 1;
        let mut place = hash(address) as usize & mask;
        loop {
            match self.places[place] {
                (0, _) => return None,
                (present, info) if present == address => return info,
                _ => place = (place + 1) & mask,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_one_slot_whoever_asks() {
        let table = Table::new(100);
        let all: Vec<Vec<Option<u32>>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (1..=100).map(|key| table.slot(key, |_| {})).collect()))
                .collect();
            threads
                .into_iter()
                .map(|t| t.join().expect("no panic"))
                .collect()
        });
        assert!(all.iter().all(|slots| *slots == all[0]));
        let mut slots: Vec<u32> = all[0].iter().map(|s| s.expect("there is room")).collect();
        slots.sort_unstable();
        assert_eq!(slots, (0..100).collect::<Vec<u32>>());
    }

    #[test]
    fn a_full_table_says_so() {
        let table = Table::new(2);
        assert!(table.slot(5, |_| {}).is_some());
        assert!(table.slot(6, |_| {}).is_some());
        assert_eq!(table.slot(7, |_| {}), None);
        assert!(table.slot(5, |_| {}).is_some());
    }
}
