//! The decisions about a request, in order: validate, route, admit, rewrite; then the rules for its response. Pure.

use std::borrow::Cow;
use std::sync::Arc;

use http::{Method, Version};

use crate::config::{PathMode, ProxyConfig};
use crate::http1::body::BodyLength;
use crate::http1::framing;
use crate::http1::head::{Headers, RequestHead, ResponseHead};
use crate::http1::name::{HeaderName, HeaderSet};
use crate::http1::rejection::Rejection;
use crate::http1::target::{self, RequestTarget, Resource};
use crate::http1::trailers::{self, TrailerRule};
use crate::live::acme::AcmeState;
use crate::live::snapshot::Snapshot;
use crate::live::token::{Sticky, Token};
use crate::proxy::client::Client;
use crate::proxy::cookie::{self, Requested};
use crate::proxy::error::ProxyError;
use crate::proxy::exchange::AttemptPlan;
use crate::proxy::headers::hop_by_hop;
use crate::proxy::local::Reply;
use crate::proxy::record::RouteMatch;
use crate::transport::ClientAddress;

/// Validates the head of a request: its framing, host and target.
///
/// # Errors
/// The response that `lb` itself sends, if the request is invalid or is meant for `lb`.
pub fn validate(
    head: &RequestHead,
    length: Result<BodyLength, Rejection>,
) -> Result<(Resource<'_>, BodyLength), Reply> {
    let length = length?;
    match target::target(&head.method, head.target(), head.version, &head.headers)? {
        RequestTarget::Balancer => Err(Reply::Options),
        RequestTarget::Resource(target) => Ok((target, length)),
    }
}

/// The response to a challenge of the ACME server (RFC 8555, section 8.3). It comes before redirects and routes, because the
/// server asks for it at every name.
#[must_use]
pub fn challenge(acme: &AcmeState, method: &Method, target: &Resource<'_>) -> Option<Arc<str>> {
    (*method == Method::GET || *method == Method::HEAD).then(|| acme.http_response(&target.path))?
}

/// Finds the route of a request by its normalised path.
///
/// If the server gets the path as sent, it may keep its dot segments. So the path must have the same route with them.
///
/// # Errors
/// [`ProxyError::NoRoute`] or [`Rejection::AmbiguousPath`].
pub fn find_route(snapshot: &Snapshot, target: &Resource<'_>) -> Result<RouteMatch, ProxyError> {
    let found = snapshot.route(&target.host, &target.path);
    if snapshot.config.proxy.path == PathMode::AsSent
        && let Some(paths) = target.with_dot_segments()
        && paths.iter().any(|path| snapshot.route(&target.host, path) != found)
    {
        return Err(Rejection::AmbiguousPath.into());
    }
    let (route, pool) = found.ok_or(ProxyError::NoRoute)?;
    Ok(RouteMatch { route, pool })
}

/// Checks the declared length of the body against `limit` (`limits.body_bytes`; 0 is no limit), and the expectation.
///
/// # Errors
/// [`ProxyError::BodyTooLarge`] or [`ProxyError::Expectation`].
pub fn admit(head: &RequestHead, length: BodyLength, limit: u64) -> Result<(), ProxyError> {
    if let BodyLength::Known(bytes) = length
        && limit > 0
        && bytes > limit
    {
        return Err(ProxyError::BodyTooLarge);
    }
    if expectations(head).any(|expected| !expected.eq_ignore_ascii_case(CONTINUE)) {
        return Err(ProxyError::Expectation);
    }
    Ok(())
}

/// The headers that identify a client by its certificate (RFC 9440).
const CLIENT_CERTIFICATE: HeaderSet = HeaderSet::new(&[HeaderName::ClientCert, HeaderName::ClientCertChain]);

/// The only expectation that is defined (RFC 9110, section 10.1.1).
const CONTINUE: &[u8] = b"100-continue";

/// The members of the list in `Expect`, which may be empty (RFC 9110, section 5.6.1).
fn expectations(head: &RequestHead) -> impl Iterator<Item = &[u8]> {
    let members = head.headers.all(HeaderName::Expect).flat_map(|value| value.split(|byte| *byte == b','));
    members.map(<[u8]>::trim_ascii).filter(|expected| !expected.is_empty())
}

/// The target and the host for the server, where they differ from those that the client sent.
#[derive(Debug, PartialEq, Eq)]
pub struct ServerTarget {
    target: Option<Vec<u8>>,
    host: Option<String>,
}

impl ServerTarget {
    /// Compares `target` with `sent`, the client's target.
    #[must_use]
    pub fn new(target: &Resource<'_>, mode: PathMode, sent: &[u8]) -> Self {
        let forwarded = match mode {
            PathMode::AsSent => target.as_sent(),
            PathMode::Normalized => target.normalised(),
        };
        let changed = match forwarded {
            Cow::Borrowed(part) if part.len() == sent.len() => None,
            other => Some(other.into_owned().into_bytes()),
        };
        Self { target: changed, host: target.new_host().map(str::to_owned) }
    }
}

/// The facts by which a request is rewritten, besides the request itself.
#[derive(Debug)]
pub struct RequestRules<'a> {
    pub client: &'a Client,
    pub proxy: &'a ProxyConfig,
    /// The sticky sessions of the pool.
    pub sticky: Option<&'a Sticky>,
    /// Whether the request is a gRPC call, whose status is in trailers.
    pub is_call: bool,
}

/// Turns the head of a request into the one that the server gets. Returns the facts that attempts need besides it, and
/// the client's address.
pub fn rewrite(
    head: &mut RequestHead,
    length: BodyLength,
    target: ServerTarget,
    rules: &RequestRules<'_>,
) -> (AttemptPlan, ClientAddress) {
    let version = head.version;
    let expects_continue = expectations(head).next().is_some();
    let headers = &mut head.headers;
    let mut cookie = rules.sticky.map_or_else(Default::default, |sticky| cookie::requested(sticky, headers));
    if rules.sticky.is_some() {
        cookie.secure = rules.client.headers.is_secure(headers, &rules.proxy.trusted_proxies);
    }
    if let Some(host) = target.host {
        headers.set(HeaderName::Host, host.as_bytes());
    } else if !headers.has(HeaderName::Host) {
        // HTTP/1.0 does not require `Host`, but HTTP/1.1 does: the server gets the address of the listener.
        headers.add(HeaderName::Host, rules.client.listener.address.host().as_bytes());
    }
    let accepts_trailers = rules.is_call || version != Version::HTTP_10 && trailers::accepted(headers);
    let request_trailers = TrailerRule::announce(headers, length == BodyLength::Unknown, false);
    let upgrade = hop_by_hop::prepare_request(headers, version);
    if rules.proxy.via {
        hop_by_hop::add_via(headers, version);
    }
    if accepts_trailers {
        headers.add(HeaderName::Te, b"trailers");
    }
    // Only we know who the client is.
    headers.remove_all(CLIENT_CERTIFICATE);
    if let Some(certificate) = &rules.client.certificate {
        headers.append(certificate);
    }
    let client = rules.client.headers.set(headers, rules.proxy.forwarded, &rules.proxy.trusted_proxies);
    framing::normalise_length(headers);
    if headers.has(HeaderName::Expect) {
        headers.remove(HeaderName::Expect);
        // An HTTP/1.0 client does not wait for a 100 and must not be sent one.
        if expects_continue && version != Version::HTTP_10 {
            headers.add(HeaderName::Expect, CONTINUE);
        }
    }
    let plan = AttemptPlan {
        cookie,
        upgrade,
        length,
        target: target.target,
        accepts_trailers,
        request_trailers,
        response_trailers: TrailerRule::None,
    };
    (plan, client)
}

/// The facts that decide whether a response sets the sticky cookie.
#[derive(Debug, Clone, Copy)]
pub struct Stickiness<'a> {
    pub sticky: &'a Sticky,
    /// The client's cookie, and the headers of its request.
    pub cookie: Requested,
    pub request: &'a Headers,
    /// The token of the server that responded.
    pub server: Token,
    /// The time in seconds since 1970.
    pub now: u64,
}

/// Turns the head of a response, even of an interim one, into the one that the client gets. Returns the protocol that a
/// 101 switches to.
pub fn response_rules(head: &mut ResponseHead, via: bool, sticky: Option<Stickiness<'_>>) -> Option<Vec<u8>> {
    let upgrade = hop_by_hop::prepare_response(&mut head.headers, head.status);
    if via {
        hop_by_hop::add_via(&mut head.headers, head.version);
    }
    if let Some(Stickiness { sticky, cookie, request, server, now }) = sticky {
        cookie::set(sticky, cookie, server, (request, &mut head.headers), now);
    }
    upgrade
}

#[cfg(test)]
mod tests;
