//! Frames as recordings have them: what repeats itself, or follows from what stands before it, in fewer bytes.
//!
//! [`pack`] moves parts of a frame into its [`Packed`] and writes numbers there as differences to what is likely: the next
//! id, the lock's address as far from the one before as that was, the time of the call that a hold began in. [`unpack`] puts
//! everything back, exactly. A part that is not as the collector makes it stays where it is.
//!
//! Nothing is remembered from frame to frame, so that a flush can be read without any other.

mod counts;
mod described;
mod live;
mod spans;

use crate::frame::{Frame, Packed};

/// Rows of a table that are packed at most; more stay as they are.
const MAX_ROWS: usize = 1 << 18;

/// The frame with its parts packed.
pub(super) fn pack(frame: &Frame) -> Frame {
    let mut frame = frame.clone();
    let mut packed = Packed::default();
    if let Some(meta) = &mut frame.meta {
        if described::can_pack_instances(&meta.instances) {
            packed.instances = std::mem::take(&mut meta.instances);
            described::instances(&mut packed.instances, Way::There);
        }
        if described::can_pack_objects(&meta.objects) {
            packed.objects = std::mem::take(&mut meta.objects);
            described::objects(&mut packed.objects, Way::There);
        }
    }
    if let Some(mut all) = frame.live.take() {
        live::live(&mut all, Way::There);
        packed.live = Some(all);
    }
    packed.spans = frame.spans.take_if(|all| spans::pack(all, frame.at_ns));
    let series = match &mut frame.base {
        Some(base) => &mut base.series,
        None => &mut frame.series,
    };
    packed.by_instance = counts::pack(series, |of| &mut of.by_instance);
    packed.by_entry = counts::pack(series, |of| &mut of.by_entry);
    frame.packed = (packed != Packed::default()).then_some(packed);
    frame
}

/// Puts everything back in its place.
///
/// # Errors
///
/// What makes no sense.
pub(super) fn unpack(frame: &mut Frame) -> Result<(), &'static str> {
    let Some(packed) = frame.packed.take() else {
        return Ok(());
    };
    let Packed {
        mut instances,
        mut objects,
        live,
        spans,
        by_instance,
        by_entry,
    } = packed;
    if instances.len().max(objects.len()) > MAX_ROWS {
        return Err("more locks or objects than a recording has");
    }
    if let Some(meta) = &mut frame.meta {
        if !instances.is_empty() {
            if !described::instances(&mut instances, Way::Back) {
                return Err("a lock with too long a name");
            }
            meta.instances = instances;
        }
        if !objects.is_empty() {
            if !described::objects(&mut objects, Way::Back) {
                return Err("an object with too long a name");
            }
            meta.objects = objects;
        }
    }
    if let Some(mut all) = live {
        live::live(&mut all, Way::Back);
        frame.live = Some(all);
    }
    if let Some(mut all) = spans {
        spans::unpack(&mut all, frame.at_ns).ok_or("columns of spans that do not fit together")?;
        frame.spans = Some(all);
    }
    let series = match &mut frame.base {
        Some(base) => &mut base.series,
        None => &mut frame.series,
    };
    let why = "counts that do not fit together";
    if let Some(counts) = by_instance {
        counts::unpack(&counts, series, |of| &mut of.by_instance).ok_or(why)?;
    }
    if let Some(counts) = by_entry {
        counts::unpack(&counts, series, |of| &mut of.by_entry).ok_or(why)?;
    }
    Ok(())
}

/// From values to differences, or back. One walk through a message does either, since it goes on with the value, which each
/// step gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    There,
    Back,
}

impl Way {
    /// A value that is likely to be near this.
    fn u64(self, value: &mut u64, likely: u64) -> u64 {
        match self {
            Self::There => {
                let is = *value;
                *value = zigzag(is.wrapping_sub(likely) as i64);
                is
            }
            Self::Back => {
                *value = likely.wrapping_add(unzigzag(*value) as u64);
                *value
            }
        }
    }

    /// A value that is likely to be exactly this: then 0, and this where the value is 0.
    fn same<T: Copy + Default + PartialEq>(self, value: &mut T, likely: T) -> T {
        let is = *value;
        if is == likely {
            *value = T::default();
        } else if is == T::default() {
            *value = likely;
        }
        match self {
            Self::There => is,
            Self::Back => *value,
        }
    }

    /// The difference of 32 bits.
    fn u32(self, value: &mut u32, likely: u32) -> u32 {
        match self {
            Self::There => {
                let is = *value;
                let step = is.wrapping_sub(likely).cast_signed();
                *value = (step << 1 ^ step >> 31).cast_unsigned();
                is
            }
            Self::Back => {
                let step = *value >> 1 ^ (*value & 1).wrapping_neg();
                *value = likely.wrapping_add(step);
                *value
            }
        }
    }
}

/// Small differences, of either sign, as small numbers.
const fn zigzag(step: i64) -> u64 {
    (step << 1 ^ step >> 63) as u64
}

const fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
