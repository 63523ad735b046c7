//! One exchange with a server, on a connection of its own. Its response is parsed as on the request path, so that a
//! server's syntax never counts as an error for checks alone, or for requests alone.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use http::Method;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, timeout_at};

use crate::config::{HttpProtocol, SocketAddress};
use crate::control::health::error::{CheckError, ResponseFault};
use crate::control::health::grpc::HealthFault;
use crate::control::health::http2::{self, Http2Response};
use crate::control::health::stream::{CheckStream, tls_failure};
use crate::http1::chunked::Decoder;
use crate::http1::client::{BadResponse, RESPONSE_LIMITS};
use crate::http1::framing::{self, BadFraming, Framing, Sender};
use crate::http1::head::ResponseHead;
use crate::tls::client::UpstreamTls;
use crate::transport::{Socket, connect};

/// The most of a body that is read, in bytes.
const MAX_BODY: usize = 1024 * 1024;

/// How long a server that has sent no response has to close the connection after this side has ended its own.
const LINGER: Duration = Duration::from_millis(100);

/// The room for the first bytes of a response.
const FIRST_READ: usize = 4096;

/// A connection for one exchange.
#[derive(Debug)]
pub(super) struct Exchange {
    stream: CheckStream,
    /// The protocol to speak.
    pub(super) protocol: HttpProtocol,
    /// From connecting to the end of the response.
    timeout: Duration,
    deadline: Instant,
    /// Received and not consumed.
    input: Vec<u8>,
    /// `None` before the response's head.
    rest: Option<Rest>,
    /// The bytes of the body so far.
    received: usize,
}

/// The part of a response's body that is missing.
#[derive(Debug)]
enum Rest {
    Nothing,
    Bytes(u64),
    Chunks(Box<Decoder>),
    UntilClose,
}

impl Exchange {
    /// Connects to the first of `targets` that accepts, sends `start`, and makes the TLS handshake, if there is one; each has
    /// its share of `timeout`. `plain` is the protocol to speak without TLS.
    ///
    /// # Errors
    /// The failure at the last one.
    pub(super) async fn open(
        targets: &[SocketAddress],
        start: Option<&[u8]>,
        tls: Option<&UpstreamTls>,
        plain: HttpProtocol,
        timeout: Duration,
    ) -> Result<Self, CheckError> {
        let deadline = Instant::now() + timeout;
        let mut failure = CheckError::Unresolved;
        for (target, left) in targets.iter().zip((1..=targets.len()).rev()) {
            let now = Instant::now();
            let share = deadline.saturating_duration_since(now).div_f64(left as f64);
            let stream = match timeout_at(now + share, connect(target, start)).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => {
                    failure = CheckError::Connect(target.clone(), error);
                    continue;
                }
                Err(_) => {
                    failure = CheckError::ConnectTimeout(target.clone(), timeout);
                    continue;
                }
            };
            let (stream, protocol) = match tls {
                None => (CheckStream::Plain(stream), plain),
                // Requests use this address too, so no other one is tried.
                Some(tls) => match timeout_at(now + share, CheckStream::with_tls(stream, tls)).await {
                    Ok(stream) => stream.map_err(CheckError::Tls)?,
                    Err(_) => return Err(CheckError::HandshakeTimeout(target.clone(), timeout)),
                },
            };
            return Ok(Self { stream, protocol, timeout, deadline, input: Vec::new(), rest: None, received: 0 });
        }
        Err(failure)
    }

    /// The address of the server; `None` for a Unix socket.
    pub(super) fn peer(&self) -> Option<SocketAddr> {
        self.stream.peer_address()
    }

    /// Sends a request with this method, and returns the status of its response as soon as the head has arrived.
    ///
    /// # Errors
    /// Why there is no valid head.
    pub(super) async fn send(&mut self, request: &[u8], method: &Method) -> Result<u16, ResponseFault> {
        let (timeout, deadline) = (self.timeout, self.deadline);
        let response = timeout_at(deadline, self.response(request, method)).await;
        response.unwrap_or(Err(ResponseFault::Timeout(timeout)))
    }

    /// Calls a method of gRPC with these bytes, and returns the whole response.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) async fn call(&mut self, request: &[u8], body: &[u8]) -> Result<Http2Response, ResponseFault> {
        if self.protocol != HttpProtocol::Http2 {
            return Err(ResponseFault::Grpc(HealthFault::NoHttp2));
        }
        let called = http2::exchange(&mut self.stream, request, body, &Method::POST, MAX_BODY);
        let response = timeout_at(self.deadline, called).await.unwrap_or(Err(ResponseFault::Timeout(self.timeout)))?;
        self.rest = Some(Rest::Nothing);
        Ok(response)
    }

    async fn response(&mut self, request: &[u8], method: &Method) -> Result<u16, ResponseFault> {
        if self.protocol == HttpProtocol::Http2 {
            let response = http2::exchange(&mut self.stream, request, b"", method, MAX_BODY).await?;
            self.input = response.body;
            // One byte too many is a body that is not complete.
            self.rest = Some(Rest::Bytes(self.input.len() as u64 + u64::from(!response.is_whole)));
            return Ok(response.status);
        }
        // A server may respond without reading the request, and close.
        let _ = self.stream.write_all(request).await;
        let _ = self.stream.flush().await;
        self.input.reserve(FIRST_READ);
        let mut head = ResponseHead::default();
        loop {
            match head.parse(&self.input, RESPONSE_LIMITS).map_err(BadResponse::Head)? {
                Some(length) => {
                    self.input.drain(..length);
                    if !head.is_interim() {
                        break;
                    }
                }
                None => {
                    let read = self.stream.read_buf(&mut self.input).await;
                    if !matches!(read, Ok(1..)) {
                        return Err(match read.as_ref().err().and_then(tls_failure) {
                            Some(failure) => ResponseFault::Tls(failure),
                            None if self.input.is_empty() => ResponseFault::Closed,
                            None => ResponseFault::TruncatedHead,
                        });
                    }
                }
            }
        }
        let framing = framing::response(&head.headers, head.version, head.status, method)
            .map_err(|BadFraming| BadResponse::Framing)?;
        if head.status == 101 {
            return Err(BadResponse::Switch.into());
        }
        self.rest = Some(framing.into());
        Ok(head.status)
    }

    /// Reads the body, until it contains `text` or ends; returns whether it contains it.
    ///
    /// # Errors
    /// If it is not complete in time, or too long.
    pub(super) async fn contains(&mut self, text: &[u8]) -> Result<bool, ResponseFault> {
        let (timeout, deadline) = (self.timeout, self.deadline);
        let search = async {
            let mut seen = Vec::new();
            while let Some(piece) = self.piece().await? {
                seen.extend_from_slice(&piece);
                if seen.windows(text.len().max(1)).any(|window| window == text) {
                    return Ok(true);
                }
                // The text may continue in the next piece.
                seen.drain(..seen.len().saturating_sub(text.len()));
            }
            Ok(text.is_empty())
        };
        timeout_at(deadline, search).await.unwrap_or(Err(ResponseFault::BodyTimeout(timeout)))
    }

    /// Reads the whole body.
    ///
    /// # Errors
    /// If it is not complete in time, or too long.
    pub(super) async fn body(&mut self) -> Result<Vec<u8>, ResponseFault> {
        let (timeout, deadline) = (self.timeout, self.deadline);
        let read = async {
            let mut body = Vec::new();
            while let Some(piece) = self.piece().await? {
                body.extend_from_slice(&piece);
            }
            Ok(body)
        };
        timeout_at(deadline, read).await.unwrap_or(Err(ResponseFault::BodyTimeout(timeout)))
    }

    /// Ends the exchange politely: a server that writes into a closed connection would log an error for each check. So
    /// the rest of the body is read, as far as the timeout and the limit allow. After a whole response, nothing is awaited:
    /// each wait wakes a process that has nothing else to do.
    pub(super) async fn finish(mut self) {
        let deadline = self.deadline;
        let whole = async {
            loop {
                match self.piece().await {
                    Ok(Some(_)) => {}
                    end => return end.is_ok(),
                }
            }
        };
        if !timeout_at(deadline, whole).await.unwrap_or(false) || self.rest.is_some() {
            return;
        }
        // Without a request, the server would wait for one.
        let _ = self.stream.shutdown().await;
        let closed = async {
            while let Ok(1..) = self.stream.read_buf(&mut self.input).await {
                self.input.clear();
            }
        };
        // Until then, or never: the connection is closed.
        let _ = timeout_at(Instant::now() + LINGER, closed).await;
    }

    /// The next piece of the body, or `None` at its end.
    async fn piece(&mut self) -> Result<Option<Vec<u8>>, ResponseFault> {
        loop {
            let piece = self.decode()?;
            self.received += piece.len();
            if self.received > MAX_BODY {
                return Err(ResponseFault::BodyTooLong(MAX_BODY));
            }
            if !piece.is_empty() {
                return Ok(Some(piece));
            }
            if matches!(self.rest, None | Some(Rest::Nothing)) {
                return Ok(None);
            }
            match self.stream.read_buf(&mut self.input).await {
                Ok(1..) => {}
                Ok(0) if matches!(self.rest, Some(Rest::UntilClose)) => self.rest = Some(Rest::Nothing),
                Ok(0) | Err(_) => return Err(ResponseFault::Truncated),
            }
        }
    }

    /// Takes from the input what belongs to the body.
    fn decode(&mut self) -> Result<Vec<u8>, ResponseFault> {
        let piece = match &mut self.rest {
            None | Some(Rest::Nothing) => Vec::new(),
            Some(Rest::UntilClose) => self.input.drain(..).collect(),
            Some(Rest::Bytes(left)) => {
                let length = usize::try_from(*left).unwrap_or(usize::MAX).min(self.input.len());
                *left -= length as u64;
                self.input.drain(..length).collect()
            }
            Some(Rest::Chunks(decoder)) => {
                let mut data = Vec::new();
                let decoded = decoder.decode(&self.input, &mut data).map_err(BadResponse::Chunk)?;
                self.input.drain(..decoded.consumed);
                data
            }
        };
        let ended = match &self.rest {
            Some(Rest::Bytes(left)) => *left == 0,
            Some(Rest::Chunks(decoder)) => decoder.is_done(),
            _ => false,
        };
        if ended {
            self.rest = Some(Rest::Nothing);
        }
        Ok(piece)
    }
}

impl From<Framing> for Rest {
    fn from(framing: Framing) -> Self {
        match framing {
            Framing::None => Self::Nothing,
            Framing::Length(length) => Self::Bytes(length),
            Framing::Chunked => Self::Chunks(Box::new(Decoder::new(Sender::Server))),
            Framing::UntilClose => Self::UntilClose,
        }
    }
}

async fn connect(target: &SocketAddress, start: Option<&[u8]>) -> io::Result<Socket> {
    let mut stream = connect::connect(target).await?;
    if stream.is_connected_to_itself() {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    if let Some(start) = start {
        stream.write_all(start).await?;
    }
    Ok(stream)
}
