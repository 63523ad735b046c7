//! A small HTTP/1.1 client for exporters and commands; neither the request path nor health checks use it.
//!
//! Each request has its own connection, and one timeout from connecting to the last byte of the response.

use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, ToSocketAddrs};
use tokio::time::{Instant, timeout_at};

use crate::config::{LOCALHOST, SocketAddress};
use crate::transport::Socket;
use crate::transport::connect::connect;

/// A connection for one request.
#[derive(Debug)]
pub struct HttpConnection {
    socket: Socket,
    timeout: Duration,
    /// When the timeout ends. It starts before connecting.
    deadline: Instant,
}

/// Why there is no response. A response is never an error, whatever its status.
#[derive(Debug)]
pub enum SendError {
    /// The request cannot be built, for example because its path is invalid.
    InvalidRequest(http::Error),
    /// The host name does not resolve, or none of its addresses accepts the connection.
    Connect(io::Error),
    ConnectTimeout(Duration),
    /// Connected, but the response was not complete in time.
    ResponseTimeout(Duration),
    /// The connection ended before the response was complete.
    Closed,
    NotHttp,
    /// The body exceeds this limit, in bytes.
    BodyTooLong(usize),
}

impl HttpConnection {
    /// Connects to `target`. `timeout` covers everything up to the end of the response.
    ///
    /// # Errors
    /// [`SendError::Connect`] or [`SendError::ConnectTimeout`].
    pub async fn open(target: impl ToSocketAddrs, timeout: Duration) -> Result<Self, SendError> {
        Self::open_with(async { TcpStream::connect(target).await.map(Socket::Tcp) }, timeout).await
    }

    /// Connects to one address, like [`HttpConnection::open`].
    ///
    /// # Errors
    /// As there.
    pub async fn open_at(address: &SocketAddress, timeout: Duration) -> Result<Self, SendError> {
        Self::open_with(connect(address), timeout).await
    }

    async fn open_with(
        connecting: impl Future<Output = io::Result<Socket>>,
        timeout: Duration,
    ) -> Result<Self, SendError> {
        let deadline = Instant::now() + timeout;
        let connecting = timeout_at(deadline, connecting).await;
        let socket = connecting.map_err(|_| SendError::ConnectTimeout(timeout))?.map_err(SendError::Connect)?;
        if socket.is_connected_to_itself() {
            return Err(SendError::Connect(io::ErrorKind::ConnectionRefused.into()));
        }
        Ok(Self { socket, timeout, deadline })
    }

    /// The address of the other end, as `Host`.
    #[must_use]
    pub fn host(&self) -> String {
        self.socket.peer_address().map_or_else(|| LOCALHOST.to_owned(), |address| address.to_string())
    }

    /// Sends `request` unchanged; its URI must be a path, and its headers must include `Host`. Without a
    /// `body_limit`, in bytes, the body is not read, and this returns as soon as the head has been received.
    ///
    /// # Errors
    /// Any [`SendError`] except those of connecting.
    pub async fn send(self, request: Request<Bytes>, body_limit: Option<usize>) -> Result<Response<Bytes>, SendError> {
        let response = exchange(self.socket, request, body_limit);
        timeout_at(self.deadline, response).await.map_err(|_| SendError::ResponseTimeout(self.timeout))?
    }
}

async fn exchange(
    socket: Socket,
    request: Request<Bytes>,
    body_limit: Option<usize>,
) -> Result<Response<Bytes>, SendError> {
    // As on the request path, a server may deviate from the grammar.
    let mut builder = http1::Builder::new();
    builder.allow_obsolete_multiline_headers_in_responses(true);
    builder.allow_spaces_after_header_name_in_responses(true);
    builder.ignore_invalid_headers_in_responses(true);
    let (mut sender, connection) = builder.handshake(TokioIo::new(socket)).await?;
    let response = async {
        let (head, body) = sender.send_request(request.map(Full::new)).await?.into_parts();
        let body = match body_limit {
            None => Bytes::new(),
            Some(limit) => match Limited::new(body, limit).collect().await {
                Ok(body) => body.to_bytes(),
                Err(error) if error.is::<LengthLimitError>() => return Err(SendError::BodyTooLong(limit)),
                Err(_) => return Err(SendError::Closed),
            },
        };
        Ok(Response::from_parts(head, body))
    };
    tokio::pin!(response);
    tokio::select! {
        response = &mut response => response,
        // The connection has ended; the response that it delivered can still be read.
        _ = connection => response.await,
    }
}

impl From<http::Error> for SendError {
    fn from(error: http::Error) -> Self {
        Self::InvalidRequest(error)
    }
}

impl From<hyper::Error> for SendError {
    fn from(error: hyper::Error) -> Self {
        let by_io = error.source().is_some_and(|source| source.is::<io::Error>());
        if by_io || error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
            Self::Closed
        } else {
            Self::NotHttp
        }
    }
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use io::ErrorKind::{ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable};
        match self {
            Self::InvalidRequest(error) => write!(f, "invalid request: {error}"),
            Self::Connect(error) => match error.kind() {
                // The kind is in plain words; the error itself would add the system's number.
                kind @ (ConnectionRefused | ConnectionReset | HostUnreachable | NetworkUnreachable) => kind.fmt(f),
                _ => error.fmt(f),
            },
            Self::ConnectTimeout(timeout) => write!(f, "no connection within {timeout:?}"),
            Self::ResponseTimeout(timeout) => write!(f, "no response within {timeout:?}"),
            Self::Closed => f.write_str("connection closed before a response"),
            Self::NotHttp => f.write_str("the response is not HTTP/1.1"),
            Self::BodyTooLong(limit) => write!(f, "the response is longer than {limit} bytes"),
        }
    }
}

impl Error for SendError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::InvalidRequest(error) => Some(error),
            Self::Connect(error) => Some(error),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Sends a request to a server that sends `reply` and then closes, or stays silent if that is `None`.
    async fn send(reply: Option<&'static str>, body_limit: Option<usize>) -> Result<Response<Bytes>, SendError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.expect("a request"));
            }
            match reply {
                Some(reply) => stream.write_all(reply.as_bytes()).await.expect("written"),
                None => std::future::pending().await,
            }
        });
        let timeout = Duration::from_millis(if reply.is_some() { 20_000 } else { 20 });
        let connection = HttpConnection::open(address, timeout).await.expect("a connection");
        let request = Request::get("/path").header("host", address.to_string()).body(Bytes::new()).expect("a request");
        let response = connection.send(request, body_limit).await;
        server.abort();
        response
    }

    #[tokio::test]
    async fn a_response_is_read_as_far_as_asked_for() {
        let long = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n123456789";
        let chunked = "HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
        let until_close = "HTTP/1.1 503 Service Unavailable\r\n\r\nbusy";
        let half = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf";
        let cases = [
            (long, Some(9), Ok((200, "123456789"))),
            (long, Some(8), Err("the response is longer than 8 bytes")),
            (long, None, Ok((200, ""))),
            (chunked, Some(9), Ok((404, "ok"))),
            (until_close, Some(9), Ok((503, "busy"))),
            (half, None, Ok((200, ""))),
            (half, Some(9), Err("connection closed before a response")),
            ("", None, Err("connection closed before a response")),
            ("HTTP/1.1 20", None, Err("connection closed before a response")),
            ("SSH-2.0-OpenSSH_9.2\r\n", None, Err("the response is not HTTP/1.1")),
        ];
        for (reply, limit, expected) in cases {
            let result = send(Some(reply), limit).await;
            let result = result.map(|response| {
                (response.status().as_u16(), String::from_utf8(response.into_body().to_vec()).expect("text"))
            });
            let result = result.map_err(|error| error.to_string());
            let expected = expected.map(|(status, body)| (status, body.to_owned())).map_err(str::to_owned);
            assert_eq!(result, expected, "{reply:?} up to {limit:?}");
        }
    }

    #[tokio::test]
    async fn a_silent_server_is_given_up_at_the_deadline() {
        let error = send(None, None).await.expect_err("no response");
        assert_eq!(error.to_string(), "no response within 20ms");
    }

    #[tokio::test]
    async fn a_refused_connection_is_reported_in_plain_words() {
        // Port 1 is never handed out, and nothing listens there.
        let error = HttpConnection::open("127.0.0.1:1", Duration::from_secs(20)).await.expect_err("refused");
        assert!(matches!(error, SendError::Connect(_)));
        assert_eq!(error.to_string(), "connection refused");
    }
}
