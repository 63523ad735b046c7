//! Real clients of HTTP/2 over TLS: a browser, nghttp and curl. Each test prints "skipped" where the program is missing.

use std::process::Command;

use rcgen::{KeyPair, PublicKeyData as _};
use sha2::{Digest as _, Sha256};

use crate::support::browser::Browser;
use crate::support::eventually;
use crate::support::servers::{Server, respond};
use crate::support::tls_client::{NAME, TlsLb};

/// A page with a script and ten images.
fn site() -> Server {
    Server::scripted(|mut stream, recorder| {
        while let Some(request) = recorder.next(&mut stream) {
            let images: String = (0..10).map(|number| format!("<img src=\"/{number}.svg\">")).collect();
            let (kind, body) = match request.path() {
                "/" => ("text/html", format!("<title>page</title><script src=\"/script.js\"></script>{images}")),
                "/script.js" => ("text/javascript", "window.hasRun = true".to_owned()),
                "/length" => ("text/plain", request.body.len().to_string()),
                _ => {
                    ("image/svg+xml", "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"1\" height=\"1\"/>".to_owned())
                }
            };
            let length = body.len();
            respond(
                &mut stream,
                format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{body}"),
            );
        }
    })
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = [0, 1, 2].iter().fold(0, |bits, at| bits << 8 | u32::from(*group.get(*at).unwrap_or(&0)));
        for digit in 0..4 {
            let value = DIGITS[(bits >> (18 - 6 * digit) & 63) as usize];
            text.push(if digit <= group.len() { value.into() } else { '=' });
        }
    }
    text
}

#[test]
fn chromium_loads_a_page_over_one_connection() {
    let server = site();
    let tls = TlsLb::start("", &server.table("s"));
    let key = std::fs::read_to_string(tls.at.join("site.key")).expect("a key");
    let key = KeyPair::from_pem(&key).expect("a key").subject_public_key_info();
    let trusted = format!("--ignore-certificate-errors-spki-list={}", base64(&Sha256::digest(key)));
    let resolved = format!("--host-resolver-rules=MAP {NAME} 127.0.0.1");
    let Some(browser) = Browser::start_with(&[&trusted, &resolved]) else {
        return eprintln!("skipped: chromium or chromedriver is not installed");
    };
    let url = format!("https://{NAME}:{}/", tls.lb.address().port());
    browser.open(&url);
    eventually("the page has been loaded", || {
        let loaded = browser.run(
            "return window.hasRun && document.readyState == 'complete' && [...document.images].every((image) => image.complete)",
        );
        (loaded == true).then_some(())
    });
    let protocols = browser.run(
        "return [...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')]\
         .map((entry) => entry.nextHopProtocol)",
    );
    let protocols: Vec<&str> = protocols.as_array().expect("protocols").iter().filter_map(|one| one.as_str()).collect();
    assert!(protocols.len() >= 12 && protocols.iter().all(|protocol| *protocol == "h2"), "{protocols:?}");
    let length = browser.run(
        "const request = new XMLHttpRequest(); request.open('POST', '/length', false); request.send('x'.repeat(1000000)); \
         return request.responseText",
    );
    assert_eq!(length, "1000000");
    let lines = eventually("the access log", || {
        let lines = tls.lb.stdout();
        lines.iter().any(|line| line.contains("POST /length")).then_some(lines)
    });
    assert!(lines.iter().all(|line| line.contains(" HTTP/2\" 200")), "{lines:#?}");
    let metric = "lb_tls_handshakes_total{listener=\"127.0.0.1:0\",result=\"ok\"}";
    assert!(tls.lb.metric(metric).is_some_and(|handshakes| handshakes <= 2.0), "all of them on one connection");
}

#[test]
fn nghttp_loads_a_page_with_all_that_belongs_to_it() {
    let server = site();
    let tls = TlsLb::start("", &server.table("s"));
    let url = format!("https://{}/", tls.lb.address());
    let output = Command::new("nghttp").args(["--no-verify-peer", "-n", "-a", "-s", &url]).output();
    let Ok(output) = output.inspect_err(|error| eprintln!("skipped: nghttp: {error}")) else { return };
    let report = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{report}");
    eventually("the access log", || {
        let lines = tls.lb.stdout();
        (lines.len() >= 12 && lines.iter().all(|line| line.contains(" HTTP/2\" 200"))).then_some(())
    });
    let file = tls.at.join("lb.toml");
    let output =
        Command::new("nghttp").args(["--no-verify-peer", "-d"]).arg(&file).arg(format!("{url}length")).output();
    let length = std::fs::metadata(file).expect("a file").len();
    assert_eq!(String::from_utf8_lossy(&output.expect("nghttp").stdout), length.to_string());
}
