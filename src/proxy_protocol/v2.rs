//! Version 2: bytes.

use std::net::{IpAddr, SocketAddr};

use super::crc32c::{CRC_LENGTH, crc32c};
use super::{Forwarding, HeaderFault, HeaderSubject, ReceivedHeader};

pub(super) const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// The bytes up to the end of the length.
const FIXED: usize = 16;

/// The most bytes of a header. Most have less than 100; the largest known ones carry a certificate's subject.
pub(super) const MAX_LENGTH: usize = FIXED + 4096;

/// The version, in the same byte as the command.
const VERSION: u8 = 0x20;
const LOCAL: u8 = 0;
const PROXY: u8 = 1;

/// A family of addresses and the protocol, in one byte.
const UNSPECIFIED: u8 = 0x00;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;
const UNIX_STREAM: u8 = 0x31;

/// The length of the addresses of Unix sockets.
const UNIX_LENGTH: usize = 216;

/// Types of further values.
const AUTHORITY: u8 = 0x02;
const CRC32C: u8 = 0x03;

/// The most bytes of an authority, which is a host name.
const MAX_AUTHORITY: usize = 256;

/// Reads a header that begins with [`SIGNATURE`], or with a part of it; `None` if it is not complete.
pub(super) fn read(bytes: &[u8]) -> Result<Option<(usize, ReceivedHeader)>, HeaderFault> {
    let Some(&version_and_command) = bytes.get(SIGNATURE.len()) else { return Ok(None) };
    if version_and_command & 0xf0 != VERSION {
        return Err(HeaderFault::Version);
    }
    let command = version_and_command & 0x0f;
    if !matches!(command, LOCAL | PROXY) {
        return Err(HeaderFault::Command);
    }
    let Some(&[family, high, low]) = bytes.get(SIGNATURE.len() + 1..FIXED) else { return Ok(None) };
    let length = FIXED + usize::from(u16::from_be_bytes([high, low]));
    if length > MAX_LENGTH {
        return Err(HeaderFault::TooLong);
    }
    let Some(header) = bytes.get(..length) else { return Ok(None) };
    if command == LOCAL {
        // The rest has no meaning.
        return Ok(Some((length, ReceivedHeader::default())));
    }
    let rest = &header[FIXED..];
    let (forwarded, values) = match family {
        // How long the addresses are is not known, so neither is where other values begin.
        UNSPECIFIED => (None, None),
        TCP4 => addresses::<4>(rest)?,
        TCP6 => addresses::<16>(rest)?,
        UNIX_STREAM => (None, Some(rest.get(UNIX_LENGTH..).ok_or(HeaderFault::Malformed)?)),
        _ => return Err(HeaderFault::Family),
    };
    let authority = values.map(|values| further(header, values)).transpose()?.flatten();
    Ok(Some((length, ReceivedHeader { forwarded, authority })))
}

/// Reads two addresses of this length and two ports, and returns what follows.
fn addresses<const N: usize>(rest: &[u8]) -> Result<(Option<Forwarding>, Option<&[u8]>), HeaderFault>
where
    IpAddr: From<[u8; N]>,
{
    let read = || {
        let (source, rest) = rest.split_first_chunk::<N>()?;
        let (destination, rest) = rest.split_first_chunk::<N>()?;
        let (source_port, rest) = rest.split_first_chunk()?;
        let (destination_port, rest) = rest.split_first_chunk()?;
        let address = |ip: &[u8; N], port: &[u8; 2]| SocketAddr::new(IpAddr::from(*ip), u16::from_be_bytes(*port));
        let (source, destination) = (address(source, source_port), address(destination, destination_port));
        Some((Some(Forwarding { source, destination }), Some(rest)))
    };
    read().ok_or(HeaderFault::Malformed)
}

/// Reads the values after the addresses, each with a type and a length, and returns the authority. `header` is the whole.
fn further(header: &[u8], mut values: &[u8]) -> Result<Option<Box<str>>, HeaderFault> {
    let mut authority = None;
    while let Some((&[kind, high, low], rest)) = values.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes([high, low]));
        let (value, rest) = rest.split_at_checked(length).ok_or(HeaderFault::Malformed)?;
        match kind {
            CRC32C => {
                let expected = value.try_into().map(u32::from_be_bytes).map_err(|_| HeaderFault::Malformed)?;
                let at = header.len() - rest.len() - CRC_LENGTH;
                if crc32c(header, at) != expected {
                    return Err(HeaderFault::Checksum);
                }
            }
            AUTHORITY if length <= MAX_AUTHORITY => authority = Some(String::from_utf8_lossy(value).into()),
            _ => {}
        }
        values = rest;
    }
    if values.is_empty() { Ok(authority) } else { Err(HeaderFault::Malformed) }
}

pub(super) fn write(sender: HeaderSubject) -> Vec<u8> {
    let (command, family, addresses) = match sender {
        HeaderSubject::Own => (LOCAL, UNSPECIFIED, Vec::new()),
        HeaderSubject::Unknown => (PROXY, UNSPECIFIED, Vec::new()),
        HeaderSubject::Client(forwarding) => {
            let Forwarding { source, destination } = forwarding.in_one_family();
            let family = if source.is_ipv4() { TCP4 } else { TCP6 };
            let ips = [source, destination].map(|address| match address.ip() {
                IpAddr::V4(ip) => ip.octets().to_vec(),
                IpAddr::V6(ip) => ip.octets().to_vec(),
            });
            let ports = [source, destination].map(|address| address.port().to_be_bytes());
            (PROXY, family, [ips.concat(), ports.concat()].concat())
        }
    };
    // Less than 40.
    let length = u16::try_from(addresses.len()).unwrap_or_default().to_be_bytes();
    [SIGNATURE, &[VERSION | command, family], &length, &addresses].concat()
}
