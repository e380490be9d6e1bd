//! A collector elsewhere as a source: the frames that `apscope serve` sends, as if they were read here.
//!
//! It knows the totals of what it has handed over. When it has connected again, or was too slow, the collector sends its
//! state as one whole frame; what is handed over then is the one frame that leads from the one to the other
//! ([`Model::since`]), so whoever takes frames here sees one run whose statistics are right.

mod connect;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tonic::Streaming;

use super::SourceError;
use super::run::Command;
use crate::frame::{End, Frame, LogLine};
use crate::model::Model;
use crate::options::Endpoint;
use crate::service::WatchResponse;

pub(super) use connect::connect;

/// Frames that wait to be taken.
pub(super) const FRAMES: usize = 8;
/// Time between two attempts to connect again: the first, and the longest.
const AGAIN: Duration = Duration::from_millis(250);
const AGAIN_AT_MOST: Duration = Duration::from_secs(4);

/// Whether a collector elsewhere can be heard.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Link {
    /// Frames come.
    #[default]
    Up,
    /// They do not, and why; it is tried again.
    Down(String),
}

/// How a run ends for somebody who was told to stop while the link was down ([`End::how`]).
pub const END_LINK_DOWN: &str = "link down";

/// Waits until the link to a collector elsewhere is another than it was; without one, forever.
pub async fn link_changed(link: &mut Option<watch::Receiver<Link>>) -> Link {
    if let Some(receiver) = link
        && receiver.changed().await.is_ok()
    {
        return receiver.borrow_and_update().clone();
    }
    std::future::pending().await
}

/// A collector elsewhere.
pub(super) struct Remote {
    endpoint: Endpoint,
    /// What was handed over, folded.
    known: Model,
    link: watch::Sender<Link>,
    /// It was down since the last frame.
    was_down: bool,
}

/// How listening to a stream ends.
enum Over {
    /// The run has ended, or nobody wants frames any more.
    Run,
    /// The link is down.
    Link(String),
}

impl Remote {
    pub(super) fn new(endpoint: Endpoint, link: watch::Sender<Link>) -> Self {
        Self {
            endpoint,
            known: Model::default(),
            link,
            was_down: false,
        }
    }

    /// Hands over frames until the run ends, until told to stop, or until nobody takes them.
    pub(super) async fn run(
        mut self,
        first: Streaming<WatchResponse>,
        mut commands: mpsc::UnboundedReceiver<Command>,
        frames: &mpsc::Sender<Arc<Frame>>,
    ) {
        let mut stream = first;
        loop {
            let reason = match self.listen(&mut stream, &mut commands, frames).await {
                Over::Run => return,
                Over::Link(reason) => reason,
            };
            self.was_down = true;
            self.down(reason);
            match self.connect_again(&mut commands, frames).await {
                Some(again) => stream = again,
                None => return,
            }
        }
    }

    async fn listen(
        &mut self,
        stream: &mut Streaming<WatchResponse>,
        commands: &mut mpsc::UnboundedReceiver<Command>,
        frames: &mpsc::Sender<Arc<Frame>>,
    ) -> Over {
        let mut begun = false;
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    // Others listen too.
                    Some(Command::Interval(_)) => {}
                    Some(Command::Stop) => {
                        self.end(frames, "left", String::new()).await;
                        return Over::Run;
                    }
                    None => return Over::Run,
                },
                message = stream.message() => {
                    let response = match message {
                        Ok(Some(response)) => response,
                        Ok(None) => return Over::Link("the collector has stopped".into()),
                        Err(status) => return Over::Link(status.message().to_owned()),
                    };
                    if !begun && !response.whole {
                        return Over::Link("the first frame is not whole".into());
                    }
                    begun = true;
                    let Some(frame) = self.fold(response) else { continue };
                    let ends = frame.end.is_some();
                    // What is known counts, also where the link was up for a moment only.
                    self.link.send_if_modified(|link| {
                        let down = *link != Link::Up;
                        *link = Link::Up;
                        down
                    });
                    if frames.send(Arc::new(frame)).await.is_err() || ends {
                        return Over::Run;
                    }
                }
            }
        }
    }

    /// What a response means for somebody who has got everything so far.
    fn fold(&mut self, response: WatchResponse) -> Option<Frame> {
        let mut frame = response.frame?.into_message();
        if let Some(meta) = &mut frame.meta {
            meta.reason = format!("{} over {}", meta.reason, self.endpoint);
        }
        if response.whole {
            let mut state = Model::default();
            state.apply(&frame);
            frame = state.since(&self.known);
            self.known = state;
        } else {
            self.known.apply(&frame);
        }
        let mut say = |level: &str, text: String| {
            frame.log.push(LogLine {
                at_ns: frame.at_ns,
                level: level.into(),
                text,
            });
        };
        if std::mem::take(&mut self.was_down) {
            say("info", format!("the link to {} is up again", self.endpoint));
        }
        if response.left_out > 0 {
            say(
                "warn",
                format!(
                    "{} frames came too fast for here: statistics are complete, their spans are not shown",
                    response.left_out
                ),
            );
        }
        Some(frame)
    }

    /// Says why nothing comes, once for each reason.
    fn down(&self, reason: String) {
        self.link.send_if_modified(|link| {
            let down = Link::Down(reason);
            let other = *link != down;
            *link = down;
            other
        });
    }

    /// Waits until there is a connection again; `None` where nobody wants one any more.
    async fn connect_again(
        &mut self,
        commands: &mut mpsc::UnboundedReceiver<Command>,
        frames: &mpsc::Sender<Arc<Frame>>,
    ) -> Option<Streaming<WatchResponse>> {
        let mut pause = AGAIN;
        loop {
            let again = async {
                sleep(pause).await;
                connect(&self.endpoint).await
            };
            tokio::select! {
                result = again => match result {
                    Ok(stream) => return Some(stream),
                    Err(SourceError { cause, .. }) => {
                        self.down(cause);
                        pause = (pause * 2).min(AGAIN_AT_MOST);
                    }
                },
                command = commands.recv() => match command {
                    Some(Command::Interval(_)) => {}
                    Some(Command::Stop) => {
                        let reason = match &*self.link.borrow() {
                            Link::Down(reason) => reason.clone(),
                            Link::Up => String::new(),
                        };
                        let detail = format!("the link to {} is down: {reason}", self.endpoint);
                        self.end(frames, END_LINK_DOWN, detail).await;
                        return None;
                    }
                    None => return None,
                },
                () = frames.closed() => return None,
            }
        }
    }

    /// Sends a last frame, in which nothing happens but the end.
    async fn end(&self, frames: &mpsc::Sender<Arc<Frame>>, how: &str, detail: String) {
        let mut frame = self.known.since(&self.known);
        frame.meta = None;
        // It stands for no other frame: whoever takes it has every one of them, with its details.
        frame.uncarried = None;
        frame.number = frame.number.saturating_add(1);
        frame.end = Some(End {
            how: how.into(),
            detail,
        });
        // A receiver that has gone away does not want it.
        let _ = frames.send(Arc::new(frame)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Meta;

    #[tokio::test]
    async fn the_end_leaves_the_details_that_there_are() {
        let frame = |number: u64, meta: Option<Meta>| Frame {
            number,
            at_ns: 100 * (number + 1),
            at_unix_ns: 1_000 + 100 * (number + 1),
            meta,
            ..Frame::default()
        };
        let meta = Meta {
            start_ns: 1,
            ..Meta::default()
        };
        let (link, _) = watch::channel(Link::default());
        let mut remote = Remote::new(Endpoint { path: "s".into() }, link);
        let mut taken = Model::default();
        for frame in [frame(0, Some(meta)), frame(1, None)] {
            remote.known.apply(&frame);
            taken.apply(&frame);
        }
        assert_eq!(taken.detail_from, None);
        let (sender, mut frames) = mpsc::channel(1);
        remote.end(&sender, "left", String::new()).await;
        taken.apply(&frames.recv().await.unwrap());
        assert_eq!(taken.end.as_ref().unwrap().how, "left");
        assert_eq!(taken.detail_from, None);
        assert_eq!(taken.loss.missing_frames, 0);
    }
}
