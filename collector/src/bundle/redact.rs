//! Names that are hidden: of hosts, guests, mdevs and threads. Each becomes a hash with a salt of the bundle's own, which is
//! kept nowhere: the same name is the same hash everywhere in one bundle, and another one in the next.
//!
//! Functions, lock classes, numbers of processes and times stay. Two passes: [`Names::learn`] each frame, then
//! [`Names::hide`] in each; a text is searched for every name that was learned.

use std::collections::BTreeMap;
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

    /// Learns the names in a frame.
    pub fn learn(&mut self, frame: &Frame) {
        if let Some(meta) = &frame.meta {
            for object in &meta.objects {
                self.name(Of::Object, &object.name);
            }
            for instance in &meta.instances {
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
        for task in frame.live.iter_mut().flat_map(|live| &mut live.tasks) {
            task.comm = self.name(Of::Thread, &task.comm);
            for inside in &mut task.inside {
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
        }
        for instance in &mut meta.instances {
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

    /// A text in which no learned name is left: the longest are replaced first.
    pub fn text(&self, text: &str) -> String {
        let mut names: Vec<(&String, &String)> = self.known.iter().collect();
        names.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
        let mut text = text.to_owned();
        for (name, hidden) in names {
            if text.contains(name.as_str()) {
                text = replace_words(&text, name, hidden);
            }
        }
        text
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

/// Replaces a name where it stands alone: a thread called `a` is not in every word.
fn replace_words(text: &str, name: &str, hidden: &str) -> String {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut before: Option<char> = None;
    while let Some(at) = rest.find(name) {
        let (head, tail) = rest.split_at(at);
        let after = tail[name.len()..].chars().next();
        let previous = head.chars().next_back().or(before);
        let joins = |outer: Option<char>, inner: Option<char>| {
            outer.is_some_and(is_word) && inner.is_some_and(is_word)
        };
        let part = joins(previous, name.chars().next()) || joins(after, name.chars().next_back());
        out.push_str(head);
        out.push_str(if part { name } else { hidden });
        before = name.chars().next_back();
        rest = &tail[name.len()..];
    }
    out.push_str(rest);
    out
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
    fn a_short_name_is_replaced_where_it_stands_alone() {
        let mut names = Names::new().unwrap();
        let a = names.name(Of::Thread, "a");
        assert_eq!(
            names.text("a task, a_b, (a)"),
            format!("{a} task, a_b, ({a})")
        );
    }
}
