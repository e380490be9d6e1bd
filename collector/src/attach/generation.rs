//! Which generation of the driver this is: a set of candidates, each exclusion with its evidence.
//!
//! Takes the symbol table and what is known of structs; later the lock order that was observed. Does not ask for the
//! version: stable kernels carry newer drivers' fixes. Symbols that a compiler may inline say something only when they
//! are there; functions whose address is taken (in tables of operations, attributes, notifiers) say something either
//! way, as long as the module itself is there.

use std::fmt;

use probe_ebpf::abi::Mode;
use probe_ebpf::names::{class_id, entry_id};

use super::offsets::{Field, OffsetSource, Offsets};
use super::symbols::Symbols;

/// A generation of the driver, as the emulated driver names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Generation {
    /// One lock, masks set outside of it.
    V5_10,
    /// One lock, masks set inside.
    V5_11,
    /// The open-coded lock.
    V5_13,
    /// The open-coded lock and the hook's rwsem.
    V5_15Rc,
    /// A draft.
    Rfc2021_06,
    /// Its second version.
    Rfc2021_07,
    /// The rwsem, and kvm->lock first.
    V5_15,
    /// No group notifier.
    V5_19,
    /// Hot plug.
    V6_0,
    /// Resets verified by a work item.
    V6_6,
    /// The rwsem inside of the chain of update locks.
    V7_3,
}

use Generation::{
    Rfc2021_06, Rfc2021_07, V5_10, V5_11, V5_13, V5_15, V5_15Rc, V5_19, V6_0, V6_6, V7_3,
};

impl Generation {
    /// All generations, from the oldest.
    pub const ALL: [Self; 11] = [
        V5_10, V5_11, V5_13, V5_15Rc, Rfc2021_06, Rfc2021_07, V5_15, V5_19, V6_0, V6_6, V7_3,
    ];

    /// The name in every output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            V5_10 => "v5.10",
            V5_11 => "v5.11",
            V5_13 => "v5.13",
            V5_15Rc => "v5.15-rc",
            Rfc2021_06 => "rfc-2021-06",
            Rfc2021_07 => "rfc-2021-07",
            V5_15 => "v5.15",
            V5_19 => "v5.19",
            V6_0 => "v6.0",
            V6_6 => "v6.6",
            V7_3 => "v7.3",
        }
    }
}

/// A set of generations.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Generations(u16);

impl Generations {
    /// None.
    pub const NONE: Self = Self(0);
    /// All.
    pub const ALL: Self = Self((1 << Generation::ALL.len()) - 1);

    /// The set of these.
    #[must_use]
    pub const fn of(list: &[Generation]) -> Self {
        let mut bits = 0;
        let mut at = 0;
        while at < list.len() {
            bits |= 1 << list[at] as u16;
            at += 1;
        }
        Self(bits)
    }

    /// From one to another, both included. The drafts of 2021 lie between v5.15-rc and v5.15.
    #[must_use]
    pub const fn range(from: Generation, to: Generation) -> Self {
        Self(((1_u16 << (to as u16 + 1)) - 1) & !((1_u16 << from as u16) - 1))
    }

    /// Those that are in both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Those that are in either.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those that are not in this set.
    #[must_use]
    pub const fn not(self) -> Self {
        Self(!self.0 & Self::ALL.0)
    }

    /// Whether a generation is in it.
    #[must_use]
    pub const fn has(self, generation: Generation) -> bool {
        self.0 & 1 << generation as u16 != 0
    }

    /// Whether any generation is in both.
    #[must_use]
    pub const fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Number of generations.
    #[must_use]
    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// The generations, from the oldest.
    pub fn iter(self) -> impl Iterator<Item = Generation> {
        Generation::ALL.into_iter().filter(move |g| self.has(*g))
    }

    /// Names of the generations, from the oldest.
    #[must_use]
    pub fn names(self) -> Vec<&'static str> {
        self.iter().map(Generation::name).collect()
    }
}

impl fmt::Display for Generations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names().join("|"))
    }
}

impl fmt::Debug for Generations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{self}}}")
    }
}

/// One fact and the generations that it leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// The fact.
    pub fact: String,
    /// The generations that it is true of.
    pub leaves: Generations,
}

/// Candidates, and why the others are none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detected {
    /// What is left. Empty when the driver is not there.
    pub candidates: Generations,
    /// Facts in the order in which they were applied.
    pub evidence: Vec<Evidence>,
    /// Facts that no candidate was left for, and that were not applied: the driver is none of those known.
    pub contradictions: Vec<Evidence>,
    /// What is open, and what would decide it.
    pub open: Vec<String>,
}

/// Functions of vfio_ap whose presence or absence says which generation it is (reference: v5.10, 6.1, 6.12, 7.2 of
/// drivers/s390/crypto/vfio_ap_ops.c and vfio_ap_drv.c). All of them are in tables of operations, attributes or
/// notifiers, so they are never inlined away.
const FUNCTIONS: &[(&str, Generations)] = &[
    // Until v5.18; v5.19 removed VFIO_GROUP_NOTIFY_SET_KVM.
    (
        "vfio_ap_mdev_group_notifier",
        Generations::range(V5_10, V5_15),
    ),
    // v5.15-rc1 made the mdev a vfio_device: .open/.release of mdev_parent_ops became .open_device/.close_device.
    (
        "vfio_ap_mdev_open_device",
        Generations::range(V5_15, V7_3).or(Generations::of(&[V5_15Rc])),
    ),
    // v6.0 replaced the iommu notifier by the dma_unmap callback.
    ("vfio_ap_mdev_dma_unmap", Generations::range(V6_0, V7_3)),
    // v6.0: hot plug.
    ("vfio_ap_mdev_probe_queue", Generations::range(V6_0, V7_3)),
    ("guest_matrix_show", Generations::range(V6_0, V7_3)),
];

/// Members that say which generation it is.
const MEMBERS: &[(Field, Generations)] = &[
    (Field::MdevKvmBusy, Generations::of(&[V5_13, V5_15Rc])),
    (Field::KvmPqapHookRwsem, Generations::range(V5_15Rc, V7_3)),
    (Field::MatrixDevLock, Generations::range(V5_10, V5_19)),
    (Field::MatrixDevGuestsLock, Generations::range(V6_0, V7_3)),
    (Field::MdevGroupNotifier, Generations::range(V5_10, V5_15)),
    (
        Field::MdevVdev,
        Generations::range(V5_15, V7_3).or(Generations::of(&[V5_15Rc])),
    ),
];

/// The module.
const VFIO_AP: &str = "vfio_ap";

/// Finds the candidates.
#[must_use]
pub fn detect(symbols: &Symbols, offsets: &Offsets) -> Detected {
    let mut detected = Detected {
        candidates: Generations::ALL,
        evidence: Vec::new(),
        contradictions: Vec::new(),
        open: Vec::new(),
    };
    if !symbols.has_module(VFIO_AP) {
        detected.apply("no symbol of the module vfio_ap", Generations::NONE);
        detected.candidates = Generations::NONE;
        return detected;
    }
    for (function, of) in FUNCTIONS {
        if symbols.function(Some(VFIO_AP), function).is_some() {
            detected.apply(&format!("{function} [vfio_ap] present"), *of);
        } else {
            detected.apply(&format!("{function} [vfio_ap] not there"), of.not());
        }
    }
    detect_reset(symbols, offsets, &mut detected);
    for (field, of) in MEMBERS {
        let (outer, path) = (field.outer(), field.paths()[0]);
        match offsets.source(*field) {
            OffsetSource::Btf { .. } | OffsetSource::Layout { .. } => {
                detected.apply(&format!("struct {outer} has {path}"), *of);
            }
            OffsetSource::Absent { .. } => {
                detected.apply(&format!("struct {outer} has no {path}"), of.not());
            }
            OffsetSource::Missing { why } => {
                let exclusive = detected.candidates.and(*of);
                if !exclusive.is_empty() && exclusive != detected.candidates {
                    detected.open.push(format!(
                        "whether struct {outer} has {path} (then {exclusive}): {why}"
                    ));
                }
            }
        }
    }
    // Inlined in most builds, so only its presence says something. v5.10's release and notifier have the code inline.
    let unset = "vfio_ap_mdev_unset_kvm";
    if let Some(found) = symbols.function(Some(VFIO_AP), unset) {
        detected.apply(
            &format!("{} [vfio_ap] present", found.symbol.name),
            Generations::of(&[V5_10]).not(),
        );
    }
    detected.say_what_is_open();
    detected
}

/// v6.6 verifies resets by a work item, and so does v7.3. But stable kernels have v7.3's order of locks with an older
/// reset: 6.1.y since 6.1.192.
fn detect_reset(symbols: &Symbols, offsets: &Offsets, detected: &mut Detected) {
    let function = symbols.function(Some(VFIO_AP), "apq_reset_check").is_some();
    let with = Generations::of(&[V6_6, V7_3]);
    if function {
        detected.apply("apq_reset_check [vfio_ap] present", with);
    } else {
        detected.apply(
            "apq_reset_check [vfio_ap] not there",
            Generations::of(&[V6_6]).not(),
        );
    }
    match offsets.has(Field::QueueResetWork) {
        Some(true) => detected.apply("struct vfio_ap_queue has reset_work", with),
        Some(false) => detected.apply(
            "struct vfio_ap_queue has no reset_work",
            Generations::of(&[V6_6]).not(),
        ),
        None => {}
    }
}

/// A lock order that was observed: while `held` was held, `acquired` was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edge {
    /// Class held, an id of [`probe_ebpf::names::CLASSES`], and its mode.
    pub held: (u8, Mode),
    /// Class acquired, and its mode.
    pub acquired: (u8, Mode),
    /// Entry point in which it was acquired.
    pub acquired_in: u8,
}

/// What was observed so far.
#[derive(Debug, Clone, Copy)]
pub struct Observed<'a> {
    /// All edges.
    pub edges: &'a [Edge],
    /// Whether no edge was lost: only then does the absence of an edge say something.
    pub complete: bool,
    /// Acquisitions of `pqap_hook_rwsem` for writing.
    pub hook_write_locked: u64,
}

impl Detected {
    fn apply(&mut self, fact: &str, leaves: Generations) {
        let evidence = Evidence {
            fact: fact.to_owned(),
            leaves,
        };
        if self.candidates.meets(leaves) {
            self.candidates = self.candidates.and(leaves);
            self.evidence.push(evidence);
        } else {
            self.contradictions.push(evidence);
        }
    }

    fn say_what_is_open(&mut self) {
        let both = |a, b| self.candidates.has(a) && self.candidates.has(b);
        let mut open = Vec::new();
        if both(V5_10, V5_11) {
            open.push("v5.10 or v5.11: whether the masks are set with matrix_dev->lock held, which only inlined code does; the order observed when a guest is bound decides");
        }
        if self.candidates.has(V7_3) && self.candidates.len() > 1 {
            open.push("whether the fixes of 2026 are in (v7.3, and stable kernels: 6.1.y since 6.1.192, 7.2.y by 7.2.12): only inlined code differs; the order of pqap_hook_rwsem and kvm->lock when a guest is bound decides");
        }
        self.open.extend(open.into_iter().map(str::to_owned));
    }

    /// Narrows the candidates by the order of locks that was observed.
    pub fn narrow(&mut self, observed: &Observed<'_>) {
        let mut inside = false;
        for edge in observed.edges {
            inside |= edge.held.0 == class_id::KVM_LOCK
                && edge.acquired == (class_id::PQAP_HOOK_RWSEM, Mode::Write);
            for (fact, leaves) in order_says(*edge) {
                if self.candidates.and(leaves) != self.candidates {
                    self.apply(fact, leaves);
                }
            }
        }
        if observed.hook_write_locked > 0 {
            let leaves = Generations::range(V5_15Rc, V7_3);
            if self.candidates.and(leaves) != self.candidates {
                self.apply("pqap_hook_rwsem is there", leaves);
            }
        }
        if observed.complete && observed.hook_write_locked > 0 && !inside {
            let leaves = Generations::of(&[V7_3]).not();
            if self.candidates.has(V7_3) {
                self.apply(
                    "pqap_hook_rwsem taken for writing, never with kvm->lock held",
                    leaves,
                );
            }
        }
        if self.candidates.len() == 1 {
            self.open.clear();
        }
    }
}

/// What one edge says, by the sequences of the driver (vfio_ap_ops.c of the release named, and for drafts the mail).
fn order_says(edge: Edge) -> Vec<(&'static str, Generations)> {
    use class_id::{
        GUESTS_LOCK, KVM_BUSY, KVM_LOCK, MATRIX_DEV_LOCK, MDEVS_LOCK, PQAP_HOOK_RWSEM, RESET_WORK,
    };
    const HOOK_WRITTEN: (u8, Mode) = (PQAP_HOOK_RWSEM, Mode::Write);
    let (held, acquired) = (edge.held.0, edge.acquired.0);
    let mut says = Vec::new();
    let mut say = |fact, generations| says.push((fact, generations));
    match (held, acquired) {
        (KVM_LOCK, _) if edge.acquired == HOOK_WRITTEN => say(
            "pqap_hook_rwsem taken for writing inside kvm->lock",
            Generations::of(&[V7_3]),
        ),
        // v7.3 has the rwsem between kvm->lock and mdevs_lock.
        (_, MDEVS_LOCK) if edge.held == HOOK_WRITTEN => say(
            "mdevs_lock taken with pqap_hook_rwsem held for writing",
            Generations::of(&[V7_3]),
        ),
        (_, KVM_LOCK | MATRIX_DEV_LOCK) if edge.held == HOOK_WRITTEN => say(
            "kvm->lock or matrix_dev->lock taken with pqap_hook_rwsem held for writing",
            Generations::of(&[Rfc2021_07]),
        ),
        // v5.10 clears the masks inside of the lock, in release; v5.11 sets them there too, in the notifier.
        (MATRIX_DEV_LOCK, KVM_LOCK) if edge.acquired_in == entry_id::SET_MASKS => say(
            "masks set with matrix_dev->lock held",
            Generations::of(&[V5_11]),
        ),
        (MATRIX_DEV_LOCK, KVM_LOCK) => say(
            "kvm->lock taken inside matrix_dev->lock",
            Generations::of(&[V5_10, V5_11]),
        ),
        (KVM_LOCK, MATRIX_DEV_LOCK) => say(
            "matrix_dev->lock taken inside kvm->lock",
            Generations::of(&[V5_15, V5_19]),
        ),
        (KVM_BUSY, KVM_LOCK) => say(
            "kvm->lock taken while kvm_busy is set",
            Generations::of(&[V5_13, V5_15Rc]),
        ),
        (PQAP_HOOK_RWSEM, KVM_BUSY) | (KVM_BUSY, PQAP_HOOK_RWSEM) => say(
            "kvm_busy and pqap_hook_rwsem inside of each other",
            Generations::of(&[V5_15Rc]),
        ),
        (GUESTS_LOCK, KVM_LOCK) => say(
            "kvm->lock taken inside guests_lock",
            Generations::range(V6_0, V7_3),
        ),
        (GUESTS_LOCK, MDEVS_LOCK) if edge.acquired_in == entry_id::STATUS_SHOW => {
            say("status_show takes guests_lock", Generations::of(&[V7_3]));
        }
        (MDEVS_LOCK | GUESTS_LOCK, RESET_WORK) => say(
            "a reset's work item waited for under the driver's locks",
            Generations::of(&[V6_6, V7_3]),
        ),
        _ => {}
    }
    says
}
