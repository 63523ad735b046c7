//! An HTTP/2 client that sends any frames. Its headers are literals, so it has no HPACK state; of responses it knows only the
//! statuses that have an index.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use super::DEADLINE;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// Error codes (RFC 9113, section 7).
pub(crate) const NO_ERROR: u32 = 0;
pub(crate) const PROTOCOL_ERROR: u32 = 1;
pub(crate) const INTERNAL_ERROR: u32 = 2;
pub(crate) const CANCEL: u32 = 8;
pub(crate) const ENHANCE_YOUR_CALM: u32 = 11;

/// One connection.
#[derive(Debug)]
pub(crate) struct RawH2 {
    pub(crate) stream: TcpStream,
}

#[derive(Debug, Clone)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

/// How a stream or its connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// A whole response; 0 is a status without an index.
    Status(u16),
    Reset(u32),
    GoAway(u32),
    Closed,
}

/// A frame as bytes.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a length");
    [&length.to_be_bytes()[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header block.
pub(crate) fn block(headers: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in headers {
        block.push(0);
        for text in [name, value] {
            let length = u8::try_from(text.len()).ok().filter(|length| *length < 127);
            block.push(length.expect("a short text"));
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

/// The headers of a request.
pub(crate) fn get<'a>(path: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [&[(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", path)], more].concat()
}

impl RawH2 {
    /// A connection with its preface and SETTINGS.
    #[track_caller]
    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self::with_settings(address, &[])
    }

    /// The same with these settings.
    #[track_caller]
    pub(crate) fn with_settings(address: SocketAddr, settings: &[(u16, u32)]) -> Self {
        let stream = TcpStream::connect_timeout(&address, DEADLINE).expect("a connection");
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        stream.set_write_timeout(Some(DEADLINE)).expect("a timeout");
        stream.set_nodelay(true).expect("an option");
        let mut raw = Self { stream };
        raw.stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").expect("sent");
        let payload: Vec<u8> =
            settings.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect();
        assert!(raw.send(&frame(SETTINGS, 0, 0, &payload)));
        raw
    }

    /// Sends bytes; false if the other side accepts no more.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// Sends a request, which has no body if it is at its `end`.
    pub(crate) fn request(&mut self, stream: u32, headers: &[(&str, &str)], end: bool) -> bool {
        let flags = END_HEADERS | if end { END_STREAM } else { 0 };
        self.send(&frame(HEADERS, flags, stream, &block(headers)))
    }

    /// The next frame; `None` at the end of the connection.
    pub(crate) fn next(&mut self) -> Option<Frame> {
        let mut header = [0; 9];
        self.stream.read_exact(&mut header).ok()?;
        let length = usize::from(header[0]) << 16 | usize::from(header[1]) << 8 | usize::from(header[2]);
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload).ok()?;
        let stream = u32::from_be_bytes([header[5], header[6], header[7], header[8]]) & 0x7fff_ffff;
        Some(Frame { kind: header[3], flags: header[4], stream, payload })
    }

    /// Reads until a stream ends or the connection does.
    pub(crate) fn outcome(&mut self, stream: u32) -> Outcome {
        let mut status = 0;
        while let Some(frame) = self.next() {
            let code = || u32::from_be_bytes(frame.payload[frame.payload.len().min(8) - 4..][..4].try_into().unwrap());
            match frame.kind {
                GOAWAY if code() != NO_ERROR => return Outcome::GoAway(code()),
                RST_STREAM if frame.stream == stream => return Outcome::Reset(code()),
                HEADERS if frame.stream == stream && status == 0 => status = indexed_status(&frame.payload),
                _ => {}
            }
            if frame.stream == stream && matches!(frame.kind, HEADERS | DATA) && frame.flags & END_STREAM != 0 {
                return Outcome::Status(status);
            }
        }
        Outcome::Closed
    }

    /// Ends the sending direction.
    pub(crate) fn shutdown(&mut self) {
        self.stream.shutdown(Shutdown::Write).expect("a connection");
    }
}

/// The status at the start of a header block (RFC 7541, appendix A).
fn indexed_status(block: &[u8]) -> u16 {
    let statuses = [(0x88, 200), (0x89, 204), (0x8a, 206), (0x8b, 304), (0x8c, 400), (0x8d, 404), (0x8e, 500)];
    // Updates of the table's size come first.
    let first = block.iter().find(|byte| **byte & 0xe0 != 0x20);
    statuses.iter().find(|(index, _)| Some(index) == first).map_or(0, |(_, status)| *status)
}
