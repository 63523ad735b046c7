//! Requests to servers with which there is no TLS: what clients, logs and other servers get.

use std::io::BufRead as _;

use tempfile::TempDir;

use crate::support::client::{Client, get};
use crate::support::eventually;
use crate::support::lb::{Lb, NO_CHECKS, run};
use crate::support::servers::{Server, respond};
use crate::support::tls::{Ca, FrontRules, ONLY_TLS12, ONLY_TLS13, TlsFront};
use crate::tls_checks::tls;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody";

struct Scene {
    directory: TempDir,
    ca: Ca,
    server: Server,
    rules: FrontRules,
}

impl Scene {
    fn new() -> Self {
        let (directory, ca) = (TempDir::new().expect("a directory"), Ca::new("one"));
        ca.write(&directory.path().join("ca.pem"));
        let rules = FrontRules::new(ca.issue(&["127.0.0.1"]));
        Self { directory, ca, server: Server::responding(OK), rules }
    }

    fn config(&self, keys: &str, tables: &str) -> String {
        format!("{NO_CHECKS}[proxy]\nworkers = 1\n{}{tables}", tls(self.directory.path(), keys))
    }
}

// Case: tls-unverified
#[test]
fn a_failed_handshake_is_a_502_and_the_log_says_why() {
    let scene = Scene::new();
    let Scene { ca, rules, server, .. } = &scene;
    let expired = |params: &mut rcgen::CertificateParams| params.not_after = rcgen::date_time_ymd(2020, 1, 2);
    let client_ca = Some(ca.pem.clone());
    let cases = [
        (FrontRules::new(ca.issue_with(&["127.0.0.1"], expired)), "expired", "certificate expired at 2020-01-02"),
        (FrontRules::new(Ca::new("other").issue(&["127.0.0.1"])), "unknown_issuer", "from an unknown issuer"),
        (
            FrontRules::new(ca.issue(&["api.test"])),
            "wrong_name",
            "certificate not valid for 127.0.0.1: it is for api.test",
        ),
        (FrontRules { alpn: vec![b"h3".to_vec()], ..rules.clone() }, "protocol", "no protocol in common"),
        (
            FrontRules { client_ca: client_ca.clone(), versions: ONLY_TLS12, ..rules.clone() },
            "wants_certificate",
            "wants a client certificate",
        ),
        (
            FrontRules { client_ca, versions: ONLY_TLS13, ..rules.clone() },
            "wants_certificate",
            "wants a client certificate",
        ),
    ];
    for (rules, rule, text) in cases {
        let front = TlsFront::new(&rules, server.address);
        let lb = Lb::start(&scene.config("", &front.table("server1")));
        let mut client = Client::connect(lb.address());
        for _ in 0..3 {
            let response = client.request(POST);
            assert_eq!(response.status, 502, "{rule}");
            let body = response.text();
            assert!(!body.contains("certificate") && !body.contains("TLS") && !body.contains("127.0.0.1"), "{body}");
        }
        let line = lb.logs("the request", |line| line.contains("POST / "));
        assert!(line.contains("error=tls") && line.contains(&format!("rule={rule}")), "{line}");
        let warnings = eventually("a warning", || {
            let lines = lb.stderr().into_iter().filter(|line| line.contains("WARN"));
            Some(lines.collect::<Vec<_>>()).filter(|warnings| !warnings.is_empty())
        });
        assert_eq!(warnings.len(), 1, "one line, however many requests: {warnings:#?}");
        let expected = [text, "server=server1", "name=127.0.0.1", "hint="];
        assert!(expected.iter().all(|expected| warnings[0].contains(expected)), "{warnings:#?}");
        assert_eq!(server.requests().len(), 0, "the server has not seen the request");
    }
}

// Case: tls-unverified
#[test]
fn a_server_that_does_not_speak_tls_is_named_so() {
    let scene = Scene::new();
    let plain = Server::scripted(|mut stream, _| {
        let _ = stream.fill_buf();
        respond(&mut stream, "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
    });
    let closing = Server::scripted(|stream, _| drop(stream));
    let cases =
        [(&plain, "not_tls", "the server does not speak TLS"), (&closing, "closed", "closed in the TLS handshake")];
    for (server, rule, text) in cases {
        let lb = Lb::start(&scene.config("", &server.table("server1")));
        assert_eq!(get(lb.address(), "/").status, 502);
        let line = lb.logs("the request", |line| line.contains("GET / "));
        assert!(line.contains("error=tls") && line.contains(&format!("rule={rule}")), "{line}");
        assert!(lb.stderr().iter().any(|line| line.contains(text)), "{:#?}", lb.stderr());
    }
}

// Case: tls-unverified
#[test]
fn a_request_goes_to_another_server_whatever_its_method_and_the_first_is_ejected() {
    let scene = Scene::new();
    let good = TlsFront::new(&scene.rules, scene.server.address);
    let bad = TlsFront::new(&FrontRules::new(scene.ca.issue(&["api.test"])), scene.server.address);
    // Checks that pass, at the port of the good server, so that only requests take the bad one down.
    let checks = format!("[health]\nport = {}\nfall = 3\ninterval = \"1h\"\n", good.address.port());
    let tables = format!("{}{}", bad.table("bad"), good.table("good"));
    let lb = Lb::start(&format!("{checks}[proxy]\nworkers = 1\n{}{tables}", tls(scene.directory.path(), "")));
    let mut client = Client::connect(lb.address());
    for _ in 0..20 {
        assert_eq!(client.request(POST).text(), "ok");
    }
    eventually(&format!("ejected: {}", lb.server("bad")), || {
        let error = lb.server("bad")["ejected"]["error"].as_str()?.to_owned();
        error.contains("certificate not valid for this name").then_some(())
    });
    assert!(lb.stdout().iter().all(|line| !line.contains("error=")));
    assert_eq!((bad.handshakes(), bad.failed() >= 3), ((0, 0), true));
}

#[test]
fn a_client_certificate_is_sent_if_the_server_asks_for_one() {
    let scene = Scene::new();
    let Scene { ca, rules, server, directory } = &scene;
    let client_ca = Ca::new("clients");
    // Client certificates often name no host.
    let pair = client_ca.issue(&[]);
    pair.write(directory.path(), "lb");
    let files = |name: &str| {
        let path = |kind: &str| directory.path().join(format!("{name}.{kind}")).display().to_string();
        format!("certificate = \"{}\"\nkey = \"{}\"\n", path("pem"), path("key"))
    };
    let other = ca.issue(&["lb.test"]);
    other.write(directory.path(), "other");
    for versions in [ONLY_TLS12, ONLY_TLS13] {
        let front = TlsFront::new(
            &FrontRules { client_ca: Some(client_ca.pem.clone()), versions, ..rules.clone() },
            server.address,
        );
        let lb = Lb::start(&scene.config(&files("lb"), &front.table("server1")));
        assert_eq!(get(lb.address(), "/").text(), "ok");
        assert!(front.has_seen(&pair));
        lb.apply(&scene.config(&files("other"), &front.table("server1")));
        assert_eq!(get(lb.address(), "/").status, 502);
        let line = lb.logs("the request", |line| line.contains(" 502 "));
        assert!(line.contains("rule=refuses_certificate"), "{line}");
        // A server that asks for none gets none.
        let front = TlsFront::new(rules, server.address);
        lb.apply(&scene.config(&files("lb"), &front.table("server1")));
        assert_eq!(get(lb.address(), "/").text(), "ok");
        assert!(!front.has_seen(&pair));
    }
}

#[test]
fn files_that_cannot_be_used_are_errors_at_the_start_and_leave_an_edit_pending() {
    let scene = Scene::new();
    let Scene { ca, rules, server, directory } = &scene;
    let front = TlsFront::new(rules, server.address);
    let path = |name: &str| directory.path().join(name).display().to_string();
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).expect("a file");
    let (pair, other) = (ca.issue(&["lb.test"]), ca.issue(&["lb.test"]));
    pair.write(directory.path(), "lb");
    other.write(directory.path(), "other");
    write("empty.pem", "");
    write("encrypted.key", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n");
    let identity =
        |certificate: &str, key: &str| format!("certificate = \"{}\"\nkey = \"{}\"\n", path(certificate), path(key));
    let with_ca = |name: &str| format!("ca = \"{}\"\n", path(name));
    let cases = [
        (with_ca("missing.pem"), "there is no such file"),
        (with_ca("empty.pem"), "the file is empty"),
        (with_ca("."), "this is a directory"),
        (identity("lb.pem", "other.key"), "the key does not belong to the certificate"),
        (identity("lb.pem", "encrypted.key"), "the key is encrypted"),
        (identity("lb.pem", "empty.pem"), "the file is empty"),
        (identity("lb.key", "lb.key"), "this is a private key"),
    ];
    let table = front.table("server1");
    let start = |keys: &str| format!("{NO_CHECKS}[upstream.tls]\n{keys}{table}");
    let lb = Lb::start(&start(&with_ca("ca.pem")));
    assert_eq!(get(lb.address(), "/").text(), "ok");
    for (keys, text) in cases {
        let file = directory.path().join("lb.toml");
        std::fs::write(&file, format!("[[listener]]\naddress = \"127.0.0.1:0\"\n{}", start(&keys))).expect("a file");
        let checked = run(&["check", file.to_str().expect("a path")]);
        assert_eq!(checked.code, Some(1));
        assert!(checked.out.contains(text) && checked.out.contains("lb.toml:"), "{text}: {checked:#?}");
        let before = lb.newest_reload();
        lb.edit(&start(&keys));
        let reload = lb.next_reload(&before);
        assert_eq!(reload["outcome"], "pending", "{reload}");
        assert!(reload["problems"][0]["message"].as_str().is_some_and(|message| message.contains(text)), "{reload}");
        assert_eq!(get(lb.address(), "/").text(), "ok");
    }
    // As soon as the file is there, the edit is applied.
    let before = lb.generation();
    lb.edit(&start(&with_ca("late.pem")));
    eventually("pending", || (lb.newest_reload()["outcome"] == "pending").then_some(()));
    ca.write(&directory.path().join("late.pem"));
    lb.reaches(before + 1);
    assert_eq!(get(lb.address(), "/").text(), "ok");
}

#[test]
fn explain_names_what_is_verified() {
    let scene = Scene::new();
    let front = TlsFront::new(&scene.rules, scene.server.address);
    let lb = Lb::start(&scene.config("", &front.table("server1")));
    let explain = || run(&["explain", "--admin", &lb.admin.to_string(), "/"]).out;
    assert!(
        explain().contains("a server's certificate must be for the host of its address (`127.0.0.1`)"),
        "{}",
        explain()
    );
    lb.apply(&scene.config("server_name = \"api.test\"\n", &front.table("server1")));
    assert!(explain().contains("must be for `api.test`; verified with `"), "{}", explain());
    lb.apply(&scene.config("verify = false\n", &front.table("server1")));
    assert!(explain().contains("the servers are not verified"), "{}", explain());
}
