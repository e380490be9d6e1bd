//! Functions that a return probe hides: it puts its trampoline where a probed function returns to, and the caller, which
//! would have been named there, is missing in every stack that is taken meanwhile.
//!
//! Takes a stack; gives the driver's function that must be there. Only of functions that the driver alone calls, and that
//! are not inlined, does one know whose caller is missing.

use super::reading::Reading;
use super::steps::{Owner, Sequence};
use super::{Found, Generation, sequences};

/// Where probed functions return to: in the symbols of s390x kernels 5.10 (the first in the kernel's log, the second in
/// `/proc/PID/stack`), 6.1, and 6.12 and 7.2; and for the graph tracer.
const TRAMPOLINES: [&str; 5] = [
    "kretprobe_trampoline",
    "kretprobe_trampoline_holder",
    "__kretprobe_trampoline",
    "arch_rethook_trampoline",
    "return_to_handler",
];

/// Who calls the driver's functions: what stands outside of the trampolines.
const CALLED_BY: &[(&[&str], &[&str])] = &[
    (
        &["vfio_device_fops_release", "vfio_mdev_release"],
        &["vfio_ap_mdev_release", "vfio_ap_mdev_close_device"],
    ),
    (
        &["blocking_notifier_call_chain", "notifier_call_chain"],
        &["vfio_ap_mdev_group_notifier"],
    ),
];

/// The driver's function that called the one before a trampoline, in the place of that trampoline. `None` where the stack
/// names one of the driver's, or nothing says that there is one.
pub(super) fn behind_a_return_probe(
    reading: &Reading<'_>,
    generation: Generation,
) -> Option<Found> {
    let frames = &reading.frames;
    if frames.iter().any(|frame| frame.module == Some("vfio_ap")) {
        return None;
    }
    let at = 1 + frames
        .windows(2)
        .position(|pair| TRAMPOLINES.contains(&pair[1].name) && pair[0].is_of(Owner::Kvm))?;
    let probed = frames[at - 1].name;
    let outside = frames[at..].iter().find_map(|frame| {
        let (_, called) = CALLED_BY.iter().find(|(by, _)| by.contains(&frame.name))?;
        Some(*called)
    });
    let sequences: Vec<&Sequence> = sequences::TABLE
        .iter()
        .flat_map(|part| part.iter())
        .filter(|rule| rule.owner == Owner::Driver && rule.generations.has(generation))
        // Not inlined, so it has a frame; and its caller is the driver's, whatever else is not known.
        .filter(|rule| {
            let mut steps = rule.steps.iter();
            steps.any(|step| step.must && step.within.contains(&probed))
        })
        .filter(|rule| outside.is_none_or(|called| called.contains(&rule.functions[0])))
        .collect();
    (!sequences.is_empty()).then_some(Found { at, sequences })
}
