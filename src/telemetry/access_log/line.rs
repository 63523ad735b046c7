//! How one request looks in the access log, as text and as JSON.
//!
//! Whatever a client sends, an entry is one line of ASCII: in text, what could mislead is written
//! as `\"`, `\\` or `\xHH` a byte; in JSON as JSON escapes it, and what is no UTF-8 as U+FFFD.

use std::io::Write;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::Version;

/// One request, as it ended.
#[derive(Debug, Clone)]
pub struct Entry<'a> {
    /// When its head was there.
    pub time: SystemTime,
    /// Who sent it; with port 0, which is left out, where that is not known.
    pub client: SocketAddr,
    /// As received.
    pub method: &'a str,
    /// Path and query as received.
    pub path: &'a str,
    /// As received.
    pub version: Version,
    /// The `Host` field as received, or what stood in its place.
    pub host: Option<&'a [u8]>,
    /// What the client was answered; where it was answered nothing, 499 if it left, 503 if it was cut off.
    pub status: u16,
    /// Of the answer's body, in bytes, as far as it was sent.
    pub bytes: u64,
    /// From the head of the request to the end of the answer.
    pub elapsed: Duration,
    /// The route's name, if one was found.
    pub route: Option<&'a str>,
    /// The pool's name, if a route was found.
    pub pool: Option<&'a str>,
    /// The name of the server that was tried last, if any was.
    pub server: Option<&'a str>,
    /// How often a server was tried.
    pub tries: u32,
    /// The value of `X-Request-Id`.
    pub request_id: &'a [u8],
    /// The trace that it is a part of, if it is.
    pub trace_id: Option<u128>,
    /// The configuration that served it.
    pub generation: u64,
    /// In a word, why the answer is our own or ended early.
    pub error: Option<&'a str>,
}

impl Entry<'_> {
    pub(super) fn write_text(&self, clock: &mut Clock, out: &mut Vec<u8>) {
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
        for (name, value) in self.words() {
            if let Some(value) = value {
                out.push(b' ');
                out.extend_from_slice(name.as_bytes());
                out.push(b'=');
                write_word(value, out);
            }
        }
        out.extend_from_slice(b" tries=");
        write_integer(self.tries, out);
        out.extend_from_slice(b" request_id=");
        write_word(self.request_id, out);
        if let Some(trace_id) = self.trace_id {
            out.extend_from_slice(b" trace_id=");
            write_trace_id(trace_id, out);
        }
        out.extend_from_slice(b" generation=");
        write_integer(self.generation, out);
        out.push(b'\n');
    }

    pub(super) fn write_json(&self, clock: &mut Clock, out: &mut Vec<u8>) {
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
        for (name, value) in self.words() {
            if let Some(value) = value {
                out.extend_from_slice(b",\"");
                out.extend_from_slice(name.as_bytes());
                out.extend_from_slice(b"\":\"");
                escape_json(value, out);
                out.push(b'"');
            }
        }
        out.extend_from_slice(b",\"tries\":");
        write_integer(self.tries, out);
        out.extend_from_slice(b",\"request_id\":\"");
        escape_json(self.request_id, out);
        out.push(b'"');
        if let Some(trace_id) = self.trace_id {
            out.extend_from_slice(b",\"trace_id\":\"");
            write_trace_id(trace_id, out);
            out.push(b'"');
        }
        out.extend_from_slice(b",\"generation\":");
        write_integer(self.generation, out);
        out.extend_from_slice(b"}\n");
    }

    /// What both forms leave out when it is not there.
    fn words(&self) -> [(&'static str, Option<&[u8]>); 5] {
        [
            ("host", self.host),
            ("route", self.route.map(str::as_bytes)),
            ("pool", self.pool.map(str::as_bytes)),
            ("server", self.server.map(str::as_bytes)),
            ("error", self.error.map(str::as_bytes)),
        ]
    }
}

/// Writes times in RFC 3339 with milliseconds; the costly part once a second.
#[derive(Debug, Default)]
pub(super) struct Clock {
    second: Option<u64>,
    /// `2026-11-22T01:02:03`
    text: Vec<u8>,
}

impl Clock {
    fn write(&mut self, time: SystemTime, out: &mut Vec<u8>) {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        if self.second != Some(since.as_secs()) {
            self.second = Some(since.as_secs());
            self.text.clear();
            let seconds = UNIX_EPOCH + Duration::from_secs(since.as_secs());
            // Fails for years past 9999 only; then the line has no date.
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
        // To memory, so it cannot fail.
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

fn write_trace_id(value: u128, out: &mut Vec<u8>) {
    for byte in value.to_be_bytes() {
        out.extend_from_slice(&hex(byte));
    }
}

/// As it is where that is unmistakable, else in quotes.
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

fn is_harmless(byte: &u8) -> bool {
    matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\')
}

fn escape_text(mut text: &[u8], out: &mut Vec<u8>) {
    while let Some(at) = text.iter().position(|byte| !is_harmless(byte)) {
        out.extend_from_slice(&text[..at]);
        match text[at] {
            byte @ (b'"' | b'\\') => out.extend_from_slice(&[b'\\', byte]),
            byte => {
                out.extend_from_slice(b"\\x");
                out.extend_from_slice(&hex(byte));
            }
        }
        text = &text[at + 1..];
    }
    out.extend_from_slice(text);
}

fn escape_json(text: &[u8], out: &mut Vec<u8>) {
    if text.iter().all(is_harmless) {
        return out.extend_from_slice(text);
    }
    for chunk in text.utf8_chunks() {
        for char in chunk.valid().chars() {
            match u8::try_from(char) {
                Ok(byte @ (b'"' | b'\\')) => out.extend_from_slice(&[b'\\', byte]),
                Ok(byte) if is_harmless(&byte) => out.push(byte),
                _ => {
                    for unit in char.encode_utf16(&mut [0; 2]) {
                        let [high, low] = unit.to_be_bytes();
                        out.extend_from_slice(b"\\u");
                        out.extend_from_slice(&hex(high));
                        out.extend_from_slice(&hex(low));
                    }
                }
            }
        }
        if !chunk.invalid().is_empty() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
}

fn hex(byte: u8) -> [u8; 2] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]
}

#[cfg(test)]
impl Entry<'static> {
    /// A request that went well.
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
            tries: 1,
            request_id: b"7f000001",
            trace_id: Some(0x463a_c35c_9f64_13ad_4848_5a39_53bb_6124),
            generation: 3,
            error: None,
        }
    }
}

#[cfg(test)]
mod tests;
