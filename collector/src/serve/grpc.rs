//! The gRPC side: one task a connection, which reads from the hub as fast as its client takes it.
//!
//! A connection holds one frame that is being written, and what the kernel's socket buffer holds; a client that does not
//! take it is waited for by its own task alone.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream::unfold;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tonic::{Request, Response, Status};
use tower_service::Service as _;

use super::access::{Access, Peer};
use super::hub::{Hub, Next, Place};
use super::listen;
use crate::cli::live::note;
use crate::service::collector_server::{Collector, CollectorServer};
use crate::service::{WatchRequest, WatchResponse};

/// Clients served at a time.
pub const MAX_CLIENTS: usize = 128;
/// Connections that are told why they are not served, at a time. Others are closed without a word.
const MAX_REFUSED: usize = 16;
/// Streams of one connection.
const MAX_STREAMS: u32 = 4;
/// Time in which a connection must have asked for something.
const FIRST_REQUEST: Duration = Duration::from_secs(5);
/// A client that answers no ping for so long, after as long without a frame, is gone.
const PING_EVERY: Duration = Duration::from_secs(10);
/// Time for a client to take what was published last, when the collector stops.
const LAST_FRAMES: Duration = Duration::from_secs(2);
/// Bytes of a stream that wait to be written.
const SEND_BUFFER: usize = 256 << 10;

/// What is known of clients, since the start unless it says otherwise.
#[derive(Debug, Default)]
pub struct Counts {
    /// Streams that are open now.
    pub watching: AtomicU64,
    /// Connections.
    pub connected: AtomicU64,
    /// Connections that were refused: not permitted, or too many.
    pub refused: AtomicU64,
    /// Frames left out for clients that were too slow.
    pub left_out: AtomicU64,
}

/// What every connection needs.
#[derive(Clone)]
pub struct Serving {
    /// The run.
    pub hub: Arc<Hub>,
    /// What clients did.
    pub counts: Arc<Counts>,
    /// Who may connect.
    pub access: Access,
    /// Becomes true when the collector stops.
    pub stopping: watch::Receiver<bool>,
    /// Nothing is said of clients.
    pub quiet: bool,
}

/// Accepts connections until the collector stops.
pub async fn serve(listener: UnixListener, serving: Serving) {
    let served = Arc::new(Semaphore::new(MAX_CLIENTS));
    let told = Arc::new(Semaphore::new(MAX_REFUSED));
    let mut stopping = serving.stopping.clone();
    let mut connections = JoinSet::new();
    loop {
        // What is over is forgotten.
        while connections.try_join_next().is_some() {}
        let accept = async || listener.accept().await.map(|(stream, _)| stream);
        let Some(stream) = listen::next(accept, &mut stopping).await else {
            break;
        };
        serving.counts.connected.fetch_add(1, Ordering::Relaxed);
        let peer = Peer::of(&stream).ok();
        let permitted = peer
            .as_ref()
            .is_some_and(|peer| serving.access.allows(peer));
        let (permit, refusal) = if permitted {
            match Arc::clone(&served).try_acquire_owned() {
                Ok(permit) => (Some(permit), None),
                Err(_) => (
                    Arc::clone(&told).try_acquire_owned().ok(),
                    Some(Refusal::TooMany),
                ),
            }
        } else {
            (
                Arc::clone(&told).try_acquire_owned().ok(),
                Some(Refusal::NotPermitted),
            )
        };
        if refusal.is_some() {
            serving.counts.refused.fetch_add(1, Ordering::Relaxed);
        }
        let Some(permit) = permit else { continue };
        let client = Client {
            serving: serving.clone(),
            peer,
            refusal,
            asked: Arc::default(),
        };
        connections.spawn(async move {
            client.connection(stream).await;
            drop(permit);
        });
    }
    // Each has its own limit.
    while connections.join_next().await.is_some() {}
}

/// Why a connection is not served.
#[derive(Debug, Clone, Copy)]
enum Refusal {
    NotPermitted,
    TooMany,
}

#[derive(Clone)]
struct Client {
    serving: Serving,
    peer: Option<Peer>,
    refusal: Option<Refusal>,
    asked: Arc<AtomicBool>,
}

impl Client {
    async fn connection(self, stream: UnixStream) {
        let asked = Arc::clone(&self.asked);
        let refused = self.refusal.is_some();
        let mut stopping = self.serving.stopping.clone();
        let server = CollectorServer::new(self);
        let service = service_fn(move |request| {
            let mut server = server.clone();
            async move {
                server
                    .call(request)
                    .await
                    .map_err(|never: Infallible| never)
            }
        });
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_EVERY)
            .max_concurrent_streams(MAX_STREAMS)
            .max_send_buf_size(SEND_BUFFER)
            .max_header_list_size(16 << 10)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        let mut first = Some(std::pin::pin!(tokio::time::sleep(FIRST_REQUEST)));
        loop {
            tokio::select! {
                // However it ends, it is over.
                _ = connection.as_mut() => return,
                () = async { if let Some(first) = &mut first { first.as_mut().await } }, if first.is_some() => {
                    first = None;
                    if refused || !asked.load(Ordering::Relaxed) {
                        return;
                    }
                }
                _ = stopping.wait_for(|stopping| *stopping) => break,
            }
        }
        // Streams end with what was published last; a client that does not take it is not waited for long.
        connection.as_mut().graceful_shutdown();
        let _ = tokio::time::timeout(LAST_FRAMES, connection).await;
    }

    fn name(&self, version: &str) -> String {
        let version: String = version
            .chars()
            .filter(char::is_ascii_graphic)
            .take(32)
            .collect();
        match &self.peer {
            Some(Peer {
                pid: Some(pid),
                uid,
                ..
            }) => {
                format!("client {version} (pid {pid}, uid {uid})")
            }
            _ => format!("client {version}"),
        }
    }
}

type Frames = Pin<Box<dyn Stream<Item = Result<WatchResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Collector for Client {
    type WatchStream = Frames;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Frames>, Status> {
        self.asked.store(true, Ordering::Relaxed);
        match self.refusal {
            None => {}
            Some(Refusal::NotPermitted) => {
                return Err(Status::permission_denied(
                    "only root, the user that serves and members of its --group may read",
                ));
            }
            Some(Refusal::TooMany) => {
                return Err(Status::resource_exhausted(format!(
                    "{MAX_CLIENTS} clients are connected already"
                )));
            }
        }
        let name = self.name(&request.get_ref().version);
        let watching = Watching::begin(self.serving.clone(), name);
        Ok(Response::new(Box::pin(unfold(watching, Watching::next))))
    }
}

/// A client that gets frames.
struct Watching {
    serving: Serving,
    name: String,
    place: Place,
    changes: watch::Receiver<u64>,
    left_out: u64,
}

impl Watching {
    fn begin(serving: Serving, name: String) -> Self {
        serving.counts.watching.fetch_add(1, Ordering::Relaxed);
        Self {
            changes: serving.hub.changes(),
            serving,
            name,
            place: Place::default(),
            left_out: 0,
        }
    }

    async fn next(mut self) -> Option<(Result<WatchResponse, Status>, Self)> {
        loop {
            let (frame, whole, left_out) = match self.serving.hub.next(&mut self.place) {
                Next::Frame(frame) => (frame, false, 0),
                Next::Whole { frame, left_out } => (frame, true, left_out),
                Next::End => return None,
                Next::Nothing => {
                    // The hub lives as long as this does.
                    let _ = self.changes.changed().await;
                    continue;
                }
            };
            self.left_out += left_out;
            let counts = &self.serving.counts;
            counts.left_out.fetch_add(left_out, Ordering::Relaxed);
            let response = WatchResponse {
                frame: Some(frame),
                whole,
                left_out,
            };
            return Some((Ok(response), self));
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.serving.counts.watching.fetch_sub(1, Ordering::Relaxed);
        if self.left_out > 0 && !self.serving.quiet {
            note(&format!(
                "{} was too slow: {} frames were left out for it",
                self.name, self.left_out
            ));
        }
    }
}
