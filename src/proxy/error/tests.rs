//! A table of what each error means.

use super::*;
use crate::http1::head::{BadLine, HeadRule};
use crate::proxy::timeouts::{Interrupt, Phase};
use crate::proxy::upstream_pool::ConnectError;

const WANTS: TlsFailure = TlsFailure::WantsCertificate;
const BAD_LINE: HeadError = HeadError::Malformed(BadLine { rule: HeadRule::Name, number: 2 });

#[test]
fn each_error_has_a_status_a_label_a_party_to_blame_and_perhaps_a_retry() {
    use Blame::{Client, Neither, Server};
    use io::ErrorKind::ConnectionRefused;
    let cases = [
        (ProxyError::Rejected(Rejection::Framing), 400, "bad_request", Client, None, true),
        (ProxyError::Rejected(Rejection::Trace), 405, "bad_request", Client, None, false),
        (ProxyError::BadHead(BAD_LINE), 400, "bad_request", Client, None, true),
        (ProxyError::BadHead(HeadError::Version), 505, "bad_request", Client, None, true),
        (ProxyError::BadHead(HeadError::TooLarge), 431, "head_too_large", Client, None, true),
        (ProxyError::BadHead(HeadError::MethodTooLong), 501, "head_too_large", Client, None, true),
        (ProxyError::BadHead(HeadError::TargetTooLong), 414, "head_too_large", Client, None, true),
        (ProxyError::BadHead(HeadError::TooManyHeaders), 431, "too_many_headers", Client, None, true),
        (ProxyError::NoRoute, 404, "no_route", Client, None, false),
        (ProxyError::Expectation, 417, "expectation", Client, None, false),
        (ProxyError::BodyTooLarge, 413, "body_too_large", Client, None, true),
        (ProxyError::BadBody(BadChunk::Size), 400, "bad_body", Client, None, true),
        (ProxyError::ClientTooSlow, 408, "client_too_slow", Client, None, true),
        (ProxyError::ClientGone, 499, "client_gone", Client, None, false),
        (ProxyError::NoServer, 503, "no_server", Neither, None, false),
        (ProxyError::Unresolved, 502, "unreachable", Server, Some(Progress::NotConnected), false),
        (ProxyError::Unreachable(ConnectionRefused), 502, "unreachable", Server, Some(Progress::NotConnected), false),
        (ProxyError::Tls(TlsFailure::Expired), 502, "tls", Server, Some(Progress::NotConnected), false),
        (ProxyError::TlsEnded(WANTS, Sent::Nothing), 502, "tls", Server, Some(Progress::NotSent), false),
        (ProxyError::TlsEnded(WANTS, Sent::All), 502, "tls", Server, Some(Progress::Sent), false),
        (ProxyError::LocalShortage, 503, "unreachable", Neither, Some(Progress::NotConnected), false),
        (ProxyError::ConnectTimeout, 504, "connect_timeout", Server, Some(Progress::NotConnected), false),
        (ProxyError::Refused { consumed: false }, 502, "refused", Neither, Some(Progress::Refused), false),
        (ProxyError::Refused { consumed: true }, 502, "refused", Neither, None, false),
        (ProxyError::Unsendable(Unsendable::WebSocket), 502, "unsendable", Neither, None, false),
        (ProxyError::Closed(Sent::Nothing), 502, "bad_response", Server, Some(Progress::NotSent), false),
        (ProxyError::Closed(Sent::All), 502, "bad_response", Server, Some(Progress::Sent), false),
        (ProxyError::Reset(Sent::Nothing), 502, "bad_response", Server, Some(Progress::NotSent), false),
        (ProxyError::Reset(Sent::Part), 502, "bad_response", Server, Some(Progress::Reset), false),
        (ProxyError::IdleClosed(Sent::Nothing), 502, "bad_response", Neither, Some(Progress::NotSent), false),
        (ProxyError::IdleClosed(Sent::Part), 502, "bad_response", Neither, Some(Progress::Sent), false),
        (ProxyError::TruncatedHead, 502, "bad_response", Server, None, false),
        (ProxyError::BadResponse(BadResponse::Head(BAD_LINE)), 502, "bad_response", Server, None, false),
        (ProxyError::ResponseTimeout, 504, "response_timeout", Server, None, false),
        (ProxyError::ServerDown, 502, "server_down", Neither, Some(Progress::Sent), false),
        (ProxyError::Status(503), 503, "status", Neither, Some(Progress::Sent), false),
        (ProxyError::ResponseTruncated, 502, "response_truncated", Neither, None, false),
        (ProxyError::ResponseTooSlow, 504, "response_too_slow", Neither, None, false),
        (ProxyError::TunnelBroken, 502, "tunnel_broken", Neither, None, false),
        (ProxyError::Aborted, 503, "aborted", Neither, None, false),
        (ProxyError::Panicked, 503, "panic", Neither, None, false),
    ];
    for (error, status, label, blame, progress, closes) in cases {
        assert_eq!((error.status(), error.label(), error.blame()), (status, label, blame), "{error:?}");
        assert_eq!((error.progress(), error.closes()), (progress, closes), "{error:?}");
        assert!(error.detail().ends_with('.'), "{error:?}");
    }
}

#[test]
fn a_local_shortage_is_not_blamed_on_the_server() {
    let error = |code| ProxyError::from(ConnectError::Io(io::Error::from_raw_os_error(code)));
    let (refused, too_many_open_files, no_port) = (error(111), error(24), error(99));
    assert_eq!(refused, ProxyError::Unreachable(io::ErrorKind::ConnectionRefused));
    assert_eq!((too_many_open_files, no_port), (ProxyError::LocalShortage, ProxyError::LocalShortage));
}

#[test]
fn the_error_of_a_timeout_names_the_side_that_was_waited_for() {
    let cases = [
        (Phase::Connect, false, ProxyError::ConnectTimeout),
        (Phase::Upload, true, ProxyError::ClientTooSlow),
        (Phase::Upload, false, ProxyError::ResponseTimeout),
        (Phase::Response, false, ProxyError::ResponseTimeout),
        (Phase::Download, true, ProxyError::ClientTooSlow),
        (Phase::Download, false, ProxyError::ResponseTooSlow),
    ];
    for (phase, client, error) in cases {
        assert_eq!(ProxyError::from(Interrupt::Timeout { phase, client }), error, "{phase:?} {client}");
    }
}
