//! The rules by which hyper's reading may differ from ours. A difference without a rule is a bug in one of the two.
//!
//! A rule looks at the bytes and at hyper's reading, not only at ours: if we reject a message, the reason must be in the
//! message that hyper accepts.

use http::{Method, Uri};
use lb::http1::chunked::BadChunk;
use lb::http1::head::HeadError;
use lb::http1::rejection::Rejection;

use super::ours::Why;
use super::{End, Message, Reading};

/// Why two readings differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Because {
    /// We accept only CR LF as the end of a line; hyper also accepts a line feed alone (RFC 9112, section 2.2).
    BareLineFeed,
    /// We reject CONNECT and TRACE (RFC 9110, sections 9.3.6 and 9.3.8); hyper leaves methods to its user.
    MethodNotOffered,
    /// We require exactly one valid `Host` (RFC 9112, section 3.2); hyper does not check it.
    Host,
    /// We accept paths and absolute HTTP URIs in ASCII, without fragments, invalid escapes and segments above the root
    /// (RFC 9112, section 3.2); hyper accepts more.
    Target,
    /// We reject a length beside a transfer coding; hyper lets the coding override it (RFC 9112, section 6.3).
    LengthBesideCoding,
    /// We accept only `chunked`; hyper accepts any list that ends with it, and ends other responses with the connection
    /// (RFC 9112, sections 6.1 and 6.3).
    Codings,
    /// We accept one length; hyper also accepts repetitions of it, in a response also in a list (RFC 9112, section 6.3).
    LengthAgain,
    /// We accept lengths of up to 19 digits, hyper up to 64 bits with any number of leading zeros.
    LengthDigits,
    /// We reject an upgrade of a request with a body, at whose end the protocol would change (RFC 9110, section 7.8).
    UpgradeWithBody,
    /// We accept chunk sizes of up to 16 digits, with spaces only before an extension (RFC 9112, section 7.1).
    ChunkSize,
    /// We reject control characters in chunk extensions (RFC 9112, section 7.1.1); hyper rejects only line feeds.
    ChunkExtension,
    /// We parse trailers one by one, and at most 64; hyper parses them once all have arrived, and accepts bare line feeds.
    Trailers,
    /// hyper rewrites an absolute target: `HTTP://a?b` becomes `http://a/?b`.
    TargetText,
    /// hyper's URIs allow fewer characters than targets have in practice (RFC 3986, section 2.4).
    TargetOfHyper,
    /// hyper ignores a `Connection` header with bytes over 0x7F; we read its ASCII options (RFC 9110, section 7.6.1).
    ConnectionBytes,
    /// We reject conflicting framing in a response without a body, because its headers would be forwarded; hyper does not
    /// check it (RFC 9110, section 8.6).
    NoBodyToFrame,
    /// We reject a 101 that was not requested (RFC 9110, section 7.8); hyper leaves it to its user.
    Switches,
}

/// The first difference between two readings: the next message of each, or their ends.
#[derive(Debug)]
pub(crate) struct Difference<'a> {
    /// The reason why we stopped reading, if there is one.
    pub(crate) why: Option<Why>,
    pub(crate) ours: Result<&'a Message, End>,
    pub(crate) theirs: Result<&'a Message, End>,
    /// The incomplete message of each.
    unfinished: [Option<&'a Message>; 2],
    /// How many bytes we have read.
    length: usize,
}

/// Returns the first difference.
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
    /// The rule that explains it. `asked` is the method of a response's request.
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

/// Explains why both accept a message, but read it differently.
fn read_otherwise(ours: &Message, theirs: &Message) -> Option<Because> {
    let strange = theirs.all("connection").any(|value| !value.is_ascii());
    let keeps = if strange { theirs.keeps } else { ours.keeps };
    let words = ours.line.split_once(' ').filter(|(_, target)| !target.starts_with('/'));
    let line = words.and_then(|(method, target)| Some(format!("{method} {}", Uri::try_from(target).ok()?)));
    let line = line.unwrap_or_else(|| ours.line.clone());
    let rule = if line == ours.line { Because::ConnectionBytes } else { Because::TargetText };
    (Message { line, keeps, ..ours.clone() } == *theirs).then_some(rule)
}

/// Explains why hyper accepts a chunked body that we reject, or has not rejected it yet.
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

/// Explains why hyper accepts a request that we reject.
fn refused(refusal: Rejection, head: &[u8], theirs: &Message) -> Option<Because> {
    // From the bytes, because hyper removes the fragment of a target.
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

/// Explains why hyper accepts framing headers that we reject.
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

/// The head at the start of `bytes`, up to the first empty line of either kind.
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

/// Whether this is a host name that no parser can object to.
fn is_name(host: &[u8]) -> bool {
    host.len() < 255 && host.split(|byte| *byte == b'.').all(|label| is_plain(label, b""))
}

/// Whether this consists of unreserved characters and those in `also`.
fn is_plain(text: &[u8], also: &[u8]) -> bool {
    !text.is_empty()
        && text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(byte) || also.contains(byte))
}
