//! Tables of the forwarding headers that servers receive.

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

/// Parses headers, one per line.
fn headers(text: &str) -> Headers {
    Headers::from_pairs(text.lines().map(|line| line.split_once(": ").expect("a colon")))
}

const MODES: [ForwardedMode; 4] =
    [ForwardedMode::XForwarded, ForwardedMode::Forwarded, ForwardedMode::Both, ForwardedMode::None];

/// An address of IP, or `unix`.
fn address(text: &str) -> ClientAddress {
    if text == "unix" { ClientAddress::Unix } else { text.parse::<IpAddr>().expect(text).into() }
}

/// Returns the headers of [`FAMILY`] that a request from `peer` has for the server if both families are written.
fn set(peer: &str, sent: &str) -> [String; 5] {
    set_in(ForwardedMode::Both, peer, sent)
}

fn set_in(mode: ForwardedMode, peer: &str, sent: &str) -> [String; 5] {
    let mut headers = headers(sent);
    let peer = address(peer);
    let client = ClientHeaders::new(peer, "http");
    let trusted = networks("10.0.0.0/8 fd00::/8");
    let found = client.set(&mut headers, mode, &trusted);
    let is_peer_trusted = is_trusted(peer, &trusted);
    assert_eq!(headers.has(HeaderName::ForwardedOther), is_peer_trusted && sent.contains("X-Forwarded-Port"), "{sent}");
    assert!(is_peer_trusted || found == peer, "{sent}");
    FAMILY.map(|name| {
        let values: Vec<_> = headers.all(name).map(|value| str::from_utf8(value).expect("UTF-8")).collect();
        values.join(" | ")
    })
}

#[test]
fn values_from_an_untrusted_client_are_replaced() {
    // Case: forwarded-headers
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
fn a_host_of_any_length_is_forwarded() {
    for length in [1, 254, 255, 300, 301, 640, 1280] {
        let host = "a".repeat(length);
        let element = format!("for=192.0.2.1;proto=http;host={host}");
        let expected = ["192.0.2.1", "http", &host, "192.0.2.1", &element];
        assert_eq!(set("192.0.2.1", &format!("Host: {host}")), expected, "{length}");
    }
}

#[test]
fn values_from_a_trusted_proxy_are_kept_and_extended() {
    let cases = [
        // No forwarding headers.
        ("Host: a", ["10.0.0.1", "http", "a", "10.0.0.1", "for=10.0.0.1;proto=http;host=a"]),
        (
            "Host: a\nX-Forwarded-For: 9.9.9.9, 10.0.0.2\nX-Forwarded-For: 10.0.0.3\nX-Forwarded-Proto: https\n\
             X-Forwarded-Host: b\nX-Real-IP: 9.9.9.9\nForwarded: for=9.9.9.9;proto=https, for=10.0.0.2",
            [
                "9.9.9.9, 10.0.0.2, 10.0.0.3, 10.0.0.1",
                "https",
                "b",
                "9.9.9.9",
                "for=9.9.9.9;proto=https, for=10.0.0.2, for=10.0.0.1;host=b",
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
                "for=unknown;proto=https;host=\"b:443\", for=\"[2001:db8::1]\", for=10.0.0.1",
            ],
        ),
        (
            "Host: a\nForwarded: for=_x;Proto=https;host=\"b:443\", For=\"[2001:db8::1]:80\"",
            [
                "unknown, 2001:db8::1, 10.0.0.1",
                "https",
                "b:443",
                "2001:db8::1",
                "for=_x;Proto=https;host=\"b:443\", For=\"[2001:db8::1]:80\", for=10.0.0.1",
            ],
        ),
        // If the proxy adds a header after the client's own, the last one counts.
        (
            "X-Forwarded-For: 9.9.9.9\nX-Forwarded-Proto: https\nX-Forwarded-Proto: http\nX-Forwarded-Host: b\n\
             X-Forwarded-Host: c\nX-Real-IP: 1.1.1.1\nX-Real-IP: 9.9.9.9",
            ["9.9.9.9, 10.0.0.1", "http", "c", "9.9.9.9", "for=9.9.9.9;proto=http;host=c, for=10.0.0.1"],
        ),
        // Values that could break out of an element are not translated.
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
fn servers_get_the_family_that_is_configured() {
    use ForwardedMode::{Both, Forwarded, None, XForwarded};
    let x = ["192.0.2.1", "http", "a", "192.0.2.1"];
    let [forwarded, nothing] = ["for=192.0.2.1;proto=http;host=a", ""];
    let lies =
        "Host: a\nX-Forwarded-For: 9.9.9.9\nX-Forwarded-Proto: https\nX-Real-IP: 9.9.9.9\nForwarded: for=9.9.9.9";
    for sent in ["Host: a", lies] {
        for mode in MODES {
            let x = if writes_x_forwarded(mode) { x } else { [nothing; 4] };
            let forwarded = if writes_forwarded(mode) { forwarded } else { nothing };
            assert_eq!(set_in(mode, "192.0.2.1", sent), [x[0], x[1], x[2], x[3], forwarded], "{mode:?} {sent}");
        }
    }
    // The facts of a trusted proxy are translated to the family that is written.
    let x = "Host: a\nX-Forwarded-For: 9.9.9.9\nX-Forwarded-Proto: https\nX-Forwarded-Host: b";
    let forwarded = "Host: a\nForwarded: for=9.9.9.9;proto=https;host=b";
    let proto = "Host: a\nX-Forwarded-Proto: https";
    let two = "Host: a\nX-Forwarded-For: 9.9.9.9\nForwarded: for=8.8.8.8;proto=https";
    let x_of = |list| [list, "https", "b", "9.9.9.9", ""];
    let cases = [
        (XForwarded, x, x_of("9.9.9.9, 10.0.0.1")),
        (XForwarded, forwarded, x_of("9.9.9.9, 10.0.0.1")),
        (XForwarded, proto, ["10.0.0.1", "https", "a", "10.0.0.1", ""]),
        (XForwarded, two, ["9.9.9.9, 10.0.0.1", "http", "a", "9.9.9.9", ""]),
        (Forwarded, x, ["", "", "", "", "for=9.9.9.9;proto=https;host=b, for=10.0.0.1"]),
        (Forwarded, forwarded, ["", "", "", "", "for=9.9.9.9;proto=https;host=b, for=10.0.0.1"]),
        (Forwarded, proto, ["", "", "", "", "for=10.0.0.1;proto=https;host=a"]),
        (Forwarded, two, ["", "", "", "", "for=8.8.8.8;proto=https, for=10.0.0.1;host=a"]),
        (Both, proto, ["10.0.0.1", "https", "a", "10.0.0.1", "for=10.0.0.1;proto=https;host=a"]),
        (None, x, ["9.9.9.9", "https", "b", "", ""]),
        (None, forwarded, ["", "", "", "", "for=9.9.9.9;proto=https;host=b"]),
    ];
    for (mode, sent, expected) in cases {
        assert_eq!(set_in(mode, "10.0.0.1", sent), expected, "{mode:?} {sent}");
    }
}

#[test]
fn an_edit_of_the_mode_reaches_a_connection_that_is_open() {
    let client = ClientHeaders::new(address("192.0.2.1"), "http");
    for mode in MODES.into_iter().chain(MODES) {
        let mut headers = headers("Host: a");
        client.set(&mut headers, mode, &[]);
        let has = (headers.has(HeaderName::ForwardedFor), headers.has(HeaderName::Forwarded));
        assert_eq!(has, (writes_x_forwarded(mode), writes_forwarded(mode)), "{mode:?}");
    }
}

#[test]
fn of_two_lists_the_one_that_is_written_names_the_client() {
    let two = headers("X-Forwarded-For: 9.9.9.9\nForwarded: for=8.8.8.8");
    let peer = address("10.0.0.1");
    for mode in MODES {
        let expected = if mode == ForwardedMode::Forwarded { "8.8.8.8" } else { "9.9.9.9" };
        assert_eq!(client_address(&two, mode, peer, &networks("10.0.0.0/8")).to_string(), expected, "{mode:?}");
    }
}

#[test]
fn the_client_is_the_nearest_untrusted_address() {
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
        ("unix", "Host: a", "unix"),
        ("unix", "X-Forwarded-For: 1.1.1.1", "1.1.1.1"),
        ("unix", "X-Forwarded-For: 2.2.2.2, 1.1.1.1, 10.0.0.2", "1.1.1.1"),
        ("unix", "X-Forwarded-For: unknown", "unix"),
        ("10.0.0.1", "X-Forwarded-For: 2.2.2.2, 1.1.1.1, unix", "1.1.1.1"),
        ("10.0.0.1", "X-Forwarded-For: 2.2.2.2, 1.1.1.1, unix:", "1.1.1.1"),
        ("10.0.0.1", "X-Forwarded-For: unix", "unix"),
        ("10.0.0.1", "Forwarded: for=1.1.1.1, for=_unix", "1.1.1.1"),
        ("10.0.0.1", "X-Forwarded-For: 2.2.2.2, unix, 1.1.1.1", "1.1.1.1"),
        ("9.9.9.9", "X-Forwarded-For: 1.1.1.1, unix", "9.9.9.9"),
    ];
    for (peer, sent, client) in cases {
        let peer = address(peer);
        for mode in MODES {
            let address = client_address(&headers(sent), mode, peer, &networks("10.0.0.0/8 fd00::/8"));
            assert_eq!(address.to_string(), client, "{peer:?} {sent} {mode:?}");
        }
    }
}

#[test]
fn an_address_is_trusted_in_any_notation() {
    let cases = [
        ("10.1.2.3", "10.0.0.0/8", true),
        ("::ffff:10.1.2.3", "10.0.0.0/8", true),
        ("10.1.2.3", "::ffff:10.0.0.0/104", true),
        ("::ffff:10.1.2.3", "fd00::/8 ::ffff:10.0.0.0/104", true),
        ("11.1.2.3", "10.0.0.0/8 ::ffff:10.0.0.0/104", false),
        ("fd00::1", "fd00::/8", true),
        ("::10.1.2.3", "10.0.0.0/8", false),
        ("10.1.2.3", "", false),
        ("unix", "", true),
    ];
    for (text, trusted, expected) in cases {
        assert_eq!(is_trusted(address(text), &networks(trusted)), expected, "{text} {trusted}");
    }
}
