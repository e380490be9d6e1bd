//! Recordings: what was written is read back; damage costs the flushes that it touches, and nothing panics.

mod model_frames;

use std::io::Cursor;

use apscope_collector::frame::Frame;
use apscope_collector::recording::{MAX_FLUSH, ReadError, Reader, WriteError, Writer};
use model_frames::{frame, meta, run};
use proptest::prelude::*;
use prost::Message;

fn record(frames: &[Frame]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new()).unwrap();
    for frame in frames {
        writer.push(frame).unwrap();
    }
    let frames_written = writer.frames();
    let bytes = writer.finish().unwrap();
    assert_eq!(frames_written, frames.len() as u64);
    bytes
}

/// Frames up to the first error, and the error.
fn read(bytes: &[u8]) -> (Vec<Frame>, Option<ReadError>) {
    let mut frames = Vec::new();
    match Reader::new(Cursor::new(bytes)) {
        Err(error) => return (frames, Some(error)),
        Ok(reader) => {
            for frame in reader {
                match frame {
                    Ok(frame) => frames.push(frame),
                    Err(error) => return (frames, Some(error)),
                }
            }
        }
    }
    (frames, None)
}

/// As they come back: the first frame of each flush has the description.
fn without_meta(frames: &[Frame]) -> Vec<Frame> {
    let mut frames = frames.to_vec();
    for frame in &mut frames {
        frame.meta = None;
    }
    frames
}

/// The content of a zstd frame after the header, whatever it is.
fn with_flush(content: &[u8]) -> Vec<u8> {
    let mut bytes = Writer::new(Vec::new()).unwrap().finish().unwrap();
    bytes.extend(zstd::bulk::compress(content, 1).unwrap());
    bytes
}

#[test]
fn frames_come_back_and_every_flush_describes_the_run() {
    let frames = run(35);
    let (back, error) = read(&record(&frames));
    assert!(error.is_none(), "{error:?}");
    assert_eq!(without_meta(&back), without_meta(&frames));
    let described: Vec<_> = back.iter().filter_map(|f| f.meta.as_ref()).collect();
    // A flush each half second of 100 ms frames.
    assert_eq!(described.len(), 7);
    assert!(described.iter().all(|m| **m == meta()));
}

#[test]
fn an_ordinary_zstd_decompressor_reads_it() {
    let frames = run(35);
    let plain = zstd::stream::decode_all(record(&frames).as_slice()).unwrap();
    let mut rest = plain.as_slice();
    let mut count = 0;
    while !rest.is_empty() {
        Frame::decode_length_delimited(&mut rest).unwrap();
        count += 1;
    }
    assert_eq!(count, 35);
}

#[test]
fn recordings_one_after_the_other_are_one() {
    let frames = run(5);
    let mut bytes = record(&frames);
    bytes.extend(record(&frames));
    let (back, error) = read(&bytes);
    assert!(error.is_none(), "{error:?}");
    assert_eq!(back.len(), 10);
}

#[test]
fn a_version_before_is_read_too_and_one_after_is_refused() {
    let frames = run(5);
    let of_version = |version: u8| {
        let mut bytes = record(&frames);
        bytes[16] = version;
        bytes
    };
    // Frames that are not packed, as version 1 has them, and behind them a recording of this version.
    let mut old = of_version(1)[..20].to_vec();
    let content: Vec<u8> = frames
        .iter()
        .flat_map(Message::encode_length_delimited_to_vec)
        .collect();
    old.extend(zstd::bulk::compress(&content, 1).unwrap());
    old.extend(record(&frames));
    let (back, error) = read(&old);
    assert!(error.is_none(), "{error:?}");
    assert_eq!(back[..5], frames);
    assert_eq!(without_meta(&back[5..]), without_meta(&frames));
    let (_, error) = read(&of_version(3));
    assert!(matches!(error, Some(ReadError::Version { found: 3 })));
}

#[test]
fn from_any_place_the_same_frames_follow_again() {
    // Two runs and damage in the first; places in the middle of flushes and between them.
    let mut bytes = record(&run(12));
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    bytes.extend(record(&run(7)));
    let mut reader = Reader::new(Cursor::new(&bytes)).unwrap();
    let mut places = vec![reader.place()];
    let mut items: Vec<Option<Frame>> = Vec::new();
    while let Some(item) = reader.next() {
        items.push(item.ok());
        places.push(reader.place());
    }
    assert!(items.iter().any(Option::is_none), "it is damaged");
    assert!(items.len() > 12, "{}", items.len());
    for (number, place) in places.iter().enumerate().rev() {
        reader.go_to(place).unwrap();
        let again: Vec<_> = reader.by_ref().map(Result::ok).collect();
        assert_eq!(again, items[number..], "from {number}");
    }
    // A stream that is not what it was.
    let other = record(&run(1));
    let mut changed = Reader::new(Cursor::new(&other)).unwrap();
    let errors = places.iter().filter_map(|place| changed.go_to(place).err());
    let texts: Vec<String> = errors.map(|error| error.to_string()).collect();
    assert!(
        texts.iter().any(|text| text.contains("has changed")),
        "{texts:?}"
    );
}

#[test]
fn a_recording_without_frames_is_empty_but_whole() {
    let (frames, error) = read(&record(&[]));
    assert!(frames.is_empty() && error.is_none());
}

#[test]
fn what_is_no_recording_is_said_to_be_none() {
    for (bytes, says) in [
        (&b""[..], "empty"),
        (&record(&[])[..10], "ends inside its header"),
        (&b"{\"schema\": 1, \"locks\": []}"[..], "something else"),
        (&[0x28, 0xB5, 0x2F, 0xFD][..], "something else"),
    ] {
        let (frames, error) = read(bytes);
        let error = error.unwrap().to_string();
        assert!(frames.is_empty() && error.contains(says), "{error}");
    }
    let mut other = record(&[]);
    other[16] = 9;
    let error = read(&other).1.unwrap();
    assert!(matches!(error, ReadError::Version { found: 9 }), "{error}");
}

#[test]
fn a_file_that_ends_anywhere_gives_the_flushes_before() {
    let frames = run(23);
    let whole = record(&frames);
    let mut most = 0;
    for length in (0..whole.len()).step_by(3) {
        let (back, error) = read(&whole[..length]);
        assert_eq!(without_meta(&back), without_meta(&frames[..back.len()]));
        assert!(back.len() >= most, "more of the file gives fewer frames");
        most = back.len();
        match error {
            Some(ReadError::Damaged { offset, frames, .. }) => {
                assert!(offset <= length as u64);
                assert_eq!(frames, back.len() as u64);
            }
            Some(error) => assert!(length < 20, "{error}"),
            // The file ended between two flushes.
            None => assert!(length >= 20),
        }
    }
    assert_eq!(most, 20);
}

#[test]
fn limits_are_kept() {
    // A frame that claims to be longer than is allowed, and one longer than its flush.
    let mut content = Vec::new();
    prost::encode_length_delimiter(65 << 20, &mut content).unwrap();
    let error = read(&with_flush(&content)).1.unwrap().to_string();
    assert!(error.contains("at most"), "{error}");
    let error = read(&with_flush(&[200, 1, 0])).1.unwrap().to_string();
    assert!(error.contains("longer than the flush"), "{error}");
    // A flush that would fill the memory: 40 kB of zeros that unfold.
    let mut bytes = Writer::new(Vec::new()).unwrap().finish().unwrap();
    let zeros = std::io::Read::take(std::io::repeat(0), MAX_FLUSH as u64 + 1);
    zstd::stream::copy_encode(zeros, &mut bytes, 1).unwrap();
    assert!(bytes.len() < 1 << 20);
    let error = read(&bytes).1.unwrap().to_string();
    assert!(error.contains("larger than"), "{error}");
}

#[test]
fn a_flush_must_describe_the_run() {
    let mut described = frame(0, 9);
    let mut bare = frame(1, 9);
    bare.meta = None;
    let (frames, error) = read(&with_flush(&bare.encode_length_delimited_to_vec()));
    let error = error.unwrap().to_string();
    assert!(
        frames.is_empty() && error.contains("description"),
        "{error}"
    );
    let mut writer = Writer::new(Vec::new()).unwrap();
    described.meta = None;
    assert!(matches!(writer.push(&described), Err(WriteError::NoMeta)));
}

#[test]
fn the_last_frame_is_flushed_at_once() {
    let mut writer = Writer::new(Vec::new()).unwrap();
    writer.push(&frame(0, 9)).unwrap();
    let header = writer.bytes();
    writer.push(&frame(8, 9)).unwrap();
    assert!(writer.bytes() > header);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    #[test]
    fn senseless_bytes_after_the_header_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200), inside: bool) {
        if inside {
            read(&with_flush(&bytes));
        } else {
            let mut file = record(&[]);
            file.extend(&bytes);
            let (frames, error) = read(&file);
            prop_assert!(frames.is_empty());
            prop_assert_eq!(error.is_none(), bytes.is_empty());
        }
    }
}
