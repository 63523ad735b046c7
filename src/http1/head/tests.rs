//! Tables of accepted and rejected heads, and random mutations of both.

use super::*;
use crate::http1::head::HeadError::{Malformed, TargetTooLong, TooLarge, TooManyHeaders};

const LIMITS: HeadLimits = HeadLimits { bytes: 256, headers: 4 };

/// `¶` is CR LF; every other character is the byte with its code point.
fn bytes(text: &str) -> Vec<u8> {
    let byte = |c| u8::try_from(u32::from(c)).expect("a character that is one byte");
    text.replace('¶', "\r\n").chars().map(byte).collect()
}

fn request(input: &[u8]) -> Result<Option<(RequestHead, usize)>, HeadError> {
    let mut head = RequestHead::default();
    head.parse(input, LIMITS).map(|length| length.map(|length| (head, length)))
}

fn response(input: &[u8]) -> Result<Option<(ResponseHead, usize)>, HeadError> {
    let mut head = ResponseHead::default();
    head.parse(input, LIMITS).map(|length| length.map(|length| (head, length)))
}

/// The head as it would be forwarded to a server.
fn forwarded(head: &RequestHead) -> Vec<u8> {
    let minor = if head.version == Version::HTTP_10 { 0 } else { 1 };
    let mut out = [head.method.as_str().as_bytes(), b" ", head.target()].concat();
    out.extend(format!(" HTTP/1.{minor}\r\n").into_bytes());
    head.headers.write(&mut out);
    out.extend(b"\r\n");
    out
}

fn headers(headers: &Headers) -> Vec<(HeaderName, Vec<u8>, Vec<u8>)> {
    headers.iter().map(|(id, name, value)| (id, name.to_vec(), value.to_vec())).collect()
}

#[test]
fn a_request_is_written_with_its_headers_in_order_and_case() {
    let cases = [
        ("GET / HTTP/1.1¶Host: a¶¶", "GET / HTTP/1.1¶Host: a¶¶"),
        ("GET / HTTP/1.0¶¶", "GET / HTTP/1.0¶¶"),
        ("¶¶GET / HTTP/1.1¶hOsT:a¶¶GET", "GET / HTTP/1.1¶hOsT: a¶¶"),
        ("M-SEARCH * HTTP/1.1¶B: \t 1 2\t ¶A:¶b: 3¶¶body", "M-SEARCH * HTTP/1.1¶B: 1 2¶A: ¶b: 3¶¶"),
        ("POST /x?y=: HTTP/1.1¶X: \u{e9}\"¶¶", "POST /x?y=: HTTP/1.1¶X: \u{e9}\"¶¶"),
    ];
    for (sent, expected) in cases {
        let input = bytes(sent);
        let (head, length) = request(&input).expect("a head").expect("a complete one");
        assert_eq!(forwarded(&head), bytes(expected), "{sent}");
        for end in 0..length {
            assert!(matches!(request(&input[..end]), Ok(None)), "{sent} is complete after {end} bytes");
        }
    }
}

#[test]
fn a_response_is_written_as_it_was_received() {
    let cases = [
        ("HTTP/1.1 200 OK¶A: b¶¶body", "HTTP/1.1 200 OK¶A: b¶"),
        // A reason phrase that is not ASCII is dropped.
        ("HTTP/1.0 404 Not \u{e9} Found¶¶", "HTTP/1.1 404 ¶"),
        ("HTTP/1.1 999 ¶¶", "HTTP/1.1 999 ¶"),
        ("HTTP/1.1 200¶¶", "HTTP/1.1 200 ¶"),
    ];
    for (sent, expected) in cases {
        let input = bytes(sent);
        let (head, length) = response(&input).expect("a head").expect("a complete one");
        let mut out = Vec::new();
        head.write(&mut out);
        assert_eq!(out, bytes(expected), "{sent}");
        for end in 0..length {
            assert!(matches!(response(&input[..end]), Ok(None)), "{sent} is complete after {end} bytes");
        }
    }
    for sent in ["HTTP/1.1 099 x¶¶", "HTTP/1.1 20 x¶¶", "HTTP/2 200 x¶¶", "HTTP/1.1 200 x¶A : b¶¶", "HTTP/1.1 200 x\n¶"]
    {
        assert!(response(&bytes(sent)).is_err(), "{sent}");
    }
}

#[test]
fn malformed_heads_are_rejected() {
    let cases = [
        ("GET / HTTP/1.1\nHost: a¶¶", Malformed),
        ("\nGET / HTTP/1.1¶Host: a¶¶", Malformed),
        ("GET / HTTP/1.1¶Host: a¶\n", Malformed),
        ("GET / HTTP/1.1¶Host : a¶¶", Malformed),
        ("GET / HTTP/1.1¶A: b¶ c¶¶", Malformed),
        ("GET / HTTP/1.1¶A: b\rc¶¶", Malformed),
        ("GET / HTTP/1.1¶A: b\0c¶¶", Malformed),
        ("GET / HTTP/1.1¶: b¶¶", Malformed),
        ("GET  / HTTP/1.1¶¶", Malformed),
        ("GET /a b HTTP/1.1¶¶", HeadError::Version),
        ("G(T / HTTP/1.1¶¶", Malformed),
        ("GET / HTTP/2.0¶¶", HeadError::Version),
        ("GET / HTTP/1.1¶A: 1¶B: 2¶C: 3¶D: 4¶E: 5¶¶", TooManyHeaders),
    ];
    for (sent, error) in cases {
        assert_eq!(request(&bytes(sent)).err(), Some(error), "{sent}");
    }
}

#[test]
fn limits_apply_to_complete_and_incomplete_heads() {
    let head_of = |length: usize| {
        let head = "GET / HTTP/1.1\r\nX: \r\n\r\n";
        head.replace("X: ", &format!("X: {}", "x".repeat(length - head.len()))).into_bytes()
    };
    assert!(matches!(request(&head_of(LIMITS.bytes)), Ok(Some(_))));
    assert_eq!(request(&head_of(LIMITS.bytes + 1)).err(), Some(TooLarge));
    assert!(matches!(request(&head_of(1000)[..LIMITS.bytes]), Ok(None)));
    assert_eq!(request(&head_of(1000)[..=LIMITS.bytes]).err(), Some(TooLarge));
    let target = format!("GET /{}", "x".repeat(MAX_TARGET));
    assert_eq!(request(target.as_bytes()).err(), Some(TargetTooLong));
}

#[test]
fn headers_are_found_added_and_removed() {
    let mut headers = Headers::from_pairs([("Host", "a"), ("cookie", "1"), ("X", "y"), ("Cookie", "2")]);
    assert_eq!(headers.all(HeaderName::Cookie).collect::<Vec<_>>(), [b"1", b"2"]);
    headers.retain(|name, _| name != HeaderName::Host);
    assert!(!headers.has(HeaderName::Host) && headers.has(HeaderName::Cookie));
    headers.set(HeaderName::Cookie, b"3");
    headers.set(HeaderName::Host, b"b");
    headers.remove(HeaderName::Via);
    let mut out = Vec::new();
    headers.write(&mut out);
    assert_eq!(out, b"X: y\r\nCookie: 3\r\nHost: b\r\n");
    assert_eq!((headers.get(HeaderName::Host), headers.len()), (Some(&b"b"[..]), 3));
}

#[test]
fn mutated_heads_never_panic_and_accepted_ones_survive_a_round_trip() {
    let seeds = [
        "GET /a?b=%20 HTTP/1.1¶Host: a¶Content-Length: 5¶¶hello",
        "¶POST http://a/ HTTP/1.0¶Transfer-Encoding: chunked¶X_Y: \tz \u{e9}¶¶",
    ]
    .map(bytes);
    let mut rng = fastrand::Rng::with_seed(3);
    let (mut accepted, mut rejected) = (0, 0);
    for _ in 0..100_000 {
        let mut input = rng.choice(&seeds).cloned().unwrap_or_default();
        for _ in 0..rng.usize(1..4) {
            let at = rng.usize(..input.len());
            match rng.u8(..4) {
                0 => input[at] = rng.u8(..),
                1 => input.insert(at, *rng.choice(b"\r\n :\t\0,\x0b\x7f_").unwrap_or(&0)),
                2 => drop(input.remove(at)),
                _ => input.extend_from_within(at..),
            }
        }
        drop(response(&input));
        match request(&input) {
            Ok(Some((head, _))) => {
                let (reparsed, length) = request(&forwarded(&head)).expect("a head").expect("a complete one");
                let text = input.escape_ascii();
                assert_eq!(forwarded(&reparsed).len(), length, "{text}");
                let parts = |head: &RequestHead| (head.method.clone(), head.target().to_vec(), headers(&head.headers));
                assert_eq!(parts(&reparsed), parts(&head), "{text}");
                assert!(!head.headers.iter().any(|(.., value)| value.iter().any(|byte| b"\r\n\0".contains(byte))));
                accepted += 1;
            }
            Ok(None) => {}
            Err(_) => rejected += 1,
        }
    }
    assert!(accepted > 1000 && rejected > 1000, "{accepted} were accepted, {rejected} were rejected");
}
