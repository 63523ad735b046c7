use super::crc32c::crc32c;
use super::*;

fn forwarding(source: &str, destination: &str) -> Forwarding {
    Forwarding { source: source.parse().expect(source), destination: destination.parse().expect(destination) }
}

/// A header in version 2 with this command, family, addresses and further values.
fn v2(command: u8, family: u8, rest: &[&[u8]]) -> Vec<u8> {
    let rest = rest.concat();
    let length = u16::try_from(rest.len()).expect("short").to_be_bytes();
    [v2::SIGNATURE, &[command, family], &length, &rest].concat()
}

fn value(kind: u8, value: &[u8]) -> Vec<u8> {
    [&[kind][..], &u16::try_from(value.len()).expect("short").to_be_bytes(), value].concat()
}

const FOUR: &[u8] = &[192, 0, 2, 7, 198, 51, 100, 1, 0xdd, 0xd5, 0x01, 0xbb];

/// The result for a whole header. Each part of it is a part of a header, unless it is invalid already, and bytes that
/// follow do not matter.
fn whole(bytes: &[u8]) -> Result<Start, HeaderFault> {
    let result = read(bytes);
    for end in 0..bytes.len() {
        let part = read(&bytes[..end]);
        assert!(part == Ok(Start::Partial) || (result.is_err() && part == result), "{part:?} after {end} bytes");
    }
    if let Ok(Start::Header(length, _)) = &result {
        assert_eq!(*length, bytes.len());
        assert_eq!(read(&[bytes, b"GET / HTTP/1.1\r\n"].concat()), result);
    }
    result
}

/// The addresses in a whole header.
fn forwarded(bytes: &[u8]) -> Result<Option<Forwarding>, HeaderFault> {
    match whole(bytes)? {
        Start::Header(_, header) => Ok(header.forwarded),
        other => panic!("{other:?} for {}", bytes.escape_ascii()),
    }
}

#[test]
fn version_1_is_one_exact_line() {
    let four = forwarding("192.0.2.7:56789", "198.51.100.1:443");
    let six = forwarding("[2001:db8::7]:1", "[::1]:65535");
    let longest =
        "PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535";
    let too_long = format!("PROXY UNKNOWN {}", "x".repeat(100));
    let cases = [
        ("PROXY TCP4 192.0.2.7 198.51.100.1 56789 443", Ok(Some(four))),
        ("PROXY TCP6 2001:db8::7 ::1 1 65535", Ok(Some(six))),
        ("PROXY TCP6 2001:DB8:0:0:0:0:0:7 ::1 1 65535", Ok(Some(six))),
        ("PROXY TCP4 0.0.0.0 0.0.0.0 0 0", Ok(Some(forwarding("0.0.0.0:0", "0.0.0.0:0")))),
        ("PROXY UNKNOWN", Ok(None)),
        ("PROXY UNKNOWN and anything", Ok(None)),
        (longest, Ok(None)),
        (&too_long, Err(HeaderFault::TooLong)),
        ("PROXY ", Err(HeaderFault::Family)),
        ("PROXY UDP4 192.0.2.7 198.51.100.1 56789 443", Err(HeaderFault::Family)),
        ("PROXY tcp4 192.0.2.7 198.51.100.1 56789 443", Err(HeaderFault::Family)),
        ("PROXY UNKNOWNX", Err(HeaderFault::Family)),
        ("PROXY TCP4", Err(HeaderFault::Malformed)),
        ("PROXY TCP4 192.0.2.7 198.51.100.1 56789", Err(HeaderFault::Malformed)),
        ("PROXY TCP4 192.0.2.7 198.51.100.1 56789 443 ", Err(HeaderFault::Malformed)),
        ("PROXY TCP4  192.0.2.7 198.51.100.1 56789 443", Err(HeaderFault::Malformed)),
        ("PROXY TCP4 192.0.2.7 198.51.100.1 56789 0443", Err(HeaderFault::Malformed)),
        ("PROXY TCP4 192.0.2.7 198.51.100.1 56789 +443", Err(HeaderFault::Malformed)),
        ("PROXY TCP4 192.0.2.7 198.51.100.1 65536 443", Err(HeaderFault::Malformed)),
        ("PROXY TCP4 192.0.2.07 198.51.100.1 56789 443", Err(HeaderFault::Malformed)),
        ("PROXY TCP4 ::1 ::1 56789 443", Err(HeaderFault::Malformed)),
        ("PROXY TCP6 192.0.2.7 198.51.100.1 56789 443", Err(HeaderFault::Malformed)),
        ("PROXY TCP6 fe80::1%eth0 ::1 56789 443", Err(HeaderFault::Malformed)),
        ("PROXY TCP4 192.0.2.7\t198.51.100.1 56789 443", Err(HeaderFault::Malformed)),
        ("PROXY TCP4 192.0.2.7 198.51.100.1 56789 443\n", Err(HeaderFault::Malformed)),
        ("PROXY TCP4 192.0.2.7 198.51.100.1 56789 443\r", Err(HeaderFault::Malformed)),
        ("PROXY TCP4 192.0.2.7 198.51.100.1 56789 é", Err(HeaderFault::Malformed)),
    ];
    for (line, expected) in cases {
        assert_eq!(forwarded(format!("{line}\r\n").as_bytes()), expected, "{line:?}");
    }
    assert_eq!(longest.len() + 2, 107);
    assert_eq!(read(b"PROXY TCP4 192.0.2.7 198.51.100.1 56789 443\n"), Err(HeaderFault::Malformed));
    assert_eq!(read(b"PROXY \xff\r\n"), Err(HeaderFault::Malformed));
}

#[test]
fn version_2_is_read_by_its_lengths() {
    let four = forwarding("192.0.2.7:56789", "198.51.100.1:443");
    let six = forwarding("[::ffff:192.0.2.7]:1", "[2001:db8::1]:2");
    let six_bytes = match (six.source.ip(), six.destination.ip()) {
        (std::net::IpAddr::V6(source), std::net::IpAddr::V6(destination)) => {
            [&source.octets()[..], &destination.octets(), &[0, 1, 0, 2]].concat()
        }
        _ => panic!("not IPv6"),
    };
    let unknown_value = value(0xe0, b"anything");
    let cases = [
        (v2(0x21, 0x11, &[FOUR]), Ok(Some(four))),
        (v2(0x21, 0x21, &[&six_bytes]), Ok(Some(six))),
        (v2(0x21, 0x11, &[FOUR, &unknown_value, &value(0x04, b"")]), Ok(Some(four))),
        (v2(0x21, 0x31, &[&[b'x'; 216]]), Ok(None)),
        (v2(0x21, 0x00, &[]), Ok(None)),
        (v2(0x21, 0x00, &[b"no further value"]), Ok(None)),
        (v2(0x20, 0x00, &[]), Ok(None)),
        (v2(0x20, 0x11, &[FOUR]), Ok(None)),
        (v2(0x20, 0xff, &[b"x"]), Ok(None)),
        (v2(0x20, 0x00, &[&[0; 4096]]), Ok(None)),
        (v2(0x20, 0x00, &[&[0; 4097]]), Err(HeaderFault::TooLong)),
        (v2(0x11, 0x11, &[FOUR]), Err(HeaderFault::Version)),
        (v2(0x31, 0x11, &[FOUR]), Err(HeaderFault::Version)),
        (v2(0x22, 0x11, &[FOUR]), Err(HeaderFault::Command)),
        (v2(0x21, 0x12, &[FOUR]), Err(HeaderFault::Family)),
        (v2(0x21, 0x41, &[FOUR]), Err(HeaderFault::Family)),
        (v2(0x21, 0x11, &[&FOUR[..11]]), Err(HeaderFault::Malformed)),
        (v2(0x21, 0x21, &[&six_bytes[..35]]), Err(HeaderFault::Malformed)),
        (v2(0x21, 0x31, &[&[b'x'; 215]]), Err(HeaderFault::Malformed)),
        (v2(0x21, 0x11, &[FOUR, b"x"]), Err(HeaderFault::Malformed)),
        (v2(0x21, 0x11, &[FOUR, &unknown_value[..5]]), Err(HeaderFault::Malformed)),
    ];
    for (bytes, expected) in cases {
        assert_eq!(forwarded(&bytes), expected, "{}", bytes.escape_ascii());
    }
}

#[test]
fn the_authority_is_kept_and_the_checksum_is_checked() {
    let authority = value(0x02, b"shop.example.com");
    let mut bytes = v2(0x21, 0x11, &[FOUR, &authority, &value(0x03, &[0; 4]), &value(0x04, b"padding")]);
    let at = bytes.len() - b"padding".len() - 3 - 4;
    let sum = crc32c(&bytes, at).to_be_bytes();
    bytes[at..at + 4].copy_from_slice(&sum);
    let Ok(Start::Header(_, header)) = whole(&bytes) else { panic!("it is valid") };
    assert_eq!(header.authority.as_deref(), Some("shop.example.com"));
    for index in v2::SIGNATURE.len() + 4..bytes.len() {
        if index == at - 3 {
            // The type of the checksum: without it, there is none.
            continue;
        }
        let mut changed = bytes.clone();
        changed[index] ^= 1;
        assert!(read(&changed).is_err(), "byte {index}");
    }
    let short = v2(0x21, 0x11, &[FOUR, &value(0x03, &[0; 3])]);
    assert_eq!(read(&short), Err(HeaderFault::Malformed));
}

#[test]
fn other_bytes_begin_no_header() {
    for bytes in [
        "GET / HTTP/1.1\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "PROXYX",
        "POST",
        "\x16\x03\x01",
        "\r\n\r\nGET",
        "proxy ",
    ] {
        assert_eq!(read(bytes.as_bytes()), Ok(Start::Other), "{bytes:?}");
    }
    for bytes in ["", "P", "PROXY", "\r", "\r\n\r\n", "\r\n\r\n\0\r\nQUIT"] {
        assert_eq!(read(bytes.as_bytes()), Ok(Start::Partial), "{bytes:?}");
    }
}

#[test]
fn a_header_that_is_written_is_read_back() {
    let pairs = [
        ("192.0.2.7:56789", "198.51.100.1:443", "192.0.2.7:56789", "198.51.100.1:443"),
        ("[2001:db8::7]:1", "[::1]:2", "[2001:db8::7]:1", "[::1]:2"),
        ("[::ffff:192.0.2.7]:1", "198.51.100.1:443", "192.0.2.7:1", "198.51.100.1:443"),
        ("192.0.2.7:1", "[2001:db8::1]:2", "[::ffff:192.0.2.7]:1", "[2001:db8::1]:2"),
    ];
    for version in [ProxyHeaderVersion::V1, ProxyHeaderVersion::V2] {
        for (source, destination, written_source, written_destination) in pairs {
            let sender = HeaderSubject::Client(forwarding(source, destination));
            let expected = Some(forwarding(written_source, written_destination));
            assert_eq!(forwarded(&write(version, sender)), Ok(expected), "{source} {destination}");
        }
        for sender in [HeaderSubject::Own, HeaderSubject::Unknown] {
            assert_eq!(forwarded(&write(version, sender)), Ok(None));
        }
    }
    assert_eq!(write(ProxyHeaderVersion::V1, HeaderSubject::Own), b"PROXY UNKNOWN\r\n");
    assert_eq!(write(ProxyHeaderVersion::V2, HeaderSubject::Own)[12..], [0x20, 0, 0, 0]);
    assert_eq!(write(ProxyHeaderVersion::V2, HeaderSubject::Unknown)[12..], [0x21, 0, 0, 0]);
}
