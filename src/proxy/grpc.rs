//! gRPC: what a call is, its deadline, its status, and the status for a failure of our own. Pure.

use std::time::{Duration, Instant};

use http::Version;

use crate::http1::head::RequestHead;
use crate::http1::headers::Headers;
use crate::http1::name::HeaderName;
use crate::proxy::error::ProxyError;

const TIMEOUT: &str = "grpc-timeout";
pub(super) const STATUS: &str = "grpc-status";
pub(super) const MESSAGE: &str = "grpc-message";

/// A gRPC call: the facts about it beyond those of any request.
#[derive(Debug)]
pub struct Call {
    /// When its client gives up, if it has said so.
    pub deadline: Option<Instant>,
    /// The status that the client has been sent.
    pub status: Option<u32>,
}

impl Call {
    /// The call that a request is which arrived at `started`, if it is one: only HTTP/2 has gRPC.
    #[must_use]
    pub fn of(head: &RequestHead, started: Instant) -> Option<Self> {
        if head.version != Version::HTTP_2 || !is_grpc(head.headers.get(HeaderName::ContentType)?) {
            return None;
        }
        let timeout = value(&head.headers, TIMEOUT).and_then(timeout);
        Some(Self { deadline: timeout.and_then(|timeout| started.checked_add(timeout)), status: None })
    }

    /// Whether its deadline has passed.
    #[must_use]
    pub fn is_over(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }

    /// Tells the server how much time is left.
    pub fn write_timeout(&self, headers: &mut Headers, now: Instant) {
        if let Some(deadline) = self.deadline {
            headers.retain(|_, name| !name.eq_ignore_ascii_case(TIMEOUT.as_bytes()));
            headers.add_named(TIMEOUT, timeout_text(deadline.saturating_duration_since(now)).as_bytes());
        }
    }
}

/// The first value of a header that has no identifier.
fn value<'h>(headers: &'h Headers, name: &str) -> Option<&'h [u8]> {
    headers.iter().find(|(_, other, _)| other.eq_ignore_ascii_case(name.as_bytes())).map(|(_, _, value)| value)
}

/// The status in the head of a response, which then has nothing else.
#[must_use]
pub fn status_in_head(headers: &Headers) -> Option<u32> {
    status(value(headers, STATUS)?)
}

/// The status in a trailer section.
#[must_use]
pub fn status_in_trailers(section: &[u8]) -> Option<u32> {
    status(value_in_trailers(section, STATUS)?)
}

/// The message beside the status in a trailer section, for people; as it is encoded.
#[must_use]
pub fn message_in_trailers(section: &[u8]) -> String {
    String::from_utf8_lossy(value_in_trailers(section, MESSAGE).unwrap_or_default()).into_owned()
}

fn value_in_trailers<'s>(section: &'s [u8], name: &str) -> Option<&'s [u8]> {
    section.split(|byte| *byte == b'\n').find_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let is_name = line[..colon].trim_ascii().eq_ignore_ascii_case(name.as_bytes());
        is_name.then(|| line[colon + 1..].trim_ascii())
    })
}

/// Reads the number of a status.
fn status(value: &[u8]) -> Option<u32> {
    let is_number = !value.is_empty() && value.len() <= 9 && value.iter().all(u8::is_ascii_digit);
    is_number.then(|| value.iter().fold(0, |number, digit| number * 10 + u32::from(digit - b'0')))
}

/// The lines of the trailer section that ends a failed call.
#[must_use]
pub fn trailers(status: GrpcStatus, detail: &str) -> String {
    format!("{STATUS}: {}\r\n{MESSAGE}: {}\r\n", status as u32, message(detail))
}

/// A status of gRPC that `lb` itself sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum GrpcStatus {
    DeadlineExceeded = 4,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    Unauthenticated = 16,
}

/// The most digits of a timeout.
const MAX_DIGITS: usize = 8;

/// Whether this `Content-Type` is gRPC's, in any of its encodings.
#[must_use]
pub fn is_grpc(content_type: &[u8]) -> bool {
    const GRPC: &[u8] = b"application/grpc";
    content_type.get(..GRPC.len()).is_some_and(|start| start.eq_ignore_ascii_case(GRPC))
        && matches!(content_type.get(GRPC.len()), None | Some(b'+' | b';' | b' '))
}

impl GrpcStatus {
    /// The status for a failure.
    #[must_use]
    pub fn of(error: ProxyError) -> Self {
        match error {
            ProxyError::BodyTooLarge => Self::ResourceExhausted,
            ProxyError::ClientTooSlow => Self::DeadlineExceeded,
            error => Self::of_status(error.status()),
        }
    }

    /// The status for a response of our own with this status of HTTP.
    #[must_use]
    pub fn of_status(status: u16) -> Self {
        match status {
            401 => Self::Unauthenticated,
            403 => Self::PermissionDenied,
            404 => Self::Unimplemented,
            408 | 504 => Self::DeadlineExceeded,
            413 | 429 | 431 => Self::ResourceExhausted,
            400..=499 => Self::Internal,
            _ => Self::Unavailable,
        }
    }
}

/// Reads `grpc-timeout`: at most eight digits and a unit. `None` if it is none.
#[must_use]
pub fn timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > MAX_DIGITS || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
    match unit {
        b'H' => Some(Duration::from_secs(number * 3600)),
        b'M' => Some(Duration::from_secs(number * 60)),
        b'S' => Some(Duration::from_secs(number)),
        b'm' => Some(Duration::from_millis(number)),
        b'u' => Some(Duration::from_micros(number)),
        b'n' => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

/// Writes a timeout in the finest unit in which it fits, rounded down: the server must not have more time than is left.
#[must_use]
pub fn timeout_text(left: Duration) -> String {
    const MAX: u128 = 99_999_999;
    let seconds = u128::from(left.as_secs());
    let units =
        [(left.as_nanos(), 'n'), (left.as_micros(), 'u'), (left.as_millis(), 'm'), (seconds, 'S'), (seconds / 60, 'M')];
    match units.into_iter().find(|(number, _)| *number <= MAX) {
        Some((number, unit)) => format!("{number}{unit}"),
        None => format!("{}H", (seconds / 3600).min(MAX)),
    }
}

/// Writes a message for `grpc-message`: percent-encoded, except for the visible characters of ASCII and the space.
#[must_use]
pub fn message(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::rejection::Rejection;

    #[test]
    fn the_content_type_tells_what_is_grpc() {
        let cases = [
            ("application/grpc", true),
            ("Application/gRPC+proto", true),
            ("application/grpc;charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/grpcx", false),
            ("application/json", false),
            ("", false),
        ];
        for (value, expected) in cases {
            assert_eq!(is_grpc(value.as_bytes()), expected, "{value}");
        }
    }

    #[test]
    fn each_failure_has_a_status() {
        let cases = [
            (ProxyError::NoServer, 14),
            (ProxyError::Unreachable(std::io::ErrorKind::ConnectionRefused), 14),
            (ProxyError::Refused { consumed: true }, 14),
            (ProxyError::Closed(crate::http1::client::Sent::All), 14),
            (ProxyError::Aborted, 14),
            (ProxyError::ConnectTimeout, 4),
            (ProxyError::ResponseTimeout, 4),
            (ProxyError::DeadlineExceeded, 4),
            (ProxyError::CallUnavailable { consumed: true }, 14),
            (ProxyError::ResponseTruncated, 14),
            (ProxyError::ClientTooSlow, 4),
            (ProxyError::BodyTooLarge, 8),
            (ProxyError::NoRoute, 12),
            (ProxyError::Rejected(Rejection::Framing), 13),
            (ProxyError::Expectation, 13),
        ];
        for (error, expected) in cases {
            assert_eq!(GrpcStatus::of(error) as u32, expected, "{error:?}");
        }
        for (status, expected) in [(401, 16), (403, 7), (429, 8), (431, 8), (404, 12), (502, 14), (503, 14), (504, 4)] {
            assert_eq!(GrpcStatus::of_status(status) as u32, expected, "{status}");
        }
    }

    #[test]
    fn a_timeout_has_at_most_eight_digits_and_a_unit() {
        let millis = Duration::from_millis;
        let cases = [
            ("1H", Some(millis(3_600_000))),
            ("2M", Some(millis(120_000))),
            ("3S", Some(millis(3000))),
            ("100m", Some(millis(100))),
            ("5000u", Some(millis(5))),
            ("1000000n", Some(millis(1))),
            ("0n", Some(millis(0))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("100000000n", None),
            ("", None),
            ("S", None),
            ("1", None),
            ("1s", None),
            ("-1S", None),
            ("1.5S", None),
            (" 1S", None),
            ("1 S", None),
        ];
        for (value, expected) in cases {
            assert_eq!(timeout(value.as_bytes()), expected, "{value}");
        }
    }

    #[test]
    fn a_timeout_is_written_in_the_finest_unit_and_never_longer() {
        let cases = [
            (Duration::ZERO, "0n"),
            (Duration::from_nanos(99_999_999), "99999999n"),
            (Duration::from_nanos(100_000_999), "100000u"),
            (Duration::from_millis(100_500), "100500m"),
            (Duration::from_secs(100_000), "100000S"),
            (Duration::from_secs(100_000_119), "1666668M"),
            (Duration::MAX, "99999999H"),
        ];
        for (left, expected) in cases {
            assert_eq!(timeout_text(left), expected);
            assert!(timeout(expected.as_bytes()).expect("valid") <= left, "{expected}");
        }
    }

    #[test]
    fn only_requests_of_http_2_are_calls_and_the_time_that_is_left_is_forwarded() {
        let head = |version, pairs: &[(&str, &str)]| {
            let mut head = RequestHead::default();
            (head.version, head.headers) = (version, Headers::from_pairs(pairs.iter().copied()));
            head
        };
        let started = Instant::now();
        let grpc = ("content-type", "application/grpc+proto");
        assert!(Call::of(&head(Version::HTTP_11, &[grpc]), started).is_none());
        assert!(Call::of(&head(Version::HTTP_2, &[("content-type", "text/plain")]), started).is_none());
        assert!(
            Call::of(&head(Version::HTTP_2, &[grpc, (TIMEOUT, "1x")]), started).is_some_and(|c| c.deadline.is_none())
        );

        let mut head = head(Version::HTTP_2, &[(TIMEOUT, "2S"), grpc, ("x-a", "b")]);
        let call = Call::of(&head, started).expect("a call");
        let at = |millis| started + Duration::from_millis(millis);
        assert_eq!((call.is_over(at(1999)), call.is_over(at(2000))), (false, true));
        for (now, expected) in [(500, "1500000u"), (1999, "1000000n"), (3000, "0n")] {
            call.write_timeout(&mut head.headers, at(now));
            assert_eq!(value(&head.headers, TIMEOUT), Some(expected.as_bytes()));
            assert_eq!(head.headers.len(), 3);
        }
    }

    #[test]
    fn the_status_of_a_response_is_in_its_head_or_its_trailers() {
        let cases = [
            ("grpc-status: 0\r\n", Some(0)),
            ("x-a: b\r\nGRPC-Status:  14 \r\ngrpc-message: a\r\n", Some(14)),
            ("grpc-status: 99\r\n", Some(99)),
            ("grpc-status: \r\n", None),
            ("grpc-status: -1\r\n", None),
            ("grpc-status: 99999999999\r\n", None),
            ("grpc-status-x: 1\r\n", None),
            ("", None),
        ];
        for (section, expected) in cases {
            assert_eq!(status_in_trailers(section.as_bytes()), expected, "{section}");
        }
        assert_eq!(status_in_head(&Headers::from_pairs([("x", "1"), ("grpc-status", "7")])), Some(7));
        let own = trailers(GrpcStatus::Unavailable, "No server is available.");
        assert_eq!(own, "grpc-status: 14\r\ngrpc-message: No server is available.\r\n");
        assert_eq!(status_in_trailers(own.as_bytes()), Some(14));
    }

    #[test]
    fn a_message_is_visible_ascii() {
        assert_eq!(message("100 % of \u{fc}\r\n"), "100 %25 of %C3%BC%0D%0A");
    }
}
