//! The attach points of a kernel, as they would really be attached.

use crate::attach::plan::{Instead, Loss, Plan, Planned, Status};
use crate::attach::points::{Role, Side};
use crate::attach::programs::program_of;
use crate::doctor::{AttachRow, RowStatus};
use probe_ebpf::names::ENTRY_POINTS;

/// All points of a plan. `full`: the plan for level 2, which says what would become of those that belong to it.
pub fn rows(plan: &Plan, full: &Plan) -> Vec<AttachRow> {
    let row = |(index, planned): (usize, &Planned)| {
        let mut row = row(plan, planned);
        if row.status == RowStatus::OtherLevel {
            // The same table and the same symbols: both plans have the same points in the same order.
            let above = full.points.get(index);
            let above = above.filter(|above| above.point.name == planned.point.name);
            row.at_level_2 = above.map(|above| match self::row(full, above) {
                above if above.status == RowStatus::Probed => above.mechanism,
                above => format!("none: {}", above.reason),
            });
        }
        row
    };
    plan.points.iter().enumerate().map(row).collect()
}

fn row(plan: &Plan, planned: &Planned) -> AttachRow {
    let mut mechanism = "none";
    let mut reason = planned.reason.clone();
    let mut lost = planned.lost.clone();
    let status = match (planned.status, program_of(planned)) {
        (Status::Planned, Ok((_, by))) => {
            mechanism = by.name();
            RowStatus::Probed
        }
        (Status::Planned, Err(why)) => {
            why.clone_into(&mut reason);
            if does_without(plan, planned) {
                RowStatus::NotNeeded
            } else {
                lost = Some(planned.point.lost.to_owned());
                RowStatus::Lost
            }
        }
        (Status::NotNeeded, _) => RowStatus::NotNeeded,
        (Status::OtherLevel, _) => RowStatus::OtherLevel,
        (Status::Replaced, _) => RowStatus::Replaced,
        (Status::Lost, _) => RowStatus::Lost,
    };
    AttachRow {
        symbol: planned.label(),
        side: match planned.side {
            Side::Enter => "entry",
            Side::Return => "return",
        },
        level: planned.point.level,
        mechanism: mechanism.to_owned(),
        status,
        reason,
        at_level_2: None,
        instead: planned.used_instead.as_ref().map(instead),
        lost,
    }
}

/// Whether the point loses nothing where this side of it has no program.
fn does_without(plan: &Plan, planned: &Planned) -> bool {
    matches!(planned.point.role, Role::Gone(_))
        || plan.of(planned.point.name).any(|other| {
            other.side != planned.side
                && other.status == Status::Planned
                && program_of(other).is_ok()
        })
}

/// Points that were planned and that no program is for.
pub fn without_program(plan: &Plan) -> Vec<Loss> {
    let planned = plan
        .attached()
        .filter(|planned| !does_without(plan, planned));
    planned
        .filter_map(|planned| {
            Some(Loss {
                names: vec![planned.point.name.to_owned()],
                lost: planned.point.lost.to_owned(),
                reason: program_of(planned).err()?.to_owned(),
                used_instead: None,
            })
        })
        .collect()
}

fn instead(instead: &Instead) -> String {
    match instead {
        Instead::Entries(ids) => {
            let names = ids
                .iter()
                .filter_map(|id| ENTRY_POINTS.get(usize::from(*id)));
            names.map(|entry| entry.name).collect::<Vec<_>>().join(", ")
        }
        Instead::ContentionEnd => "the lock's entry, and the end of contention".into(),
        Instead::OwnerWord => {
            "the lock's entry, and its owner word at the task's next event".into()
        }
        Instead::OtherSide(Side::Enter) => "the function's entry".into(),
        Instead::OtherSide(Side::Return) => "the function's return".into(),
    }
}
