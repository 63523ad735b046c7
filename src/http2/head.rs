//! Heads and trailers of HTTP/2 as those of HTTP/1, and the reverse. Pure.
//!
//! A request is converted so that the validators of HTTP/1 judge it: `:path` becomes the target and `:authority` becomes
//! `Host`. Only the rules that HTTP/1 does not have are applied here (RFC 9113, section 8.2 and 8.3).

use std::borrow::Cow;

use http::request::Parts;
use http::{HeaderMap, HeaderName as FieldName, Method, Response, StatusCode, Version, header, uri};

use crate::http1::head::{BadLine, HeadError, HeadLimits, HeadRule, Headers, MAX_METHOD, RequestHead, ResponseHead};
use crate::http1::name::HeaderName;
pub use crate::http2::fields::trailers;
use crate::http2::fields::{self, append, is_connection_specific};
use crate::http2::websocket;

/// Returns the head of a request; its headers reuse the memory of `headers`.
///
/// # Errors
/// [`HeadError::Malformed`] if the request is malformed (RFC 9113, section 8.1.1); any other one for a limit.
pub fn request(parts: &Parts, headers: Headers, limits: HeadLimits) -> Result<RequestHead, HeadError> {
    let Parts { method, uri, headers: fields, .. } = parts;
    if method.as_str().len() > MAX_METHOD {
        return Err(HeadError::MethodTooLong);
    }
    let is_websocket = websocket::is_extended(parts);
    let method = if is_websocket { &Method::GET } else { method };
    let mut head = RequestHead::of_parts(headers, method.clone(), Version::HTTP_2, &target(method, uri)?);
    if is_websocket {
        // A client of HTTP/2 cannot send it otherwise.
        head.headers.add(HeaderName::Upgrade, b"websocket");
    }
    let authority = uri.authority().map(uri::Authority::as_str);
    if let Some(authority) = authority {
        head.headers.add(HeaderName::Host, authority.as_bytes());
    }
    let mut cookies = Vec::new();
    for (name, value) in fields {
        let value = value.as_bytes();
        check(name, value)?;
        if *name == header::COOKIE {
            // HTTP/2 may split it (RFC 9113, section 8.2.3).
            if !cookies.is_empty() {
                cookies.extend_from_slice(b"; ");
            }
            cookies.extend_from_slice(value);
        } else if is_websocket && *name == header::CONTENT_LENGTH {
            // The request that it becomes has no body (RFC 9110, section 9.3.6).
            return Err(malformed(HeadRule::ConnectBody));
        } else if is_websocket && websocket::is_of_http1(name.as_str().as_bytes()) {
            // The key is ours.
        } else if *name != header::HOST || authority.is_none() {
            head.headers.add_named(name.as_str(), value);
        } else if !authority.is_some_and(|authority| authority.as_bytes().eq_ignore_ascii_case(value)) {
            return Err(malformed(HeadRule::Authority));
        }
    }
    if !cookies.is_empty() {
        head.headers.add_named("cookie", &cookies);
    }
    if head.headers.len() > limits.headers { Err(HeadError::TooManyHeaders) } else { Ok(head) }
}

/// The request target as in HTTP/1.
fn target<'u>(method: &Method, uri: &'u http::Uri) -> Result<Cow<'u, str>, HeadError> {
    if *method == Method::CONNECT {
        return Ok(uri.authority().map_or("", uri::Authority::as_str).into());
    }
    let path = uri.path_and_query().map_or("", uri::PathAndQuery::as_str);
    let is_target = path.starts_with('/') || path == "*" && *method == Method::OPTIONS;
    if !is_target {
        return Err(malformed(HeadRule::StartLine));
    }
    match (uri.scheme_str(), uri.authority()) {
        // So that it is judged as an absolute target with that scheme.
        (Some(scheme), Some(authority)) if !matches!(scheme, "http" | "https") => {
            Ok(format!("{scheme}://{authority}{path}").into())
        }
        _ => Ok(path.into()),
    }
}

/// Checks a header by the rules that only HTTP/2 has.
fn check(name: &FieldName, value: &[u8]) -> Result<(), HeadError> {
    let is_blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    if is_connection_specific(HeaderName::from_bytes(name.as_str().as_bytes())) {
        return Err(malformed(HeadRule::ConnectionHeader));
    }
    if *name == header::TE && !value.eq_ignore_ascii_case(b"trailers") {
        return Err(malformed(HeadRule::ConnectionHeader));
    }
    // Section 8.2.1. Control characters end an HTTP/1 header or a line.
    let is_control = |byte: &u8| *byte != b'\t' && (*byte < b' ' || *byte == 0x7f);
    if is_blank(value.first()) || is_blank(value.last()) || value.iter().any(is_control) {
        return Err(malformed(HeadRule::Value));
    }
    Ok(())
}

fn malformed(rule: HeadRule) -> HeadError {
    HeadError::Malformed(BadLine { rule, number: 1 })
}

/// Returns the head of a response. A header that HTTP/2 cannot have is left out.
#[must_use]
pub fn response(head: &ResponseHead) -> Response<()> {
    let mut response = Response::new(());
    // A WebSocket is opened by 200 (RFC 8441, section 5).
    let switches = head.status == 101;
    let status = if switches { 200 } else { head.status };
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
    *response.version_mut() = Version::HTTP_2;
    let fields = response.headers_mut();
    fields.reserve(head.headers.len() + 1);
    for (id, name, value) in head.headers.iter() {
        if !(is_connection_specific(id) || switches && websocket::is_of_http1(name)) {
            append(fields, name, value);
        }
    }
    response
}

/// Returns a trailer section as lines, each with its CRLF. Those that break a rule are left out.
#[must_use]
pub fn trailer_lines(trailers: &HeaderMap) -> Vec<u8> {
    fields::lines(trailers, |name, value| check(name, value).is_ok())
}

#[cfg(test)]
mod tests;
