//! Files that do not begin with the run: counts and histograms are those of the whole run all the same.

mod model_frames;

use std::io::Cursor;

use apscope_collector::diagnose::Case;
use apscope_collector::export::json::{Document, Origin};
use apscope_collector::frame::Frame;
use apscope_collector::recording::{Flush, Packer, Reader, Ring, header};
use model_frames::run;
use serde_json::Value;

/// A file of these flushes.
fn file(flushes: &[Flush]) -> Vec<u8> {
    let mut bytes = header().to_vec();
    for flush in flushes {
        bytes.extend(&flush.bytes);
    }
    bytes
}

/// The file of what is in a ring.
fn taken(ring: &mut Ring, packer: &mut Packer) -> Vec<u8> {
    let taken = ring.take(packer).unwrap();
    let all: Vec<Flush> = taken.before.into_iter().chain(taken.flushes).collect();
    file(&all)
}

fn read(bytes: &[u8]) -> Vec<Frame> {
    let reader = Reader::new(Cursor::new(bytes)).unwrap();
    reader.collect::<Result<_, _>>().unwrap()
}

fn export(frames: &[Frame]) -> Value {
    let mut case = Case::default();
    for frame in frames {
        case.apply(frame);
    }
    let mut json = Vec::new();
    let document = Document::of(&case.model, Origin::Recording, &case.report());
    document.write(&mut json).unwrap();
    serde_json::from_slice(&json).unwrap()
}

/// Everything that is counted.
fn assert_equal(found: &Value, whole: &Value) {
    for member in [
        "locks",
        "entry_points",
        "order",
        "events",
        "exact",
        "missed",
        "live",
    ] {
        assert_eq!(found[member], whole[member], "{member}");
    }
    assert_eq!(found["overhead"]["programs"], whole["overhead"]["programs"]);
    assert_eq!(found["interval"]["start"], whole["interval"]["start"]);
    assert_eq!(found["interval"]["end"], whole["interval"]["end"]);
}

#[test]
fn a_ring_has_the_totals_of_what_it_has_forgotten() {
    let frames = run(100);
    let whole = export(&frames);
    let mut packer = Packer::new().unwrap();
    let mut ring = Ring::new(2_000_000_000, u64::MAX);
    for frame in &frames {
        if let Some(flush) = packer.push(frame).unwrap() {
            ring.push(flush);
        }
    }
    let covered = ring.covers_ns();
    assert!(
        (2_000_000_000..3_000_000_000).contains(&covered),
        "{covered}"
    );
    assert!(!ring.is_short());
    let back = read(&taken(&mut ring, &mut packer));
    assert!(back.len() < 30);
    let found = export(&back);
    assert_equal(&found, &whole);
    // It says from when on there is detail.
    assert!(found["interval"]["detail_start"].is_string());
    assert!(whole["interval"]["detail_start"].is_null());
    assert!(found["interval"]["missing_frames"].is_null());
}

#[test]
fn a_ring_that_was_taken_goes_on_from_there() {
    let frames = run(60);
    let whole = export(&frames);
    let mut packer = Packer::new().unwrap();
    let mut ring = Ring::new(1_000_000_000, u64::MAX);
    let mut files = Vec::new();
    for frame in &frames {
        if let Some(flush) = packer.push(frame).unwrap() {
            ring.push(flush);
        }
        if frame.number == 29 {
            files.push(taken(&mut ring, &mut packer));
        }
    }
    files.push(taken(&mut ring, &mut packer));
    assert_equal(&export(&read(&files[0])), &export(&frames[..30]));
    assert_equal(&export(&read(&files[1])), &whole);
    // One behind the other they are one recording, with a hole.
    assert_equal(&export(&read(&files.concat())), &whole);
}

#[test]
fn a_ring_without_room_says_so() {
    let mut packer = Packer::new().unwrap();
    let mut ring = Ring::new(u64::MAX, 4_000);
    for frame in run(60) {
        if let Some(flush) = packer.push(&frame).unwrap() {
            ring.push(flush);
        }
    }
    assert!(ring.is_short() && ring.bytes() <= 4_000 && ring.covers_ns() > 0);
}

#[test]
fn each_file_of_several_is_exact_and_together_they_are_one() {
    let frames = run(60);
    let whole = export(&frames);
    let mut packer = Packer::new().unwrap();
    let mut files: Vec<Vec<Flush>> = vec![Vec::new()];
    for frame in &frames {
        if let Some(flush) = packer.push(frame).unwrap() {
            files.last_mut().unwrap().push(flush);
            if frame.number % 20 == 19 && frame.end.is_none() {
                files.push(vec![packer.totals().unwrap().unwrap()]);
            }
        }
    }
    assert_eq!(files.len(), 3);
    for (number, flushes) in files.iter().enumerate() {
        let back = read(&file(flushes));
        let until = 20 * (number + 1);
        assert_equal(&export(&back), &export(&frames[..until]));
    }
    let all: Vec<u8> = files.iter().flat_map(|flushes| file(flushes)).collect();
    let back = read(&all);
    assert_eq!(
        back.len(),
        frames.len(),
        "totals of what was read are left out"
    );
    assert_equal(&export(&back), &whole);
    assert!(export(&back)["interval"]["detail_start"].is_null());
}

#[test]
fn totals_are_repeated_and_make_counts_right_behind_a_hole() {
    let frames = run(3000);
    let whole = export(&frames);
    let mut packer = Packer::new().unwrap();
    let flushes: Vec<Flush> = frames
        .iter()
        .filter_map(|frame| packer.push(frame).unwrap())
        .collect();
    let mut holed = flushes.clone();
    holed.remove(2);
    let found = export(&read(&file(&holed)));
    assert_equal(&found, &whole);
    assert!(found["interval"]["detail_start"].is_string());
    // Without totals behind it, the hole is told.
    let mut holed = flushes;
    holed.truncate(8);
    holed.remove(2);
    let found = export(&read(&file(&holed)));
    assert_eq!(found["interval"]["missing_frames"], 5);
    assert_eq!(found["exact"], false);
    assert!(
        found["verdict"]
            .as_str()
            .unwrap()
            .starts_with("CANNOT TELL")
            || !found["findings"].as_array().unwrap().is_empty()
    );
}
