//! Version 1: a line of text.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use super::{Forwarding, HeaderFault, HeaderSubject, ReceivedHeader};

pub(super) const SIGNATURE: &[u8] = b"PROXY ";

/// The most bytes of a line, with its end.
const MAX_LENGTH: usize = 107;

/// A line without addresses.
const UNKNOWN: &str = "PROXY UNKNOWN\r\n";

/// Reads a header that begins with [`SIGNATURE`], or with a part of it; `None` if it is not complete.
pub(super) fn read(bytes: &[u8]) -> Result<Option<(usize, ReceivedHeader)>, HeaderFault> {
    let window = &bytes[..bytes.len().min(MAX_LENGTH)];
    let Some(end) = window.iter().position(|byte| *byte == b'\n') else {
        return if window.len() < MAX_LENGTH { Ok(None) } else { Err(HeaderFault::TooLong) };
    };
    let line = window[..end].strip_suffix(b"\r").ok_or(HeaderFault::Malformed)?;
    let line = line.strip_prefix(SIGNATURE).ok_or(HeaderFault::Malformed)?;
    let line = str::from_utf8(line).map_err(|_| HeaderFault::Malformed)?;
    let forwarded = match line.split_once(' ').unwrap_or((line, "")) {
        // Any text may follow.
        ("UNKNOWN", _) => None,
        ("TCP4", rest) => Some(addresses::<Ipv4Addr>(rest)?),
        ("TCP6", rest) => Some(addresses::<Ipv6Addr>(rest)?),
        _ => return Err(HeaderFault::Family),
    };
    Ok(Some((end + 1, ReceivedHeader { forwarded, authority: None })))
}

/// Reads two addresses and two ports.
fn addresses<I: FromStr + Into<IpAddr>>(text: &str) -> Result<Forwarding, HeaderFault> {
    let mut words = text.split(' ');
    let mut word = || words.next().ok_or(HeaderFault::Malformed);
    let [source, destination] = [word()?, word()?];
    let [source_port, destination_port] = [word()?, word()?];
    if words.next().is_some() {
        return Err(HeaderFault::Malformed);
    }
    let address = |ip: &str, port: &str| {
        let ip: I = ip.parse().map_err(|_| HeaderFault::Malformed)?;
        Ok(SocketAddr::new(ip.into(), self::port(port)?))
    };
    Ok(Forwarding { source: address(source, source_port)?, destination: address(destination, destination_port)? })
}

fn port(text: &str) -> Result<u16, HeaderFault> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| is_number).ok_or(HeaderFault::Malformed)
}

pub(super) fn write(sender: HeaderSubject) -> Vec<u8> {
    let HeaderSubject::Client(forwarding) = sender else { return UNKNOWN.into() };
    let Forwarding { source, destination } = forwarding.in_one_family();
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (source.ip(), destination.ip());
    format!("PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port()).into()
}
