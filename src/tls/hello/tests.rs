//! Hellos of rustls and openssl's shape, whole, split and damaged.

use super::*;

/// A hello's body: version, random, session id, ciphers, compression, extensions.
fn body(extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.push(0);
    body.extend([0, 2, 0x13, 0x01, 1, 0]);
    let list: Vec<u8> = extensions.iter().flat_map(|(kind, content)| sized(&kind.to_be_bytes(), content)).collect();
    body.extend(sized(&[], &list));
    body
}

/// `start`, then `content` after its length in two bytes.
fn sized(start: &[u8], content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).expect("short");
    [start, &length.to_be_bytes(), content].concat()
}

fn name(name: &[u8]) -> (u16, Vec<u8>) {
    (0, sized(&[], &sized(&[0], name)))
}

fn alpn(protocols: &[&str]) -> (u16, Vec<u8>) {
    let one = |protocol: &&str| [&[u8::try_from(protocol.len()).expect("short")], protocol.as_bytes()].concat();
    (16, sized(&[], &protocols.iter().flat_map(one).collect::<Vec<u8>>()))
}

/// The message in records of at most this many bytes.
fn records(body: &[u8], size: usize) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("short").to_be_bytes();
    let message = [&[1], &length[1..], body].concat();
    message.chunks(size).flat_map(|fragment| sized(&[22, 3, 1], fragment)).collect()
}

fn hello(server_name: Option<&str>, protocols: &[&str]) -> FirstBytes {
    let alpn = alpn(protocols).1.split_off(2);
    FirstBytes::Hello(ClientHello { server_name: server_name.map(str::to_owned), alpn })
}

#[test]
fn a_hello_is_read_at_every_split_and_in_every_fragmentation() {
    let body = body(&[(43, vec![2, 3, 4]), name(b"A.Example.COM."), alpn(&["h2", "http/1.1"])]);
    let expected = hello(Some("a.example.com"), &["h2", "http/1.1"]);
    for size in [1, 2, 3, 4, 5, 17, 100, 1 << 14] {
        let bytes = records(&body, size);
        for end in 0..bytes.len() {
            assert_eq!(FirstBytes::read(&bytes[..end]), FirstBytes::Incomplete, "{size} {end}");
        }
        assert_eq!(FirstBytes::read(&bytes), expected, "{size}");
        // Anything may follow: it is for the session.
        assert_eq!(FirstBytes::read(&[&bytes, &b"more"[..]].concat()), expected, "{size}");
    }
    let FirstBytes::Hello(hello) = expected else { panic!("a hello") };
    assert_eq!(hello.protocols().collect::<Vec<_>>(), [&b"h2"[..], b"http/1.1"]);
}

#[test]
fn names_are_normalized_and_addresses_are_none() {
    let long = "a".repeat(300);
    /// The extensions, and the name.
    type Case<'a> = (&'a [(u16, Vec<u8>)], Option<&'a str>);
    let cases: [Case<'_>; 9] = [
        (&[], None),
        (&[name(b"example.com")], Some("example.com")),
        (&[name(b"192.0.2.1")], None),
        (&[name(b"2001:db8::1")], None),
        (&[name(b"")], None),
        (&[name(b".")], None),
        (&[name(long.as_bytes())], Some(&long)),
        (&[name(b"b\xffd")], Some("b\u{fffd}d")),
        // A type that is not known, then a host name.
        (&[(0, sized(&[], &[sized(&[9], b"x"), sized(&[0], b"y")].concat()))], Some("y")),
    ];
    for (extensions, expected) in cases {
        assert_eq!(FirstBytes::read(&records(&body(extensions), 1 << 14)), hello(expected, &[]), "{extensions:?}");
    }
    // TLS 1.2 allows a hello without extensions.
    let old = &body(&[])[..41];
    assert_eq!(FirstBytes::read(&records(old, 100)), hello(None, &[]));
}

#[test]
fn other_bytes_are_told_apart() {
    let good = records(&body(&[name(b"a")]), 1 << 14);
    let damaged = |place: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[place] = byte;
        bytes
    };
    let cases = [
        (b"GET / HTTP/1.1\r\n".to_vec(), FirstBytes::PlainText),
        (b"P".to_vec(), FirstBytes::PlainText),
        (b"{".to_vec(), FirstBytes::PlainText),
        (vec![0], FirstBytes::Invalid),
        (vec![0x80, 0x2e, 1], FirstBytes::Invalid),
        (b"\r\n\r\n\0".to_vec(), FirstBytes::Invalid),
        (vec![22, 2], FirstBytes::Invalid),
        // Empty and oversized records, another message, another type of record in the middle.
        (vec![22, 3, 1, 0, 0], FirstBytes::Invalid),
        (vec![22, 3, 1, 0x40, 1], FirstBytes::Invalid),
        (vec![22, 3, 1, 0, 1, 2], FirstBytes::Invalid),
        (vec![22, 3, 1, 0, 2, 1, 0, 23, 3], FirstBytes::Invalid),
        // Lengths that contradict each other.
        (damaged(43, 255), FirstBytes::Invalid),
        (damaged(good.len() - 2, 9), FirstBytes::Invalid),
        (vec![22, 3, 1, 0, 4, 1, 0, 0x40, 0], FirstBytes::TooLarge),
        (vec![22, 3, 1, 0, 4, 1, 255, 255, 255], FirstBytes::TooLarge),
    ];
    for (bytes, expected) in cases {
        assert_eq!(FirstBytes::read(&bytes), expected, "{bytes:?}");
    }
    let largest = body(&[(21, vec![0; MAX_HELLO - 4 - 47])]);
    assert_eq!(largest.len(), MAX_HELLO - 4);
    assert_eq!(FirstBytes::read(&records(&largest, 1 << 14)), hello(None, &[]));
    assert_eq!(FirstBytes::read(&records(&largest, 100)), hello(None, &[]));
    assert_eq!(FirstBytes::read(&records(&largest, 1)[..20 * 1024]), FirstBytes::TooLarge);
}
