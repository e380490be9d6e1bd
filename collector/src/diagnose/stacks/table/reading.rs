//! A stack as the table is applied to it: names without a compiler's suffixes, the mechanism taken off.
//!
//! Takes a task. Does not know of locks.

use super::sleep::{self, Mechanism};
use super::steps::Owner;
use crate::diagnose::stacks::text::Task;

/// A frame with a name as the table spells it.
pub(super) struct Named<'a> {
    pub(super) name: &'a str,
    pub(super) module: Option<&'a str>,
}

impl Named<'_> {
    pub(super) fn is_of(&self, owner: Owner) -> bool {
        match (owner, self.module) {
            (_, None) => true,
            (Owner::Driver, Some(module)) => module == "vfio_ap",
            (Owner::Kvm, Some(module)) => module == "kvm",
            (Owner::Others, Some(module)) => !matches!(module, "vfio_ap" | "kvm"),
        }
    }
}

/// A stack, read once for all generations.
pub(super) struct Reading<'a> {
    pub(super) mechanism: Mechanism,
    /// Without the frames of the mechanism, innermost first.
    pub(super) frames: Vec<Named<'a>>,
    /// Frames that the unwinder does not vouch for had to be used.
    pub(super) doubtful: bool,
}

impl<'a> Reading<'a> {
    pub(super) fn new(task: &'a Task) -> Self {
        let doubtful = !task.frames.iter().any(|frame| frame.reliable);
        let all: Vec<Named<'a>> = task
            .frames
            .iter()
            .filter(|frame| frame.reliable || doubtful)
            .map(|frame| Named {
                name: frame
                    .symbol
                    .split_once('.')
                    .map_or(frame.symbol.as_str(), |(name, _)| name),
                module: frame.module.as_deref(),
            })
            .collect();
        let names: Vec<&str> = all.iter().map(|frame| frame.name).collect();
        let (mechanism, taken) = sleep::mechanism(&names, task.state == Some('R'));
        let mut frames: Vec<Named<'a>> = all.into_iter().skip(taken).collect();
        name_handlers(mechanism, &mut frames);
        Self {
            mechanism,
            frames,
            doubtful,
        }
    }

    /// What it sleeps in: the innermost frame that is no primitive, and how it asks for a lock there that is not of the
    /// table.
    pub(super) fn asleep_in(&self) -> String {
        let at = self.innermost();
        match self.mechanism {
            Mechanism::Mutex => format!("a mutex_lock of {at}"),
            Mechanism::RwsemRead => format!("a down_read of {at}"),
            Mechanism::RwsemWrite => format!("a down_write of {at}"),
            _ => at.to_owned(),
        }
    }

    /// The innermost frame that is no primitive.
    pub(super) fn innermost(&self) -> &str {
        self.frames.first().map_or("", |frame| frame.name)
    }
}

/// kvm and vfio_ap both have a `handle_pqap`: kvm's calls the driver's. Without modules in the text, the outer one of
/// two is kvm's, and so is one that waits for an rw-semaphore: the driver's takes none.
fn name_handlers(mechanism: Mechanism, frames: &mut [Named<'_>]) {
    const KVM: &str = "handle_pqap [kvm]";
    let mut seen = false;
    for frame in frames
        .iter_mut()
        .filter(|frame| frame.name == "handle_pqap")
    {
        let of_kvm = match frame.module {
            Some(module) => module == "kvm",
            None => seen || mechanism == Mechanism::RwsemRead,
        };
        seen = true;
        if of_kvm {
            frame.name = KVM;
        }
    }
}
