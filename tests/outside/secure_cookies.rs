//! Sticky cookies are `Secure` if the client's own connection uses TLS, to `lb` or to a trusted proxy in front of it.

use std::io::Read;

use crate::support::client::Client;
use crate::support::lb::run;
use crate::tls::{Tls, VERSIONS, get};

const STICKY: &str = "[balance]\nsticky = { cookie = \"lb\" }\n";
const TRUST: &str = "[proxy]\ntrusted_proxies = [\"127.0.0.0/8\"]\n";

/// Whether the cookie of a response has `Secure`.
#[track_caller]
fn is_secure(response: &str) -> bool {
    let cookie = response.lines().find(|line| line.to_lowercase().starts_with("set-cookie: lb=")).expect(response);
    assert!(cookie.contains("; HttpOnly; SameSite=Lax"), "{cookie}");
    cookie.contains("; Secure")
}

#[test]
fn cookies_are_secure_over_the_clients_tls() {
    for (listener, trust, header, expected) in [
        ("[listener.tls]", "", "", true),
        ("[listener.tls]", "", "X-Forwarded-Proto: http", true),
        ("[listener.tls]", TRUST, "", true),
        ("[listener.tls]", TRUST, "X-Forwarded-Proto: http", false),
        ("", "", "", false),
        ("", "", "X-Forwarded-Proto: https", false),
        ("", TRUST, "", false),
        ("", TRUST, "X-Forwarded-Proto: http", false),
        ("", TRUST, "X-Forwarded-Proto: https", true),
        ("", TRUST, "X-Forwarded-Proto: HTTPS", true),
        ("", TRUST, "X-Forwarded-Proto: http, https", false),
        ("", TRUST, "X-Forwarded-Proto: https, http", true),
        ("", TRUST, "Forwarded: for=192.0.2.1;proto=https", true),
    ] {
        let tls = Tls::start(listener, &format!("{STICKY}{trust}"));
        let header = if header.is_empty() { String::new() } else { format!("{header}\r\n") };
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{header}\r\n");
        let response = if listener.is_empty() {
            let mut client = Client::connect(tls.lb.address());
            client.send(&request);
            let mut response = String::new();
            client.socket().read_to_string(&mut response).expect("a response");
            response
        } else {
            get(&mut tls.tls(VERSIONS[1], "a.example"), &request).expect("a response")
        };
        assert_eq!(is_secure(&response), expected, "{listener} {trust} {header}: {response}");
    }
}

#[test]
fn the_check_notes_cookies_that_browsers_would_not_keep() {
    for (listener, noted) in [("[listener.tls]", false), ("", true), ("redirect = \"https\"", false)] {
        let tls = Tls::start(listener, &STICKY.replace("\"lb\"", "\"__Host-lb\""));
        let ran = run(&["check", tls.lb.path().to_str().expect("text")]);
        assert_eq!(ran.out.contains("browsers keep a cookie named __Host-lb only if it is `Secure`"), noted, "{ran:?}");
    }
}
