//! PROXY headers, by which a proxy in front tells a server who its client is: versions 1 and 2. Pure.
//!
//! A header is read strictly: bytes that begin like one and are none end the connection.

mod crc32c;
#[cfg(test)]
mod tests;
mod v1;
mod v2;

use std::fmt;
use std::net::SocketAddr;

use crate::config::ProxyHeaderVersion;

/// The most bytes of a header: of one in version 2.
pub const MAX_LENGTH: usize = v2::MAX_LENGTH;

/// A header that a peer has sent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReceivedHeader {
    /// The addresses of the connection that the peer forwards; `None` if it does not say, or if the connection is its own:
    /// those of the socket count.
    pub forwarded: Option<Forwarding>,
    /// The host name that the client has asked the peer for.
    pub authority: Option<Box<str>>,
}

/// The addresses of a connection that is forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forwarding {
    /// The client's.
    pub source: SocketAddr,
    /// The address that the client has connected to.
    pub destination: SocketAddr,
}

/// The start of a connection, as far as it was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// It may become a header.
    Partial,
    /// A header of this many bytes.
    Header(usize, ReceivedHeader),
    /// Bytes that begin no header.
    Other,
}

/// Why bytes that begin a header are none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderFault {
    /// It does not end in time.
    TooLong,
    /// It is not written as a header is.
    Malformed,
    /// A version other than 1 and 2.
    Version,
    /// A command that does not exist.
    Command,
    /// A protocol or a family of addresses that does not exist, or that is not of streams.
    Family,
    /// The checksum is wrong.
    Checksum,
}

/// The subject of a header to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderSubject {
    /// A connection of our own, as for a health check.
    Own,
    /// A client without an address of IP.
    Unknown,
    Client(Forwarding),
}

/// Reads the start of a connection.
///
/// # Errors
/// If it begins like a header and is none.
pub fn read(bytes: &[u8]) -> Result<Start, HeaderFault> {
    let starts = |signature: &[u8]| {
        let length = bytes.len().min(signature.len());
        bytes[..length] == signature[..length]
    };
    let read = if starts(v2::SIGNATURE) {
        v2::read(bytes)?
    } else if starts(v1::SIGNATURE) {
        v1::read(bytes)?
    } else {
        return Ok(Start::Other);
    };
    Ok(read.map_or(Start::Partial, |(length, header)| Start::Header(length, header)))
}

/// The header to send.
#[must_use]
pub fn write(version: ProxyHeaderVersion, sender: HeaderSubject) -> Vec<u8> {
    match version {
        ProxyHeaderVersion::V1 => v1::write(sender),
        ProxyHeaderVersion::V2 => v2::write(sender),
    }
}

impl Forwarding {
    /// Both addresses in one family: an IPv4 address is mapped to IPv6 beside one of IPv6.
    fn in_one_family(self) -> Self {
        let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        let [source, destination] = [self.source, self.destination].map(canonical);
        if source.is_ipv4() == destination.is_ipv4() {
            return Self { source, destination };
        }
        let mapped = |address: SocketAddr| match address {
            SocketAddr::V4(address) => SocketAddr::new(address.ip().to_ipv6_mapped().into(), address.port()),
            SocketAddr::V6(_) => address,
        };
        Self { source: mapped(source), destination: mapped(destination) }
    }
}

impl fmt::Display for HeaderFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLong => "the PROXY header is too long",
            Self::Malformed => "the PROXY header is malformed",
            Self::Version => "the PROXY header has an unknown version",
            Self::Command => "the PROXY header has an unknown command",
            Self::Family => "the PROXY header has an unknown family of addresses",
            Self::Checksum => "the checksum of the PROXY header is wrong",
        })
    }
}
