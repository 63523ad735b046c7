//! The files of a listener's TLS rules: one that cannot be used is a problem at its place, and replaces nothing.

use std::fs;
use std::path::Path;

use serde_json::json;
use tempfile::TempDir;

use crate::certificates::{FILE, SITE, beside, names, numbered, server, start};
use crate::support::eventually;
use crate::support::lb::{Lb, run};
use crate::support::tls::Ca;

const GARBAGE: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
const BAD_CRL: &str = "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n";

/// A key of a listener's `tls`, contents of its file that cannot be used, and what is said about them.
fn cases() -> Vec<(&'static str, Option<String>, &'static str)> {
    let ca = || Ca::new("clients").pem;
    vec![
        ("client_ca = \"it\"", None, "it: there is no such file"),
        ("client_ca = \"it\"", Some(String::new()), "it: the file is empty"),
        ("client_ca = \"it\"", Some("x".to_owned()), "it: there is no certificate in the file"),
        ("client_ca = \"it\"", Some(GARBAGE.to_owned()), "it: certificate 1 of the file is damaged"),
        ("client_ca = \"it\"", Some(ca() + GARBAGE), "it: certificate 2 of the file is damaged"),
        ("client_ca = \"ca.pem\"\nclient_crl = \"it\"", None, "it: there is no such file"),
        ("client_ca = \"ca.pem\"\nclient_crl = \"it\"", Some(ca()), "it: there is no revocation list in the file"),
        (
            "client_ca = \"ca.pem\"\nclient_crl = \"it\"",
            Some(BAD_CRL.to_owned()),
            "it: a revocation list cannot be used",
        ),
        ("ticket_keys = [\"it\"]", None, "it: there is no such file"),
        ("ticket_keys = [\"it\"]", Some("x".repeat(31)), "it: a ticket key has at least 32 bytes, and this one has 31"),
        ("ticket_keys = [\"good\", \"it\"]", Some("x".repeat(31)), "it: a ticket key has at least 32 bytes"),
    ]
}

/// Writes the files that can be used.
fn write(at: &Path) {
    numbered(1).write(&at.join("site.pem"), &at.join("site.key"));
    Ca::new("clients").write(&at.join("ca.pem"));
    fs::write(at.join("good"), "k".repeat(48)).unwrap();
}

/// Writes the one that cannot.
fn write_it(at: &Path, content: Option<&str>) {
    match content {
        Some(content) => fs::write(at.join("it"), content).unwrap(),
        None => drop(fs::remove_file(at.join("it"))),
    }
}

/// The line and the column of the last file that `keys` names.
fn place(text: &str, keys: &str) -> (usize, usize) {
    let last = keys.lines().last().unwrap();
    (text.lines().position(|line| line == last).unwrap() + 1, last.find('=').unwrap() + 3)
}

fn file(keys: &str) -> String {
    format!("{FILE}{SITE}{}", server()).replace("[listener.tls]\n", &format!("[listener.tls]\n{keys}\n"))
}

#[test]
fn the_check_and_the_start_name_a_file_that_cannot_be_used() {
    for (keys, content, words) in cases() {
        let directory = TempDir::new().unwrap();
        write(directory.path());
        write_it(directory.path(), content.as_deref());
        let path = directory.path().join("lb.toml");
        let text = file(keys);
        fs::write(&path, &text).unwrap();
        let (line, column) = place(&text, keys);
        for arguments in [&["check", path.to_str().unwrap()][..], &["--config", path.to_str().unwrap()]] {
            let ran = run(arguments);
            let said = ran.out + &ran.err;
            assert_eq!(ran.code, Some(1), "{keys}: {said}");
            assert!(said.contains(words) && said.contains(&format!("lb.toml:{line}:{column}")), "{keys}: {said}");
        }
    }
}

#[test]
fn an_edit_waits_for_a_file_that_can_be_used() {
    let lb = start(SITE, write);
    let directory = lb.path().parent().unwrap().to_owned();
    let good = fs::read_to_string(lb.path()).unwrap();
    for (keys, content, words) in cases() {
        write_it(&directory, content.as_deref());
        let text = file(keys);
        lb.edit_file(&text);
        let problem = eventually(&format!("{keys} is pending"), || {
            let newest = lb.newest_reload();
            let message = newest["problems"][0]["message"].as_str()?;
            (newest["outcome"] == "pending" && message.contains(words)).then(|| newest["problems"][0].clone())
        });
        let (line, column) = place(&text, keys);
        assert_eq!((&problem["line"], &problem["column"]), (&json!(line), &json!(column)), "{keys}");
        lb.edit_file(&good);
        eventually("the edit is taken back", || (lb.api("/api/config")["state"] == "current").then_some(()));
    }
    assert_eq!(lb.generation(), 1);
}

#[test]
fn contents_that_cannot_be_used_replace_nothing_and_hold_nothing_up() {
    let keys = "client_ca = \"ca.pem\"\nclient_crl = \"crl.pem\"\nclient_auth = \"optional\"\nticket_keys = [\"good\"]";
    let ca = Ca::new("clients");
    let directory = TempDir::new().unwrap();
    write(directory.path());
    ca.write(&directory.path().join("ca.pem"));
    fs::write(directory.path().join("crl.pem"), ca.revoke(&[7])).unwrap();
    let path = directory.path().join("lb.toml");
    fs::write(&path, file(keys)).unwrap();
    let lb = Lb::start_in(directory, path);
    let mut generation = 1;
    for (name, bad, good) in [
        ("ca.pem", GARBAGE.to_owned(), Ca::new("others").pem),
        ("crl.pem", BAD_CRL.to_owned(), ca.revoke(&[8])),
        ("good", "short".to_owned(), "l".repeat(48)),
    ] {
        fs::write(beside(&lb, name), &bad).unwrap();
        eventually(&format!("{name} is pending"), || {
            let newest = lb.newest_reload();
            let is_about = newest["problems"][0]["message"].as_str().is_some_and(|it| it.starts_with(name));
            (newest["outcome"] == "pending" && is_about).then_some(())
        });
        // Others do not wait for it.
        let number = usize::try_from(generation).unwrap() + 1;
        numbered(number).rename(&beside(&lb, "site.pem"), &beside(&lb, "site.key"));
        eventually("the certificate is renewed", || {
            (names(&lb) == json!([[format!("v{number}.example.com")]])).then_some(())
        });
        fs::write(beside(&lb, name), &good).unwrap();
        eventually("it is applied", || {
            let newest = lb.newest_reload();
            let is_it = newest["changes"][0] == format!("file {name}: new content");
            (newest["outcome"] == "applied" && is_it).then_some(())
        });
        assert_eq!(lb.api("/api/config")["state"], "current");
        generation = lb.generation();
    }
    assert!(!lb.has_panicked());
}
