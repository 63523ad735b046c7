//! Certificates from a real ACME server.

mod failures;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use lb::config::file::keys;
use serde_json::json;
use tempfile::TempDir;

use crate::support::client::{Client, get};
use crate::support::eventually;
use crate::support::lb::{Lb, NO_CHECKS, PORTS, command};
use crate::support::pebble::{Pebble, Verification};

/// Long enough that nothing is renewed during a test.
const MONTHS: u64 = 90 * 86_400;

/// A listener with TLS beside the first one, and a server that nobody asks.
const REST: &str = "[[listener]]\nname = \"tls\"\naddress = \"127.0.0.2:0\"\ntls = {}\n\
    [[server]]\nname = \"a\"\naddress = \"127.0.0.1:9\"\n";

/// A balancer without certificates yet.
fn start() -> Lb {
    // Without a certificate, there must not be a listener with TLS.
    Lb::start(&format!("{NO_CHECKS}{}", REST.replace("tls = {}\n", "")))
}

/// The port of a listener.
fn port(lb: &Lb, index: usize) -> u16 {
    let address = lb.api("/api/listeners")["listeners"][index]["address"].as_str().expect("an address").to_owned();
    address.parse::<std::net::SocketAddr>().expect("an address").port()
}

/// A certificate for these names.
fn certificate(names: &[&str]) -> String {
    format!("[[certificate]]\nacme = true\nnames = {names:?}\n")
}

/// `[acme]` with these keys, and certificates for each group of names.
fn file(acme: &str, certificates: &[&[&str]]) -> String {
    let certificates: String = certificates.iter().map(|names| certificate(names)).collect();
    format!("{NO_CHECKS}[acme]\n{acme}{certificates}{REST}")
}

fn http(pebble: &Pebble) -> String {
    format!("challenge = \"http-01\"\n{}", pebble.keys())
}

/// The directory of a certificate.
fn kept(lb: &Lb, name: &str) -> PathBuf {
    lb.path().with_file_name("acme").join("certificates").join(name)
}

/// Waits for a certificate that is not `before`, and returns it.
#[track_caller]
fn issued(lb: &Lb, name: &str, before: &str) -> String {
    let path = kept(lb, name).join("fullchain.pem");
    eventually(&format!("a certificate for {name}"), || fs::read_to_string(&path).ok().filter(|text| text != before))
}

fn warnings(lb: &Lb) -> Vec<String> {
    let config = lb.api("/api/config");
    let warnings = config["warnings"].as_array().expect("an array").iter();
    warnings.map(|warning| warning.as_str().expect("a string").to_owned()).collect()
}

/// Waits for a warning with these words.
#[track_caller]
fn warns(lb: &Lb, words: &str) -> String {
    eventually(&format!("a warning: {words}"), || warnings(lb).into_iter().find(|warning| warning.contains(words)))
}

/// A balancer and the ACME server that verifies its names; `None` without Pebble.
fn scene(lifetime: u64) -> Option<(Lb, Pebble)> {
    let lb = start();
    let verification = Verification { http: port(&lb, 0), tls: port(&lb, 1), lifetime };
    let pebble = Pebble::start(verification)?;
    Some((lb, pebble))
}

/// The text in which openssl shows a certificate.
fn openssl(path: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new("openssl");
    let output = command.args(["x509", "-noout", "-in"]).arg(path).args(arguments).output().expect("openssl");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn http_01_obtains_certificates_that_only_their_owner_can_read() {
    let Some((lb, pebble)) = scene(MONTHS) else { return };
    lb.apply(&file(&http(&pebble), &[&["a.example", "www.a.example"], &["b.example"]]));
    for name in ["a.example", "b.example"] {
        issued(&lb, name, "");
    }
    let chain = kept(&lb, "a.example").join("fullchain.pem");
    let names = openssl(&chain, &["-ext", "subjectAltName"]);
    assert!(names.contains("DNS:a.example, DNS:www.a.example"), "{names}");
    let mut key = Command::new("openssl");
    key.args(["pkey", "-pubout", "-in"]).arg(kept(&lb, "a.example").join("privkey.pem"));
    let key = key.output().expect("openssl");
    assert_eq!(String::from_utf8(key.stdout).expect("text"), openssl(&chain, &["-pubkey"]));

    let mut files = 0;
    let mut pending = vec![lb.path().with_file_name("acme")];
    while let Some(path) = pending.pop() {
        let metadata = fs::metadata(&path).expect("metadata");
        let mode = metadata.permissions().mode() & 0o777;
        assert_eq!(mode, if metadata.is_dir() { 0o700 } else { 0o600 }, "{}", path.display());
        files += 1;
        if metadata.is_dir() {
            pending.extend(fs::read_dir(&path).expect("a directory").map(|entry| entry.expect("an entry").path()));
        }
    }
    assert!(files >= 10, "{files}");
    eventually("no warning is left", || warnings(&lb).is_empty().then_some(()));
    assert_eq!((pebble.issued(), pebble.count("accounts in memory")), (2, 1));
    // They are in force like those of any user.
    let names = eventually("both are in force", || {
        let certificates = lb.api("/api/certificates")["certificates"].as_array().cloned().unwrap_or_default();
        (certificates.len() == 2).then_some(certificates)
    });
    assert_eq!(
        (&names[0]["names"], &names[1]["names"]),
        (&json!(["a.example", "www.a.example"]), &json!(["b.example"]))
    );
    assert!(lb.metric("lb_certificate_expiry_timestamp_seconds{certificate=\"a.example\"}").is_some());
    let challenges = lb.path().with_file_name("acme").join("challenges/http-01");
    assert_eq!(fs::read_dir(challenges).expect("a directory").count(), 0);
    assert!(!lb.has_panicked());
}

#[test]
fn tls_alpn_01_obtains_a_certificate_that_clients_are_shown() {
    // The only listener has TLS.
    let listener = "[[listener]]\naddress = \"127.0.0.1:0\"\ntls = {}\n[admin]\naddress = \"127.0.0.1:0\"\n";
    let rest = format!("{NO_CHECKS}[[server]]\nname = \"a\"\naddress = \"127.0.0.1:9\"\n");
    let lb = Lb::start_file(&format!("{}{rest}", listener.replace("tls = {}\n", "")));
    let port = port(&lb, 0);
    let Some(pebble) = Pebble::start(Verification { http: 9, tls: port, lifetime: MONTHS }) else { return };
    let handshake = |name: &str, alpn: &str| {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-connect", &lb.address().to_string(), "-servername", name, "-alpn", alpn]);
        let output = command.stdin(std::process::Stdio::null()).output().expect("openssl");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        text(&output.stdout) + &text(&output.stderr)
    };
    lb.edit_file(&format!("{listener}[acme]\n{}{}{rest}", pebble.keys(), certificate(&["a.example"])));
    lb.reaches(2);
    issued(&lb, "a.example", "");
    let shown = eventually("clients are shown it", || {
        Some(handshake("a.example", "http/1.1")).filter(|text| text.contains("Pebble Intermediate CA"))
    });
    assert!(shown.contains("ALPN protocol: http/1.1"), "{shown}");
    assert!(lb.stdout().is_empty(), "nothing but handshakes: {:?}", lb.stdout());
    // Without a pending challenge, its protocol is none.
    assert!(handshake("a.example", "acme-tls/1").contains("no application protocol"));
    assert!(handshake("b.example", "acme-tls/1").contains("unrecognized name"));
    assert!(!lb.has_panicked());
}

#[test]
fn a_restart_orders_nothing_again() {
    let Some((lb, pebble)) = scene(MONTHS) else { return };
    lb.apply(&file(&http(&pebble), &[&["a.example"]]));
    let first = issued(&lb, "a.example", "");
    eventually("no warning is left", || warnings(&lb).is_empty().then_some(()));
    let (state, text) = (kept(&lb, ""), fs::read_to_string(lb.path()).expect("a file"));
    let directory = TempDir::new().expect("a directory");
    let path = directory.path().join("lb.toml");
    fs::write(&path, text).expect("written");
    fs::rename(state.ancestors().nth(1).expect("a parent"), directory.path().join("acme")).expect("renamed");
    drop(lb);
    let lb = Lb::start_as(command(), directory, path);
    // The renewal time is known, so the certificate has been looked at.
    eventually("no warning is left", || warnings(&lb).is_empty().then_some(()));
    assert_eq!(fs::read_to_string(kept(&lb, "a.example").join("fullchain.pem")).expect("a file"), first);
    // Another certificate shows that it goes on, with the account that it had.
    lb.apply(&file(&http_on(&lb, &pebble), &[&["a.example"], &["c.example"]]));
    warns(&lb, "c.example");
    assert_eq!((pebble.issued(), pebble.count("accounts in memory")), (1, 1));
}

/// The same keys; the listener that Pebble verifies at is gone.
fn http_on(_: &Lb, pebble: &Pebble) -> String {
    http(pebble)
}

#[test]
fn a_certificate_is_renewed_in_time_and_an_edit_of_its_names_orders_another() {
    let Some((lb, pebble)) = scene(15) else { return };
    lb.apply(&file(&http(&pebble), &[&["a.example"]]));
    let first = issued(&lb, "a.example", "");
    let end = |text: &str| {
        let path = lb.path().with_file_name("one.pem");
        fs::write(&path, text).expect("written");
        openssl(&path, &["-enddate"])
    };
    let second = issued(&lb, "a.example", &first);
    assert_ne!(end(&first), end(&second));
    assert!(pebble.issued() >= 2);
    lb.apply(&file(&http(&pebble), &[&["a.example", "d.example"]]));
    eventually("a certificate with both names", || {
        openssl(&kept(&lb, "a.example").join("fullchain.pem"), &["-ext", "subjectAltName"])
            .contains("DNS:a.example, DNS:d.example")
            .then_some(())
    });
    let reloads = lb.api("/api/reloads").to_string();
    assert!(reloads.contains("certificate a.example: names [a.example] -> [a.example, d.example]"), "{reloads}");
}

#[test]
fn the_server_can_ask_for_an_early_renewal() {
    let Some((lb, pebble)) = scene(MONTHS) else { return };
    lb.apply(&file(&http(&pebble), &[&["a.example"]]));
    let first = issued(&lb, "a.example", "");
    pebble.suggest(&kept(&lb, "a.example").join("fullchain.pem"), "2020-01-01T00:00:00Z", "2020-01-02T00:00:00Z");
    // An edit asks at once, and a pause keeps it from being a loop.
    lb.apply(&file(&http(&pebble), &[&["a.example"], &["b.example"]]));
    issued(&lb, "a.example", &first);
    lb.stderr().iter().find(|line| line.contains("asks for an early renewal")).expect("a line");
    issued(&lb, "b.example", "");
    assert_eq!(pebble.issued(), 3);
}

#[test]
fn replicas_that_share_the_directory_order_once_and_both_respond_to_challenges() {
    let leader = start();
    let follower = start();
    let verification = Verification { http: port(&follower, 0), tls: port(&follower, 1), lifetime: MONTHS };
    let Some(pebble) = Pebble::start(verification) else { return };
    let shared = TempDir::new().expect("a directory");
    let text = file(&format!("{}state_dir = \"{}\"\n", http(&pebble), shared.path().display()), &[&["a.example"]]);
    // The second one begins when the first one has the lock.
    leader.apply(&text);
    eventually("the first one leads", || shared.path().join("accounts").exists().then_some(()));
    follower.apply(&text);
    let path = shared.path().join("certificates/a.example/fullchain.pem");
    eventually("a certificate", || path.exists().then_some(()));
    for lb in [&leader, &follower] {
        eventually("both know it", || warnings(lb).is_empty().then_some(()));
    }
    assert_eq!((pebble.issued(), pebble.count("accounts in memory")), (1, 1));
    let responded = |lb: &Lb| lb.stdout().iter().any(|line| line.contains("/.well-known/acme-challenge/"));
    assert!(responded(&follower) && !responded(&leader));

    // Without the first one, the other one orders.
    drop(leader);
    follower.apply(&text.replace("[\"a.example\"]", "[\"a.example\", \"b.example\"]"));
    eventually("another certificate", || {
        openssl(&path, &["-ext", "subjectAltName"]).contains("DNS:b.example").then_some(())
    });
    assert_eq!(pebble.issued(), 2);
}

#[test]
fn a_name_that_is_refused_is_reported_and_delays_no_other() {
    let Some((lb, pebble)) = scene(MONTHS) else { return };
    lb.apply(&file(&http(&pebble), &[&["blocked.example"], &["a.example"]]));
    issued(&lb, "a.example", "");
    let warning = warns(&lb, "blocked.example has not been issued yet, so TLS does not know its names: ");
    assert!(warning.contains("rejectedIdentifier") && warning.contains("the next attempt is at"), "{warning}");
    let lines = || lb.stderr().iter().filter(|line| line.contains("cannot obtain a certificate")).count();
    assert_eq!(lines(), 1);
    // The same error is not logged again.
    let orders = || lb.metric("lb_acme_orders_total{result=\"failed\"}").expect("a metric");
    let before = orders();
    eventually("another attempt", || {
        lb.signal("HUP");
        (orders() > before).then_some(())
    });
    assert_eq!((lines(), pebble.issued()), (1, 1));
    assert_eq!(lb.metric("lb_acme_orders_total{result=\"issued\"}"), Some(1.0));
}

#[test]
fn a_listener_that_redirects_everything_still_responds_to_challenges() {
    let lb = start();
    let shared = TempDir::new().expect("a directory");
    let challenges = shared.path().join("challenges/http-01");
    fs::create_dir_all(&challenges).expect("created");
    let lock = fs::File::create(shared.path().join("lock")).expect("created");
    lock.lock().expect("locked");
    let acme = format!("challenge = \"http-01\"\nstate_dir = \"{}\"\n", shared.path().display());
    let text = format!("{PORTS}{}", file(&acme, &[&["a.example"]]));
    lb.edit_file(&text.replacen("[admin]", "redirect = \"https\"\n[admin]", 1));
    lb.reaches(2);
    let path = "/.well-known/acme-challenge/token";
    let mut kept = Client::connect(lb.address());
    let mut ask = |path: &str| {
        kept.send(format!("GET {path} HTTP/1.1\r\nHost: a.example\r\n\r\n"));
        kept.response().status
    };
    assert_eq!((ask(path), ask("/")), (308, 308));
    fs::write(challenges.join("token"), "token.thumbprint").expect("written");
    eventually("the challenge is responded to", || (ask(path) == 200).then_some(()));
    assert_eq!((ask("/"), ask(&format!("{path}x"))), (308, 308));
    // The redirect is an edit for open connections too.
    lb.edit_file(&text);
    lb.reaches(3);
    assert_eq!(ask("/"), 502);
}

#[test]
fn only_pending_tokens_are_responded_to_and_other_requests_take_their_routes() {
    let lb = start();
    let shared = TempDir::new().expect("a directory");
    let challenges = shared.path().join("challenges/http-01");
    fs::create_dir_all(&challenges).expect("created");
    // Somebody else leads, so that this replica only follows.
    let lock = fs::File::create(shared.path().join("lock")).expect("created");
    lock.lock().expect("locked");
    let acme = format!("challenge = \"http-01\"\nstate_dir = \"{}\"\n", shared.path().display());
    lb.apply(&file(&acme, &[&["a.example"]]));
    let path = "/.well-known/acme-challenge/token";
    assert_eq!(get(lb.address(), path).status, 502, "not pending, so it takes its route");
    fs::write(challenges.join("token"), "token.thumbprint").expect("written");
    let response = eventually("a response", || Some(get(lb.address(), path)).filter(|response| response.status == 200));
    assert_eq!(response.text(), "token.thumbprint");
    assert_eq!(response.header("content-type"), Some("text/plain"));
    let ask = |method: &str| {
        let mut client = Client::connect(lb.address());
        client.send(format!("{method} {path} HTTP/1.1\r\nHost: b.example\r\nContent-Length: 0\r\n\r\n"));
        client.try_head().expect("a head").0
    };
    assert_eq!((ask("GET"), ask("HEAD"), ask("POST")), (200, 200, 502));
    assert_eq!(get(lb.address(), &format!("{path}x")).status, 502);
    fs::remove_file(challenges.join("token")).expect("removed");
    eventually("it is over", || (get(lb.address(), path).status == 502).then_some(()));
}

#[test]
fn every_key_of_acme_is_tested_here_or_in_its_failures() {
    let known = ["directory", "email", "state_dir", "ca", "challenge"];
    assert_eq!(keys::names(keys::ACME).collect::<Vec<_>>(), known);
}
