//! Health checks of servers over TLS.

use std::path::Path;

use tempfile::TempDir;

use crate::support::eventually;
use crate::support::lb::{Lb, PORTS, Ran, command, run};
use crate::support::replies::{always, page};
use crate::support::servers::Server;
use crate::support::tls::{Ca, FrontRules, ONLY_TLS12, ONLY_TLS13, TlsFront};

/// Checks that show a failure at once.
const CHECKS: &str = "[health]\npath = \"/health\"\ninterval = \"50ms\"\ntimeout = \"5s\"\nrise = 1\nfall = 1\n";

/// `[upstream.tls]` with the CA that [`Ca::write`] has written to `directory`.
pub(crate) fn tls(directory: &Path, keys: &str) -> String {
    format!("[upstream.tls]\nca = \"{}\"\n{keys}", directory.join("ca.pem").display())
}

fn error_is(lb: &Lb, expected: &str) {
    eventually(&format!("{expected}; {}", lb.server("server1")), || {
        let server = lb.server("server1");
        let error = server["last_check"]["error"].as_str()?;
        (error.contains(expected) && server["status"] == "down").then_some(())
    });
}

#[test]
fn checks_verify_a_server_as_requests_do() {
    let (directory, ca) = (TempDir::new().expect("a directory"), Ca::new("one"));
    ca.write(&directory.path().join("ca.pem"));
    let server = Server::named("a");
    let front = TlsFront::new(&FrontRules::new(ca.issue(&["127.0.0.1"])), server.address);
    for kind in ["http", "tcp"] {
        let lb =
            Lb::start(&format!("{CHECKS}kind = \"{kind}\"\n{}{}", tls(directory.path(), ""), front.table("server1")));
        eventually("a check has passed", || (lb.server("server1")["last_check"]["ok"] == true).then_some(()));
        lb.server_is("server1", "up");
        let (full, resumed) = front.handshakes();
        assert!(full > 0 && resumed == 0, "a check never resumes a session: {full} {resumed}");
        let names = |name: &str| tls(directory.path(), &format!("server_name = \"{name}\"\n"));
        lb.apply(&format!("{CHECKS}kind = \"{kind}\"\n{}{}", names("api.test"), front.table("server1")));
        error_is(&lb, "certificate not valid for api.test: it is for 127.0.0.1");
        let warnings = lb.api("/api/config")["warnings"].to_string();
        assert!(warnings.contains("upstream.tls.server_name"), "the warning says what to do: {warnings}");
        assert!(lb.stderr().iter().any(|line| line.contains("server is down") && line.contains("api.test")));
    }
}

#[test]
fn a_failed_check_says_why() {
    let (directory, ca, other) = (TempDir::new().expect("a directory"), Ca::new("one"), Ca::new("other"));
    ca.write(&directory.path().join("ca.pem"));
    let server = Server::named("a");
    let expired = |params: &mut rcgen::CertificateParams| params.not_after = rcgen::date_time_ymd(2020, 1, 2);
    let usual = FrontRules::new(ca.issue(&["127.0.0.1"]));
    let front = TlsFront::new(&usual, server.address);
    let lb = Lb::start(&format!("{CHECKS}{}{}", tls(directory.path(), ""), front.table("server1")));
    let cases = [
        (FrontRules::new(ca.issue_with(&["127.0.0.1"], expired)), "certificate expired at 2020-01-02T00:00:00Z"),
        (FrontRules::new(other.issue(&["127.0.0.1"])), "certificate from an unknown issuer"),
        (FrontRules::new(ca.issue(&["127.0.0.2"])), "certificate not valid for 127.0.0.1: it is for 127.0.0.2"),
        (FrontRules { alpn: vec![b"h3".to_vec()], ..usual.clone() }, "no protocol in common by ALPN"),
        (
            FrontRules { client_ca: Some(ca.pem.clone()), versions: ONLY_TLS13, ..usual.clone() },
            "the server wants a client certificate",
        ),
        (
            FrontRules { client_ca: Some(ca.pem.clone()), versions: ONLY_TLS12, ..usual.clone() },
            "the server wants a client certificate",
        ),
    ];
    for (rules, expected) in cases {
        front.set(&usual);
        lb.server_is("server1", "up");
        front.set(&rules);
        error_is(&lb, expected);
    }
}

#[test]
fn a_server_without_tls_is_told_apart() {
    let (directory, ca) = (TempDir::new().expect("a directory"), Ca::new("one"));
    ca.write(&directory.path().join("ca.pem"));
    let closes = Server::scripted(|stream, _| drop(stream));
    for (server, expected) in
        [(greeting(), "the server does not speak TLS"), (closes, "connection closed in the TLS handshake")]
    {
        let lb = Lb::start(&format!("{CHECKS}{}{}", tls(directory.path(), ""), server.table("server1")));
        error_is(&lb, expected);
    }
}

/// A server that reads a line and answers it as HTTP servers answer what they do not understand.
fn greeting() -> Server {
    use std::io::BufRead as _;
    Server::scripted(|mut stream, _| {
        let _ = stream.fill_buf();
        crate::support::servers::respond(&mut stream, "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
    })
}

#[test]
fn the_memory_page_is_read_over_tls() {
    let (directory, ca) = (TempDir::new().expect("a directory"), Ca::new("one"));
    ca.write(&directory.path().join("ca.pem"));
    let server = always(page("process_resident_memory_bytes 4096\n"));
    let front = TlsFront::new(&FrontRules::new(ca.issue(&["127.0.0.1"])), server.address);
    let lb =
        Lb::start(&format!("{CHECKS}memory = \"/metrics\"\n{}{}", tls(directory.path(), ""), front.table("server1")));
    eventually("the memory is known", || (lb.server("server1")["memory_bytes"] == 4096).then_some(()));
}

#[test]
fn servers_that_are_not_verified_are_warned_about_everywhere() {
    let ca = Ca::new("one");
    let server = Server::named("a");
    let front = TlsFront::new(&FrontRules::new(ca.issue(&["other.test"])), server.address);
    let config = |verify| format!("{CHECKS}[upstream.tls]\nverify = {verify}\n{}", front.table("server1"));
    let lb = Lb::start(&config(false));
    lb.server_is("server1", "up");
    let is_loud = |lb: &Lb| {
        let warned = lb.api("/api/config")["warnings"].to_string().contains("`default` are not verified");
        let status = run(&["status", "--admin", &lb.admin.to_string()]).out.contains("`default` are not verified");
        let metric = lb.metric("lb_pool_tls_unverified{pool=\"default\"}");
        let verify = lb.api("/api/pools")["pools"][0]["tls"]["verify"].clone();
        assert_eq!(status, warned);
        (warned, metric, verify)
    };
    assert_eq!(is_loud(&lb), (true, Some(1.0), false.into()));
    let logged =
        |lb: &Lb| lb.stderr().iter().filter(|line| line.contains("WARN") && line.contains("not verified")).count();
    assert_eq!(logged(&lb), 1);
    // The system's CAs have not issued it.
    lb.apply(&config(true));
    error_is(&lb, "certificate from an unknown issuer");
    assert_eq!(is_loud(&lb), (false, Some(0.0), true.into()));
    lb.apply(&config(false));
    lb.server_is("server1", "up");
    assert_eq!((is_loud(&lb).0, logged(&lb)), (true, 2));
    lb.apply(&format!("{CHECKS}{}", server.table("server1")));
    assert_eq!(is_loud(&lb), (false, None, serde_json::Value::Null));
}

#[test]
fn without_a_ca_the_systems_count_and_in_an_image_without_any_those_that_are_built_in() {
    let (directory, ca) = (TempDir::new().expect("a directory"), Ca::new("one"));
    let file = directory.path().join("system.pem");
    ca.write(&file);
    let server = Server::named("a");
    let front = TlsFront::new(&FrontRules::new(ca.issue(&["127.0.0.1"])), server.address);
    let start = |variable: &str, value: &Path| {
        let directory = TempDir::new().expect("a directory");
        let path = directory.path().join("lb.toml");
        std::fs::write(&path, format!("{PORTS}{CHECKS}[upstream]\ntls = true\n{}", front.table("server1")))
            .expect("a file");
        let mut command = command();
        command.env_remove("SSL_CERT_FILE").env_remove("SSL_CERT_DIR").env(variable, value);
        Lb::start_as(command, directory, path)
    };
    let lb = start("SSL_CERT_FILE", &file);
    lb.server_is("server1", "up");
    // As in an image without any: a directory without certificates.
    let empty = TempDir::new().expect("a directory");
    let lb = start("SSL_CERT_DIR", empty.path());
    error_is(&lb, "certificate from an unknown issuer");
    assert!(
        lb.stderr().iter().any(|line| line.contains("INFO") && line.contains("which are built in")),
        "{:#?}",
        lb.stderr()
    );
    // Some that cannot be read are not replaced by others.
    let config = directory.path().join("lb.toml");
    std::fs::write(&config, format!("{PORTS}[upstream]\ntls = true\n{}", front.table("server1"))).expect("a file");
    let mut command = command();
    command
        .arg("check")
        .arg(&config)
        .env_remove("SSL_CERT_DIR")
        .env("SSL_CERT_FILE", directory.path().join("missing.pem"));
    let ran = Ran::from(command.output().expect("lb runs"));
    assert_eq!(ran.code, Some(1));
    assert!(ran.out.contains("the system's CA certificates cannot be read"), "{ran:#?}");
}
