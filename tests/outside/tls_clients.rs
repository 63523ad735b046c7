//! TLS for clients: who is admitted, which certificate a client can use, and how sessions are resumed.

use std::fs;
use std::process::{Command, Stdio};
use std::sync::Arc;

use rcgen::{CertificateParams, SerialNumber};
use rustls::HandshakeKind;

use crate::support::eventually;
use crate::support::lb::{Lb, NO_CHECKS, run};
use crate::support::servers::Server;
use crate::support::tls::{Ca, ONLY_TLS12, ONLY_TLS13};
use crate::support::tls_client::{NAME, TlsLb, connect, get};

const VERSIONS: [&[&rustls::SupportedProtocolVersion]; 2] = [ONLY_TLS12, ONLY_TLS13];

#[test]
fn a_revoked_client_certificate_is_refused_as_soon_as_the_list_says_so() {
    let serial =
        |serial: u64| move |params: &mut CertificateParams| params.serial_number = Some(SerialNumber::from(serial));
    let ca = Arc::new(Ca::new("clients"));
    let (good, bad) = (ca.issue_with(&["good"], serial(7)), ca.issue_with(&["bad"], serial(8)));
    let other = Ca::new("clients").issue(&["other"]);
    let server = Server::named("one");
    let rules = "client_ca = \"ca.pem\"\nclient_crl = \"crl.pem\"\n";
    let list = ca.revoke(&[8, 9]);
    let tls = TlsLb::start_with(ca, rules, &server.table("s"), &[("crl.pem", list.as_bytes())]);
    let try_with = |versions, pair| {
        let stream = connect(tls.lb.address(), tls.trusting(versions, Some(pair)));
        stream.and_then(|mut stream| get(&mut stream, "/"))
    };
    for versions in VERSIONS {
        assert!(try_with(versions, &good).expect("a response").starts_with("HTTP/1.1 200"));
        let error = try_with(versions, &bad).expect_err("an alert").to_string();
        assert!(error.contains("CertificateRevoked"), "{error}");
        // It has the name of the CA, but not its key.
        let error = try_with(versions, &other).expect_err("an alert").to_string();
        assert!(
            error.contains("DecryptError") || error.contains("UnknownCA") || error.contains("BadCertificate"),
            "{error}"
        );
    }
    assert_eq!(server.requests().len(), 2);
    fs::write(tls.at.join("crl.pem"), tls.ca.revoke(&[7])).expect("a file");
    eventually("the other one is revoked", || try_with(ONLY_TLS13, &good).is_err().then_some(()));
    assert!(try_with(ONLY_TLS13, &bad).is_ok());
}

#[test]
fn a_revocation_list_or_an_authority_that_cannot_be_used_is_an_error_and_never_ignored() {
    let server = Server::named("one");
    let ca = Arc::new(Ca::new("clients"));
    let list = ca.revoke(&[1]);
    let rules = "client_ca = \"ca.pem\"\nclient_crl = \"crl.pem\"\n";
    let tls = TlsLb::start_with(ca, rules, &server.table("s"), &[("crl.pem", list.as_bytes())]);
    let good = tls.ca.issue(&["good"]);
    let shake = |pair| {
        let stream = connect(tls.lb.address(), tls.trusting(ONLY_TLS13, pair));
        stream.and_then(|mut stream| get(&mut stream, "/"))
    };
    // An empty sequence: it is DER, but no list and no certificate.
    let section = |kind: &str| format!("-----BEGIN {kind}-----\nMAA=\n-----END {kind}-----\n");
    for (file, kind) in [("crl.pem", "X509 CRL"), ("ca.pem", "CERTIFICATE")] {
        let before = fs::read(tls.at.join(file)).expect("a file");
        let since = tls.lb.newest_reload();
        fs::write(tls.at.join(file), section(kind)).expect("a file");
        let reload = tls.lb.next_reload(&since);
        assert!(reload["outcome"] == "pending" && reload.to_string().contains(file), "{reload:#}");
        let check = run(&["check", &tls.at.join("lb.toml").display().to_string()]);
        assert!(check.code == Some(1) && check.out.contains(file), "{check:#?}");
        assert!(shake(Some(&good)).is_ok() && shake(None).is_err(), "the old rule stays");
        fs::write(tls.at.join(file), before).expect("a file");
        eventually("the file is right again", || (tls.lb.api("/api/config")["state"] == "current").then_some(()));
    }
}

/// A client of openssl that connects with these options. Returns its report; `None` if it is not installed.
fn openssl(tls: &TlsLb, options: &[&str]) -> Option<String> {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &tls.lb.address().to_string(), "-servername", NAME]);
    command.arg("-CAfile").arg(tls.at.join("ca.pem")).args(options).stdin(Stdio::null());
    let output = command.output().inspect_err(|error| eprintln!("skipped: openssl: {error}")).ok()?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
}

#[test]
fn a_client_gets_the_kind_of_certificate_that_it_can_verify() {
    let ca = Arc::new(Ca::new("both"));
    let rsa = ca.issue_for(&rcgen::PKCS_RSA_SHA256, &[NAME]);
    let server = Server::named("one");
    let certificate = "[[certificate]]\nfile = \"rsa.pem\"\nkey = \"rsa.key\"\n";
    let files = [("rsa.pem", rsa.chain.as_bytes()), ("rsa.key", rsa.key.as_bytes())];
    let tls = TlsLb::start_with(ca, "", &format!("{}{certificate}", server.table("s")), &files);
    let cases: [(&[&str], &str); 6] = [
        (&[], "ECDSA"),
        (&["-sigalgs", "RSA-PSS+SHA256"], "RSA-PSS"),
        (&["-sigalgs", "ECDSA+SHA256"], "ECDSA"),
        (&["-tls1_2"], "ECDSA"),
        (&["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"], "RSA-PSS"),
        (&["-tls1_2", "-sigalgs", "RSA+SHA256"], "RSA"),
    ];
    for (options, expected) in cases {
        let Some(report) = openssl(&tls, options) else { return };
        assert!(report.contains(&format!("Peer signature type: {expected}\n")), "{options:?}: {report}");
        assert!(report.contains("Verify return code: 0 (ok)"), "{options:?}: {report}");
    }
}

#[test]
fn the_example_of_client_certificates_works_with_its_own_commands() {
    let text = include_str!("../../examples/mtls.toml");
    let commands: String =
        text.lines().filter_map(|line| line.strip_prefix("#   ")).map(|line| format!("{line}\n")).collect();
    let directory = tempfile::tempdir().expect("a directory");
    let at = directory.path().to_owned();
    let run = |script: &str| {
        let ran = Command::new("sh").args(["-ec", script]).current_dir(&at).output().expect("sh");
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8_lossy(&ran.stdout).into_owned()
    };
    if Command::new("openssl").arg("version").output().is_err() || Command::new("curl").arg("-V").output().is_err() {
        return eprintln!("skipped: openssl or curl is not installed");
    }
    run(&commands);
    let server = Server::named("one");
    let file = text.replace("0.0.0.0:8443", "127.0.0.1:0").replace("127.0.0.1:8081", &server.address.to_string());
    fs::write(at.join("lb.toml"), format!("{file}[admin]\naddress = \"127.0.0.1:0\"\n{NO_CHECKS}")).expect("a file");
    let lb = Lb::start_in(directory, at.join("lb.toml"));
    let url = format!("https://localhost:{}/", lb.address().port());
    let curl = |identity: &str| {
        let more = format!("--resolve localhost:{}:127.0.0.1", lb.address().port());
        run(&format!("curl -sS --cacert clients-ca.pem {identity} {more} {url} 2>&1 || true"))
    };
    let alice = "--cert alice.pem --key alice.key";
    assert_eq!(curl(alice), "one");
    assert!(server.requests()[0].values("client-cert")[0].starts_with(":MII"), "{:?}", server.requests());
    let without = curl("");
    assert!(without.contains("certificate required"), "{without}");
    run(commands.replace("-gencrl -out revoked.pem", "-revoke alice.pem").lines().last().expect("a command"));
    run(commands.lines().last().expect("a command"));
    // A handshake during the edit is closed without an alert.
    eventually("the certificate is revoked", || curl(alice).contains("certificate revoked").then_some(()));
    assert!(curl(alice).contains("certificate revoked"));
    assert_eq!(
        server.requests().len(),
        server.requests().iter().filter(|one| !one.values("client-cert").is_empty()).count()
    );
}

/// The kind of a connection's handshake, after a response: tickets of TLS 1.3 come with that.
fn kind(tls: &TlsLb, config: &Arc<rustls::ClientConfig>) -> HandshakeKind {
    let mut stream = connect(tls.lb.address(), Arc::clone(config)).expect("a connection");
    let kind = stream.conn.handshake_kind().expect("a handshake");
    assert!(get(&mut stream, "/").expect("a response").starts_with("HTTP/1.1 200"));
    kind
}

#[test]
fn sessions_are_resumed_by_the_same_process_and_by_replicas_that_share_keys() {
    let server = Server::named("one");
    let (first, second) = ([1; 48], [2; 48]);
    // Both have the same CA and certificate, as replicas do.
    let ca = Arc::new(Ca::new("replicas"));
    let pair = ca.issue(&[NAME]);
    let start = |keys: &str| {
        let files: [(&str, &[u8]); 4] = [
            ("first", &first),
            ("second", &second),
            ("site.pem", pair.chain.as_bytes()),
            ("site.key", pair.key.as_bytes()),
        ];
        TlsLb::start_with(Arc::clone(&ca), keys, &server.table("s"), &files)
    };
    let alone = [start(""), start("")];
    let rotated = [start("ticket_keys = [\"first\"]"), start("ticket_keys = [\"second\", \"first\"]")];
    let strange = start("ticket_keys = [\"second\"]");
    for versions in VERSIONS {
        let client = || Arc::new(alone[0].trusting(versions, None));
        let config = client();
        assert_eq!(kind(&alone[0], &config), HandshakeKind::Full);
        assert_eq!(kind(&alone[0], &config), HandshakeKind::Resumed, "the same process: {versions:?}");
        assert_eq!(kind(&alone[1], &config), HandshakeKind::Full, "another process: {versions:?}");
        let config = client();
        assert_eq!(kind(&rotated[0], &config), HandshakeKind::Full);
        assert_eq!(kind(&rotated[1], &config), HandshakeKind::Resumed, "a replica: {versions:?}");
        // The new ticket is of the second key, which the first process does not have.
        assert_eq!(kind(&rotated[0], &config), HandshakeKind::Full, "an unknown key: {versions:?}");
        assert_eq!(kind(&strange, &config), HandshakeKind::Full, "no common key: {versions:?}");
    }
}
