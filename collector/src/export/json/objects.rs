//! The member of the document that says what calls acted on: `objects`.

use serde::Serialize;

use crate::frame;
use crate::model::{Model, query};

/// An mdev or a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Object {
    /// `mdev` or `guest`.
    pub kind: String,
    /// UUID of the mdev, name of the guest; its address where it was gone before it could be named.
    pub name: String,
    /// Of an mdev: what is assigned, when that was read last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub assigned: Option<Matrix>,
    /// Of an mdev that a guest has: what of it the guest was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_guest: Option<Matrix>,
    /// Calls whose span arrived, by entry point, in the order of names.md.
    pub calls_of_spans: Vec<CallsOfSpans>,
}

/// Numbers, ascending.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Matrix {
    /// Adapters.
    pub adapters: Vec<u32>,
    /// Usage domains.
    pub domains: Vec<u32>,
    /// Control domains.
    pub control_domains: Vec<u32>,
}

impl Matrix {
    fn of(matrix: &frame::Matrix) -> Self {
        Self {
            adapters: matrix.adapters.clone(),
            domains: matrix.domains.clone(),
            control_domains: matrix.control_domains.clone(),
        }
    }
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
                assigned: row.object.assigned.as_ref().map(Matrix::of),
                in_guest: row.object.in_guest.as_ref().map(Matrix::of),
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
