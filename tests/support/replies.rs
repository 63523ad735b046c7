//! Servers that respond once on each connection, for health checks.

use std::io::Read as _;

use super::servers::{Request, Server, respond};

/// Responds to the nth request, from 1, for a path with the bytes that `reply` returns, and closes the connection.
pub(crate) fn replying(reply: impl Fn(usize, &str) -> String + Send + Sync + 'static) -> Server {
    Server::scripted(move |mut stream, recorder| {
        if let Some(request) = Request::read(&mut stream) {
            let nth = recorder.add(&request);
            respond(&mut stream, reply(nth, request.path()));
        }
    })
}

pub(crate) fn always(reply: impl Into<String>) -> Server {
    let reply = reply.into();
    replying(move |_, _| reply.clone())
}

/// Reads a request and sends nothing.
pub(crate) fn silent() -> Server {
    Server::scripted(|mut stream, _| drop(stream.read_to_end(&mut Vec::new())))
}

pub(crate) fn status(status: u16) -> String {
    format!("HTTP/1.1 {status} Status\r\nContent-Length: 0\r\n\r\n")
}

pub(crate) fn page(text: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len())
}

pub(crate) fn chunked(text: &str) -> String {
    let (a, b) = text.split_at(text.len() / 2);
    let (c, d) = (a.len(), b.len());
    format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{c:x}\r\n{a}\r\n{d:x}\r\n{b}\r\n0\r\n\r\n")
}

/// The heads of the requests so far.
pub(crate) fn heads(server: &Server) -> Vec<String> {
    server.requests().iter().map(|request| String::from_utf8_lossy(&request.head).into_owned()).collect()
}
