//! The format of a line of the access log: as text, as JSON, or the combined format of Apache and nginx.
//!
//! Whatever a client sends, an entry is one line of ASCII. Text escapes quotes and backslashes, and
//! writes any other byte that is not printable as `\xHH`. The combined format writes quotes and backslashes as `\xHH`
//! too, because few of its readers know another escape. JSON uses its own escapes, and U+FFFD for bytes that are
//! not UTF-8.

mod clock;
mod escape;

use std::borrow::Cow;
use std::io::Write;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::time::{Duration, SystemTime};

use http::Version;

pub(super) use self::clock::{ClfCache, TimestampCache};
use self::escape::{
    escape_hex, escape_json, escape_text, write_hex, write_integer, write_lower_case, write_seconds, write_word,
};
use crate::transport::ClientAddress;

/// A finished request.
#[derive(Debug, Clone)]
pub struct AccessLogEntry<'a> {
    /// When the request's head had been received.
    pub time: SystemTime,
    /// The client's address: the one that trusted proxies report, if there are any.
    pub client: ClientAddress,
    /// The client's port, if it is known.
    pub client_port: Option<NonZeroU16>,
    /// `-` if the head was invalid.
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
    /// The status of a gRPC call that the client was sent.
    pub grpc_status: Option<u32>,
    pub user_agent: Option<&'a [u8]>,
    /// Only for the combined format.
    pub referer: Option<&'a [u8]>,
    /// The request headers that `log.headers` names, each with all of its values.
    pub headers: &'a [(&'a str, Cow<'a, [u8]>)],
}

impl AccessLogEntry<'_> {
    pub(super) fn write_text(&self, clock: &mut TimestampCache, out: &mut Vec<u8>) {
        clock.write(self.time, out);
        out.push(b' ');
        write_address(self.client, out);
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
        if let Some(status) = self.grpc_status {
            out.extend_from_slice(b" grpc_status=");
            write_integer(status, out);
        }
        out.extend_from_slice(b" tries=");
        write_integer(self.attempts, out);
        out.extend_from_slice(b" request_id=");
        write_word(self.request_id, out);
        if let Some(trace_id) = self.trace_id {
            out.extend_from_slice(b" trace_id=");
            write_hex(trace_id.to_be_bytes(), out);
        }
        if let Some(port) = self.client_port {
            out.extend_from_slice(b" client_port=");
            write_integer(port.get(), out);
        }
        if let Some(user_agent) = self.user_agent {
            out.extend_from_slice(b" user_agent=");
            write_word(user_agent, out);
        }
        for (name, value) in self.headers {
            out.extend_from_slice(b" headers.");
            write_lower_case(name, out);
            out.push(b'=');
            write_word(value, out);
        }
        out.extend_from_slice(b" generation=");
        write_integer(self.generation, out);
        out.push(b'\n');
    }

    pub(super) fn write_json(&self, clock: &mut TimestampCache, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"time\":\"");
        clock.write(self.time, out);
        out.extend_from_slice(b"\",\"client\":\"");
        write_address(self.client, out);
        if let Some(port) = self.client_port {
            out.extend_from_slice(b"\",\"client_port\":");
            write_integer(port.get(), out);
            out.extend_from_slice(b",\"method\":\"");
        } else {
            out.extend_from_slice(b"\",\"method\":\"");
        }
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
        if let Some(status) = self.grpc_status {
            out.extend_from_slice(b",\"grpc_status\":");
            write_integer(status, out);
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
        if let Some(user_agent) = self.user_agent {
            out.extend_from_slice(b",\"user_agent\":\"");
            escape_json(user_agent, out);
            out.push(b'"');
        }
        if !self.headers.is_empty() {
            out.extend_from_slice(b",\"headers\":{");
            for (number, (name, value)) in self.headers.iter().enumerate() {
                out.extend_from_slice(if number == 0 { b"\"" } else { b",\"" });
                write_lower_case(name, out);
                out.extend_from_slice(b"\":\"");
                escape_json(value, out);
                out.push(b'"');
            }
            out.push(b'}');
        }
        out.extend_from_slice(b",\"generation\":");
        write_integer(self.generation, out);
        out.extend_from_slice(b"}\n");
    }

    /// Like Apache's `combined`, with UTC. The identity and the user are not known.
    pub(super) fn write_combined(&self, clock: &mut ClfCache, out: &mut Vec<u8>) {
        write_address(self.client, out);
        out.extend_from_slice(b" - - [");
        clock.write(self.time, out);
        out.extend_from_slice(b"] \"");
        escape_hex(self.method.as_bytes(), out);
        if self.method != "-" {
            out.push(b' ');
            escape_hex(self.path.as_bytes(), out);
            out.push(b' ');
            out.extend_from_slice(protocol(self.version).as_bytes());
        }
        out.extend_from_slice(b"\" ");
        write_integer(self.status, out);
        out.push(b' ');
        write_integer(self.bytes, out);
        for value in [self.referer, self.user_agent] {
            out.extend_from_slice(b" \"");
            escape_hex(value.filter(|value| !value.is_empty()).unwrap_or(b"-"), out);
            out.push(b'"');
        }
        out.push(b'\n');
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

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_11 => "HTTP/1.1",
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_3 => "HTTP/3",
        _ => "HTTP/0.9",
    }
}

fn write_address(client: ClientAddress, out: &mut Vec<u8>) {
    let ClientAddress::Ip(IpAddr::V4(client)) = client else {
        // Writing to memory cannot fail.
        let _ = write!(out, "{client}");
        return;
    };
    let [a, b, c, d] = client.octets();
    write_integer(a, out);
    for octet in [b, c, d] {
        out.push(b'.');
        write_integer(octet, out);
    }
}

#[cfg(test)]
impl AccessLogEntry<'static> {
    /// A successful request.
    pub(super) fn example(time: SystemTime) -> Self {
        Self {
            time,
            client: IpAddr::from([127, 0, 0, 1]).into(),
            client_port: NonZeroU16::new(5123),
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
            grpc_status: None,
            user_agent: Some(b"curl/8.5.0"),
            referer: None,
            headers: &[],
        }
    }
}

#[cfg(test)]
mod tests;
