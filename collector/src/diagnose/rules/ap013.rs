//! AP013: an mdev that cannot be removed because it is open.

use probe_ebpf::names::entry_id;

use super::{Doc, Rule};
use crate::diagnose::finding::{Id, Severity, Sighting};
use crate::diagnose::look::Look;
use crate::diagnose::words;
use crate::model::query;

const DOC: Doc = Doc {
    id: Id(13),
    title: "removal blocked",
    text: "\
Somebody removes an mdev whose device is still open. `vfio_unregister_group_dev` waits until the last descriptor is closed,
in rounds of ten seconds, with the mdev's directory in sysfs held: who looks into it waits too.

**How it is known.** vfio_ap_mdev_remove has been called, holds and waits for no traced lock, does not run, and has not
returned for longer than the threshold. That it sleeps in vfio_unregister_group_dev is said where it was read. Up to v5.14 the mdev core waits before it calls the driver: nothing of that is seen here.

**What can help.** Stop the guest that has the device. From v6.5 on the driver asks for it through an eventfd, and QEMU
gives it back by itself if it has one set up. Killing the process that removes does not: after a signal it waits on, uninterruptibly.
",
};

#[derive(Default, Clone)]
pub(super) struct RemovalBlocked;

impl Rule for RemovalBlocked {
    fn doc(&self) -> &'static Doc {
        &DOC
    }

    fn look(&mut self, look: &Look<'_>, seen: &mut Vec<Sighting>) {
        for task in look.waits.tasks {
            let call = task
                .inside
                .iter()
                .find(|inside| inside.entry == u32::from(entry_id::REMOVE));
            let Some(call) = call else { continue };
            // Each mdev has one task that removes it.
            if !task.waits.is_empty()
                || !task.holds.is_empty()
                || task.state == "R"
                || !look.lasts(call.since_ns, look.thresholds.removal)
            {
                continue;
            }
            let in_core = task.asleep_in == "vfio_unregister_group_dev";
            let who = query::task_name(task);
            let lasting = words::lasting(" for ", look.ago(call.since_ns));
            // What it waits in says that; that it holds and waits for no lock of the driver leaves nothing else.
            let summary = if in_core {
                format!(
                    "{who} has been removing an mdev{lasting}, and waits until its device is closed"
                )
            } else {
                format!(
                    "{who} has been removing an mdev{lasting}, without a lock: its device may be open"
                )
            };
            let key = format!("{} {}", task.tid, call.since_ns);
            let mut sighting = Sighting::new(key, Severity::Warning, summary);
            sighting.since_ns = call.since_ns;
            sighting.tasks = vec![look.task_ref(task)];
            if !task.asleep_in.is_empty() {
                sighting
                    .details
                    .push(format!("asleep in {}", task.asleep_in));
            }
            sighting.meaning = "the mdev stays until its guest gives the device back".into();
            sighting.help = vec!["stop the guest that has the device".into()];
            seen.push(sighting);
        }
    }
}
