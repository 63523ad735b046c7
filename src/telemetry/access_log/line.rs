//! The format of a line of the access log, as text and as JSON.
//!
//! Whatever a client sends, an entry is one line of ASCII. Text escapes quotes and backslashes, and
//! writes any other byte that is not printable as `\xHH`. JSON uses its own escapes, and U+FFFD for
//! bytes that are not UTF-8.

use std::io::Write;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::Version;

/// A finished request.
#[derive(Debug, Clone)]
pub struct AccessLogEntry<'a> {
    /// When the request's head had been received.
    pub time: SystemTime,
    /// The client's address. Port 0 stands for an unknown port and is not written.
    pub client: SocketAddr,
    pub method: &'a str,
    /// Path and query, as received.
    pub path: &'a str,
    pub version: Version,
    /// The `Host` header as received, or the authority of the request target.
    pub host: Option<&'a [u8]>,
    /// The status sent to the client. Without a response, 499 if the client left and 503 if `lb` aborted the request.
    pub status: u16,
    /// Bytes of the response's body that were sent.
    pub bytes: u64,
    /// From the head of the request to the end of the response.
    pub elapsed: Duration,
    /// The name of the route that matched.
    pub route: Option<&'a str>,
    /// The name of that route's pool.
    pub pool: Option<&'a str>,
    /// The name of the last attempt's server.
    pub server: Option<&'a str>,
    /// Attempts at servers.
    pub attempts: u32,
    /// The value of `X-Request-Id`.
    pub request_id: &'a [u8],
    /// The trace that the request belongs to.
    pub trace_id: Option<u128>,
    /// The generation that served the request.
    pub generation: u64,
    /// A label for why the response is not a server's, or ended early.
    pub error: Option<&'a str>,
    /// Which rule it was, if the label covers several.
    pub rule: Option<&'a str>,
}

impl AccessLogEntry<'_> {
    pub(super) fn write_text(&self, clock: &mut TimestampCache, out: &mut Vec<u8>) {
        clock.write(self.time, out);
        out.push(b' ');
        write_client(self.client, out);
        out.extend_from_slice(b" \"");
        escape_text(self.method.as_bytes(), out);
        out.push(b' ');
        escape_text(self.path.as_bytes(), out);
        out.push(b' ');
        out.extend_from_slice(protocol(self.version).as_bytes());
        out.extend_from_slice(b"\" ");
        write_integer(self.status, out);
        out.push(b' ');
        write_integer(self.bytes, out);
        out.extend_from_slice(b"B ");
        write_seconds(self.elapsed, out);
        out.push(b's');
        for (name, value) in self.optional() {
            if let Some(value) = value {
                out.push(b' ');
                out.extend_from_slice(name.as_bytes());
                out.push(b'=');
                write_word(value, out);
            }
        }
        out.extend_from_slice(b" tries=");
        write_integer(self.attempts, out);
        out.extend_from_slice(b" request_id=");
        write_word(self.request_id, out);
        if let Some(trace_id) = self.trace_id {
            out.extend_from_slice(b" trace_id=");
            write_hex(trace_id.to_be_bytes(), out);
        }
        out.extend_from_slice(b" generation=");
        write_integer(self.generation, out);
        out.push(b'\n');
    }

    pub(super) fn write_json(&self, clock: &mut TimestampCache, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"time\":\"");
        clock.write(self.time, out);
        out.extend_from_slice(b"\",\"client\":\"");
        write_client(self.client, out);
        out.extend_from_slice(b"\",\"method\":\"");
        escape_json(self.method.as_bytes(), out);
        out.extend_from_slice(b"\",\"path\":\"");
        escape_json(self.path.as_bytes(), out);
        out.extend_from_slice(b"\",\"protocol\":\"");
        out.extend_from_slice(protocol(self.version).as_bytes());
        out.extend_from_slice(b"\",\"status\":");
        write_integer(self.status, out);
        out.extend_from_slice(b",\"bytes\":");
        write_integer(self.bytes, out);
        out.extend_from_slice(b",\"seconds\":");
        write_seconds(self.elapsed, out);
        for (name, value) in self.optional() {
            if let Some(value) = value {
                out.extend_from_slice(b",\"");
                out.extend_from_slice(name.as_bytes());
                out.extend_from_slice(b"\":\"");
                escape_json(value, out);
                out.push(b'"');
            }
        }
        out.extend_from_slice(b",\"tries\":");
        write_integer(self.attempts, out);
        out.extend_from_slice(b",\"request_id\":\"");
        escape_json(self.request_id, out);
        out.push(b'"');
        if let Some(trace_id) = self.trace_id {
            out.extend_from_slice(b",\"trace_id\":\"");
            write_hex(trace_id.to_be_bytes(), out);
            out.push(b'"');
        }
        out.extend_from_slice(b",\"generation\":");
        write_integer(self.generation, out);
        out.extend_from_slice(b"}\n");
    }

    /// Values that both formats omit if absent.
    fn optional(&self) -> [(&'static str, Option<&[u8]>); 6] {
        [
            ("host", self.host),
            ("route", self.route.map(str::as_bytes)),
            ("pool", self.pool.map(str::as_bytes)),
            ("server", self.server.map(str::as_bytes)),
            ("error", self.error.map(str::as_bytes)),
            ("rule", self.rule.map(str::as_bytes)),
        ]
    }
}

/// Writes times in RFC 3339 with milliseconds; formats date and time only once a second.
#[derive(Debug, Default)]
pub(super) struct TimestampCache {
    second: Option<u64>,
    /// `2026-11-22T01:02:03`
    text: Vec<u8>,
}

impl TimestampCache {
    fn write(&mut self, time: SystemTime, out: &mut Vec<u8>) {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        if self.second != Some(since.as_secs()) {
            self.second = Some(since.as_secs());
            self.text.clear();
            let seconds = UNIX_EPOCH + Duration::from_secs(since.as_secs());
            // Fails only for years after 9999; then the line has no date.
            let _ = write!(self.text, "{}", humantime::format_rfc3339_seconds(seconds));
            self.text.pop();
        }
        out.extend_from_slice(&self.text);
        out.push(b'.');
        write_digits::<3>(since.subsec_millis(), out);
        out.push(b'Z');
    }
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_11 => "HTTP/1.1",
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_3 => "HTTP/3",
        _ => "HTTP/0.9",
    }
}

fn write_client(client: SocketAddr, out: &mut Vec<u8>) {
    let SocketAddr::V4(client) = client else {
        // Writing to memory cannot fail.
        let _ = if client.port() == 0 { write!(out, "{}", client.ip()) } else { write!(out, "{client}") };
        return;
    };
    let [a, b, c, d] = client.ip().octets();
    write_integer(a, out);
    for octet in [b, c, d] {
        out.push(b'.');
        write_integer(octet, out);
    }
    if client.port() != 0 {
        out.push(b':');
        write_integer(client.port(), out);
    }
}

fn write_integer(value: impl itoa::Integer, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

fn write_seconds(value: Duration, out: &mut Vec<u8>) {
    write_integer(value.as_secs(), out);
    out.push(b'.');
    write_digits::<6>(value.subsec_micros(), out);
}

/// The last `N` decimal digits, with leading zeros.
fn write_digits<const N: usize>(mut value: u32, out: &mut Vec<u8>) {
    let mut digits = [b'0'; N];
    for digit in digits.iter_mut().rev() {
        *digit += (value % 10) as u8;
        value /= 10;
    }
    out.extend_from_slice(&digits);
}

/// Writes `bytes` in lower-case hexadecimal.
fn write_hex<const N: usize>(bytes: [u8; N], out: &mut Vec<u8>) {
    out.extend_from_slice(const_hex::Buffer::<N>::new().format(&bytes).as_bytes());
}

/// Writes `word` as it is if that is unambiguous, else in quotes.
fn write_word(word: &[u8], out: &mut Vec<u8>) {
    let plain = |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\');
    if !word.is_empty() && word.iter().all(plain) {
        out.extend_from_slice(word);
    } else {
        out.push(b'"');
        escape_text(word, out);
        out.push(b'"');
    }
}

fn needs_no_escape(byte: &u8) -> bool {
    matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\')
}

fn escape_text(mut text: &[u8], out: &mut Vec<u8>) {
    while let Some(at) = text.iter().position(|byte| !needs_no_escape(byte)) {
        out.extend_from_slice(&text[..at]);
        match text[at] {
            byte @ (b'"' | b'\\') => out.extend_from_slice(&[b'\\', byte]),
            byte => {
                out.extend_from_slice(b"\\x");
                write_hex([byte], out);
            }
        }
        text = &text[at + 1..];
    }
    out.extend_from_slice(text);
}

fn escape_json(text: &[u8], out: &mut Vec<u8>) {
    if text.iter().all(needs_no_escape) {
        return out.extend_from_slice(text);
    }
    for chunk in text.utf8_chunks() {
        for char in chunk.valid().chars() {
            match u8::try_from(char) {
                Ok(byte @ (b'"' | b'\\')) => out.extend_from_slice(&[b'\\', byte]),
                Ok(byte) if needs_no_escape(&byte) => out.push(byte),
                _ => {
                    for unit in char.encode_utf16(&mut [0; 2]) {
                        out.extend_from_slice(b"\\u");
                        write_hex(unit.to_be_bytes(), out);
                    }
                }
            }
        }
        if !chunk.invalid().is_empty() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
}

#[cfg(test)]
impl AccessLogEntry<'static> {
    /// A successful request.
    pub(super) fn example(time: SystemTime) -> Self {
        Self {
            time,
            client: ([127, 0, 0, 1], 5123).into(),
            method: "GET",
            path: "/path?q=1",
            version: Version::HTTP_11,
            host: Some(b"example.com"),
            status: 200,
            bytes: 13,
            elapsed: Duration::from_micros(1_200),
            route: Some("*/"),
            pool: Some("default"),
            server: Some("server1"),
            attempts: 1,
            request_id: b"7f000001",
            trace_id: Some(0x463a_c35c_9f64_13ad_4848_5a39_53bb_6124),
            generation: 3,
            error: None,
            rule: None,
        }
    }
}

#[cfg(test)]
mod tests;
