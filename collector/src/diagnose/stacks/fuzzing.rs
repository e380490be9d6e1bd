//! Texts of any content: no panic, bounded memory, and a frame that a model takes whole.

use super::frame::frame;
use super::text::{MAX_FRAMES, MAX_NAME, MAX_TASKS, parse};
#[cfg(feature = "fuzzing")]
use crate::attach::generation::Generation;
use crate::model::Model;

/// The input as a text, of the generation that its first byte says.
#[cfg(feature = "fuzzing")]
pub fn stacks(data: &[u8]) {
    let [which, text @ ..] = data else { return };
    let generation = Generation::ALL.get(usize::from(*which));
    is_sane(
        &String::from_utf8_lossy(text),
        generation.map(|generation| generation.name()),
    );
}

/// Reads a text and checks what comes of it.
pub(super) fn is_sane(text: &str, generation: Option<&str>) {
    let parsed = parse(text);
    assert!(parsed.tasks.len() <= MAX_TASKS.min(text.len()));
    for task in &parsed.tasks {
        assert!(task.tid != 0 && task.frames.len() <= MAX_FRAMES && task.comm.len() <= MAX_NAME);
    }
    let (frame, _) = frame(&parsed, generation);
    let mut model = Model::default();
    model.apply(&frame);
    assert_eq!(model.ignored, 0, "{frame:?}");
    for task in frame.live.iter().flat_map(|live| &live.tasks) {
        assert!(task.waits.iter().all(|wait| wait.since_ns <= frame.at_ns));
        assert!(task.holds.iter().all(|held| held.since_ns <= frame.at_ns));
    }
}
