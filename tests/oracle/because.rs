//! The rules by which hyper may read something else than we do. What no rule explains is a fault of one of the two.
//!
//! A rule looks at the bytes and at what hyper read, not only at what we say of it: a refusal of
//! ours must have its reason in the message that hyper found acceptable.

use http::{Method, Uri};
use lb::http1::chunked::BadChunk;
use lb::http1::head::HeadError;
use lb::http1::rejection::Rejection;

use super::ours::Why;
use super::{End, Message, Reading};

/// Why two readings differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Because {
    /// We end lines with CR LF only; hyper takes a line feed alone (RFC 9112, section 2.2).
    BareLineFeed,
    /// We refuse CONNECT and TRACE (RFC 9110, sections 9.3.6 and 9.3.8); hyper leaves methods to its user.
    MethodNotOffered,
    /// We want exactly one `Host`, and in it a host (RFC 9112, section 3.2); hyper looks at none.
    Host,
    /// We take paths and absolute HTTP URIs in ASCII, without fragments, bad escapes and steps above the root (RFC 9112,
    /// section 3.2); hyper takes more.
    Target,
    /// We refuse a length beside a coding, which hyper lets the coding override (RFC 9112, section 6.3).
    LengthBesideCoding,
    /// We take `chunked` alone, hyper any list that ends with it, and lets other answers end with the
    /// connection (RFC 9112, sections 6.1 and 6.3).
    Codings,
    /// We take one length; hyper also takes the same one again, of an answer in a list too (RFC 9112, section 6.3).
    LengthAgain,
    /// We take 19 digits of a length, hyper what fits 64 bits, with any number of zeros before it.
    LengthDigits,
    /// We refuse an upgrade of a request with a body, whose end is where two protocols meet (RFC 9110, section 7.8).
    UpgradeWithBody,
    /// We want a chunk's size to be at most 16 digits, and space behind it only before an extension (RFC 9112, section 7.1).
    ChunkSize,
    /// We want a chunk's extension to be text (RFC 9112, section 7.1.1); hyper minds line feeds only.
    ChunkExtension,
    /// We read trailers as they come, and 64 at most, hyper once all are there; and it takes a line feed alone there too.
    Trailers,
    /// hyper says an absolute target in its own words: `HTTP://a?b` is `http://a/?b`.
    TargetText,
    /// hyper's URIs have fewer characters than targets have in practice (RFC 3986, section 2.4).
    TargetOfHyper,
    /// hyper reads no options in a `Connection` that is not ASCII; we read those that are (RFC 9110, section 7.6.1).
    ConnectionBytes,
    /// We refuse an answer that says in two ways how long a body would be that it has not, as it would be handed on;
    /// hyper does not look (RFC 9110, section 8.6).
    NoBodyToFrame,
    /// We refuse a change of protocol that was not asked for (RFC 9110, section 7.8); hyper leaves it to its user.
    Switches,
}

/// Where two readings begin to differ: the next message of each, if there is one, and their ends.
#[derive(Debug)]
pub(crate) struct Difference<'a> {
    /// Why we read no further, if that is so.
    pub(crate) why: Option<Why>,
    pub(crate) ours: Result<&'a Message, End>,
    pub(crate) theirs: Result<&'a Message, End>,
    /// What each read of a message that it did not read to its end.
    unfinished: [Option<&'a Message>; 2],
    /// How far we read in the bytes.
    length: usize,
}

/// Where the readings differ, if they do.
pub(crate) fn difference<'a>(ours: &'a Reading, why: Option<Why>, theirs: &'a Reading) -> Option<Difference<'a>> {
    fn next(reading: &Reading, at: usize) -> Result<&Message, End> {
        reading.messages.get(at).ok_or(reading.end)
    }
    let same = ours.messages.iter().zip(&theirs.messages).take_while(|(ours, theirs)| ours == theirs).count();
    let (unfinished, length) = ([ours, theirs].map(|reading| reading.unfinished.as_ref()), ours.length);
    let difference = Difference { why, ours: next(ours, same), theirs: next(theirs, same), unfinished, length };
    let alike = match (difference.ours, difference.theirs) {
        (Err(End::Cut), Err(End::Cut)) => unfinished[0] == unfinished[1],
        (ours, theirs) => ours == theirs,
    };
    (!alike).then_some(difference)
}

impl Difference<'_> {
    /// The rule that explains it; of an answer, by the request's method.
    pub(crate) fn because(&self, bytes: &[u8], asked: Option<&Method>) -> Option<Because> {
        let rest = &bytes[self.length.min(bytes.len())..];
        match (self.ours.ok().or(self.unfinished[0]), self.why, self.theirs.ok().or(self.unfinished[1])) {
            (Some(ours), _, Some(theirs)) => read_otherwise(ours, theirs),
            (Some(ours), _, None) => {
                let (_, target) = ours.line.split_once(' ')?;
                Uri::try_from(target).is_err().then_some(Because::TargetOfHyper)
            }
            (_, Some(Why::Head(HeadError::Malformed)), _) => {
                bare_line_feed(head(rest)).then_some(Because::BareLineFeed)
            }
            (_, Some(Why::Request(refusal)), Some(theirs)) => refused(refusal, head(rest), theirs),
            (_, Some(Why::Answer(_)), Some(theirs)) => {
                let bodiless = asked == Some(&Method::HEAD) || ["101", "204", "304"].contains(&&*theirs.line);
                if bodiless { Some(Because::NoBodyToFrame) } else { framing(head(rest), false) }
            }
            (_, Some(Why::Switches), Some(theirs)) => (theirs.line == "101").then_some(Because::Switches),
            (_, Some(Why::Chunk(bad)), Some(_)) => chunk(bad, &rest[head(rest).len()..]),
            _ => None,
        }
    }
}

/// Why a message that both take is not the same to them.
fn read_otherwise(ours: &Message, theirs: &Message) -> Option<Because> {
    let strange = theirs.all("connection").any(|value| !value.is_ascii());
    let keeps = if strange { theirs.keeps } else { ours.keeps };
    let words = ours.line.split_once(' ').filter(|(_, target)| !target.starts_with('/'));
    let line = words.and_then(|(method, target)| Some(format!("{method} {}", Uri::try_from(target).ok()?)));
    let line = line.unwrap_or_else(|| ours.line.clone());
    let rule = if line == ours.line { Because::ConnectionBytes } else { Because::TargetText };
    (Message { line, keeps, ..ours.clone() } == *theirs).then_some(rule)
}

/// Why hyper takes a chunked body that we refuse, or has not refused it yet.
fn chunk(bad: BadChunk, body: &[u8]) -> Option<Because> {
    let mut lines = body.split(|byte| *byte == b'\n');
    match bad {
        BadChunk::Size => {
            let zeros = |line: &[u8]| line.len() > 16 && line[0] == b'0';
            lines.any(zeros).then_some(Because::ChunkSize)
        }
        BadChunk::Extension => {
            let spaced = |line: &[u8]| line.ends_with(b" \r") || line.ends_with(b"\t\r");
            let control = |byte: &u8| *byte < b' ' && !b"\t\r".contains(byte) || *byte == 0x7f;
            let strange = |line: &[u8]| line.contains(&b';') && line.iter().any(control);
            if lines.clone().any(strange) {
                Some(Because::ChunkExtension)
            } else {
                lines.any(spaced).then_some(Because::ChunkSize)
            }
        }
        BadChunk::Trailer | BadChunk::TooManyTrailers => {
            lines.any(|line| line.starts_with(b"0")).then_some(Because::Trailers)
        }
        _ => None,
    }
}

/// Why hyper takes a request that we refuse.
fn refused(refusal: Rejection, head: &[u8], theirs: &Message) -> Option<Because> {
    // Not hyper's words for it: of a target with a fragment it only tells the rest.
    let mut line = head.trim_ascii_start().split(|byte| *byte == b' ');
    let (method, target) = (line.next()?, line.next()?);
    let hosts: Vec<_> = theirs.all("host").collect();
    let (explains, rule) = match refusal {
        Rejection::Connect | Rejection::Trace => {
            ([&b"CONNECT"[..], b"TRACE"].contains(&method), Because::MethodNotOffered)
        }
        Rejection::NoHost | Rejection::ManyHosts | Rejection::BadHost => {
            (hosts.len() != 1 || !is_name(hosts[0]) || !target.starts_with(b"/"), Because::Host)
        }
        Rejection::TargetForm
        | Rejection::TargetBytes
        | Rejection::Scheme
        | Rejection::BadEscape
        | Rejection::BadText
        | Rejection::AboveRoot => {
            let up = target.windows(2).any(|pair| pair == b"..");
            let plain = target.starts_with(b"/") && is_plain(target, b"/?=") && !up;
            (!plain, Because::Target)
        }
        Rejection::UpgradeWithBody => (theirs.all("upgrade").count() == 1, Because::UpgradeWithBody),
        Rejection::Framing => return framing(head, true),
    };
    explains.then_some(rule)
}

/// Why hyper takes headers that frame a message, where we do not.
fn framing(head: &[u8], request: bool) -> Option<Because> {
    let values = |name: &'static str| {
        head.split(|byte| *byte == b'\n').filter_map(move |line| {
            let (found, value) = line.split_at_checked(name.len())?;
            found.eq_ignore_ascii_case(name.as_bytes()).then(|| value.trim_ascii())
        })
    };
    let codings: Vec<_> = values("transfer-encoding:").collect();
    let lengths = values("content-length:");
    let lengths: Vec<_> = if request {
        lengths.collect()
    } else {
        lengths.flat_map(|list| list.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii).collect()
    };
    match (&codings[..], &lengths[..]) {
        ([_, ..], [_, ..]) => Some(Because::LengthBesideCoding),
        ([coding], []) if coding.eq_ignore_ascii_case(b"chunked") => None,
        ([.., last], []) if !request || last.to_ascii_lowercase().ends_with(b"chunked") => Some(Because::Codings),
        ([], [first, others @ ..]) if !others.is_empty() && others.iter().all(|other| same_number(first, other)) => {
            Some(Because::LengthAgain)
        }
        ([], [length]) if length.len() > 19 && length.iter().all(u8::is_ascii_digit) => Some(Because::LengthDigits),
        _ => None,
    }
}

fn same_number(one: &[u8], other: &[u8]) -> bool {
    let digits = |text: &[u8]| text.iter().copied().skip_while(|byte| *byte == b'0').collect::<Vec<_>>();
    digits(one) == digits(other)
}

/// The head at the begin of `bytes`, by whatever ends it first.
fn head(bytes: &[u8]) -> &[u8] {
    let begin = bytes.iter().position(|byte| !b"\r\n".contains(byte)).unwrap_or(bytes.len());
    let end = |end: &[u8]| {
        bytes[begin..].windows(end.len()).position(|window| window == end).map(|at| begin + at + end.len())
    };
    let ends = [end(b"\n\r\n"), end(b"\n\n")];
    &bytes[..ends.into_iter().flatten().min().unwrap_or(bytes.len())]
}

fn bare_line_feed(head: &[u8]) -> bool {
    (0..head.len()).any(|at| head[at] == b'\n' && (at == 0 || head[at - 1] != b'\r'))
}

/// A host's name without anything that could be minded.
fn is_name(host: &[u8]) -> bool {
    host.len() < 255 && host.split(|byte| *byte == b'.').all(|label| is_plain(label, b""))
}

/// Letters, digits, what else no part of a URI minds, and these.
fn is_plain(text: &[u8], also: &[u8]) -> bool {
    !text.is_empty()
        && text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(byte) || also.contains(byte))
}
