//! The `locks` of the document.

use serde::Serialize;

use super::Hist;
use crate::model::query;
use crate::model::{CoarseSeries, Model, Series};

/// A lock class in one mode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Lock {
    /// Class name, as in docs/names.md.
    pub class: String,
    /// `mutex`, `rwsem`, `flag` or `work`.
    pub kind: String,
    /// `-`, `read` or `write`.
    pub mode: String,
    /// A flag and a wait queue, which lockdep cannot see.
    pub open_coded: bool,
    /// Number of instances.
    pub instances: usize,
    /// Locks obtained; for a flag, transitions to set.
    pub acquisitions: u64,
    /// Slow paths entered; for a flag, wait loops that slept.
    pub contended: u64,
    /// How contention was seen: `slow path` or `owner word`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub contended_by: String,
    /// All releases.
    pub releases: u64,
    /// Failed trylocks and interrupted waits.
    pub attempts_failed: u64,
    /// Releases whose acquisition was not seen; in no hold histogram.
    pub unmatched_releases: u64,
    /// Waits.
    pub wait: Hist,
    /// Holds.
    pub hold: Hist,
    /// By instance.
    pub by_instance: Vec<Instance>,
    /// By the entry point it was taken in.
    pub by_entry_point: Vec<PerEntry>,
}

/// A lock instance, in the mode of the class's element.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Instance {
    /// For example `kvm->lock[guest-3]`.
    pub name: String,
    /// Address in the traced machine or process: `0x` and hexadecimal digits.
    pub address: String,
    /// Locks obtained; for a flag, transitions to set.
    pub acquisitions: u64,
    /// Slow paths entered; for a flag, wait loops that slept.
    pub contended: u64,
    /// All releases.
    pub releases: u64,
    /// Failed trylocks and interrupted waits.
    pub attempts_failed: u64,
    /// Releases whose acquisition was not seen.
    pub unmatched_releases: u64,
    /// Wake-ups of the wait queue; only for flags.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wakes: Option<u64>,
    /// Waits, by powers of two.
    pub wait: Hist,
    /// Holds, by powers of two.
    pub hold: Hist,
}

/// A lock class and mode, as taken in one entry point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PerEntry {
    /// Entry point name; `-` outside every traced function.
    pub name: String,
    /// Locks obtained.
    pub acquisitions: u64,
    /// Slow paths entered.
    pub contended: u64,
    /// Waits, by powers of two.
    pub wait: Hist,
    /// Holds, by powers of two.
    pub hold: Hist,
}

impl Lock {
    pub(super) fn of(model: &Model, id: u8, series: &Series) -> Self {
        let nothing = CoarseSeries::default();
        let own = || {
            model
                .instances
                .values()
                .filter(|instance| instance.series == u32::from(id))
        };
        Self {
            class: query::class_name(id).to_owned(),
            kind: query::kind_name(query::kind(id)).to_owned(),
            mode: query::mode_name(id).to_owned(),
            open_coded: query::open_coded(id),
            instances: own().count(),
            acquisitions: series.acquisitions,
            contended: series.contended,
            contended_by: model
                .meta
                .as_ref()
                .map_or_else(String::new, |meta| meta.contended_by.clone()),
            releases: series.releases,
            attempts_failed: series.attempts_failed,
            unmatched_releases: series.unmatched_releases,
            wait: Hist::of(&series.wait),
            hold: Hist::of(&series.hold),
            by_instance: own()
                .map(|instance| {
                    let coarse = series.by_instance.get(&instance.id).unwrap_or(&nothing);
                    Instance {
                        name: instance.name.clone(),
                        address: format!("{:#x}", instance.address),
                        acquisitions: coarse.acquisitions,
                        contended: coarse.contended,
                        releases: coarse.releases,
                        attempts_failed: coarse.attempts_failed,
                        unmatched_releases: coarse.unmatched_releases,
                        wakes: query::open_coded(id).then_some(coarse.wakes),
                        wait: Hist::of_coarse(&coarse.wait, &series.wait),
                        hold: Hist::of_coarse(&coarse.hold, &series.hold),
                    }
                })
                .collect(),
            by_entry_point: series
                .by_entry
                .iter()
                .map(|(&entry, coarse)| PerEntry {
                    name: query::entry_name(entry).to_owned(),
                    acquisitions: coarse.acquisitions,
                    contended: coarse.contended,
                    wait: Hist::of_coarse(&coarse.wait, &series.wait),
                    hold: Hist::of_coarse(&coarse.hold, &series.hold),
                })
                .collect(),
        }
    }
}
