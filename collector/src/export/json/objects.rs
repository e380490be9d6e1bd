//! The member of the document that says what calls acted on: `objects`.

use serde::Serialize;

use crate::model::{Model, query};

/// An mdev or a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Object {
    /// `mdev` or `guest`.
    pub kind: String,
    /// UUID of the mdev, name of the guest; its address where it was gone before it could be named.
    pub name: String,
    /// Calls whose span arrived, by entry point, in the order of names.md.
    pub calls_of_spans: Vec<CallsOfSpans>,
}

/// Calls of one entry point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CallsOfSpans {
    /// Entry point.
    pub entry_point: String,
    /// Calls that have returned, and whose span arrived.
    pub spans: u64,
    /// Of these, those that returned an errno.
    pub failed: u64,
}

impl Object {
    pub(super) fn all(model: &Model) -> Vec<Self> {
        query::object_rows(model)
            .into_iter()
            .map(|row| Self {
                kind: row.object.kind.clone(),
                name: row.object.name.clone(),
                calls_of_spans: row
                    .calls
                    .into_iter()
                    .map(|(entry, calls)| CallsOfSpans {
                        entry_point: query::entry_name(entry).to_owned(),
                        spans: calls.spans,
                        failed: calls.failed,
                    })
                    .collect(),
            })
            .collect()
    }
}
