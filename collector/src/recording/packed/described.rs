//! The tables of the description that come again in every flush: locks, and what calls act on.

use std::collections::BTreeMap;

use super::{MAX_ROWS, Way};
use crate::frame::{Instance, Matrix, Object};

/// Bytes of a name that is packed at most, so that none becomes many in a table.
const MAX_NAME: usize = 256;
/// Stands for the number of the guest in a name.
const NUMBER: char = '#';

/// The last row of a series, or of a kind of objects.
#[derive(Default)]
struct Last {
    address: u64,
    /// From the row before to this one.
    stride: u64,
    guest: u32,
    /// Its name, with [`NUMBER`] where the number of its guest was.
    name: String,
}

/// Locks whose names can be had back.
pub(super) fn can_pack_instances(all: &[Instance]) -> bool {
    all.len() <= MAX_ROWS && all.iter().all(|row| is_name(&row.name))
}

/// Objects whose names can be had back.
pub(super) fn can_pack_objects(all: &[Object]) -> bool {
    all.len() <= MAX_ROWS
        && all
            .iter()
            .all(|row| is_name(&row.name) && is_name(&row.kind))
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= MAX_NAME && !name.contains(NUMBER)
}

/// Locks of a series have one name but for the number of the guest, follow each other, and stand equally far apart. False
/// if a name is too long.
pub(super) fn instances(all: &mut [Instance], way: Way) -> bool {
    let (mut id, mut series) = (u32::MAX, 0);
    let mut last: BTreeMap<u32, Last> = BTreeMap::new();
    all.iter_mut().all(|row| {
        id = way.u32(&mut row.id, id.wrapping_add(1));
        series = way.u32(&mut row.series, series);
        let last = last.entry(series).or_default();
        last.guest = way.u32(&mut row.guest, last.guest.wrapping_add(1));
        let likely = last.address.wrapping_add(last.stride);
        let address = way.u64(&mut row.address, likely);
        last.stride = address.wrapping_sub(last.address);
        last.address = address;
        name(&mut row.name, last.guest, &mut last.name, way)
    })
}

/// Objects are numbered as they come. False if a name is too long.
pub(super) fn objects(all: &mut [Object], way: Way) -> bool {
    let mut id = u32::MAX;
    let mut kind = String::new();
    let mut last: BTreeMap<String, Last> = BTreeMap::new();
    all.iter_mut().all(|row| {
        id = way.u32(&mut row.id, id.wrapping_add(1));
        if !same(&mut row.kind, &mut kind, way) {
            return false;
        }
        let last = last.entry(kind.clone()).or_default();
        last.address = way.u64(&mut row.address, last.address);
        for matrix in [&mut row.assigned, &mut row.in_guest].into_iter().flatten() {
            steps(matrix, way);
        }
        name(&mut row.name, row.guest, &mut last.name, way)
    })
}

/// Ascending numbers.
fn steps(matrix: &mut Matrix, way: Way) {
    let Matrix {
        adapters,
        domains,
        control_domains,
    } = matrix;
    for numbers in [adapters, domains, control_domains] {
        let mut before = u32::MAX;
        for number in numbers {
            before = way.u32(number, before.wrapping_add(1));
        }
    }
}

/// A name that is the last one but for the number of the guest is left out.
fn name(name: &mut String, guest: u32, last: &mut String, way: Way) -> bool {
    let number = guest.checked_sub(1).map(|number| number.to_string());
    let mut text = std::mem::take(name);
    if way == Way::There
        && let Some(number) = &number
        && let Some(at) = text.rfind(number.as_str())
    {
        text.replace_range(at..at + number.len(), "#");
    }
    let kept = same(&mut text, last, way);
    if way == Way::Back
        && let Some(number) = &number
    {
        text = text.replacen(NUMBER, number, 1);
    }
    *name = text;
    kept
}

/// A text that is the last one is left out. False if it is too long.
fn same(text: &mut String, last: &mut String, way: Way) -> bool {
    match way {
        Way::There if text == last => text.clear(),
        Way::Back if text.is_empty() => text.clone_from(last),
        _ => last.clone_from(text),
    }
    text.len() <= MAX_NAME
}
