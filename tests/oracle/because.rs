//! The rules by which hyper's reading may differ from ours. A difference that no rule explains is a bug in one of the two.
//!
//! A rule examines the bytes and hyper's reading, not only our verdict: if we reject a message that hyper
//! accepts, the reason must be found in that message.

use http::{Method, Uri};
use lb::http1::chunked::BadChunk;
use lb::http1::head::HeadError;
use lb::http1::rejection::Rejection;

use super::ours::StopReason;
use super::{End, Message, Reading};

/// The reason why two readings differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Because {
    /// From clients, we accept only CR LF as a line end; hyper also accepts a lone LF (RFC 9112, section 2.2).
    BareLineFeed,
    /// We reject another version once the request line has ended, because then we know the status, and a server's line
    /// once it has ended; hyper rejects the byte.
    UnfinishedLine,
    /// We reject a method of more than 256 bytes (RFC 9112, section 3).
    LongMethod,
    /// We reject CONNECT and TRACE (RFC 9110, sections 9.3.6 and 9.3.8); hyper leaves methods to its user.
    UnsupportedMethod,
    /// We require exactly one `Host` with a valid host (RFC 9112, section 3.2); hyper checks none.
    Host,
    /// We accept ASCII paths and absolute HTTP URIs, without fragments, invalid escapes and steps above the
    /// root (RFC 9112, section 3.2); hyper accepts more.
    Target,
    /// We reject a length beside a transfer coding; in hyper the coding overrides it (RFC 9112, section 6.3).
    LengthBesideCoding,
    /// We accept `chunked` alone; hyper accepts any list that ends with it, and responses with other codings
    /// that end with the connection (RFC 9112, sections 6.1 and 6.3).
    Codings,
    /// We accept a single length; hyper also accepts repetitions of it, in a response even in a list (RFC 9112,
    /// section 6.3).
    RepeatedLength,
    /// We accept 19 digits of a length after leading zeros; hyper accepts any that fits 64 bits.
    LengthDigits,
    /// We accept at most 16 digits of a chunk size, and white space after it only before an extension (RFC 9112,
    /// section 7.1).
    ChunkSize,
    /// From clients, we accept only the grammar of a chunk extension (RFC 9112, section 7.1.1); hyper rejects only line
    /// feeds.
    ChunkExtension,
    /// From servers, we accept deviations that hyper rejects: folded headers, white space before a colon, control
    /// characters in values, unusual status lines, and lone LFs, white space and leading zeros in chunked coding.
    Tolerance,
    /// We check trailers as they arrive, and accept at most 64 from clients; hyper checks them once they are complete, and
    /// accepts a lone LF there, too.
    Trailers,
    /// hyper normalises an absolute target: `HTTP://a?b` becomes `http://a/?b`.
    TargetText,
    /// hyper's URIs allow fewer characters than real targets contain (RFC 3986, section 2.4).
    HyperTarget,
    /// hyper ignores a `Connection` that is not ASCII; we use the options that are (RFC 9110, section 7.6.1).
    ConnectionBytes,
    /// We reject ambiguous framing even on a response without a body, because it would be forwarded; hyper
    /// ignores it there (RFC 9110, section 8.6).
    FramingWithoutBody,
    /// We reject a 101 that was not requested (RFC 9110, section 7.8); hyper leaves it to its user.
    UnrequestedUpgrade,
}

/// The first difference of two readings: the next message of each, or its end.
#[derive(Debug)]
pub(crate) struct Difference<'a> {
    /// The reason why we stopped before the end, if we did.
    pub(crate) stop: Option<StopReason>,
    pub(crate) ours: Result<&'a Message, End>,
    pub(crate) theirs: Result<&'a Message, End>,
    /// The incomplete message of each.
    unfinished: [Option<&'a Message>; 2],
    /// The length of our complete messages.
    length: usize,
}

/// Returns the first difference of two readings, if there is one.
pub(crate) fn difference<'a>(
    ours: &'a Reading,
    stop: Option<StopReason>,
    theirs: &'a Reading,
) -> Option<Difference<'a>> {
    fn next(reading: &Reading, at: usize) -> Result<&Message, End> {
        reading.messages.get(at).ok_or(reading.end)
    }
    let same = ours.messages.iter().zip(&theirs.messages).take_while(|(ours, theirs)| ours == theirs).count();
    let (unfinished, length) = ([ours, theirs].map(|reading| reading.unfinished.as_ref()), ours.length);
    let difference = Difference { stop, ours: next(ours, same), theirs: next(theirs, same), unfinished, length };
    let equal = match (difference.ours, difference.theirs) {
        (Err(End::Truncated), Err(End::Truncated)) => unfinished[0] == unfinished[1],
        (ours, theirs) => ours == theirs,
    };
    (!equal).then_some(difference)
}

impl Difference<'_> {
    /// Returns the rule that explains the difference. `method` is the request's if `bytes` are a response.
    pub(crate) fn because(&self, bytes: &[u8], method: Option<&Method>) -> Option<Because> {
        let rest = &bytes[self.length.min(bytes.len())..];
        if self.stop.is_none() && self.theirs.is_err() {
            let is_in_head = self.ours == Err(End::Truncated) && self.unfinished[0].is_none();
            let is_unfinished = match method {
                None => !rest.trim_ascii_start().contains(&b'\n'),
                Some(_) => !rest.ends_with(b"\n"),
            };
            if is_in_head && is_unfinished {
                return Some(Because::UnfinishedLine);
            }
            if method.is_some() && (deviates(rest) || deviates(bytes)) {
                return Some(Because::Tolerance);
            }
        }
        match (self.ours.ok().or(self.unfinished[0]), self.stop, self.theirs.ok().or(self.unfinished[1])) {
            (Some(ours), _, Some(theirs)) => {
                // hyper looks for the end of the trailers in another way.
                let is_same = Message { keep_alive: theirs.keep_alive, ..ours.clone() } == *theirs;
                let is_tolerated = is_same && method.is_some() && deviates(rest);
                if is_tolerated { Some(Because::Trailers) } else { different_message(ours, theirs) }
            }
            (Some(ours), _, None) => {
                let (_, target) = ours.line.split_once(' ')?;
                Uri::try_from(target).is_err().then_some(Because::HyperTarget)
            }
            (_, Some(StopReason::Head(HeadError::MethodTooLong)), _) => {
                let method = rest.trim_ascii_start().split(|byte| *byte == b' ').next();
                method.is_some_and(|method| method.len() > 256).then_some(Because::LongMethod)
            }
            (_, Some(StopReason::Head(HeadError::Malformed(_))), _) => {
                bare_line_feed(head(rest)).then_some(Because::BareLineFeed)
            }
            (_, Some(StopReason::Request(rejection)), Some(theirs)) => rejected_request(rejection, head(rest), theirs),
            (_, Some(StopReason::Response(_)), Some(theirs)) => {
                let bodiless = method == Some(&Method::HEAD) || ["101", "204", "304"].contains(&&*theirs.line);
                if bodiless { Some(Because::FramingWithoutBody) } else { framing(head(rest), false) }
            }
            (_, Some(StopReason::UnrequestedUpgrade), Some(theirs)) => {
                (theirs.line == "101").then_some(Because::UnrequestedUpgrade)
            }
            (_, Some(StopReason::Chunk(bad)), Some(_)) => rejected_chunk(bad, &rest[head(rest).len()..]),
            _ => None,
        }
    }
}

/// Explains a message that both accept but read differently.
fn different_message(ours: &Message, theirs: &Message) -> Option<Because> {
    let is_ascii = theirs.all("connection").all(<[u8]>::is_ascii);
    let keep_alive = if is_ascii { ours.keep_alive } else { theirs.keep_alive };
    let words = ours.line.split_once(' ').filter(|(_, target)| !target.starts_with('/'));
    let line = words.and_then(|(method, target)| Some(format!("{method} {}", Uri::try_from(target).ok()?)));
    let line = line.unwrap_or_else(|| ours.line.clone());
    let rule = if line == ours.line { Because::ConnectionBytes } else { Because::TargetText };
    (Message { line, keep_alive, ..ours.clone() } == *theirs).then_some(rule)
}

/// Explains a chunked body that we reject and hyper accepts, or has not rejected yet.
fn rejected_chunk(bad: BadChunk, body: &[u8]) -> Option<Because> {
    let mut lines = body.split(|byte| *byte == b'\n');
    match bad {
        BadChunk::Size => {
            let has_many_zeros = |line: &[u8]| line.len() > 16 && line[0] == b'0';
            lines.any(has_many_zeros).then_some(Because::ChunkSize)
        }
        BadChunk::Extension => {
            let ends_with_space = |line: &[u8]| line.ends_with(b" \r") || line.ends_with(b"\t\r");
            if lines.clone().any(|line| line.contains(&b';')) {
                Some(Because::ChunkExtension)
            } else {
                lines.any(ends_with_space).then_some(Because::ChunkSize)
            }
        }
        BadChunk::Trailer | BadChunk::TooManyTrailers => {
            lines.any(|line| line.starts_with(b"0")).then_some(Because::Trailers)
        }
        _ => None,
    }
}

/// Explains a request that we reject and hyper accepts.
fn rejected_request(rejection: Rejection, head: &[u8], theirs: &Message) -> Option<Because> {
    // From the bytes, because hyper drops the fragment of a target.
    let mut line = head.trim_ascii_start().split(|byte| *byte == b' ');
    let (method, target) = (line.next()?, line.next()?);
    let hosts: Vec<_> = theirs.all("host").collect();
    let (explains, rule) = match rejection {
        Rejection::Connect | Rejection::Trace => {
            ([&b"CONNECT"[..], b"TRACE"].contains(&method), Because::UnsupportedMethod)
        }
        Rejection::NoHost | Rejection::ManyHosts | Rejection::BadHost => {
            (hosts.len() != 1 || !is_name(hosts[0]) || !target.starts_with(b"/"), Because::Host)
        }
        Rejection::TargetForm
        | Rejection::TargetBytes
        | Rejection::Scheme
        | Rejection::BadEscape
        | Rejection::Overlong
        | Rejection::AmbiguousPath
        | Rejection::AboveRoot => {
            let has_dots = target.windows(2).any(|pair| pair == b"..");
            let is_valid = target.starts_with(b"/") && is_plain(target, b"/?=") && !has_dots;
            (!is_valid, Because::Target)
        }
        Rejection::Framing => return framing(head, true),
    };
    explains.then_some(rule)
}

/// Explains framing headers that we reject and hyper accepts.
fn framing(head: &[u8], request: bool) -> Option<Because> {
    let values = |name: &'static str| {
        head.split(|byte| *byte == b'\n').filter_map(move |line| {
            let (start, value) = line.split_at_checked(name.len())?;
            start.eq_ignore_ascii_case(name.as_bytes()).then(|| value.trim_ascii())
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
            Some(Because::RepeatedLength)
        }
        ([], [length]) if length.len() > 19 && length.iter().all(u8::is_ascii_digit) => Some(Because::LengthDigits),
        _ => None,
    }
}

/// Whether a response deviates from the grammar in a way that we tolerate.
fn deviates(response: &[u8]) -> bool {
    let head = head(response);
    let is_control = |byte: &u8| *byte < b' ' && !b"\t\r\n".contains(byte) || *byte == 0x7f;
    let is_folded = |line: &[u8]| line.starts_with(b" ") || line.starts_with(b"\t");
    let has_space = |line: &[u8]| {
        let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
        name.ends_with(b" ") || name.ends_with(b"\t")
    };
    let mut lines = head.trim_ascii_start().split(|byte| *byte == b'\n');
    let status_line = lines.next().unwrap_or_default();
    let (start, rest) = status_line.split_at(status_line.len().min("HTTP/1.1 200".len()));
    let is_usual = (start.starts_with(b"HTTP/1.1 ") || start.starts_with(b"HTTP/1.0 "))
        && start[9..].iter().all(u8::is_ascii_digit)
        && (rest.is_empty() || rest[0] == b' ' || rest[0] == b'\r');
    let body = &response[head.len()..];
    !is_usual
        || head.iter().any(is_control)
        || lines.any(|line| is_folded(line) || has_space(line))
        // In chunked coding.
        || bare_line_feed(body)
        || body.iter().any(is_control)
        || body.split(|byte| *byte == b'\n').any(|line| is_folded(line) || has_space(line) || line.len() > 16)
}

fn same_number(one: &[u8], other: &[u8]) -> bool {
    let digits = |text: &[u8]| text.iter().copied().skip_while(|byte| *byte == b'0').collect::<Vec<_>>();
    digits(one) == digits(other)
}

/// Returns the head at the start of `bytes`, up to the first empty line in either notation.
fn head(bytes: &[u8]) -> &[u8] {
    let start = bytes.iter().position(|byte| !b"\r\n".contains(byte)).unwrap_or(bytes.len());
    let end = |end: &[u8]| {
        bytes[start..].windows(end.len()).position(|window| window == end).map(|at| start + at + end.len())
    };
    let ends = [end(b"\n\r\n"), end(b"\n\n")];
    &bytes[..ends.into_iter().flatten().min().unwrap_or(bytes.len())]
}

fn bare_line_feed(head: &[u8]) -> bool {
    (0..head.len()).any(|at| head[at] == b'\n' && (at == 0 || head[at - 1] != b'\r'))
}

/// Whether `host` is a name that no parser could object to.
fn is_name(host: &[u8]) -> bool {
    host.len() < 255 && host.split(|byte| *byte == b'.').all(|label| is_plain(label, b""))
}

/// Whether `text` consists of unreserved characters (RFC 3986, section 2.3) and those in `also`.
fn is_plain(text: &[u8], also: &[u8]) -> bool {
    !text.is_empty()
        && text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(byte) || also.contains(byte))
}
