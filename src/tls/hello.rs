//! The first message of a TLS client, read before there is a session: the name and the protocols that it asks for (RFC 8446,
//! section 4.1.2). Everything else in it is left to the session, which gets the same bytes.

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::net::IpAddr;

/// The most bytes of the message.
pub const MAX_HELLO: usize = 16 * 1024;
/// The most bytes of the records that carry it. Each read looks at all of them, so many small records cost time.
const MAX_RECORDS: usize = MAX_HELLO + 4 * 1024;
/// The most plaintext in a record (RFC 8446, section 5.1).
const MAX_RECORD: usize = 1 << 14;
const MESSAGE_HEADER: usize = 4;
/// The type of records that carry handshake messages.
const HANDSHAKE: u8 = 22;
/// The type of the message.
const CLIENT_HELLO: u8 = 1;
/// The types of the extensions that are read.
const SERVER_NAME: usize = 0;
const ALPN: usize = 16;

/// The first bytes that a client has sent, from the first one on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FirstBytes {
    /// The start of a hello.
    Incomplete,
    Hello(ClientHello),
    /// Text: the client does not use TLS, and has probably sent an HTTP request.
    PlainText,
    /// A hello of more than [`MAX_HELLO`] bytes.
    TooLarge,
    /// Anything else.
    Invalid,
}

/// The parts of a client's hello that decide which certificate and which protocol it gets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// The name of the server, in lower case and without a trailing dot. `None` if the client sends none, or an IP address,
    /// which is not allowed (RFC 6066, section 3).
    pub server_name: Option<String>,
    /// The list of protocols, as sent (RFC 7301, section 3.1).
    alpn: Vec<u8>,
}

impl FirstBytes {
    /// Reads what a client has sent so far.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Self {
        match bytes.first() {
            None => return Self::Incomplete,
            Some(&HANDSHAKE) => {}
            Some(byte) if byte.is_ascii_graphic() => return Self::PlainText,
            Some(_) => return Self::Invalid,
        }
        let Some(message) = message(bytes) else { return Self::Invalid };
        match message.first() {
            None => return Self::Incomplete,
            Some(&CLIENT_HELLO) => {}
            Some(_) => return Self::Invalid,
        }
        let mut rest = Reader(&message[1..]);
        let Some(length) = rest.number(3) else { return Self::Incomplete };
        if length > MAX_HELLO - MESSAGE_HEADER {
            return Self::TooLarge;
        }
        match rest.bytes(length) {
            Some(body) => ClientHello::parse(body).map_or(Self::Invalid, Self::Hello),
            None if bytes.len() >= MAX_RECORDS => Self::TooLarge,
            None => Self::Incomplete,
        }
    }
}

impl ClientHello {
    /// The protocols that the client speaks, the preferred one first.
    pub fn protocols(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = Reader(&self.alpn);
        std::iter::from_fn(move || rest.vector(1))
    }

    /// Parses the message without its header. `None` if it is malformed.
    fn parse(body: &[u8]) -> Option<Self> {
        let mut rest = Reader(body);
        let (_version, _random, _session) = (rest.bytes(2)?, rest.bytes(32)?, rest.vector(1)?);
        let (_ciphers, _compressions) = (rest.vector(2)?, rest.vector(1)?);
        let mut hello = Self::default();
        if rest.0.is_empty() {
            return Some(hello);
        }
        let mut extensions = Reader(rest.vector(2)?);
        while !extensions.0.is_empty() {
            let (kind, content) = (extensions.number(2)?, extensions.vector(2)?);
            match kind {
                SERVER_NAME => hello.server_name = server_name(content)?,
                ALPN => hello.alpn = Reader(content).vector(2)?.to_vec(),
                _ => {}
            }
        }
        rest.0.is_empty().then_some(hello)
    }
}

/// Returns the first handshake message in the records at the start of `bytes`, as far as it is there. `None` if one of them is
/// no such record.
fn message(bytes: &[u8]) -> Option<Cow<'_, [u8]>> {
    let mut message = Cow::Borrowed(&[][..]);
    let mut rest = Reader(bytes);
    while !rest.0.is_empty() && !is_whole(&message) {
        if *rest.0.first()? != HANDSHAKE || rest.0.get(1).is_some_and(|major| *major != 3) {
            return None;
        }
        let Some(_header) = rest.bytes(3) else { break };
        let Some(length) = rest.number(2) else { break };
        // An empty one would let a client send records for ever.
        if length == 0 || length > MAX_RECORD {
            return None;
        }
        let fragment = rest.bytes(length.min(rest.0.len()))?;
        if message.is_empty() {
            message = Cow::Borrowed(fragment);
        } else {
            message.to_mut().extend_from_slice(fragment);
        }
    }
    Some(message)
}

fn is_whole(message: &[u8]) -> bool {
    let mut rest = Reader(message);
    rest.bytes(1).and_then(|_| rest.vector(3)).is_some()
}

/// Parses the extension. `None` if it is malformed.
fn server_name(content: &[u8]) -> Option<Option<String>> {
    const HOST_NAME: usize = 0;
    let mut names = Reader(Reader(content).vector(2)?);
    let mut found = None;
    while !names.0.is_empty() {
        let (kind, name) = (names.number(1)?, names.vector(2)?);
        if kind == HOST_NAME && found.is_none() {
            found = Some(String::from_utf8_lossy(name).to_ascii_lowercase());
        }
    }
    let name = found.map(|name| name.strip_suffix('.').map_or(name.clone(), str::to_owned));
    Some(name.filter(|name| !name.is_empty() && name.parse::<IpAddr>().is_err()))
}

/// Takes numbers and vectors from the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    /// A big-endian number of this many bytes.
    fn number(&mut self, bytes: usize) -> Option<usize> {
        Some(self.bytes(bytes)?.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    /// A vector whose length is a number of this many bytes.
    fn vector(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let length = self.number(bytes)?;
        self.bytes(length)
    }
}
