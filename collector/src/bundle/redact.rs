//! Names that are hidden: of hosts, guests, mdevs and threads. Each becomes a hash with a salt of the bundle's own, which is
//! kept nowhere: the same name is the same hash everywhere in one bundle, and another one in the next. Addresses of locks and
//! of what calls act on are replaced likewise, by numbers of the same length.
//!
//! Functions, lock classes, numbers of processes and times stay. Two passes: [`Names::learn`] each frame, then
//! [`Names::hide`] in each. A frame has names in members of their own; `texts` says where they are in a text.

mod texts;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};

use sha2::{Digest, Sha256};

use super::host::hex;
use crate::frame::{Edge, Frame, Meta, Spans};

/// Digits of a hash: 40 bits, so that two of a thousand names are the same once in a million bundles.
const DIGITS: usize = 10;

/// What a name is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// A machine.
    Host,
    /// A guest, an mdev, or whatever else an instance of a lock is named after.
    Object,
    /// A thread.
    Thread,
}

/// Names, and what stands for them.
#[derive(Debug)]
pub struct Names {
    salt: [u8; 16],
    known: BTreeMap<String, String>,
    /// Addresses, and what stands for them.
    addresses: BTreeMap<u64, u64>,
    /// Words that stay in prose, whoever is called so.
    words: BTreeSet<&'static str>,
}

impl Names {
    /// No names, and a new salt.
    ///
    /// # Errors
    ///
    /// The kernel gives no random numbers.
    pub fn new() -> io::Result<Self> {
        let mut salt = [0; 16];
        File::open("/dev/urandom")?.read_exact(&mut salt)?;
        Ok(Self {
            salt,
            known: BTreeMap::new(),
            addresses: BTreeMap::new(),
            words: texts::words(),
        })
    }

    /// What stands for a name from now on. An empty one stays.
    pub fn name(&mut self, of: Of, name: &str) -> String {
        if name.is_empty() {
            return String::new();
        }
        if let Some(known) = self.known.get(name) {
            return known.clone();
        }
        let mut hash = Sha256::new();
        hash.update(self.salt);
        hash.update(name);
        let digits = hex(&hash.finalize());
        let kind = match of {
            Of::Host => "host",
            Of::Object => "name",
            Of::Thread => "comm",
        };
        let hidden = format!("{kind}-{}", &digits[..DIGITS]);
        self.known.insert(name.to_owned(), hidden.clone());
        hidden
    }

    /// What stands for an address from now on: as long a number, a multiple of 8. None (0) stays none.
    pub fn address(&mut self, address: u64) -> u64 {
        if address == 0 {
            return 0;
        }
        if let Some(&known) = self.addresses.get(&address) {
            return known;
        }
        let mut hash = Sha256::new();
        hash.update(self.salt);
        hash.update(address.to_le_bytes());
        let digest = hash.finalize();
        let number = digest
            .iter()
            .take(8)
            .fold(0_u64, |n, byte| n << 8 | u64::from(*byte));
        // Where there is no room for differences, it is made longer.
        let bits = (u64::BITS - address.leading_zeros()).max(40);
        let top = 1 << (bits - 1);
        let hidden = (number & (top - 1) | top) & !7;
        self.addresses.insert(address, hidden);
        hidden
    }

    /// Learns the names in a frame.
    pub fn learn(&mut self, frame: &Frame) {
        if let Some(meta) = &frame.meta {
            for object in &meta.objects {
                self.name(Of::Object, &object.name);
                self.address(object.address);
            }
            for instance in &meta.instances {
                self.address(instance.address);
                if let Some((_, owner)) = owner(&instance.name) {
                    // `guest-3/0` is a vCPU of guest-3.
                    self.name(Of::Object, owner.split('/').next().unwrap_or(owner));
                }
            }
        }
        let mut threads = Vec::new();
        for task in frame.live.iter().flat_map(|live| &live.tasks) {
            threads.push(&task.comm);
            threads.extend(task.inside.iter().map(|inside| &inside.on_behalf_of_comm));
        }
        if let Some(spans) = &frame.spans {
            threads.extend(spans.comms.iter().chain(&spans.on_behalf_of_comms));
        }
        threads.extend(edges(frame).map(|edge| &edge.first_comm));
        threads.extend(frame.stacks.iter().map(|stack| &stack.comm));
        for comm in threads {
            self.name(Of::Thread, comm);
        }
    }

    /// Learns the names of threads that a text with stacks has.
    pub fn learn_text(&mut self, text: &str) {
        for task in crate::diagnose::stacks::text::parse(text).tasks {
            self.name(Of::Thread, &task.comm);
        }
    }

    /// Hides the names in a frame. All that it has must have been learned, or a text may keep one.
    pub fn hide(&mut self, frame: &mut Frame) {
        if let Some(meta) = &mut frame.meta {
            self.hide_meta(meta);
        }
        let unseen = frame
            .live
            .iter_mut()
            .flat_map(|live| &mut live.unseen_readers);
        for readers in unseen {
            readers.lock = self.address(readers.lock);
        }
        for task in frame.live.iter_mut().flat_map(|live| &mut live.tasks) {
            task.comm = self.name(Of::Thread, &task.comm);
            for hold in &mut task.holds {
                hold.lock = self.address(hold.lock);
            }
            for wait in &mut task.waits {
                wait.lock = self.address(wait.lock);
            }
            for inside in &mut task.inside {
                inside.object = self.address(inside.object);
                inside.on_behalf_of_comm = self.name(Of::Thread, &inside.on_behalf_of_comm);
            }
        }
        if let Some(spans) = &mut frame.spans {
            self.hide_spans(spans);
        }
        let base = frame.base.iter_mut().flat_map(|base| &mut base.edges);
        for edge in frame.edges.iter_mut().chain(base) {
            edge.first_comm = self.name(Of::Thread, &edge.first_comm);
        }
        for stack in &mut frame.stacks {
            stack.comm = self.name(Of::Thread, &stack.comm);
        }
        for line in &mut frame.log {
            line.text = self.text(&line.text);
        }
        if let Some(end) = &mut frame.end {
            end.detail = self.text(&end.detail);
        }
    }

    fn hide_meta(&mut self, meta: &mut Meta) {
        for object in &mut meta.objects {
            object.name = self.name(Of::Object, &object.name);
            object.address = self.address(object.address);
        }
        for instance in &mut meta.instances {
            instance.address = self.address(instance.address);
            if let Some((class, owner)) = owner(&instance.name) {
                let (name, rest) = owner.split_at(owner.find('/').unwrap_or(owner.len()));
                instance.name = format!("{class}[{}{rest}]", self.name(Of::Object, name));
            }
        }
        meta.reason = self.text(&meta.reason);
        let lists = [&mut meta.evidence, &mut meta.losses, &mut meta.blind_spots];
        for text in lists.into_iter().flatten() {
            *text = self.text(text);
        }
    }

    fn hide_spans(&mut self, spans: &mut Spans) {
        for comm in spans.comms.iter_mut().chain(&mut spans.on_behalf_of_comms) {
            *comm = self.name(Of::Thread, comm);
        }
    }

    /// Prose in which no learned name is left, except those that are words of its own or numbers. The longest are
    /// replaced first.
    pub fn text(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (name, hidden) in self.longest_first() {
            let stays = texts::is_number(name) || self.words.contains(name.as_str());
            if !stays && text.contains(name.as_str()) {
                text = texts::replace(&text, name, hidden);
            }
        }
        texts::replace_addresses(&text, &self.addresses)
    }

    /// A text with stacks: names of threads are hidden where the kernel writes them, and all names in what is neither
    /// that nor a function on a stack.
    pub fn stacks(&self, text: &str) -> String {
        let names = self.longest_first();
        let mut out = String::with_capacity(text.len());
        for line in text.split_inclusive('\n') {
            let line = line.to_owned();
            if texts::is_frame(&line) {
                out.push_str(&line);
                continue;
            }
            // What `[  12.345678] ` and other prefixes are, the reader of such texts knows.
            let content = crate::diagnose::stacks::text::content(&line).len();
            let start = line.trim_end().len().saturating_sub(content);
            let (prefix, mut content) = (line[..start].to_owned(), line[start..].to_owned());
            for (name, hidden) in &names {
                if let Some(changed) = texts::replace_thread(&content, name, hidden) {
                    content = changed;
                }
            }
            out.push_str(&prefix);
            out.push_str(&self.text(&content));
        }
        out
    }

    /// A JSON document that apscope made of what a machine says: names are hidden in its sentences and paths. Keys and other
    /// values of one word stay.
    ///
    /// # Errors
    ///
    /// It is no JSON.
    pub fn json(&self, document: &[u8]) -> Result<Vec<u8>, serde_json::Error> {
        let mut value = serde_json::from_slice(document)?;
        texts::sentences(&mut value, &|text| self.text(text));
        let mut document = serde_json::to_vec_pretty(&value)?;
        document.push(b'\n');
        Ok(document)
    }

    fn longest_first(&self) -> Vec<(&String, &String)> {
        let mut names: Vec<(&String, &String)> = self.known.iter().collect();
        names.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
        names
    }
}

/// All edges of a frame.
fn edges(frame: &Frame) -> impl Iterator<Item = &Edge> {
    let base = frame.base.iter().flat_map(|base| &base.edges);
    frame.edges.iter().chain(base)
}

/// Class and owner in the name of an instance: `kvm->lock[guest-3]`.
fn owner(name: &str) -> Option<(&str, &str)> {
    name.strip_suffix(']')?.split_once('[')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_hidden_the_same_way_everywhere_and_otherwise_in_the_next_bundle() {
        let mut names = Names::new().unwrap();
        let hidden = names.name(Of::Object, "guest-3");
        assert_eq!(hidden, names.name(Of::Object, "guest-3"));
        assert_eq!(names.name(Of::Thread, ""), "");
        assert_eq!(
            names.text("kvm->lock[guest-3] and guest-31, guest-3."),
            format!("kvm->lock[{hidden}] and guest-31, {hidden}.")
        );
        let other = Names::new().unwrap().name(Of::Object, "guest-3");
        assert_ne!(hidden, other);
    }

    #[test]
    fn addresses_are_hidden_the_same_way_everywhere() {
        let mut names = Names::new().unwrap();
        let (lock, low) = (0xffff_8881_0a2b_3c40, 0x1_2345_6780);
        let hidden = names.address(lock);
        assert_eq!(names.address(lock), hidden);
        assert_eq!((names.address(0), hidden >> 63, hidden % 8), (0, 1, 0));
        assert_ne!(hidden, lock);
        assert_ne!(names.address(low), Names::new().unwrap().address(low));
        assert_eq!(
            names.text(
                "at 0xffff88810a2b3c40, 0xffff88810A2B3C40; 0xffff88810a2b3c400 and 0x40 are others"
            ),
            format!("at {hidden:#x}, {hidden:#x}; 0xffff88810a2b3c400 and 0x40 are others")
        );
    }

    #[test]
    fn a_short_name_is_replaced_where_it_stands_alone() {
        let mut names = Names::new().unwrap();
        let q = names.name(Of::Thread, "q");
        assert_eq!(
            names.text("q task, q_b, (q)"),
            format!("{q} task, q_b, ({q})")
        );
    }

    #[test]
    fn words_and_numbers_stay_in_prose() {
        let mut names = Names::new().unwrap();
        names.name(Of::Host, "kernel");
        for name in ["5", "0/0", "lock", "assign_adapter_store"] {
            names.name(Of::Thread, name);
        }
        let alice = names.name(Of::Host, "alice");
        assert_eq!(
            names.text(
                "the kernel 5.10 of alice.example holds kvm->lock in assign_adapter_store for 5 s"
            ),
            format!(
                "the kernel 5.10 of {alice}.example holds kvm->lock in assign_adapter_store for 5 s"
            )
        );
    }

    #[test]
    fn only_sentences_of_a_document_are_prose() {
        let mut names = Names::new().unwrap();
        names.name(Of::Host, "kernel");
        let alice = names.name(Of::Host, "alice");
        let document = br#"{"kernel": {"alice": "kernel"}, "n": [1, "alice", "types of alice, of the kernel"]}"#;
        let changed: serde_json::Value =
            serde_json::from_slice(&names.json(document).unwrap()).unwrap();
        assert_eq!(
            changed,
            serde_json::json!({
                "kernel": { "alice": "kernel" },
                "n": [1, "alice", format!("types of {alice}, of the kernel")],
            })
        );
        assert!(names.json(b"{").is_err());
    }

    #[test]
    fn threads_are_hidden_where_the_kernel_names_them() {
        let text = "\
[    2.000000] INFO: task task:72 blocked for more than 10 seconds.
[    2.000001]       Not tainted 5.10.223 #1
[    2.000002] task:5 5   state:D stack: 0 pid: 72
[    2.000003] Call Trace:
[    2.000004]  [<00000000a>] schedule+0x2a/0x8c0
[    2.000005] INFO: task 5 5:72 is blocked on a mutex likely owned by task schedule:5.
[    2.000006] schedule        D    0  5      1 0x00000000
==> /proc/5/task/5/stack <==
";
        let mut names = Names::new().unwrap();
        names.learn_text(text);
        let five = names.name(Of::Thread, "5 5");
        let schedule = names.name(Of::Thread, "schedule");
        let task = names.name(Of::Thread, "task");
        names.name(Of::Thread, "5");
        let expected = text
            .replace("task task:72", &format!("task {task}:72"))
            .replace("task:5 5 ", &format!("task:{five} "))
            .replace("task 5 5:", &format!("task {five}:"))
            .replace("task schedule:5", &format!("task {schedule}:5"))
            .replace("] schedule  ", &format!("] {schedule}  "));
        assert_eq!(names.stacks(text), expected);
        // And the text says the same as before.
        let parse = |text: &str| {
            let mut tasks = crate::diagnose::stacks::text::parse(text).tasks;
            for task in &mut tasks {
                task.comm.clear();
            }
            format!("{tasks:?}")
        };
        let hidden = names.stacks(text);
        let same = hidden.replace(&schedule, "schedule").replace(&task, "task");
        assert_eq!(parse(&same.replace(&five, "5 5")), parse(text));
    }
}
