//! What the fuzz target calls.

use std::io::Cursor;

use zstd::bulk::Compressor;

use super::{ReadError, Reader, Totals, header};
use crate::diagnose::Case;

/// Reads these bytes as a file, behind a header, and as the content of a flush.
///
/// # Panics
///
/// Something is broken: the account of skipped bytes, or the order of errors.
pub fn recording(data: &[u8]) {
    read(data);
    let mut file = header().to_vec();
    file.extend_from_slice(data);
    read(&file);
    let packed = Compressor::new(1).and_then(|mut compressor| {
        compressor.include_checksum(true)?;
        compressor.compress(data)
    });
    if let Ok(packed) = packed {
        let mut file = header().to_vec();
        file.extend_from_slice(&packed);
        file.extend_from_slice(&packed);
        read(&file);
    }
}

fn read(file: &[u8]) {
    let Ok(mut reader) = Reader::new(Cursor::new(file)) else {
        return;
    };
    let mut case = Case::default();
    let mut totals = Totals::default();
    let mut skipped = 0;
    for frame in &mut reader {
        match frame {
            Ok(frame) => {
                case.apply(&frame);
                totals.fold(&frame);
            }
            Err(ReadError::Damaged {
                offset, skipped: n, ..
            }) => {
                assert!(offset + n <= file.len() as u64);
                skipped += n;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(reader.skipped(), skipped);
    assert!(skipped <= file.len() as u64);
    let _ = totals.frame();
    let _ = case.report();
}
