//! The lock sequences of each generation, driven call by call on one thread and compared with the written record in
//! `sequences/*.txt`, which was made from the kernel's sources and not from this emulator.
//!
//! A line there is `case: operations`. `L`/`U` lock and unlock a mutex, `R`/`UR` and `W`/`UW` an rwsem, `Z` is msleep, `F`
//! is flush_work, whether it waits or not. What each case does is in [`drive`].
//!
//! What the entry points return in all cases together is in `sequences/returns/*.txt`, which `cargo xtask lab test` reads too: a
//! line is `function: values`, and of PQAP `function, function code: response codes`.

mod drive;

use std::collections::{BTreeMap, BTreeSet};

use probe_ebpf::names::ENTRY_POINTS;

use super::hardware::Script;
use super::machine::{self, Guest, Machine};
use super::primitives::trace::{Event, record};

/// Cases by name, from a file.
fn written(text: &'static str) -> BTreeMap<&'static str, &'static str> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            line.split_once(": ")
                .unwrap_or((line.trim_end_matches(':'), ""))
        })
        .collect()
}

/// Runs cases on a machine and compares.
struct Bench {
    machine: &'static Machine,
    names: BTreeMap<u64, String>,
    written: BTreeMap<&'static str, &'static str>,
    /// What each entry point has returned.
    returned: BTreeMap<String, BTreeSet<String>>,
    failed: Vec<String>,
}

impl Bench {
    fn new(generation: &str, text: &'static str) -> Self {
        let mut bench = Self {
            machine: machine::tests::machine(generation, 2, 2),
            names: BTreeMap::new(),
            written: written(text),
            returned: BTreeMap::new(),
            failed: Vec::new(),
        };
        bench.enter();
        bench
    }

    /// Goes on with a machine whose queues follow `script`.
    fn change_machine(&mut self, script: fn(u16) -> Script) {
        self.take_returned();
        let name = self.machine.generation.name;
        self.machine = machine::tests::machine_with(name, 2, 2, script);
        self.enter();
    }

    fn enter(&mut self) {
        machine::enter(self.machine);
        let locks = self.machine.lock_objects();
        self.names = locks
            .iter()
            .map(|lock| (lock.address, lock.name.replace("[guest-0]", "")))
            .collect();
        for queue in locks.iter().filter_map(|lock| lock.wait_queue) {
            self.names.insert(queue, "wait_for_kvm".into());
        }
    }

    fn guest(&self) -> &'static Guest {
        &self.machine.guests[0]
    }

    fn spell(&self, event: Event) -> String {
        let name = |address| self.names.get(&address).map_or("?", String::as_str);
        match event {
            Event::Lock(how, lock) => format!("{how}({})", name(lock)),
            Event::Unlock('U', lock) => format!("U({})", name(lock)),
            Event::Unlock(how, lock) => format!("U{}({})", how.to_ascii_uppercase(), name(lock)),
            Event::Msleep(ms) => format!("Z({ms})"),
            Event::Flush(work) => format!("F({})", name(work)),
            Event::Flag(value, flag) => format!("{}={}", name(flag), u8::from(value)),
            Event::Wake(queue) => format!("wake({})", name(queue)),
            Event::Prepare(queue) => format!("prepare({})", name(queue)),
            Event::Finish(queue) => format!("finish({})", name(queue)),
        }
    }

    /// Runs one case.
    fn case<R: PartialEq + std::fmt::Debug>(
        &mut self,
        case: &str,
        expected: &R,
        f: impl FnOnce(&'static Guest) -> R,
    ) {
        let guest = self.guest();
        let mut result = None;
        let events = record(|| result = Some(f(guest)));
        let done: Vec<String> = events.into_iter().map(|e| self.spell(e)).collect();
        let done = done.join(" ");
        if result.as_ref() != Some(expected) {
            self.failed
                .push(format!("{case}: returned {result:?}, not {expected:?}"));
        }
        match self.written.remove(case) {
            None => self
                .failed
                .push(format!("{case}: not written\n  done    {done}")),
            Some(written) if written != done => self
                .failed
                .push(format!("{case}:\n  written {written}\n  done    {done}")),
            Some(_) => {}
        }
    }

    /// What was returned on this machine, by its own truth.
    fn take_returned(&mut self) {
        let all: Vec<u8> = (1..ENTRY_POINTS.len() as u8).collect();
        for entry in self.machine.entries.read(&all) {
            if entry.calls == 0 {
                continue;
            }
            let values = self.returned.entry(entry.name.clone()).or_default();
            values.extend(entry.returns.into_keys());
            for (function, responses) in entry.pqap {
                let name = format!("{}, {function}", entry.name);
                let values = self.returned.entry(name).or_default();
                values.extend(responses.into_keys());
            }
        }
    }

    fn finish(mut self, returns: &'static str) {
        self.take_returned();
        for case in self.written.keys() {
            self.failed.push(format!("{case}: written, but not driven"));
        }
        let done: Vec<String> = self
            .returned
            .iter()
            .map(|(name, values)| {
                let values: Vec<&str> = values.iter().map(String::as_str).collect();
                format!("{name}: {}", values.join(" "))
            })
            .collect();
        let expected: Vec<&str> = returns
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .collect();
        if done != expected {
            self.failed.push(format!("returned:\n{}", done.join("\n")));
        }
        assert!(self.failed.is_empty(), "{}", self.failed.join("\n"));
    }
}

macro_rules! generations {
    ($($test:ident $name:literal;)*) => {
        $(
            #[test]
            fn $test() {
                let text = include_str!(concat!("sequences/", $name, ".txt"));
                let returns = include_str!(concat!("sequences/returns/", $name, ".txt"));
                let mut bench = Bench::new($name, text);
                drive::all(&mut bench);
                bench.finish(returns);
            }
        )*

        #[test]
        fn every_generation_has_a_table() {
            let names: Vec<&str> = super::driver::GENERATIONS.iter().map(|g| g.name).collect();
            assert_eq!(names, [$($name),*]);
        }
    };
}

generations! {
    v5_10 "v5.10";
    v5_11 "v5.11";
    v5_13 "v5.13";
    v5_15_rc "v5.15-rc";
    rfc_2021_06 "rfc-2021-06";
    rfc_2021_07 "rfc-2021-07";
    v5_15 "v5.15";
    v5_19 "v5.19";
    v6_0 "v6.0";
    v6_6 "v6.6";
    v7_3 "v7.3";
}
