//! `/metrics` and `/healthz`: HTTP/1 for Prometheus and for whoever watches the daemon.
//!
//! Two paths, no bodies, no state. A connection is for one request and bounded in time; where there are too many, the oldest
//! goes, so that those who read slowly or not at all keep nobody out.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::grpc::Counts;
use super::hub::Hub;
use super::{listen, metrics};

/// Connections at a time.
const MAX_CONNECTIONS: usize = 32;
/// Time for a request's headers.
const HEADERS: Duration = Duration::from_secs(5);
/// Longest time that a connection is served, its request included.
const CONNECTION: Duration = Duration::from_secs(10);
/// Bytes of a request's headers.
const MAX_HEADERS: usize = 16 << 10;

/// What is served.
#[derive(Clone)]
pub struct Pages {
    /// The run.
    pub hub: Arc<Hub>,
    /// What clients did.
    pub counts: Arc<Counts>,
    /// How old the last frame may be for the daemon to be well.
    pub patience: watch::Receiver<Duration>,
    /// Instances of each class with series of their own.
    pub instances: watch::Receiver<usize>,
}

/// Accepts connections until the collector stops.
pub async fn serve(listener: TcpListener, pages: Pages, mut stopping: watch::Receiver<bool>) {
    let mut open: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let accept = async || listener.accept().await.map(|(stream, _)| stream);
        let Some(stream) = listen::next(accept, &mut stopping).await else {
            return;
        };
        open.retain(|connection| !connection.is_finished());
        if open.len() >= MAX_CONNECTIONS
            && let Some(oldest) = open.pop_front()
        {
            oldest.abort();
        }
        let pages = pages.clone();
        let served = tokio::spawn(async move {
            let service = service_fn(move |request| {
                let response = pages.answer(&request);
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .keep_alive(false)
                .header_read_timeout(HEADERS)
                .max_buf_size(MAX_HEADERS)
                .serve_connection(TokioIo::new(stream), service);
            // However it ends, it is over.
            let _ = tokio::time::timeout(CONNECTION, connection).await;
        });
        open.push_back(served.abort_handle());
    }
}

impl Pages {
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = page(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
            let allowed = HeaderValue::from_static("GET, HEAD");
            response.headers_mut().insert(ALLOW, allowed);
            return response;
        }
        match request.uri().path() {
            "/metrics" => {
                let accept = request.headers().get(ACCEPT);
                let accept = accept.and_then(|value| value.to_str().ok()).unwrap_or("");
                let instances = *self.instances.borrow();
                let (kind, text) = metrics::render(&self.hub, &self.counts, accept, instances);
                let mut response = Response::new(Full::from(text));
                let kind = HeaderValue::from_static(kind);
                response.headers_mut().insert(CONTENT_TYPE, kind);
                response
            }
            "/healthz" => {
                let patience = *self.patience.borrow();
                match self.hub.last().map(|at| at.elapsed()) {
                    Some(age) if age <= patience => page(StatusCode::OK, "ok\n"),
                    Some(age) => page(
                        StatusCode::SERVICE_UNAVAILABLE,
                        format!("the last frame is {} ms old\n", age.as_millis()),
                    ),
                    None => page(StatusCode::SERVICE_UNAVAILABLE, "no frame yet\n"),
                }
            }
            _ => page(StatusCode::NOT_FOUND, "there are /metrics and /healthz\n"),
        }
    }
}

fn page(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
