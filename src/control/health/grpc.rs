//! The gRPC health service (grpc.health.v1): the request and the response of its method `Check`, encoded by hand. Pure.

use std::fmt;

/// The method, as a path.
pub(super) const PATH: &str = "/grpc.health.v1.Health/Check";

/// The bytes before each message: a flag for its compression, and its length.
const PREFIX: usize = 5;
/// The tags of `HealthCheckRequest.service`, a text, and of `HealthCheckResponse.status`, a varint.
const SERVICE: u8 = 1 << 3 | 2;
const STATUS: u64 = 1 << 3;
/// The status SERVING.
const SERVING: u64 = 1;
/// Codes of gRPC.
const NOT_FOUND: u32 = 5;
const UNIMPLEMENTED: u32 = 12;

/// Why a call of the health service says that a server does not serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HealthFault {
    /// The service has this status instead of SERVING.
    NotServing(u64),
    /// The server does not know the service.
    UnknownService(String),
    /// The server has no health service.
    Unimplemented,
    /// The call failed with this code and message.
    Failed(u32, String),
    /// The response has another HTTP status than 200.
    Http(u16),
    /// The response is not one of gRPC.
    NoStatus,
    /// The server has chosen HTTP/1.1.
    NoHttp2,
    /// The message is not valid, or there is none.
    Message,
}

/// The body of a request about a service; empty for the server as a whole.
pub(super) fn request(service: &str) -> Vec<u8> {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(SERVICE);
        push_varint(&mut message, service.len() as u64);
        message.extend_from_slice(service.as_bytes());
    }
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    [&[0][..], &length.to_be_bytes(), &message].concat()
}

/// Judges a response by its code, by the message of that, and by its body.
///
/// # Errors
/// Why the server does not count as serving.
pub(super) fn judge(service: &str, code: Option<u32>, text: &str, body: &[u8]) -> Result<(), HealthFault> {
    match code {
        None => Err(HealthFault::NoStatus),
        Some(0) => match status(body).ok_or(HealthFault::Message)? {
            SERVING => Ok(()),
            other => Err(HealthFault::NotServing(other)),
        },
        Some(NOT_FOUND) => Err(HealthFault::UnknownService(service.to_owned())),
        Some(UNIMPLEMENTED) => Err(HealthFault::Unimplemented),
        Some(code) => Err(HealthFault::Failed(code, text.to_owned())),
    }
}

/// The status in the body of a response. One that is left out is 0, as any field.
fn status(body: &[u8]) -> Option<u64> {
    let (prefix, mut message) = body.split_at_checked(PREFIX)?;
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]);
    if prefix[0] != 0 || length as usize != message.len() {
        return None;
    }
    let mut status = 0;
    while !message.is_empty() {
        let tag = varint(&mut message)?;
        match tag & 7 {
            0 => {
                let value = varint(&mut message)?;
                if tag == STATUS {
                    status = value;
                }
            }
            1 => skip(&mut message, 8)?,
            2 => {
                let length = varint(&mut message)?;
                skip(&mut message, usize::try_from(length).ok()?)?;
            }
            5 => skip(&mut message, 4)?,
            _ => return None,
        }
    }
    Some(status)
}

fn skip(message: &mut &[u8], bytes: usize) -> Option<()> {
    *message = message.get(bytes..)?;
    Some(())
}

fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = message.split_first()?;
        *message = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn push_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

impl fmt::Display for HealthFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotServing(0) => f.write_str("the service has the status UNKNOWN, expected SERVING"),
            Self::NotServing(2) => f.write_str("the service has the status NOT_SERVING, expected SERVING"),
            Self::NotServing(3) => f.write_str("the service has the status SERVICE_UNKNOWN, expected SERVING"),
            Self::NotServing(other) => write!(f, "the service has the status {other}, expected SERVING"),
            Self::UnknownService(service) if service.is_empty() => {
                f.write_str("grpc-status 5 (NOT_FOUND): the server does not report its overall health")
            }
            Self::UnknownService(service) => {
                write!(f, "grpc-status 5 (NOT_FOUND): the server does not know the service `{service}`")
            }
            Self::Unimplemented => f.write_str("grpc-status 12 (UNIMPLEMENTED): the server has no health service"),
            Self::Failed(code, text) if text.is_empty() => write!(f, "grpc-status {code}, expected 0"),
            Self::Failed(code, text) => write!(f, "grpc-status {code}, expected 0: {text}"),
            Self::Http(status) => write!(f, "status {status}, expected 200"),
            Self::NoHttp2 => f.write_str("the server has chosen HTTP/1.1, and gRPC needs HTTP/2"),
            Self::NoStatus => f.write_str("the response has no grpc-status, so it is not a gRPC response"),
            Self::Message => f.write_str("the response has no valid message"),
        }
    }
}

impl HealthFault {
    /// A way to change the check if the server may be well.
    pub(super) fn hint(&self) -> Option<&'static str> {
        match self {
            Self::UnknownService(_) => Some("set `health.service` to a service whose health the server reports"),
            Self::Unimplemented => {
                Some("register the service grpc.health.v1.Health in the server, or set `health.kind = \"tcp\"`")
            }
            Self::Http(_) | Self::NoStatus | Self::NoHttp2 => {
                Some("set `health.kind = \"http\"` if the server does not speak gRPC")
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_names_the_service() {
        assert_eq!(request(""), [0, 0, 0, 0, 0]);
        assert_eq!(request("a.B"), [0, 0, 0, 0, 5, 0x0a, 3, b'a', b'.', b'B']);
        let long = "s".repeat(300);
        assert_eq!(request(&long)[..8], [0, 0, 0, 1, 47, 0x0a, 0xac, 2]);
    }

    #[test]
    fn only_serving_passes() {
        let fault = |status| Err(HealthFault::NotServing(status));
        let cases: [(&[u8], Result<(), HealthFault>); 13] = [
            (&[0, 0, 0, 0, 2, 8, 1], Ok(())),
            (&[0, 0, 0, 0, 2, 8, 2], fault(2)),
            (&[0, 0, 0, 0, 0], fault(0)),
            // An unknown field of each type, and a second value, which counts.
            (&[0, 0, 0, 0, 6, 0x12, 2, 8, 1, 8, 1], Ok(())),
            (&[0, 0, 0, 0, 18, 0x19, 0, 0, 0, 0, 0, 0, 0, 0, 0x1d, 0, 0, 0, 0, 8, 2, 8, 1], Ok(())),
            (&[0, 0, 0, 0, 3, 8, 0x81, 0], Ok(())),
            (&[1, 0, 0, 0, 2, 8, 1], Err(HealthFault::Message)),
            (&[0, 0, 0, 0, 3, 8, 1], Err(HealthFault::Message)),
            (&[0, 0, 0, 0, 1, 8], Err(HealthFault::Message)),
            (&[0, 0, 0, 0, 2, 0x12, 200], Err(HealthFault::Message)),
            (&[0, 0, 0, 0, 1, 0x0b], Err(HealthFault::Message)),
            (&[0, 0, 0, 0, 11, 8, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255], Err(HealthFault::Message)),
            (&[], Err(HealthFault::Message)),
        ];
        for (body, expected) in cases {
            assert_eq!(judge("", Some(0), "", body), expected, "{body:?}");
        }
    }

    #[test]
    fn no_bytes_break_the_decoder_and_few_pass() {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut valid = 0;
        for _ in 0..20_000 {
            let length = rng.usize(..12);
            let message: Vec<u8> =
                (0..length).map(|_| [0, 1, 2, 8, 10, 0x80, 0xff, rng.u8(..)][rng.usize(..8)]).collect();
            let body = [&[0, 0, 0, 0, u8::try_from(length).expect("short")][..], &message].concat();
            valid += usize::from(status(&body).is_some());
            assert_eq!(status(&body[..rng.usize(..5)]), None);
        }
        assert!((1..15_000).contains(&valid), "{valid}");
    }

    #[test]
    fn a_failed_call_says_why() {
        let fault = |code, service| judge(service, code, "sorry", &[]).expect_err("a fault").to_string();
        let cases = [
            (Some(5), "a.B", "grpc-status 5 (NOT_FOUND): the server does not know the service `a.B`"),
            (Some(5), "", "grpc-status 5 (NOT_FOUND): the server does not report its overall health"),
            (Some(12), "", "grpc-status 12 (UNIMPLEMENTED): the server has no health service"),
            (Some(14), "", "grpc-status 14, expected 0: sorry"),
            (None, "", "the response has no grpc-status, so it is not a gRPC response"),
        ];
        for (code, service, expected) in cases {
            assert_eq!(fault(code, service), expected);
        }
        assert_eq!(HealthFault::NotServing(2).to_string(), "the service has the status NOT_SERVING, expected SERVING");
    }
}
