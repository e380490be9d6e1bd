//! Where the run and its readers meet: the state of the run, and the last frames for those that follow it.
//!
//! Publishing never waits for a reader, and what is kept is bounded, whatever readers do. One that is too slow for the
//! frames that are kept, or comes late, gets the state as one whole frame ([`Model::since`]): its totals are exact. Who
//! looks at the state gets it as it is at that moment, and looks without the lock: publishing copies a state that somebody
//! still looks at, at most once for each frame.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use prost::Message as _;
use tokio::sync::watch;

use crate::diagnose::{Diagnosis, Report, Thresholds};
use crate::frame::Frame;
use crate::model::Model;
use crate::service::encoded::Encoded;

/// Frames kept, at most.
const MAX_FRAMES: usize = 64;
/// Bytes of encoded frames kept, at most, but for the newest.
const MAX_BYTES: usize = 16 << 20;

/// An encoded frame, shared by all it is sent to.
type Shared = Encoded<Frame>;

/// The run and its last frames.
pub struct Hub {
    state: Mutex<State>,
    /// Frames published so far.
    published: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    model: Arc<Model>,
    diagnosis: Diagnosis,
    frames: VecDeque<(Shared, usize)>,
    bytes: usize,
    /// Frames published; the last of `frames` is the one before this number.
    published: u64,
    at: Option<Instant>,
    ended: bool,
    /// The whole frame of this moment, once somebody has needed it.
    whole: Option<Shared>,
}

/// What a reader gets next.
#[derive(Debug, Clone)]
pub enum Next {
    /// The frame that follows.
    Frame(Shared),
    /// The state: it takes the place of all frames before.
    Whole {
        /// The state as a frame.
        frame: Shared,
        /// Frames that the reader would have got, and did not.
        left_out: u64,
    },
    /// Nothing yet.
    Nothing,
    /// There will be no more.
    End,
}

/// How far a reader is. The default is somebody who has just come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Place(Option<u64>);

impl Default for Hub {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            published: watch::Sender::new(0),
        }
    }
}

impl Hub {
    /// A panic of another thread leaves numbers behind that can be read.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Folds a frame in, and hands it to whoever follows. Never waits for them.
    pub fn publish(&self, frame: &Frame) {
        let shared = Shared::new(frame);
        let bytes = shared.encoded_len();
        let mut guard = self.state();
        let state = &mut *guard;
        Arc::make_mut(&mut state.model).apply(frame);
        state.diagnosis.observe(&state.model, frame);
        state.frames.push_back((shared, bytes));
        state.bytes += bytes;
        while state.frames.len() > MAX_FRAMES || state.bytes > MAX_BYTES && state.frames.len() > 1 {
            let gone = state.frames.pop_front();
            state.bytes -= gone.map_or(0, |(_, bytes)| bytes);
        }
        state.published += 1;
        state.at = Some(Instant::now());
        state.whole = None;
        state.ended |= frame.end.is_some();
        let published = state.published;
        drop(guard);
        self.published.send_replace(published);
    }

    /// There will be no more frames, also where the last one did not say so.
    pub fn end(&self) {
        self.state().ended = true;
        self.published.send_modify(|_| {});
    }

    /// Changes what [`Hub::next`] answers with, whenever a frame was published.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.published.subscribe()
    }

    /// What comes next for a reader at this place, which is moved.
    pub fn next(&self, place: &mut Place) -> Next {
        let state = self.state();
        let first = state.published - state.frames.len() as u64;
        match place.0 {
            Some(at) if at >= state.published => {
                return if state.ended {
                    Next::End
                } else {
                    Next::Nothing
                };
            }
            Some(at) if at >= first => {
                let (frame, _) = &state.frames[(at - first) as usize];
                place.0 = Some(at + 1);
                return Next::Frame(frame.clone());
            }
            _ if state.published == 0 => {
                return if state.ended {
                    Next::End
                } else {
                    Next::Nothing
                };
            }
            _ => {}
        }
        let published = state.published;
        let left_out = place.0.map_or(0, |at| published - at);
        place.0 = Some(published);
        if let Some(frame) = &state.whole {
            let frame = frame.clone();
            return Next::Whole { frame, left_out };
        }
        let model = Arc::clone(&state.model);
        drop(state);
        let frame = Shared::new(&model.since(&Model::default()));
        drop(model);
        let mut state = self.state();
        if state.published == published {
            state.whole = Some(frame.clone());
        }
        Next::Whole { frame, left_out }
    }

    /// The run at this moment, and what there is to say of it. Nobody waits for whoever looks at it.
    pub fn now(&self) -> (Arc<Model>, Report) {
        let state = self.state();
        (Arc::clone(&state.model), state.diagnosis.report())
    }

    /// When the last frame came.
    pub fn last(&self) -> Option<Instant> {
        self.state().at
    }

    /// Sets from when on something is a finding.
    pub fn set_thresholds(&self, thresholds: Thresholds) {
        self.state().diagnosis.set_thresholds(thresholds);
    }

    #[cfg(test)]
    fn kept(&self) -> (usize, usize) {
        let state = self.state();
        (state.frames.len(), state.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{LogLine, Meta, SeriesDelta};

    fn frame(number: u64, text: usize) -> Frame {
        Frame {
            number,
            at_ns: 1_000 + number,
            meta: (number == 0).then(|| Meta {
                start_ns: 1,
                ..Meta::default()
            }),
            series: vec![SeriesDelta {
                acquisitions: 1,
                ..SeriesDelta::default()
            }],
            log: vec![LogLine {
                text: "x".repeat(text),
                ..LogLine::default()
            }],
            ..Frame::default()
        }
    }

    #[test]
    fn a_late_reader_gets_the_state_and_then_what_follows() {
        let hub = Hub::default();
        let mut place = Place::default();
        assert!(matches!(hub.next(&mut place), Next::Nothing));
        for number in 0..10 {
            hub.publish(&frame(number, 1));
        }
        assert!(matches!(
            hub.next(&mut place),
            Next::Whole { left_out: 0, .. }
        ));
        assert!(matches!(hub.next(&mut place), Next::Nothing));
        hub.publish(&frame(10, 1));
        assert!(matches!(hub.next(&mut place), Next::Frame(_)));
        hub.end();
        assert!(matches!(hub.next(&mut place), Next::End));
    }

    #[test]
    fn a_slow_reader_is_told_how_many_frames_it_did_not_get() {
        let hub = Hub::default();
        hub.publish(&frame(0, 1));
        let mut place = Place::default();
        hub.next(&mut place);
        let missed = MAX_FRAMES as u64 + 5;
        for number in 1..=missed {
            hub.publish(&frame(number, 1));
        }
        let Next::Whole { left_out, .. } = hub.next(&mut place) else {
            panic!("it was not resynchronised");
        };
        assert_eq!(left_out, missed);
        assert!(matches!(hub.next(&mut place), Next::Nothing));
    }

    #[test]
    fn who_looks_holds_nobody_up_and_sees_one_moment() {
        let hub = Hub::default();
        hub.publish(&frame(0, 1));
        let (model, _) = hub.now();
        for number in 1..10 {
            hub.publish(&frame(number, 1));
        }
        assert_eq!(model.last.number, 0);
        assert_eq!(model.series[&0].acquisitions, 1);
        let (now, _) = hub.now();
        assert_eq!((now.last.number, now.series[&0].acquisitions), (9, 10));
        let mut place = Place::default();
        let Next::Whole { frame, .. } = hub.next(&mut place) else {
            panic!("somebody who has just come gets the state");
        };
        hub.publish(&self::frame(10, 1));
        assert!(matches!(hub.next(&mut place), Next::Frame(_)));
        assert_eq!(frame.encoded_len(), {
            let whole = now.since(&Model::default());
            whole.encoded_len()
        });
    }

    #[test]
    fn what_is_kept_is_bounded_by_bytes_too() {
        let hub = Hub::default();
        for number in 0..40 {
            hub.publish(&frame(number, MAX_BYTES / 10));
        }
        let (frames, bytes) = hub.kept();
        assert!(frames < 10 && bytes <= MAX_BYTES, "{frames} {bytes}");
        hub.publish(&frame(40, 2 * MAX_BYTES));
        assert_eq!(hub.kept().0, 1);
    }
}
