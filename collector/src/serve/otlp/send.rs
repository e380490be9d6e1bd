//! One request to a backend: a connection, a POST, an answer.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Collected, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Method, Request, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Time for a request, with its answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of an answer that are read.
const MAX_ANSWER: usize = 64 << 10;
/// Bytes of a refusal's text that are told.
const MAX_TOLD: usize = 200;

/// A backend that takes OTLP over HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    at: SocketAddr,
    /// As in the URL, for the request.
    authority: String,
    /// What stands before `/v1/metrics`.
    path: String,
}

impl Target {
    /// Reads `http://HOST[:PORT][/PATH]`, where HOST is an address or `localhost`. An error is one line.
    ///
    /// Names are not looked up: glibc's resolver loads libraries, which a static program must not.
    pub fn parse(url: &str) -> Result<Self, String> {
        let uri: Uri = url
            .parse()
            .map_err(|error| format!("{url} is no URL: {error}"))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => {
                return Err(
                    "TLS is a matter of a collector on this host: apscope speaks http".into(),
                );
            }
            _ => return Err("it must begin with http://".into()),
        }
        let authority = uri.authority().ok_or("there is no host in it")?;
        if authority.as_str().contains('@') {
            return Err("a name and password in it would be sent as they are".into());
        }
        if uri.query().is_some() {
            return Err("there must be no ? in it".into());
        }
        let host = match authority.host().trim_matches(['[', ']']) {
            "localhost" => Ipv4Addr::LOCALHOST.into(),
            host => host.parse::<IpAddr>().map_err(|_| {
                format!("{host} is no address, and names are not looked up: give its address")
            })?,
        };
        Ok(Self {
            at: SocketAddr::new(host, authority.port_u16().unwrap_or(4318)),
            authority: authority.as_str().to_owned(),
            path: uri.path().trim_end_matches('/').to_owned(),
        })
    }

    /// Sends a message. An error says what the backend, or the way to it, said.
    pub async fn post(&self, path: &str, message: Vec<u8>) -> Result<(), String> {
        match tokio::time::timeout(PATIENCE, self.attempt(path, message)).await {
            Ok(result) => result,
            Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
        }
    }

    async fn attempt(&self, path: &str, message: Vec<u8>) -> Result<(), String> {
        let stream = TcpStream::connect(self.at)
            .await
            .map_err(|error| error.to_string())?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
        let connection = tokio::spawn(connection);
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("{}{path}", self.path))
            .header(HOST, &self.authority)
            .header(CONTENT_TYPE, "application/x-protobuf")
            .header(USER_AGENT, concat!("apscope/", env!("CARGO_PKG_VERSION")))
            .body(Full::<Bytes>::from(message))
            .map_err(|error| error.to_string())?;
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| error.to_string())?;
        let status = response.status();
        let answer = Limited::new(response.into_body(), MAX_ANSWER)
            .collect()
            .await;
        connection.abort();
        if status.is_success() {
            return Ok(());
        }
        let text = answer.map(Collected::to_bytes).unwrap_or_default();
        let text: String = String::from_utf8_lossy(&text)
            .chars()
            .filter(|c| !c.is_control())
            .take(MAX_TOLD)
            .collect();
        Err(format!("{path}: {status} {text}").trim_end().to_owned())
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_an_http_url() {
        let target = Target::parse("http://localhost").unwrap();
        assert_eq!(target.at, "127.0.0.1:4318".parse().unwrap());
        let target = Target::parse("http://[::1]:99/otlp/").unwrap();
        assert_eq!(target.at, "[::1]:99".parse().unwrap());
        assert_eq!(target.to_string(), "http://[::1]:99/otlp");
        for text in [
            "",
            "localhost:4318",
            "https://[::1]",
            "http://backend:4318",
            "http://a:b@[::1]",
            "http://[::1]/?b",
            "http://",
        ] {
            assert!(Target::parse(text).is_err(), "{text}");
        }
    }
}
