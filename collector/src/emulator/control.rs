//! The emulator's end of the conversation with a collector: one JSON object a line, see [`super::protocol`].

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{FromRawFd, RawFd};
use std::os::unix::net::UnixStream;

use super::Problem;
use super::protocol::{Reply, Request};
use super::run::Run;
use crate::inprocess::hooks;

/// Longest request line.
const MAX_LINE: u64 = 64 << 10;

/// How a conversation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The other side closed it.
    Closed,
    /// The other side closed it after asking for the end of the run.
    Stopped,
}

/// The socket that the parent process left open under this number.
pub fn inherited(fd: RawFd) -> Result<UnixStream, Problem> {
    let mut kind: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel checks the descriptor, and writes at most `length` bytes to `kind`.
    let result = unsafe {
        libc::getsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_TYPE,
            (&raw mut kind).cast(),
            &raw mut length,
        )
    };
    if fd < 0 || result != 0 || kind != libc::SOCK_STREAM {
        return Err(Problem::new(
            format!("descriptor {fd} is not a stream socket"),
            "--control-fd is for the collector, which leaves a socket open under that number",
            "apscope emulate without --control-fd",
        ));
    }
    // SAFETY: the descriptor is open, as getsockopt has just shown, and was left to this process for this purpose; it is
    // used nowhere else.
    Ok(unsafe { UnixStream::from_raw_fd(fd) })
}

fn send(stream: &mut &UnixStream, reply: &Reply) -> io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    stream.write_all(&line)
}

/// Serves one collector until it closes the connection. Says hello first; does nothing unasked.
pub fn serve(stream: &UnixStream, run: &Run) -> io::Result<End> {
    let mut out = stream;
    let hello = match run.hello() {
        Ok(hello) => hello,
        Err(problem) => {
            send(&mut out, &error(&problem))?;
            return Ok(End::Closed);
        }
    };
    // Whoever is told of others is one of them for the next.
    let _connected = run.collector();
    send(&mut out, &Reply::Hello(Box::new(hello.clone())))?;
    let mut reader = BufReader::new(stream);
    let mut end = End::Closed;
    let mut line = Vec::new();
    loop {
        line.clear();
        // Read errors are like a close: the peer is gone.
        let length = (&mut reader)
            .take(MAX_LINE)
            .read_until(b'\n', &mut line)
            .unwrap_or(0);
        if length == 0 {
            return Ok(end);
        }
        if line.last() != Some(&b'\n') && length as u64 == MAX_LINE {
            let message = format!("request longer than {MAX_LINE} bytes");
            send(&mut out, &Reply::Error { message })?;
            return Ok(end);
        }
        match serde_json::from_slice(&line) {
            Ok(Request::MeasureInProcess { ring_bytes }) => {
                let reply = match hooks::enable(&hello, ring_bytes) {
                    Ok(fd) => Reply::Memory { fd },
                    Err(message) => Reply::Error { message },
                };
                send(&mut out, &reply)?;
            }
            Ok(Request::Go) => {
                if let Err(problem) = run.go() {
                    send(&mut out, &error(&problem))?;
                }
            }
            Ok(Request::Messages) => {
                let messages = run.messages();
                send(&mut out, &Reply::Messages { messages })?;
            }
            Ok(Request::Stop) => {
                let truth = Box::new(run.stop());
                end = End::Stopped;
                send(&mut out, &Reply::Stopped { truth })?;
            }
            Err(problem) => {
                let message = format!("not a request: {problem}");
                send(&mut out, &Reply::Error { message })?;
            }
        }
    }
}

fn error(problem: &Problem) -> Reply {
    Reply::Error {
        message: format!("{} ({})", problem.what, problem.cause),
    }
}
