//! The properties of every exchange, whatever client and server send.

use std::fmt;

use http::Method;
use lb::http1::framing::{self, Framing};
use lb::http1::head::{HeadLimits, RequestHead};
use lb::http1::name::HeaderName;
use lb::http1::path;

use crate::oracle::because::{Because, difference};
use crate::oracle::ours::{self, FirstResponse, StopReason};
use crate::oracle::{Message, hyper};

/// At least the engine's limits: it must not accept a head that is rejected here.
const LIMITS: HeadLimits = HeadLimits { bytes: usize::MAX, headers: 200 };

/// All bytes of an exchange.
pub struct Transcript {
    /// From the client to the balancer.
    pub sent: Vec<u8>,
    /// From the balancer to the client.
    pub received: Vec<u8>,
    /// From the balancer to the server, on each of its connections.
    pub servers: Vec<Vec<u8>>,
}

/// The requests that a client has sent.
#[derive(Default)]
struct SentRequests {
    /// Those that are complete and valid.
    valid: Vec<Message>,
    /// The methods of all with a complete head, valid or not.
    methods: Vec<Method>,
}

impl Transcript {
    /// # Panics
    /// If a property does not hold.
    pub fn check(&self) {
        crate::requests_agree(&self.sent);
        let requests = SentRequests::parse(&self.sent);
        let upgraded = self.check_responses(&requests);
        self.check_forwarded(&requests, upgraded);
    }

    /// Checks that the client receives at most one valid response to each of its requests, in order. Returns
    /// whether the last one upgrades the connection.
    fn check_responses(&self, requests: &SentRequests) -> bool {
        let mut methods = requests.methods.iter();
        let mut rest = &self.received[..];
        while !rest.is_empty() {
            // An invalid head gets a response, too, and is the last one that does.
            let method = methods.next().cloned();
            let assumed_method = method.clone().unwrap_or(Method::GET);
            let mut length = 0;
            let response = loop {
                match ours::first_response(&assumed_method, &rest[length..]) {
                    Ok(Some(FirstResponse::Interim(more))) => length += more,
                    Ok(Some(FirstResponse::Final(response, Some(more)))) => {
                        length += more;
                        break response;
                    }
                    // Truncated, because client or server has disconnected.
                    Ok(Some(FirstResponse::Final(_, None)) | None) => return false,
                    Err(StopReason::UnrequestedUpgrade) => return true,
                    Err(stop) => panic!("{stop:?}: the client receives \"{}\"", rest.escape_ascii()),
                }
            };
            let (whole, after) = rest.split_at(length);
            let theirs = hyper::response(&assumed_method, whole);
            let (ours, stop) = ours::response(&assumed_method, whole);
            if let Some(difference) = difference(&ours, stop, &theirs) {
                panic!("hyper reads the response differently: \"{}\"\n{difference:#?}", whole.escape_ascii());
            }
            assert!(response.keep_alive || after.is_empty(), "after the last response: \"{}\"", after.escape_ascii());
            assert!(
                method.is_some() || !response.keep_alive,
                "a response without a request: \"{}\"",
                whole.escape_ascii()
            );
            rest = after;
        }
        false
    }

    /// Checks that the server receives some of the client's requests, in order, in canonical form, and no others.
    fn check_forwarded(&self, requests: &SentRequests, upgraded: bool) {
        let mut sent = requests.valid.iter();
        let mut truncated = 0;
        for bytes in &self.servers {
            let mut length = 0;
            while length < bytes.len() {
                match ours::first_request(&bytes[length..]) {
                    Ok(Some((message, Some(more)))) => {
                        length += more;
                        assert_canonical(&message);
                        let is_sent = sent.by_ref().any(|sent| is_same(sent, &message));
                        assert!(is_sent, "the client did not send {message:?}");
                        if upgraded && message.all("upgrade").next().is_some() {
                            break;
                        }
                    }
                    Ok(Some((message, None))) => {
                        assert_canonical(&message);
                        truncated += 1;
                        break;
                    }
                    other => panic!("{other:?}: the server receives \"{}\"", bytes[length..].escape_ascii()),
                }
            }
            let (ours, stop) = ours::requests(&bytes[..length]);
            if let Some(difference) = difference(&ours, stop, &hyper::requests(&bytes[..length])) {
                let because = difference.because(&bytes[..length], None);
                assert_eq!(because, Some(Because::HyperTarget), "\"{}\"\n{difference:#?}", bytes.escape_ascii());
            }
        }
        // The body of a request may turn out to be invalid, or the request may be retried on another connection.
        assert!(truncated <= self.servers.len(), "{truncated} requests were truncated");
    }
}

impl fmt::Debug for Transcript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sent, received) = (self.sent.escape_ascii(), self.received.escape_ascii());
        write!(f, "client sends \"{sent}\"\nclient receives \"{received}\"")?;
        self.servers.iter().try_for_each(|bytes| write!(f, "\nserver receives \"{}\"", bytes.escape_ascii()))
    }
}

impl SentRequests {
    fn parse(mut bytes: &[u8]) -> Self {
        let mut requests = Self::default();
        while !bytes.is_empty() {
            let mut head = RequestHead::default();
            let Ok(Some(length)) = head.parse(bytes, LIMITS) else { break };
            requests.methods.push(head.method.clone());
            match ours::first_request(bytes) {
                Ok(Some((message, Some(length)))) => {
                    bytes = &bytes[length..];
                    let keep_alive = message.keep_alive;
                    requests.valid.push(message);
                    if !keep_alive {
                        break;
                    }
                }
                // The connection may stay open after an invalid path.
                Err(StopReason::Request(rejection)) if !rejection.closes() => {
                    if framing::request(&head.headers, head.version) != Ok(Framing::None)
                        && !head.headers.has(HeaderName::ContentLength)
                    {
                        break;
                    }
                    bytes = &bytes[length..];
                }
                _ => break,
            }
        }
        requests
    }
}

/// Whether the server receives the request that the client sent.
fn is_same(sent: &Message, received: &Message) -> bool {
    let method = |message: &Message| message.line.split(' ').next().map(str::to_owned);
    method(sent) == method(received) && sent.body == received.body
}

/// Asserts that no recipient can read the request differently.
fn assert_canonical(message: &Message) {
    let count = |name| message.all(name).count();
    let target = message.line.split_once(' ').map_or("", |(_, target)| target);
    let path = target.split('?').next().unwrap_or_default();
    assert!(path::normalise(path).is_ok() || message.line == "OPTIONS *", "{message:?}");
    assert_eq!(message.version, http::Version::HTTP_11, "{message:?}");
    assert!(count("content-length") + count("transfer-encoding") <= 1, "{message:?}");
    for name in ["host", "x-forwarded-for", "x-forwarded-proto", "x-request-id"] {
        assert_eq!(count(name), 1, "{name}: {message:?}");
    }
    for name in
        ["keep-alive", "proxy-connection", "forwarded", "http2-settings", "proxy-authorization", "x_forwarded_for"]
    {
        assert_eq!(count(name), 0, "{name}: {message:?}");
    }
    assert!(message.all("x-forwarded-host").eq(message.all("host")), "{message:?}");
    assert!(message.all("x-forwarded-for").eq([b"192.0.2.1"]), "{message:?}");
    assert!(message.all("connection").all(|value| value == b"upgrade"), "{message:?}");
    assert_eq!(count("connection"), count("upgrade"), "{message:?}");
    assert!(message.all("te").all(|value| value == b"trailers") && count("te") <= 1, "{message:?}");
    let forbidden = [
        "host",
        "content-length",
        "transfer-encoding",
        "x-forwarded-for",
        "connection",
        "authorization",
        "trailer",
        "te",
    ];
    for (name, _) in &message.trailers {
        assert!(!forbidden.contains(&name.to_ascii_lowercase().as_str()), "{message:?}");
    }
}
