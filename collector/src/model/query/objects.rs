//! What calls act on: mdevs and guests.

use crate::frame::{self, ActedOn};
use crate::model::{CallsOn, Model};

/// Names of what a call acts on; `None` where it acts on none, or on one that is not known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// UUID of the mdev.
    pub mdev: Option<String>,
    /// Name of the guest.
    pub guest: Option<String>,
}

impl Names {
    /// Of these ids.
    #[must_use]
    pub fn of(model: &Model, on: ActedOn) -> Self {
        let name = |id: Option<u32>| Some(model.objects.get(&id?)?.name.clone());
        Self {
            mdev: name(on.mdev),
            guest: name(on.guest),
        }
    }

    /// The guest; where there is none, the first part of the mdev's UUID. Empty where there is neither.
    #[must_use]
    pub fn short(&self) -> &str {
        let uuid = self.mdev.as_deref().unwrap_or_default();
        let first = uuid.split_once('-').filter(|_| uuid.len() == UUID_LENGTH);
        self.guest
            .as_deref()
            .unwrap_or_else(|| first.map_or(uuid, |(first, _)| first))
    }
}

/// Characters of a UUID.
const UUID_LENGTH: usize = 36;

/// An mdev or a guest, and the calls on it as far as their spans arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectRow<'a> {
    /// What it is.
    pub object: &'a frame::Object,
    /// Calls by entry point.
    pub calls: Vec<(u8, CallsOn)>,
}

/// All mdevs and guests of the run, in the order in which they were seen.
#[must_use]
pub fn object_rows(model: &Model) -> Vec<ObjectRow<'_>> {
    let objects = model.objects.values();
    objects
        .map(|object| {
            let calls = model.calls_on.get(&object.id);
            let calls = calls.into_iter().flatten();
            ObjectRow {
                object,
                calls: calls.map(|(entry, calls)| (*entry, *calls)).collect(),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_name_is_the_guest_or_the_beginning_of_the_uuid() {
        let names = |mdev: Option<&str>, guest: Option<&str>| Names {
            mdev: mdev.map(str::to_owned),
            guest: guest.map(str::to_owned),
        };
        let uuid = "62177883-f1bb-47f0-914d-32a22e3a8804";
        assert_eq!(names(Some(uuid), Some("payroll")).short(), "payroll");
        assert_eq!(names(Some(uuid), None).short(), "62177883");
        assert_eq!(names(Some("mdev-0"), None).short(), "mdev-0");
        assert_eq!(names(None, None).short(), "");
    }
}
