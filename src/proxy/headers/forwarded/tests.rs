//! Who a server is told the client is.

use super::*;

const FAMILY: [HeaderName; 5] = [
    HeaderName::ForwardedFor,
    HeaderName::ForwardedProto,
    HeaderName::ForwardedHost,
    HeaderName::RealIp,
    HeaderName::Forwarded,
];

fn networks(text: &str) -> Vec<IpNet> {
    text.split_whitespace().map(|network| network.parse().expect("a network")).collect()
}

/// Headers as in a message, one a line.
fn headers(text: &str) -> Headers {
    Headers::of(text.lines().map(|line| line.split_once(": ").expect("a colon")))
}

/// The headers of [`FAMILY`] that a request of `peer` ends up with.
fn set(peer: &str, sent: &str) -> [String; 5] {
    let mut headers = headers(sent);
    let peer = SocketAddr::new(peer.parse().expect("an address"), 4711);
    ClientHeaders::new(peer, "http").set(&mut headers, &networks("10.0.0.0/8 fd00::/8"));
    assert!(!headers.has(HeaderName::ForwardedOther), "{sent}");
    FAMILY.map(|name| {
        let values: Vec<_> = headers.all(name).map(|value| str::from_utf8(value).expect("UTF-8")).collect();
        values.join(" | ")
    })
}

// Case: forwarded-headers
#[test]
fn what_a_client_says_of_itself_is_replaced() {
    let lies = "X-Forwarded-For: 9.9.9.9\nX-Forwarded-For: 8.8.8.8\nX-Forwarded-Proto: https\n\
         X-Forwarded-Host: evil\nX-Forwarded-Port: 1\nX-Forwarded-Prefix: /x\nX-Real-IP: 9.9.9.9\n\
         Forwarded: for=9.9.9.9;proto=https";
    for lies in ["", lies] {
        let cases = [
            ("192.0.2.1", "a", ["192.0.2.1", "http", "a", "192.0.2.1", "for=192.0.2.1;proto=http;host=a"]),
            (
                "::ffff:192.0.2.1",
                "a:80",
                ["192.0.2.1", "http", "a:80", "192.0.2.1", "for=192.0.2.1;proto=http;host=\"a:80\""],
            ),
            (
                "2001:db8::1",
                "[::1]",
                ["2001:db8::1", "http", "[::1]", "2001:db8::1", "for=\"[2001:db8::1]\";proto=http;host=\"[::1]\""],
            ),
        ];
        for (peer, host, expected) in cases {
            assert_eq!(set(peer, &format!("Host: {host}\n{lies}")), expected, "{peer} {host} {lies}");
        }
        // HTTP/1.0 without a host.
        assert_eq!(
            set("192.0.2.1", lies),
            ["192.0.2.1", "http", "", "192.0.2.1", "for=192.0.2.1;proto=http"],
            "{lies}"
        );
    }
}

#[test]
fn a_host_is_told_however_long_it_is() {
    for length in [1, 254, 255, 300, 301, 640, 1280] {
        let host = "a".repeat(length);
        let element = format!("for=192.0.2.1;proto=http;host={host}");
        let expected = ["192.0.2.1", "http", &host, "192.0.2.1", &element];
        assert_eq!(set("192.0.2.1", &format!("Host: {host}")), expected, "{length}");
    }
}

#[test]
fn what_a_trusted_proxy_says_is_kept_and_extended() {
    let cases = [
        // It says nothing.
        ("Host: a", ["10.0.0.1", "http", "a", "10.0.0.1", "for=10.0.0.1;proto=http;host=a"]),
        (
            "Host: a\nX-Forwarded-For: 9.9.9.9, 10.0.0.2\nX-Forwarded-For: 10.0.0.3\nX-Forwarded-Proto: https\n\
             X-Forwarded-Host: b\nX-Real-IP: 9.9.9.9\nForwarded: for=9.9.9.9;proto=https, for=10.0.0.2",
            [
                "9.9.9.9, 10.0.0.2, 10.0.0.3, 10.0.0.1",
                "https",
                "b",
                "9.9.9.9",
                "for=9.9.9.9;proto=https, for=10.0.0.2, for=10.0.0.1;proto=http;host=a",
            ],
        ),
        // One list only.
        (
            "Host: a\nX-Forwarded-For: x, 2001:db8::1\nX-Forwarded-Proto: https\nX-Forwarded-Host: b:443",
            [
                "x, 2001:db8::1, 10.0.0.1",
                "https",
                "b:443",
                "2001:db8::1",
                "for=unknown;proto=https;host=\"b:443\", for=\"[2001:db8::1]\", for=10.0.0.1;proto=http;host=a",
            ],
        ),
        (
            "Host: a\nForwarded: for=_x;Proto=https;host=\"b:443\", For=\"[2001:db8::1]:80\"",
            [
                "unknown, 2001:db8::1, 10.0.0.1",
                "https",
                "b:443",
                "2001:db8::1",
                "for=_x;Proto=https;host=\"b:443\", For=\"[2001:db8::1]:80\", for=10.0.0.1;proto=http;host=a",
            ],
        ),
        // Who adds a field behind the client's own has the last word.
        (
            "X-Forwarded-For: 9.9.9.9\nX-Forwarded-Proto: https\nX-Forwarded-Proto: http\nX-Forwarded-Host: b\n\
             X-Forwarded-Host: c\nX-Real-IP: 1.1.1.1\nX-Real-IP: 9.9.9.9",
            ["9.9.9.9, 10.0.0.1", "http", "c", "9.9.9.9", "for=9.9.9.9;proto=http;host=c, for=10.0.0.1;proto=http"],
        ),
        // What could break out of an element is not translated.
        (
            "X-Forwarded-For: 9.9.9.9\nX-Forwarded-Proto: https;for=1.1.1.1\nX-Forwarded-Host: b\"",
            ["9.9.9.9, 10.0.0.1", "https;for=1.1.1.1", "b\"", "9.9.9.9", "for=9.9.9.9, for=10.0.0.1;proto=http"],
        ),
    ];
    for (sent, expected) in cases {
        assert_eq!(set("10.0.0.1", sent), expected, "{sent}");
    }
}

#[test]
fn the_client_is_the_nearest_that_is_not_trusted() {
    let many = format!("X-Forwarded-For: 9.9.9.9{}", ", 10.0.0.2".repeat(MAX_HOPS));
    let cases = [
        ("9.9.9.9", "X-Forwarded-For: 1.1.1.1", "9.9.9.9"),
        ("10.0.0.1", "X-Forwarded-For: 1.1.1.1", "1.1.1.1"),
        ("::ffff:10.0.0.1", "X-Forwarded-For: ::ffff:1.1.1.1", "1.1.1.1"),
        ("10.0.0.1", "X-Forwarded-For: 2.2.2.2, 1.1.1.1,10.0.0.2", "1.1.1.1"),
        ("10.0.0.1", "X-Forwarded-For: 2.2.2.2\nX-Forwarded-For: 1.1.1.1:80", "1.1.1.1"),
        ("10.0.0.1", "X-Forwarded-For: [2001:db8::1]:80", "2001:db8::1"),
        ("10.0.0.1", "X-Forwarded-For: 10.0.0.3, fd00::1", "10.0.0.3"),
        ("10.0.0.1", "X-Forwarded-For: 1.1.1.1, unknown, 10.0.0.2", "10.0.0.2"),
        ("10.0.0.1", "X-Forwarded-For: 1.1.1.1, ", "10.0.0.1"),
        ("10.0.0.1", "Forwarded: for=2.2.2.2, for=\"[2001:db8::1]\";proto=http", "2001:db8::1"),
        ("10.0.0.1", "Forwarded: host=\", for=1.1.1.1, for=2.2.2.2", "2.2.2.2"),
        ("10.0.0.1", "Forwarded: for=1.1.1.1;host=\"a, for=2.2.2.2\"", "1.1.1.1"),
        ("10.0.0.1", "Forwarded: proto=http", "10.0.0.1"),
        ("10.0.0.1", "Host: a", "10.0.0.1"),
        ("10.0.0.1", &many, "10.0.0.2"),
    ];
    for (peer, sent, client) in cases {
        let peer = peer.parse().expect("an address");
        let found = client_address(&headers(sent), peer, &networks("10.0.0.0/8 fd00::/8"));
        assert_eq!(found.to_string(), client, "{peer} {sent}");
    }
}

#[test]
fn an_address_is_trusted_however_it_is_written() {
    let cases = [
        ("10.1.2.3", "10.0.0.0/8", true),
        ("::ffff:10.1.2.3", "10.0.0.0/8", true),
        ("10.1.2.3", "::ffff:10.0.0.0/104", true),
        ("::ffff:10.1.2.3", "fd00::/8 ::ffff:10.0.0.0/104", true),
        ("11.1.2.3", "10.0.0.0/8 ::ffff:10.0.0.0/104", false),
        ("fd00::1", "fd00::/8", true),
        ("::10.1.2.3", "10.0.0.0/8", false),
        ("10.1.2.3", "", false),
    ];
    for (address, trusted, expected) in cases {
        assert_eq!(
            is_trusted(address.parse().expect("an address"), &networks(trusted)),
            expected,
            "{address} {trusted}"
        );
    }
}
