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

/// What follows a header of a later version is left out and told, up to the next that is known.
#[test]
fn a_later_version_in_the_middle_is_skipped() {
    let first = record(&run(2));
    let mut later = record(&run(3));
    later[16] = 200;
    let all = [first.clone(), later.clone(), first.clone()].concat();
    let (frames, errors, skipped) = read(&all);
    assert_eq!(frames.len(), 2 * read(&first).0.len());
    assert_eq!(skipped, later.len() as u64);
    let [ReadError::Damaged { offset, why, .. }] = &errors[..] else {
        panic!("{errors:?}");
    };
    assert_eq!(*offset, first.len() as u64);
    assert!(why.contains("version 200 of the format"), "{why}");

    let (frames, errors, skipped) = read(&[first.clone(), later.clone()].concat());
    assert_eq!(frames.len(), read(&first).0.len());
    assert_eq!((errors.len(), skipped), (1, later.len() as u64));
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

#[test]
fn a_file_without_its_beginning_is_known_by_its_first_flush() {
    let frames = run(43);
    let whole = record(&frames);
    let (first, ..) = read(&whole[20..]);
    assert_sound(&first, &frames, "without the header");
    assert_eq!(first.len(), frames.len());
    let mut random = Random(5);
    for _ in 0..200 {
        let missing = 1 + random.below(whole.len() / 2);
        let what = format!("{missing} bytes are missing");
        // Cut off, or something else in their place.
        let other: Vec<u8> = (0..random.below(2) * missing)
            .map(|_| random.below(256) as u8)
            .collect();
        let bytes = [&other[..], &whole[missing..]].concat();
        let (back, errors, skipped) = read(&bytes);
        assert_sound(&back, &frames, &what);
        assert!(!back.is_empty(), "{what}: {errors:?}");
        let last = back.last().map(|frame| frame.number);
        assert_eq!(last, frames.last().map(|frame| frame.number), "{what}");
        // Each byte was either of a flush that was read, or told; the header as the first byte of nothing.
        assert!(
            matches!(
                errors[..],
                [ReadError::Damaged {
                    offset: 0,
                    frames: 0,
                    ..
                }]
            ),
            "{what}: {errors:?}"
        );
        if other.is_empty() && missing > 20 {
            assert!(missing + skipped as usize <= whole.len(), "{what}");
        }
        // What came before the first frame is missing, and that is known.
        let mut model = Model::default();
        for frame in &back {
            model.apply(frame);
        }
        let from_start = back[0].number == 0;
        assert_eq!(model.detail_from.is_none(), from_start, "{what}");
    }
}

#[test]
fn what_only_looks_like_a_flush_is_no_recording() {
    let zst = |content: &[u8]| zstd::stream::encode_all(content, 1).unwrap();
    let frames = run(3);
    // Frames as a recording has them, but of no run, or with something behind them.
    let message = |frame: &Frame| prost::Message::encode_length_delimited_to_vec(frame);
    let mut nowhere = frames[0].clone();
    nowhere.meta = nowhere.meta.map(|meta| apscope_collector::frame::Meta {
        source: "elsewhere".into(),
        ..meta
    });
    let more = [&message(&frames[0])[..], &[0xff, 0xff, 0xff]].concat();
    for content in [
        zst(b"not frames"),
        zst(&[]),
        zst(&message(&frames[1])),
        zst(&message(&nowhere)),
        zst(&more),
        vec![0; 100_000],
    ] {
        let (back, errors, _) = read(&content);
        assert!(back.is_empty());
        assert!(
            matches!(errors[..], [ReadError::NotARecording { .. }]),
            "{errors:?}"
        );
    }
    // And this is one.
    let (back, errors, skipped) = read(&zst(&message(&frames[0])));
    assert_eq!((back.len(), errors.len(), skipped), (1, 1, 0));
}

#[test]
fn details_are_whole_behind_the_hole_and_not_behind_the_next_totals() {
    // The totals are repeated each sixteenth flush.
    let frames = run(16 * 2 * IN_A_FLUSH as u64 + 1);
    let whole = record(&frames);
    let mut bytes = whole.clone();
    let at = whole.len() / 8;
    bytes[at] ^= 0x10;
    let (back, errors, _) = read(&bytes);
    assert_eq!(errors.len(), 1);
    let totals = back.iter().position(|frame| frame.base.is_some());
    let totals = totals.expect("totals behind the hole");
    let behind = back
        .iter()
        .zip(back.iter().skip(1))
        .find(|(a, b)| b.number > a.number + 1)
        .map(|(_, behind)| behind.clone())
        .expect("a hole");
    assert!(behind.number < back[totals].number);
    let mut model = Model::default();
    for frame in &back {
        model.apply(frame);
    }
    let from = model.detail_from.expect("something is missing");
    assert_eq!((from.number, from.at_ns), (behind.number, behind.at_ns));
    assert!(model.loss.exact());
}

/// Zeros without an end, which no reader should go on with for ever.
struct Endless {
    read: u64,
}

impl std::io::Read for Endless {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        bytes.fill(0);
        self.read += bytes.len() as u64;
        // Ends in a test that fails, too.
        assert!(self.read < 24 << 20, "{} bytes were read", self.read);
        Ok(bytes.len())
    }
}

#[test]
fn the_first_flush_is_looked_for_near_the_beginning_alone() {
    let endless = std::io::BufReader::with_capacity(256 << 10, Endless { read: 0 });
    assert!(matches!(
        Reader::new(endless).err(),
        Some(ReadError::NotARecording { .. })
    ));
}
