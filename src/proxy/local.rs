//! Responses of our own. They leave the same way as a server's.

use std::sync::Arc;

use http::{Method, StatusCode};

use crate::config::HttpsRedirect;
use crate::http1::body::BodyLength;
use crate::http1::head::{RequestHead, ResponseHead};
use crate::http1::name::HeaderName;
use crate::http1::rejection::Rejection;
use crate::proxy::downstream::ResponseWriter;
use crate::proxy::error::ProxyError;
use crate::proxy::grpc::{self, GrpcStatus};
use crate::proxy::record::RequestRecord;
use crate::proxy::timeouts::Phase;

/// A response that no server sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// To `OPTIONS *`, a question to `lb` itself (RFC 9110, section 9.3.7).
    Options,
    /// To everything on a listener that only redirects: the same URL with `https`.
    Https(HttpsRedirect),
    /// To a request that failed.
    Error(ProxyError),
    /// To a challenge of the ACME server: the key authorization.
    Challenge(Arc<str>),
}

impl From<ProxyError> for Reply {
    fn from(error: ProxyError) -> Self {
        Self::Error(error)
    }
}

impl From<Rejection> for Reply {
    fn from(rejection: Rejection) -> Self {
        Self::Error(rejection.into())
    }
}

impl Reply {
    /// Its head and its body; that of an error is `application/problem+json` (RFC 9457).
    #[must_use]
    pub fn write(&self) -> (ResponseHead, String) {
        let error = match self {
            Self::Options => {
                let mut head = ResponseHead::of_status(StatusCode::NO_CONTENT.as_u16());
                head.headers.add_named("Allow", Rejection::ALLOW.as_bytes());
                return (head, String::new());
            }
            Self::Https(_) => {
                let mut head = ResponseHead::of_status(StatusCode::PERMANENT_REDIRECT.as_u16());
                head.headers.add(HeaderName::ContentLength, b"0");
                return (head, String::new());
            }
            Self::Challenge(key_authorization) => {
                let mut head = ResponseHead::of_status(StatusCode::OK.as_u16());
                head.headers.add(HeaderName::ContentType, b"text/plain");
                let length = itoa::Buffer::new().format(key_authorization.len()).to_owned();
                head.headers.add(HeaderName::ContentLength, length.as_bytes());
                return (head, key_authorization.to_string());
            }
            Self::Error(error) => error,
        };
        let mut head = ResponseHead::of_status(error.status());
        let title = head.reason();
        let body =
            format!("{{\"status\":{},\"title\":\"{title}\",\"detail\":\"{}\"}}\n", error.status(), error.detail());
        head.headers.add(HeaderName::ContentType, b"application/problem+json");
        head.headers.add(HeaderName::ContentLength, itoa::Buffer::new().format(body.len()).as_bytes());
        if error.status() == StatusCode::METHOD_NOT_ALLOWED.as_u16() {
            head.headers.add_named("Allow", Rejection::ALLOW.as_bytes());
        }
        (head, body)
    }
}

/// The URL of a request that was validated, with `https`. The path is as sent.
fn https_location(head: &RequestHead, redirect: HttpsRedirect) -> Vec<u8> {
    let sent = head.target();
    let rest = sent.iter().position(|byte| *byte == b'/').filter(|_| !sent.starts_with(b"/"));
    // In the absolute form, the host of the target counts, not that of `Host` (RFC 9112, section 3.2.2).
    let (host, path) = match rest {
        Some(slashes) if sent.get(slashes + 1) == Some(&b'/') => {
            let after = &sent[slashes + 2..];
            let end = after.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(after.len());
            after.split_at(end)
        }
        _ => (head.headers.get(HeaderName::Host).unwrap_or_default(), sent),
    };
    let port = host.iter().rposition(|byte| *byte == b':').filter(|at| !host[*at..].contains(&b']'));
    let host = &host[..port.unwrap_or(host.len())];
    let mut location = [b"https://", host].concat();
    if redirect.port.get() != 443 {
        location.extend_from_slice(format!(":{}", redirect.port).as_bytes());
    }
    if path.first() == Some(&b'?') {
        location.push(b'/');
    }
    location.extend_from_slice(path);
    location
}

/// Sends a response of our own to a request.
pub async fn respond(record: &mut RequestRecord<'_>, response: &mut ResponseWriter<'_>, reply: Reply) {
    let (mut head, body) = reply.write();
    if let Reply::Https(redirect) = reply {
        head.headers.add_named("Location", &https_location(&record.head, redirect));
    }
    record.set_status(head.status);
    if let Reply::Error(error) = reply {
        record.set_error(error);
        if error.closes() {
            response.close_after();
        }
    }
    let body = if record.head.method == Method::HEAD { "" } else { &body };
    let length = if reply == Reply::Options { BodyLength::None } else { BodyLength::Known(body.len() as u64) };
    response.start(&head, length, None);
    record.count_bytes(body.len());
    // A timeout of the failed attempt must not end this response.
    record.timer.reset();
    record.wait_body(Phase::Download);
    record.timer.body_rests(Phase::Download);
    // Of several errors, the first is reported, so a client that does not read this is not noted.
    if let Ok(Ok(())) = record.timer.run(response.send(body.as_bytes(), Some(b""))).await {
        record.complete();
    }
}

/// Ends a gRPC call that failed: its client gets a status without a response, or, if a response has started, in its trailers.
pub fn end_call(record: &mut RequestRecord<'_>, response: &mut ResponseWriter<'_>, error: ProxyError) {
    record.set_error(error);
    let status = GrpcStatus::of(error);
    if response.is_started() {
        if response.cut(grpc::trailers(status, error.detail()).as_bytes()) {
            record.set_grpc_status(Some(status as u32));
        } else {
            response.abandon(error);
        }
        return;
    }
    let head = failed_call(error);
    response.start(&head, BodyLength::None, None);
    // Nothing waits for the client: there is no body.
    if response.offer(b"", Some(b"")).is_ok() {
        record.set_status(head.status);
        record.set_grpc_status(Some(status as u32));
        record.complete();
    }
}

/// The head that is the whole response to a gRPC call that failed.
pub(super) fn failed_call(error: ProxyError) -> ResponseHead {
    let mut head = ResponseHead::of_status(StatusCode::OK.as_u16());
    head.headers.add(HeaderName::ContentType, b"application/grpc");
    head.headers.add_named(grpc::STATUS, itoa::Buffer::new().format(GrpcStatus::of(error) as u32).as_bytes());
    head.headers.add_named(grpc::MESSAGE, grpc::message(error.detail()).as_bytes());
    head
}
