//! Damaged recordings: every frame that the damage does not touch is read, what was skipped is told, and nothing panics.

mod model_frames;

use std::io::Cursor;

use apscope_collector::frame::Frame;
use apscope_collector::model::Model;
use apscope_collector::recording::{ReadError, Reader, Writer};
use model_frames::run;

/// Frames of a flush of the constructed run: half a second of 100 ms.
const IN_A_FLUSH: usize = 5;

/// xorshift64: the same places in each run of the test.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

fn record(frames: &[Frame]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new()).unwrap();
    for frame in frames {
        writer.push(frame).unwrap();
    }
    writer.finish().unwrap()
}

/// All frames, all errors, and the bytes that were skipped.
fn read(bytes: &[u8]) -> (Vec<Frame>, Vec<ReadError>, u64) {
    let (mut frames, mut errors) = (Vec::new(), Vec::new());
    let mut reader = match Reader::new(Cursor::new(bytes)) {
        Ok(reader) => reader,
        Err(error) => return (frames, vec![error], 0),
    };
    for frame in &mut reader {
        match frame {
            Ok(frame) => frames.push(frame),
            Err(error) => errors.push(error),
        }
    }
    (frames, errors, reader.skipped())
}

/// What was read is what was written, in order, however much is missing.
fn assert_sound(back: &[Frame], frames: &[Frame], what: &str) {
    let mut before = None;
    for frame in back {
        assert!(before < Some(frame.number), "{what}: out of order");
        before = Some(frame.number);
        let mut expected = frames[frame.number as usize].clone();
        expected.meta = None;
        let mut found = frame.clone();
        found.meta = None;
        // Totals stand for what is missing.
        if found.base.is_none() {
            assert_eq!(found, expected, "{what}");
        }
    }
}

#[test]
fn a_damaged_header_costs_no_frame() {
    let frames = run(43);
    let whole = record(&frames);
    // A small version is another version, not damage.
    for at in (0..20).filter(|at| *at != 16) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        let (back, errors, skipped) = read(&bytes);
        assert_eq!(back.len(), frames.len(), "byte {at}");
        assert_sound(&back, &frames, &format!("byte {at}"));
        assert!(matches!(
            errors[..],
            [ReadError::Damaged {
                offset: 0,
                skipped: 20,
                frames: 0,
                ..
            }]
        ));
        assert_eq!(skipped, 20);
    }
}

#[test]
fn a_flipped_bit_costs_the_flush_that_it_is_in() {
    let frames = run(43);
    let whole = record(&frames);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..1000 {
        let mut bytes = whole.clone();
        let (at, bit) = (20 + random.below(bytes.len() - 20), random.below(8));
        bytes[at] ^= 1 << bit;
        let what = format!("bit {bit} of byte {at}");
        let (back, errors, skipped) = read(&bytes);
        assert_sound(&back, &frames, &what);
        let real = back.iter().filter(|f| f.base.is_none()).count();
        assert!(real + IN_A_FLUSH >= frames.len(), "{what}: {real} read");
        // A few bits of a zstd frame's header mean nothing, or only that four bytes are left over.
        assert!(!errors.is_empty() || real == frames.len(), "{what}");
        assert!(errors.is_empty() == (skipped == 0), "{what}");
        for error in errors {
            assert!(
                matches!(error, ReadError::Damaged { .. }),
                "{what}: {error}"
            );
        }
        // The model says what is missing.
        let mut model = Model::default();
        for frame in &back {
            model.apply(frame);
        }
        let last = back.last().map_or(0, |frame| frame.number as usize + 1);
        assert_eq!(model.loss.missing_frames as usize, last - real, "{what}");
        assert_eq!(model.loss.exact(), last == real, "{what}");
    }
}

#[test]
fn a_hole_costs_the_flushes_that_it_touches() {
    let frames = run(43);
    let whole = record(&frames);
    let mut random = Random(42);
    for _ in 0..300 {
        let mut bytes = whole.clone();
        let from = 20 + random.below(bytes.len() - 20);
        let length = random.below(300).min(bytes.len() - from);
        let what = format!("{length} bytes from {from}");
        if random.below(2) == 0 {
            bytes.drain(from..from + length);
        } else {
            for byte in &mut bytes[from..from + length] {
                *byte = random.below(256) as u8;
            }
        }
        let (back, errors, skipped) = read(&bytes);
        assert_sound(&back, &frames, &what);
        assert!(skipped <= bytes.len() as u64, "{what}");
        assert!(back.len() == frames.len() || length > 0, "{what}");
        assert!(
            errors
                .iter()
                .all(|e| matches!(e, ReadError::Damaged { .. })),
            "{what}: {errors:?}"
        );
    }
}

#[test]
fn a_file_that_ends_anywhere_gives_all_whole_flushes() {
    let frames = run(43);
    let whole = record(&frames);
    let mut random = Random(7);
    for _ in 0..300 {
        let length = random.below(whole.len());
        let what = format!("{length} bytes");
        let (back, errors, _) = read(&whole[..length]);
        assert_sound(&back, &frames, &what);
        assert_eq!(back.len() % IN_A_FLUSH, 0, "{what}");
        assert!(errors.len() <= 1, "{what}: {errors:?}");
    }
}

#[test]
fn a_hostile_file_takes_neither_memory_nor_time_without_bounds() {
    let header = Writer::new(Vec::new()).unwrap().finish().unwrap();
    // Beginnings of flushes, each of which says that it is long.
    let mut bytes = header.clone();
    for _ in 0..50_000 {
        bytes.extend([0x28, 0xB5, 0x2F, 0xFD, 0x00, 0x58, 0xfc, 0xff, 0x01]);
    }
    let (frames, errors, skipped) = read(&bytes);
    assert!(frames.is_empty());
    assert_eq!(errors.len(), 1);
    assert_eq!(skipped as usize, bytes.len() - header.len());
    // Long chains of empty blocks behind each of many beginnings.
    let mut bytes = header;
    for _ in 0..3_000 {
        bytes.extend([0x28, 0xB5, 0x2F, 0xFD, 0x00, 0x58]);
    }
    bytes.extend(std::iter::repeat_n(0, 300_000));
    let (frames, errors, _) = read(&bytes);
    assert!(frames.is_empty() && errors.len() == 1);
}
