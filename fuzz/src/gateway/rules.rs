//! The invariants of every exchange, whatever a client and a server send.

use std::fmt;

use http::Method;
use lb::http1::framing::{self, Framing};
use lb::http1::head::{Limits, RequestHead};
use lb::http1::name::HeaderName;
use lb::http1::path;

use crate::oracle::because::{Because, difference};
use crate::oracle::ours::{self, Answer, Why};
use crate::oracle::{Message, hyper};

/// At least the engine's limits, so that this reads every head that the engine reads.
const LIMITS: Limits = Limits { bytes: usize::MAX, headers: 200 };

/// All bytes of an exchange.
pub struct Played {
    /// By the client, to the balancer.
    pub sent: Vec<u8>,
    /// By the balancer, to the client.
    pub heard: Vec<u8>,
    /// By the balancer, to the server on each of its connections.
    pub lanes: Vec<Vec<u8>>,
}

/// The requests of a client.
#[derive(Default)]
struct Asked {
    /// The complete and valid requests.
    whole: Vec<Message>,
    /// The methods of all requests with a complete head, valid or not.
    methods: Vec<Method>,
}

impl Played {
    /// # Panics
    /// If an invariant is violated.
    pub fn check(&self) {
        crate::requests_agree(&self.sent);
        let asked = Asked::by(&self.sent);
        let switched = self.answers(&asked);
        self.requests(&asked, switched);
    }

    /// Asserts that the client gets at most one valid response to each request, in order. Returns whether the last one
    /// switches protocols.
    fn answers(&self, asked: &Asked) -> bool {
        let mut methods = asked.methods.iter();
        let mut rest = &self.heard[..];
        while !rest.is_empty() {
            // An invalid head gets one response, too.
            let method = methods.next().cloned();
            let known = method.clone().unwrap_or(Method::GET);
            let mut length = 0;
            let answer = loop {
                match ours::one_answer(&known, &rest[length..]) {
                    Ok(Some(Answer::Interim(more))) => length += more,
                    Ok(Some(Answer::Final(answer, Some(more)))) => {
                        length += more;
                        break answer;
                    }
                    // Incomplete, because one of the two has left.
                    Ok(Some(Answer::Final(_, None)) | None) => return false,
                    Err(Why::Switches) => return true,
                    Err(why) => panic!("{why:?}: the client hears \"{}\"", rest.escape_ascii()),
                }
            };
            let (whole, behind) = rest.split_at(length);
            let theirs = hyper::answer(&known, whole);
            let ours = ours::answer(&known, whole);
            if let Some(difference) = difference(&ours.0, ours.1, &theirs) {
                panic!("hyper reads another response: \"{}\"\n{difference:#?}", whole.escape_ascii());
            }
            assert!(answer.keeps || behind.is_empty(), "bytes after the last response: \"{}\"", behind.escape_ascii());
            assert!(method.is_some() || !answer.keeps, "a response without a request: \"{}\"", whole.escape_ascii());
            rest = behind;
        }
        false
    }

    /// Asserts that the server gets only requests of the client, in order and in canonical form.
    fn requests(&self, asked: &Asked, switched: bool) {
        let mut meant = asked.whole.iter();
        let mut cut = 0;
        for lane in &self.lanes {
            let mut length = 0;
            while length < lane.len() {
                match ours::request(&lane[length..]) {
                    Ok(Some((message, Some(more)))) => {
                        length += more;
                        canonical(&message);
                        let found = meant.by_ref().any(|meant| is_same(meant, &message));
                        assert!(found, "not a request of the client: {message:?}");
                        if switched && message.all("upgrade").next().is_some() {
                            break;
                        }
                    }
                    Ok(Some((message, None))) => {
                        canonical(&message);
                        cut += 1;
                        break;
                    }
                    other => panic!("{other:?}: the server sees \"{}\"", lane[length..].escape_ascii()),
                }
            }
            let (ours, why) = ours::requests(&lane[..length]);
            if let Some(difference) = difference(&ours, why, &hyper::requests(&lane[..length])) {
                let because = difference.because(&lane[..length], None);
                assert_eq!(because, Some(Because::TargetOfHyper), "\"{}\"\n{difference:#?}", lane.escape_ascii());
            }
        }
        // A request may have become invalid, or been retried on another connection.
        assert!(cut <= self.lanes.len(), "{cut} incomplete requests");
    }
}

impl fmt::Debug for Played {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "client sends \"{}\"\nclient hears \"{}\"", self.sent.escape_ascii(), self.heard.escape_ascii())?;
        self.lanes.iter().try_for_each(|lane| write!(f, "\nserver hears \"{}\"", lane.escape_ascii()))
    }
}

impl Asked {
    fn by(mut bytes: &[u8]) -> Self {
        let mut asked = Self::default();
        while !bytes.is_empty() {
            let mut head = RequestHead::default();
            let Ok(Some(length)) = head.parse(bytes, LIMITS) else { break };
            asked.methods.push(head.method.clone());
            match ours::request(bytes) {
                Ok(Some((message, Some(length)))) => {
                    bytes = &bytes[length..];
                    let keeps = message.keeps;
                    asked.whole.push(message);
                    if !keeps {
                        break;
                    }
                }
                // After an invalid path the connection may stay open.
                Err(Why::Request(refusal)) if !refusal.closes() => {
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
        asked
    }
}

/// Whether the server's request is the client's.
fn is_same(meant: &Message, seen: &Message) -> bool {
    let method = |message: &Message| message.line.split(' ').next().map(str::to_owned);
    method(meant) == method(seen) && meant.body == seen.body
}

/// Asserts that there is only one way to read a request.
fn canonical(message: &Message) {
    let count = |name| message.all(name).count();
    let target = message.line.split_once(' ').map_or("", |(_, target)| target);
    let path = target.split('?').next().unwrap_or_default();
    assert_eq!(path::normalise(path).as_deref(), Ok(path), "{message:?}");
    assert_eq!(message.version, http::Version::HTTP_11, "{message:?}");
    assert!(count("content-length") + count("transfer-encoding") <= 1, "{message:?}");
    for name in ["host", "forwarded", "x-forwarded-for", "x-forwarded-proto", "x-request-id"] {
        assert_eq!(count(name), 1, "{name}: {message:?}");
    }
    for name in ["keep-alive", "proxy-connection", "te", "http2-settings", "proxy-authorization", "x_forwarded_for"] {
        assert_eq!(count(name), 0, "{name}: {message:?}");
    }
    assert!(message.all("x-forwarded-host").eq(message.all("host")), "{message:?}");
    assert!(message.all("x-forwarded-for").eq([b"192.0.2.1"]), "{message:?}");
    assert!(message.all("connection").all(|value| value == b"upgrade"), "{message:?}");
    assert_eq!(count("connection"), count("upgrade"), "{message:?}");
    assert!(message.trailers.is_empty(), "{message:?}");
}
