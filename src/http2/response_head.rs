//! The head of a response from a server of HTTP/2, and its trailers, judged by the rules of HTTP/1. Pure.

use http::{HeaderMap, Method, Response, Version};

use crate::http1::body::BodyLength;
use crate::http1::client::{BadResponse, RESPONSE_LIMITS};
use crate::http1::framing::{self, BadFraming, Framing};
use crate::http1::head::{HeadError, ResponseHead};
use crate::http1::name::HeaderName;
use crate::http2::fields::{self, is_connection_specific};
use crate::http2::websocket;

/// Returns the head of a response.
///
/// # Errors
/// [`BadResponse`].
pub fn response(response: &Response<()>) -> Result<ResponseHead, BadResponse> {
    let status = response.status().as_u16();
    // RFC 9113, section 8.6.
    if status == 101 {
        return Err(BadResponse::Switch);
    }
    let fields = response.headers();
    if fields.len() > RESPONSE_LIMITS.headers {
        return Err(BadResponse::Head(HeadError::TooManyHeaders));
    }
    let mut head = ResponseHead::of_status(status);
    head.version = Version::HTTP_2;
    let mut bytes = 0;
    for (name, value) in fields {
        let id = HeaderName::from_bytes(name.as_str().as_bytes());
        if is_connection_specific(id) || !is_valid(value.as_bytes()) {
            return Err(BadResponse::Http2);
        }
        bytes += name.as_str().len() + value.len() + 4;
        head.headers.add_named(name.as_str(), value.as_bytes());
    }
    if bytes > RESPONSE_LIMITS.bytes { Err(BadResponse::Head(HeadError::TooLarge)) } else { Ok(head) }
}

/// Returns the length of a response's body, and writes the one that the head declares in the usual way. `has_ended` is
/// whether the stream ends with the head.
///
/// # Errors
/// [`BadResponse::Framing`].
pub fn body_length(head: &mut ResponseHead, method: &Method, has_ended: bool) -> Result<BodyLength, BadResponse> {
    let framing = framing::response(&head.headers, head.version, head.status, method)
        .map_err(|BadFraming| BadResponse::Framing)?;
    framing::normalise_length(&mut head.headers);
    Ok(match framing {
        // A client of HTTP/1 has to be told.
        Framing::UntilClose if has_ended => {
            head.headers.add(HeaderName::ContentLength, b"0");
            BodyLength::Known(0)
        }
        framing => framing.into(),
    })
}

/// Returns a trailer section as lines, each with its CRLF. Those that break a rule are left out.
#[must_use]
pub fn trailer_lines(trailers: &HeaderMap) -> Vec<u8> {
    fields::lines(trailers, |name, value| {
        !is_connection_specific(HeaderName::from_bytes(name.as_str().as_bytes())) && is_valid(value)
    })
}

/// Turns the response that opens a WebSocket into the one that does so in HTTP/1.1. `accept` proves that the request was
/// understood.
#[must_use]
pub fn switched(head: &ResponseHead, accept: &str) -> ResponseHead {
    let mut switched = ResponseHead::of_status(101);
    switched.version = head.version;
    switched.headers.append(&head.headers);
    switched.headers.remove(HeaderName::ContentLength);
    switched.headers.retain(|_, name| !websocket::is_of_http1(name));
    switched.headers.add(HeaderName::Upgrade, b"websocket");
    switched.headers.add_named("sec-websocket-accept", accept.as_bytes());
    switched
}

/// Whether a value ends no line of HTTP/1.
fn is_valid(value: &[u8]) -> bool {
    !value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Fields = &'static [(&'static str, &'static str)];
    type Judged = Result<BodyLength, BadResponse>;

    fn with(status: u16, fields: Fields) -> Response<()> {
        let mut builder = Response::builder().status(status);
        for (name, value) in fields {
            builder = builder.header(*name, *value);
        }
        builder.body(()).expect("a response")
    }

    #[test]
    fn a_head_is_judged_by_the_rules_of_http_1() {
        let cases: [(u16, Fields, Option<BadResponse>); 7] = [
            (200, &[("content-length", "5"), ("x-a", "1")], None),
            (100, &[], None),
            (101, &[("x-a", "1")], Some(BadResponse::Switch)),
            (200, &[("connection", "close")], Some(BadResponse::Http2)),
            (200, &[("transfer-encoding", "chunked")], Some(BadResponse::Http2)),
            (200, &[("keep-alive", "timeout=5")], Some(BadResponse::Http2)),
            (200, &[("upgrade", "h2c")], Some(BadResponse::Http2)),
        ];
        for (status, fields, expected) in cases {
            assert_eq!(response(&with(status, fields)).err(), expected, "{status} {fields:?}");
        }
    }

    #[test]
    fn a_head_has_at_most_as_many_headers_as_over_http_1() {
        let many = |count: usize| {
            let mut response = with(200, &[]);
            (0..count).for_each(|_| {
                response.headers_mut().append("x-a", http::HeaderValue::from_static("1"));
            });
            response
        };
        assert!(response(&many(RESPONSE_LIMITS.headers)).is_ok());
        let error = response(&many(RESPONSE_LIMITS.headers + 1)).err();
        assert_eq!(error, Some(BadResponse::Head(HeadError::TooManyHeaders)));
    }

    #[test]
    fn the_length_of_a_body_follows_from_status_method_and_length() {
        use BodyLength::{Known, None as Nothing, Unknown};
        let cases: [(u16, Method, Fields, bool, Judged); 8] = [
            (200, Method::GET, &[], false, Ok(Unknown)),
            (200, Method::GET, &[], true, Ok(Known(0))),
            (200, Method::GET, &[("content-length", "5")], false, Ok(Known(5))),
            (200, Method::HEAD, &[("content-length", "5")], true, Ok(Nothing)),
            (204, Method::GET, &[], true, Ok(Nothing)),
            (304, Method::GET, &[("content-length", "5")], true, Ok(Nothing)),
            (200, Method::GET, &[("content-length", "5"), ("content-length", "6")], false, Err(BadResponse::Framing)),
            (200, Method::GET, &[("content-length", "-5")], false, Err(BadResponse::Framing)),
        ];
        for (status, method, fields, has_ended, expected) in cases {
            let mut head = response(&with(status, fields)).expect("valid");
            assert_eq!(body_length(&mut head, &method, has_ended), expected, "{status} {method} {fields:?}");
        }
    }
}
