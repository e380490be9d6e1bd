//! AP011: a PQAP hook that points to an mdev without a guest.

use probe_ebpf::names::entry_id;

use super::{Doc, Rule};
use crate::diagnose::finding::{Id, Severity, Sighting};
use crate::diagnose::look::Look;
use crate::model::{query, return_name};

const DOC: Doc = Doc {
    id: Id(11),
    title: "stale hook",
    text: "\
A guest was to be bound to an mdev, and the driver refused because the guest has another one already. In this generation
the hook for PQAP had been published before the check and is not taken back: the guest's next PQAP goes to the refused
mdev, and after that mdev is removed, to freed memory.

**How it is known.** The binding function returned its refusal (`-EPERM` of vfio_ap_mdev_open_device; `NOTIFY_DONE` of
vfio_ap_mdev_group_notifier, which tells nothing else in these generations), and the generation has the bug. What cannot
have it is not reported.

**What can help.** Do not remove the refused mdev while the guest runs. Stop the guest: that clears the hook. Use a kernel
with the fix.
",
};

/// Generations in which a refusal is NOTIFY_DONE of the notifier, and leaves the hook.
const NOTIFIER: &[&str] = &["v5.15"];
/// Generations in which it is -EPERM of open_device.
const OPEN_DEVICE: &[&str] = &["v5.19", "v6.0", "v6.6"];

#[derive(Default)]
pub(super) struct StaleHook;

impl Rule for StaleHook {
    fn doc(&self) -> &'static Doc {
        &DOC
    }

    fn look(&mut self, look: &Look<'_>, seen: &mut Vec<Sighting>) {
        for (entry, refusal, generations) in [
            (entry_id::GROUP_NOTIFIER, "NOTIFY_DONE", NOTIFIER),
            (entry_id::OPEN_DEVICE, "-EPERM", OPEN_DEVICE),
        ] {
            if !look.may_be(generations) {
                continue;
            }
            let Some(of) = look.model.entries.get(&entry) else {
                continue;
            };
            let refused: u64 = of
                .returns
                .iter()
                .filter(|(code, _)| return_name(entry, **code) == refusal)
                .map(|(_, n)| *n)
                .sum();
            if refused == 0 {
                continue;
            }
            let name = query::entry_name(entry);
            let left = if look.only(generations) {
                "left"
            } else {
                "may have left"
            };
            let mut sighting = Sighting::new(
                name,
                Severity::Warning,
                format!(
                    "{name} refused a guest ({refusal}, {refused} times) and {left} the PQAP hook behind"
                ),
            );
            sighting.lasting = true;
            if !look.only(generations) {
                sighting.details.push(format!(
                    "if the driver is of {}; others that it may be take the hook back",
                    generations.join(", ")
                ));
            }
            sighting.meaning =
                "the guest's PQAP goes to an mdev that is not its own, and once that is removed, to freed memory".into();
            sighting.help = vec![
                "stop the guest before the refused mdev is removed; that clears the hook".into(),
            ];
            seen.push(sighting);
        }
    }
}
