//! Size and speed of a recording, for `cargo xtask bench recording`: one line of JSON.
//!
//! The file is read three times over, once for its frames alone and once into a model, on one thread; the fastest of each
//! is taken, so that what other processes do meanwhile counts little.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use apscope_collector::model::Model;
use apscope_collector::recording::Reader;

/// Times that each is measured.
const ROUNDS: usize = 3;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = PathBuf::from(std::env::args().nth(1).ok_or("a recording")?);
    let bytes = std::fs::metadata(&file)?.len();
    let (mut read, mut folded) = (Duration::MAX, Duration::MAX);
    let (mut frames, mut spans) = (0_u64, 0_u64);
    for _ in 0..ROUNDS {
        (frames, spans) = (0, 0);
        let start = Instant::now();
        for frame in Reader::open(&file)? {
            let frame = frame?;
            frames += 1;
            spans += frame.spans.as_ref().map_or(0, |spans| spans.len() as u64);
        }
        read = read.min(start.elapsed());
        let mut model = Model::default();
        let start = Instant::now();
        for frame in Reader::open(&file)? {
            model.apply(&frame?);
        }
        folded = folded.min(start.elapsed());
        if model.span_count != spans {
            return Err("the model has another number of spans than the file".into());
        }
    }
    println!(
        "{{\"bytes\":{bytes},\"frames\":{frames},\"spans\":{spans},\"read_ns\":{},\"folded_ns\":{}}}",
        read.as_nanos(),
        folded.as_nanos()
    );
    Ok(())
}
