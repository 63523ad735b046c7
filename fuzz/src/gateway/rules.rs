//! What must hold of every exchange, whatever a client and a server say.

use std::fmt;

use http::Method;
use lb::http1::framing::{self, Framing};
use lb::http1::head::{Limits, RequestHead};
use lb::http1::name::HeaderName;
use lb::http1::path;

use crate::oracle::because::{Because, difference};
use crate::oracle::ours::{self, Answer, Why};
use crate::oracle::{Message, hyper};

/// What the engine's head limits are, roughly: it has to read no head that we do not.
const LIMITS: Limits = Limits { bytes: usize::MAX, headers: 200 };

/// All that went over the wires.
pub struct Played {
    /// By the client, to the balancer.
    pub sent: Vec<u8>,
    /// By the balancer, to the client.
    pub heard: Vec<u8>,
    /// By the balancer, to the server on each of its connections.
    pub lanes: Vec<Vec<u8>>,
}

/// What a client has asked for.
#[derive(Default)]
struct Asked {
    /// The requests that are whole and good.
    whole: Vec<Message>,
    /// The methods of all whose head is there, good or bad.
    methods: Vec<Method>,
}

impl Played {
    /// # Panics
    /// When something does not hold.
    pub fn check(&self) {
        crate::requests_agree(&self.sent);
        let asked = Asked::by(&self.sent);
        let switched = self.answers(&asked);
        self.requests(&asked, switched);
    }

    /// The client hears one proper answer to each of its requests at most, in order. True if the
    /// last of them changes the protocol.
    fn answers(&self, asked: &Asked) -> bool {
        let mut methods = asked.methods.iter();
        let mut rest = &self.heard[..];
        while !rest.is_empty() {
            // What is no head is answered too, and once.
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
                    // Cut, because one of the two has left.
                    Ok(Some(Answer::Final(_, None)) | None) => return false,
                    Err(Why::Switches) => return true,
                    Err(why) => panic!("{why:?}: the client hears \"{}\"", rest.escape_ascii()),
                }
            };
            let (whole, behind) = rest.split_at(length);
            let theirs = hyper::answer(&known, whole);
            let ours = ours::answer(&known, whole);
            if let Some(difference) = difference(&ours.0, ours.1, &theirs) {
                panic!("hyper would not hear the same: \"{}\"\n{difference:#?}", whole.escape_ascii());
            }
            assert!(answer.keeps || behind.is_empty(), "behind the last answer: \"{}\"", behind.escape_ascii());
            assert!(method.is_some() || !answer.keeps, "an answer to nothing: \"{}\"", whole.escape_ascii());
            rest = behind;
        }
        false
    }

    /// The server sees some of the requests that were meant, in order, in canonical form, and no others.
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
                        assert!(found, "nobody meant {message:?}");
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
        // One that was begun may have turned out bad, or been begun again with another server.
        assert!(cut <= self.lanes.len(), "{cut} requests were cut");
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
                // The connection may go on behind what is only a bad path.
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

/// Whether what the server sees is what the client meant.
fn is_same(meant: &Message, seen: &Message) -> bool {
    let method = |message: &Message| message.line.split(' ').next().map(str::to_owned);
    method(meant) == method(seen) && meant.body == seen.body
}

/// That there are no two ways to read it.
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
