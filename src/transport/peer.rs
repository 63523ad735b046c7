//! The other end of a client connection, and the address of a client.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;

/// The other end of a client connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// Never an IPv4-mapped IPv6 address.
    Ip(SocketAddr),
    /// A process on this machine, which has no address.
    Unix,
}

/// The address of a client: that of a peer, or one that trusted proxies report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAddress {
    Ip(IpAddr),
    /// No network contains it.
    Unix,
}

impl Peer {
    #[must_use]
    pub fn address(self) -> ClientAddress {
        match self {
            Self::Ip(address) => ClientAddress::Ip(address.ip()),
            Self::Unix => ClientAddress::Unix,
        }
    }

    /// The port, if it has one.
    #[must_use]
    pub fn port(self) -> Option<NonZeroU16> {
        match self {
            Self::Ip(address) => NonZeroU16::new(address.port()),
            Self::Unix => None,
        }
    }
}

/// An IPv4 client's own address, also if it connected to an IPv6 socket.
impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(SocketAddr::new(address.ip().to_canonical(), address.port()))
    }
}

impl From<IpAddr> for ClientAddress {
    fn from(address: IpAddr) -> Self {
        Self::Ip(address.to_canonical())
    }
}

/// The address alone, or `unix`.
impl fmt::Display for ClientAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}
