use super::*;

use http::Request;

const LIMITS: HeadLimits = HeadLimits { bytes: 64 * 1024, headers: 5 };

/// A request with this method, URI and headers, each as `name: value`, as it goes to the validators.
fn converted(method: &str, uri: &str, headers: &[&str]) -> Result<(String, Vec<String>), HeadError> {
    let mut parts = Request::builder().method(method).uri(uri).body(()).expect("a request").into_parts().0;
    for header in headers {
        let (name, value) = header.split_once(": ").expect("a header");
        parts.headers.append(FieldName::from_bytes(name.as_bytes()).expect("a name"), value.parse().expect("a value"));
    }
    let head = request(&parts, Headers::new(), LIMITS)?;
    let lines = head
        .headers
        .iter()
        .map(|(_, name, value)| format!("{}: {}", String::from_utf8_lossy(name), String::from_utf8_lossy(value)));
    let lines = lines.collect();
    Ok((String::from_utf8_lossy(head.target()).into_owned(), lines))
}

#[test]
fn a_request_becomes_one_that_the_validators_of_http_1_can_judge() {
    /// Method, URI, headers; target and headers.
    type Case<'a> = (&'a str, &'a str, &'a [&'a str], &'a str, &'a [&'a str]);
    let cases: [Case<'_>; 12] = [
        ("GET", "https://a/x?y", &[], "/x?y", &["Host: a"]),
        ("GET", "http://A:80/", &["x-one: 1"], "/", &["Host: A:80", "x-one: 1"]),
        ("GET", "http://a/", &["host: A"], "/", &["Host: a"]),
        ("GET", "/", &["host: a"], "/", &["host: a"]),
        ("GET", "/", &["host: a", "host: b"], "/", &["host: a", "host: b"]),
        ("GET", "/", &[], "/", &[]),
        ("GET", "ftp://a/x", &[], "ftp://a/x", &["Host: a"]),
        ("OPTIONS", "*", &["host: a"], "*", &["host: a"]),
        ("CONNECT", "a:443", &[], "a:443", &["Host: a:443"]),
        ("GET", "http://a/", &["cookie: a=1", "x: 1", "cookie: b=2"], "/", &["Host: a", "x: 1", "cookie: a=1; b=2"]),
        ("GET", "http://a/", &["te: trailers"], "/", &["Host: a", "te: trailers"]),
        ("GET", "http://a/", &["x: 1", "x: 2"], "/", &["Host: a", "x: 1", "x: 2"]),
    ];
    for (method, uri, headers, target, expected) in cases {
        let (found, lines) = converted(method, uri, headers).unwrap_or_else(|error| panic!("{uri}: {error}"));
        assert_eq!((&*found, lines), (target, expected.iter().map(|line| (*line).to_owned()).collect()), "{uri}");
    }
}

#[test]
fn a_request_that_http_2_forbids_is_malformed() {
    let cases: [(&str, &str, &[&str], HeadRule); 12] = [
        ("GET", "http://a/", &["host: b"], HeadRule::Authority),
        ("GET", "http://a/", &["host: a:80"], HeadRule::Authority),
        ("GET", "http://a/", &["host: a", "host: b"], HeadRule::Authority),
        ("GET", "http://a/", &["connection: close"], HeadRule::ConnectionHeader),
        ("GET", "http://a/", &["keep-alive: timeout=5"], HeadRule::ConnectionHeader),
        ("GET", "http://a/", &["proxy-connection: close"], HeadRule::ConnectionHeader),
        ("POST", "http://a/", &["transfer-encoding: chunked"], HeadRule::ConnectionHeader),
        ("GET", "http://a/", &["upgrade: h2c"], HeadRule::ConnectionHeader),
        ("GET", "http://a/", &["te: gzip"], HeadRule::ConnectionHeader),
        ("GET", "http://a/", &["te: trailers, chunked"], HeadRule::ConnectionHeader),
        ("GET", "http://a/", &["x:  a"], HeadRule::Value),
        ("GET", "*", &["host: a"], HeadRule::StartLine),
    ];
    for (method, uri, headers, rule) in cases {
        assert_eq!(converted(method, uri, headers), Err(malformed(rule)), "{uri} {headers:?}");
    }
}

#[test]
fn a_request_with_too_much_is_over_a_limit() {
    let five = ["a: 1", "a: 1", "a: 1", "a: 1"];
    assert!(converted("GET", "http://a/", &five).is_ok(), "with Host, there are five");
    let six = ["a: 1", "a: 1", "a: 1", "a: 1", "a: 1"];
    assert_eq!(converted("GET", "http://a/", &six), Err(HeadError::TooManyHeaders));
    assert_eq!(converted(&"M".repeat(257), "http://a/", &[]), Err(HeadError::MethodTooLong));
}

#[test]
fn a_response_has_no_header_about_an_http_1_connection() {
    let mut head = ResponseHead::of_status(200);
    for (name, value) in [
        ("Connection", "close"),
        ("Transfer-Encoding", "chunked"),
        ("Set-Cookie", "a"),
        ("Set-Cookie", "b"),
        ("X", "\u{7f}"),
    ] {
        head.headers.add_named(name, value.as_bytes());
    }
    let response = response(&head);
    let lines: Vec<_> = response.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    assert_eq!((response.status().as_u16(), lines), (200, vec![("set-cookie", &b"a"[..]), ("set-cookie", b"b")]));
}

#[test]
fn trailers_are_lines_and_the_reverse() {
    let map = trailers(b"grpc-status: 0\r\nX-Sum:  7 \r\nbad name: 1\r\n\r\n");
    assert_eq!(trailer_lines(&map), b"grpc-status: 0\r\nx-sum: 7\r\n");
}
