//! One file for each kind of finding: its documentation, and the rule that makes it.
//!
//! A rule remembers what it must from tick to tick, and says what it sees now; that a finding stays a moment after it is
//! seen no more is the engine's. What a rule needs from a run it takes from [`Look`] alone.

mod ap000;
mod ap001;
mod ap002;
mod ap003;
mod ap004;
mod ap005;
mod ap006;
mod ap007;
mod ap008;
mod ap009;
mod ap010;
mod ap011;
mod ap012;
mod ap013;
mod ap014;
mod leaks;

use super::finding::{Id, Sighting};
use super::look::Look;
use crate::frame;
use crate::model::query;
use probe_ebpf::names::entry_id;

/// The documentation of a kind of finding.
#[derive(Debug, PartialEq, Eq)]
pub struct Doc {
    /// Its number.
    pub id: Id,
    /// A few words.
    pub title: &'static str,
    /// Markdown: what it is, how it is known, what can help.
    pub text: &'static str,
}

/// A kind of finding.
pub trait Rule: Send + Fork {
    /// Its documentation.
    fn doc(&self) -> &'static Doc;
    /// What is seen at this moment.
    fn look(&mut self, look: &Look<'_>, seen: &mut Vec<Sighting>);
}

/// A rule that remembers the same, as another one.
pub trait Fork {
    /// Makes it.
    fn fork(&self) -> Box<dyn Rule>;
}

impl<T: Rule + Clone + 'static> Fork for T {
    fn fork(&self) -> Box<dyn Rule> {
        Box::new(self.clone())
    }
}

impl Clone for Box<dyn Rule> {
    fn clone(&self) -> Self {
        // The rule's own, and not that of the box around it.
        (**self).fork()
    }
}

/// All rules, by number.
pub fn all() -> Vec<Box<dyn Rule>> {
    vec![
        Box::<ap000::NotHere>::default(),
        Box::<ap001::Deadlock>::default(),
        Box::<ap002::PossibleDeadlock>::default(),
        Box::<ap003::OrphanedWait>::default(),
        Box::<ap004::LeakedLock>::default(),
        Box::<ap005::ForeignRelease>::default(),
        Box::<ap006::SleepingUnderLock>::default(),
        Box::<ap007::UnboundedReset>::default(),
        Box::<ap008::Starvation>::default(),
        Box::<ap009::Convoy>::default(),
        Box::<ap010::RefusedWrites>::default(),
        Box::<ap011::StaleHook>::default(),
        Box::<ap012::StuckGuest>::default(),
        Box::<ap013::RemovalBlocked>::default(),
        Box::<ap014::FlagNotExclusive>::default(),
    ]
}

/// The documentation of all kinds, by number.
pub fn docs() -> Vec<&'static Doc> {
    all().iter().map(|rule| rule.doc()).collect()
}

/// Whether killing its process ends this wait: `kvm_vcpu_ioctl` takes `vcpu->mutex` with `mutex_lock_killable`
/// (virt/kvm/kvm_main.c); all other waits for the driver's and KVM's locks are uninterruptible.
fn killable(wait: &frame::Waiting) -> bool {
    query::class_name(wait.series as u8) == "vcpu->mutex"
        && query::entry_name(wait.entry as u8) == "kvm_vcpu_ioctl"
}

/// Where a lock was acquired.
fn taken_in(entry: u8) -> String {
    match entry {
        entry_id::NONE => "outside of the traced functions".into(),
        entry => format!("in {}", query::entry_name(entry)),
    }
}

/// What is said of a machine where nothing ends a wait.
const REBOOT: &str = "only a reboot frees them; take a dump of the kernel first (kdump, or zgetdump of a stand-alone dump)";

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_finding_is_documented_under_its_number() {
        let docs = docs();
        let numbers: BTreeSet<u8> = docs.iter().map(|doc| doc.id.0).collect();
        assert_eq!(
            numbers.into_iter().collect::<Vec<_>>(),
            (0..15).collect::<Vec<u8>>()
        );
        assert_eq!(docs.len(), 15);
        for doc in docs {
            for part in ["**How it is known.**", "**What can help.**"] {
                assert!(doc.text.contains(part), "{}: no {part}", doc.id);
            }
            assert!(doc.text.is_ascii() && doc.title.is_ascii(), "{}", doc.id);
        }
    }
}
