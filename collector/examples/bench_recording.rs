//! Size and speed of a recording, for `cargo xtask bench recording`: one line of JSON.
//!
//! The file is read ten times over, once for its frames alone and once into a model, on one thread. What counts is the
//! CPU time of that thread, of the fastest of each, so that what other processes do meanwhile counts little.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::time::Duration;

use apscope_collector::model::Model;
use apscope_collector::recording::Reader;
use nix::time::{ClockId, clock_gettime};

/// Times that each is measured.
const ROUNDS: usize = 10;

/// CPU time of this thread so far.
fn cpu_time() -> nix::Result<Duration> {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = PathBuf::from(std::env::args().nth(1).ok_or("a recording")?);
    let bytes = std::fs::metadata(&file)?.len();
    let (mut read, mut folded) = (Duration::MAX, Duration::MAX);
    let (mut frames, mut spans) = (0_u64, 0_u64);
    for _ in 0..ROUNDS {
        (frames, spans) = (0, 0);
        let start = cpu_time()?;
        for frame in Reader::open(&file)? {
            let frame = frame?;
            frames += 1;
            spans += frame.spans.as_ref().map_or(0, |spans| spans.len() as u64);
        }
        read = read.min(cpu_time()?.saturating_sub(start));
        let mut model = Model::default();
        let start = cpu_time()?;
        for frame in Reader::open(&file)? {
            model.apply(&frame?);
        }
        folded = folded.min(cpu_time()?.saturating_sub(start));
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
