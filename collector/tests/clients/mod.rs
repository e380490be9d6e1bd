//! Clients of `serve` that behave badly, in one process: some read, some stop reading, some die in the middle, some say
//! nothing at all, some talk nonsense. They read bytes and do not look at them, so that many fit on a small machine.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// What clients did and got.
#[derive(Debug, Default)]
pub struct Tally {
    /// Connections made.
    pub connections: AtomicU64,
    /// Of these, whole lives of each kind: read, stalled, died, silent, nonsense.
    pub lives: [AtomicU64; 5],
    /// Bytes of frames read.
    pub bytes: AtomicU64,
}

/// Names of the kinds of life.
pub const KINDS: [&str; 5] = ["read", "stalled", "died", "silent", "nonsense"];

/// Keeps so many clients busy for so long; each begins a new life when one is over.
pub async fn torture(socket: &Path, count: usize, length: Duration) -> Arc<Tally> {
    let tally = Arc::new(Tally::default());
    let until = Instant::now() + length;
    let clients: Vec<_> = (0..count)
        .map(|number| {
            let (socket, tally) = (socket.to_owned(), Arc::clone(&tally));
            tokio::spawn(client(socket, tally, number, until))
        })
        .collect();
    for client in clients {
        client.await.expect("a client panicked");
    }
    tally
}

async fn client(socket: PathBuf, tally: Arc<Tally>, number: usize, until: Instant) {
    let mut seed = number as u64 + 1;
    // xorshift: the same lives each time.
    let mut random = move |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    let mut life = number;
    while Instant::now() < until {
        let kind = life % KINDS.len();
        life += 1;
        let length = Duration::from_millis(200 + random(8_000))
            .min(until.saturating_duration_since(Instant::now()));
        let end = Instant::now() + length;
        let Ok(stream) = UnixStream::connect(&socket).await else {
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        tally.connections.fetch_add(1, Ordering::Relaxed);
        match kind {
            3 => sleep(length).await,
            4 => nonsense(stream, random(2) == 0, length).await,
            _ => watch(stream, kind, end, &tally).await,
        }
        tally.lives[kind].fetch_add(1, Ordering::Relaxed);
    }
}

/// Half of HTTP/2, or none of it.
async fn nonsense(mut stream: UnixStream, half: bool, length: Duration) {
    let text: &[u8] = if half {
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\x04\x00\x00\x00\x00\x00"
    } else {
        b"GET /metrics HTTP/1.1\r\n\r\n"
    };
    // The other side may have closed it already.
    let _ = stream.write_all(text).await;
    sleep(length).await;
}

async fn watch(stream: UnixStream, kind: usize, end: Instant, tally: &Tally) {
    let Ok((mut sender, connection)) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await
    else {
        return;
    };
    // In this task, so that it stands still when nobody asks for anything.
    let mut connection = Box::pin(connection);
    // One empty message: not compressed, no bytes.
    let request = Request::post("http://apscope/apscope.v1.Collector/Watch")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(Bytes::from_static(&[0; 5])))
        .expect("a request");
    let sent = timeout(Duration::from_secs(5), sender.send_request(request));
    let response = tokio::select! {
        _ = &mut connection => return,
        response = sent => response,
    };
    let Ok(Ok(response)) = response else { return };
    let mut body = response.into_body();
    let half = Instant::now() + end.saturating_duration_since(Instant::now()) / 2;
    let until = if kind == 0 { end } else { half };
    loop {
        let frame = tokio::select! {
            _ = &mut connection => return,
            frame = body.frame() => frame,
            () = sleep_until(until) => break,
        };
        let Some(Ok(frame)) = frame else { return };
        if let Some(data) = frame.data_ref() {
            tally.bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
        }
    }
    if kind == 1 {
        // The socket stays open, nothing is read, and no ping is answered.
        sleep_until(end).await;
    }
    // The others die here, in the middle of whatever is being sent.
}
