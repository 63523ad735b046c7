//! Tables of accepted and rejected heads, and random mutations of both.

use super::*;
use crate::http1::head::HeadError::{MethodTooLong, TargetTooLong, TooLarge, TooManyHeaders};
use crate::http1::head::HeadRule::{Colon, Folding, LineEnd, Name, StartLine, Value};

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
        ("HTTP/1.0 404 Not \u{e9} Found¶A: b¶¶", "HTTP/1.1 404 Not \u{e9} Found¶A: b¶"),
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
}

#[test]
fn a_server_may_deviate_where_that_leaves_no_doubt() {
    // Case: tolerated-response
    let cases = [
        ("HTTP/1.1 200 OK\nA: b\n\nbody", "HTTP/1.1 200 OK¶A: b¶"),
        ("HTTP/1.1 200 OK¶A: b\nC: d¶\nbody", "HTTP/1.1 200 OK¶A: b¶C: d¶"),
        ("HTTP/1.1 200 OK\nA: b¶\n", "HTTP/1.1 200 OK¶A: b¶"),
        ("\nHTTP/1.1 200 OK¶A: b¶¶", "HTTP/1.1 200 OK¶A: b¶"),
        ("¶\n¶HTTP/1.1 200 OK¶¶", "HTTP/1.1 200 OK¶"),
        ("HTTP/1.1 200 OK¶A: b;¶  c;¶\td ¶E: f¶¶", "HTTP/1.1 200 OK¶A: b; c; d¶E: f¶"),
        ("HTTP/1.1 200 OK¶A:¶ b¶ ¶\t¶C:\n \n\td\n\n", "HTTP/1.1 200 OK¶A: b¶C: d¶"),
        ("HTTP/1.1 200 OK¶A: b¶ ¶¶", "HTTP/1.1 200 OK¶A: b¶"),
        ("HTTP/1.1 200 OK¶A : b¶C\t : d¶E :¶¶", "HTTP/1.1 200 OK¶A: b¶C: d¶E: ¶"),
        ("HTTP/1.1 200 OK¶A: b\u{1}c\u{7f}d\u{1b}[1m¶¶", "HTTP/1.1 200 OK¶A: b c d [1m¶"),
        ("HTTP/1.1 200 OK¶A: \u{b}b\u{c}¶B: \u{1}¶¶", "HTTP/1.1 200 OK¶A: b¶B: ¶"),
        ("HTTP/1.1 200 OK¶A : \u{e9}\tb¶¶", "HTTP/1.1 200 OK¶A: \u{e9}\tb¶"),
        ("HTTP/1.1  200  OK ¶¶", "HTTP/1.1 200 OK¶"),
        ("HTTP/1.1 200\tOK¶¶", "HTTP/1.1 200 OK¶"),
        ("HTTP/1.1 200 O\u{1}K¶¶", "HTTP/1.1 200 O K¶"),
        ("HTTP/1.1 404 Not \u{e9} Found\n\n", "HTTP/1.1 404 Not \u{e9} Found¶"),
        ("HTTP/1.1 200\n\n", "HTTP/1.1 200 ¶"),
        ("http/1.1 200 OK¶¶", "HTTP/1.1 200 OK¶"),
        ("HTTP/1.2 200 OK¶¶", "HTTP/1.1 200 OK¶"),
        ("HTTP/1.0 200 OK\nContent-Length :\n 3\n\n", "HTTP/1.1 200 OK¶Content-Length: 3¶"),
    ];
    for (sent, expected) in cases {
        let input = bytes(sent);
        let (head, length) = response(&input).unwrap_or_else(|error| panic!("{sent}: {error:?}")).expect("all of it");
        assert!(input[length..].is_empty() || input[length..] == *b"body", "{sent}");
        let mut out = Vec::new();
        head.write(&mut out);
        assert_eq!(out, bytes(expected), "{sent}");
        out.extend_from_slice(b"\r\n");
        let (again, _) = response(&out).expect("a head").expect("all of it");
        assert_eq!((headers(&again.headers), again.status), (headers(&head.headers), head.status), "{sent}");
        let version = if sent.contains("/1.0") { Version::HTTP_10 } else { Version::HTTP_11 };
        assert_eq!(head.version, version, "{sent}");
        for end in 0..length {
            assert!(matches!(response(&input[..end]), Ok(None)), "{sent} is complete after {end} bytes");
        }
    }
}

#[test]
fn an_invalid_response_is_rejected_with_its_line() {
    // Case: bad-response
    let cases = [
        ("HTTP/1.1 099 x¶¶", StartLine, 1),
        ("HTTP/1.1 20 x¶¶", StartLine, 1),
        ("HTTP/1.1 2000 x¶¶", StartLine, 1),
        ("HTTP/1.1 200x¶¶", StartLine, 1),
        ("HTTP/1.1 200 a\rb¶¶", StartLine, 1),
        ("HTTP/1.1 200 a\0b¶¶", StartLine, 1),
        ("HTTP/1.1\t200 x¶¶", StartLine, 1),
        ("HTTP/2 200 x¶¶", StartLine, 1),
        ("HTTP/2.0 200 x¶¶", StartLine, 1),
        ("HTTP/1 200 x¶¶", StartLine, 1),
        ("HTTP/1.1¶¶", StartLine, 1),
        ("SSH-2.0", StartLine, 1),
        ("\n\nx", StartLine, 1),
        ("\rHTTP/1.1 200 OK¶¶", StartLine, 1),
        ("\n\r\rHTTP/1.1 200 OK¶¶", StartLine, 1),
        ("\0", StartLine, 1),
        ("HTTP/1.1 200 x¶ A: b¶¶", Folding, 2),
        ("HTTP/1.1 200 x\n\tA: b\n\n", Folding, 2),
        ("HTTP/1.1 200 x¶A: b¶C¶¶", Colon, 3),
        ("HTTP/1.1 200 x¶A: b¶: c¶¶", Name, 3),
        ("HTTP/1.1 200 x¶A b: c¶¶", Name, 2),
        ("HTTP/1.1 200 x¶A(: c¶¶", Name, 2),
        ("HTTP/1.1 200 x¶A\r: c¶¶", Name, 2),
        ("HTTP/1.1 200 x¶A\u{c}: c¶¶", Name, 2),
        ("HTTP/1.1 200 x¶\u{e9}: c¶¶", Name, 2),
        ("HTTP/1.1 200 x¶A: b\0¶¶", Value, 2),
        ("HTTP/1.1 200 x¶A: b\rc¶¶", Value, 2),
        ("HTTP/1.1 200 x¶A: b\r¶¶", Value, 2),
        ("HTTP/1.1 200 x¶A: b¶ c\0¶¶", Value, 3),
        ("HTTP/1.1 200 x¶Transfer-Encoding: \u{b}chunked¶¶", Value, 2),
        ("HTTP/1.1 200 x¶Content-Length: 3\u{1}¶¶", Value, 2),
        ("HTTP/1.1 200 x¶Content-Length: 3¶ \u{c}¶¶", Value, 3),
    ];
    for (sent, rule, number) in cases {
        let error = response(&bytes(sent)).err();
        assert_eq!(error, Some(HeadError::Malformed(BadLine { rule, number })), "{sent}");
    }
    let error = HeadError::Malformed(BadLine { rule: Name, number: 3 });
    assert_eq!(error.to_string(), "the name of a header is not a token (line 3 of the head)");
}

#[test]
fn malformed_heads_are_rejected() {
    let cases = [
        ("GET / HTTP/1.1\nHost: a¶¶", LineEnd, 1),
        ("\nGET / HTTP/1.1¶Host: a¶¶", LineEnd, 1),
        ("GET / HTTP/1.1¶Host: a¶\n", LineEnd, 3),
        ("GET / HTTP/1.1¶Host: a\n¶", LineEnd, 2),
        ("GET / HTTP/1.1¶Host : a¶¶", Name, 2),
        ("GET / HTTP/1.1¶A: b¶ c¶¶", Folding, 3),
        ("GET / HTTP/1.1¶A: b\rc¶¶", Value, 2),
        ("GET / HTTP/1.1¶A: b\0c¶¶", Value, 2),
        ("GET / HTTP/1.1¶B: c¶: b¶¶", Name, 3),
        ("GET / HTTP/1.1¶B: c¶b¶¶", Colon, 3),
        ("¶GET / HTTP/1.1¶B: c¶b¶¶", Colon, 3),
        // Case: bad-request-line
        ("GET  / HTTP/1.1¶¶", StartLine, 1),
        ("GET /a b HTTP/1.1¶¶", StartLine, 1),
        ("G(T / HTTP/1.1¶¶", StartLine, 1),
        ("GET / http/1.1¶¶", StartLine, 1),
        ("GET / HTTP/1¶¶", StartLine, 1),
        ("GET / HTTP/1.10¶¶", StartLine, 1),
        ("GET / HTTP/11¶¶", StartLine, 1),
        ("GET / HTTP/2¶¶", StartLine, 1),
        ("GET / HTTP/9.9 ¶¶", StartLine, 1),
        ("GET / HTTP/9.9\n\n", StartLine, 1),
        ("GET / HTTP/a.b¶¶", StartLine, 1),
        ("GET / HTTPS/1.1¶¶", StartLine, 1),
        ("GET / HTTP/1.1 ¶¶", StartLine, 1),
        ("GET /¶¶", StartLine, 1),
        ("nonsense¶¶", StartLine, 1),
        ("GET¶¶", StartLine, 1),
    ];
    for (sent, rule, number) in cases {
        let error = request(&bytes(sent)).err();
        assert_eq!(error, Some(HeadError::Malformed(BadLine { rule, number })), "{sent}");
    }
    // Another version is known only once the line has ended.
    for sent in ["GET / HTTP/2.0¶¶", "GET / HTTP/9.9¶", "¶¶PRI * HTTP/2.0¶¶", "GET / HTTP/1.2¶¶", "GET / HTTP/0.9¶"]
    {
        assert_eq!(request(&bytes(sent)).err(), Some(HeadError::Version), "{sent}");
    }
    assert_eq!(request(&bytes("GET / HTTP/9.9")).ok().map(|head| head.is_some()), Some(false));
    let many = "GET / HTTP/1.1¶A: 1¶B: 2¶C: 3¶D: 4¶E: 5¶¶";
    assert_eq!(request(&bytes(many)).err(), Some(TooManyHeaders));
    let many = "HTTP/1.1 200 OK\nA: 1\nB: 2\nC: 3\nD: 4\nE: 5\n\n";
    assert_eq!(response(&bytes(many)).err(), Some(TooManyHeaders));
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
    let method = |length: usize| format!("{} / HTTP/1.1\r\n\r\n", "M".repeat(length)).into_bytes();
    let limits = HeadLimits { bytes: 1 << 20, headers: 4 };
    let parse = |input: &[u8]| RequestHead::default().parse(input, limits);
    assert_eq!(parse(&method(MAX_METHOD)), Ok(Some(MAX_METHOD + " / HTTP/1.1\r\n\r\n".len())));
    assert_eq!(parse(&method(MAX_METHOD + 1)), Err(MethodTooLong));
    assert_eq!(parse(&method(100 << 10)[..MAX_METHOD + 1]), Err(MethodTooLong), "before it has ended");
    // A start line that is no request line is not a long method, whatever follows it.
    let nonsense = [b"nonsense\r\n\r\n".to_vec(), method(1000)].concat();
    assert_eq!(parse(&nonsense), Err(HeadError::Malformed(BadLine::START_LINE)));
    // Likewise in the tolerant form.
    let head_of = |length: usize| {
        let head = "HTTP/1.1 200 OK\nX: \n\n";
        head.replace("X: ", &format!("X: {}", "x".repeat(length - head.len()))).into_bytes()
    };
    assert!(matches!(response(&head_of(LIMITS.bytes)), Ok(Some(_))));
    assert_eq!(response(&head_of(LIMITS.bytes + 1)).err(), Some(TooLarge));
    assert_eq!(response(&head_of(1000)[..=LIMITS.bytes]).err(), Some(TooLarge));
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
        if let Ok(Some((head, _))) = response(&[b"HTTP/1.1 200 OK\r\n", &input[..]].concat()) {
            let mut text = Vec::new();
            head.write(&mut text);
            text.extend_from_slice(b"\r\n");
            let (reparsed, length) = response(&text).expect("a head").expect("a complete one");
            assert_eq!((length, headers(&reparsed.headers)), (text.len(), headers(&head.headers)));
            let has_control = |value: &[u8]| value.iter().any(|byte| *byte != b'\t' && (*byte < b' ' || *byte == 0x7f));
            assert!(!head.headers.iter().any(|(.., value)| has_control(value)), "{}", input.escape_ascii());
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
