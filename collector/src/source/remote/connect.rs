//! One connection to a collector that serves: a unix socket, HTTP/2, and the stream of frames.

use std::fmt::Display;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::UnixStream;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response, Uri};
use tonic::{Code, Status, Streaming};

use crate::options::Endpoint;
use crate::service::collector_client::CollectorClient;
use crate::service::{MAX_MESSAGE, WatchRequest, WatchResponse};
use crate::source::SourceError;

/// Time for a connection to be made and to be answered.
const PATIENCE: Duration = Duration::from_secs(5);
/// A collector that answers no ping for so long, after as long without a frame, is gone.
const PING_EVERY: Duration = Duration::from_secs(5);

/// Connects, and asks for frames.
pub async fn connect(endpoint: &Endpoint) -> Result<Streaming<WatchResponse>, SourceError> {
    let failed = |cause: String, hint: &str| SourceError {
        what: format!("cannot connect to {endpoint}"),
        cause,
        hint: hint.into(),
    };
    match tokio::time::timeout(PATIENCE, watch(endpoint)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(Problem::Connect(error))) => Err(failed(error.to_string(), hint(&error))),
        Ok(Err(Problem::Talk(cause))) => Err(failed(
            cause,
            "the path of a socket that `apscope serve` listens at",
        )),
        Ok(Err(Problem::Refused(status))) => Err(failed(
            status.message().to_owned(),
            match status.code() {
                Code::PermissionDenied => {
                    "as that user, or as a member of the group that `serve --group` names"
                }
                Code::ResourceExhausted => "again when another client has gone",
                Code::Unimplemented => "the same version of apscope on both sides",
                _ => "again; the collector's own messages say more",
            },
        )),
        Err(_) => Err(failed(
            format!("no answer within {} s", PATIENCE.as_secs()),
            "whether apscope serve still runs there, and the tunnel with it",
        )),
    }
}

enum Problem {
    Connect(io::Error),
    Talk(String),
    Refused(Status),
}

fn talk(error: &dyn Display) -> Problem {
    Problem::Talk(format!(
        "what listens there does not answer as a collector: {error}"
    ))
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            "apscope serve --listen unix:PATH on that host, and ssh -L LOCAL.sock:PATH HOST where it is another one"
        }
        io::ErrorKind::PermissionDenied => {
            "as root, or as a member of the group that `serve --group` names"
        }
        _ => "the path of a socket that `apscope serve` listens at",
    }
}

async fn watch(endpoint: &Endpoint) -> Result<Streaming<WatchResponse>, Problem> {
    let stream = UnixStream::connect(&endpoint.path)
        .await
        .map_err(Problem::Connect)?;
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_EVERY)
        .max_header_list_size(16 << 10)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| talk(&error))?;
    // It ends when the last stream of it is dropped, and its errors are those of the stream.
    tokio::spawn(async move {
        let _ = connection.await;
    });
    let mut client =
        CollectorClient::with_origin(Channel(sender), Uri::from_static("http://apscope"))
            .max_decoding_message_size(MAX_MESSAGE);
    let request = WatchRequest {
        version: env!("CARGO_PKG_VERSION").into(),
    };
    match client.watch(request).await {
        Ok(response) => Ok(response.into_inner()),
        // What is no status of a collector's is what the connection ran into.
        Err(status) if status.code() == Code::Unknown => Err(talk(&status.message())),
        Err(status) => Err(Problem::Refused(status)),
    }
}

/// A connection, as tonic calls one.
struct Channel(SendRequest<Body>);

impl tower_service::Service<Request<Body>> for Channel {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
