//! ACME servers that are down, misconfigured or misbehave.

use std::fs;
use std::net::TcpListener;
use std::time::{Duration, SystemTime};

use super::{file, http, issued, scene, start, warns};
use crate::support::eventually;
use crate::support::fake_acme::{FakeAcme, json, until_order};
use crate::support::lb::run;

const NAMES: &[&[&str]] = &[&["a.example"]];

/// The time in a warning.
fn next_attempt(warning: &str) -> SystemTime {
    let time = warning.rsplit(' ').next().expect("a time");
    humantime::parse_rfc3339(time).expect(warning)
}

#[test]
fn a_server_that_is_down_is_reported_and_an_edit_is_tried_at_once() {
    // Nobody listens there any more.
    let gone = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let Some((lb, pebble)) = scene(super::MONTHS) else { return };
    lb.apply(&file(&format!("challenge = \"http-01\"\ndirectory = \"https://{gone}/dir\"\n"), NAMES));
    let warning = warns(&lb, "onnection refused");
    assert!(warning.contains(&format!("`acme.directory` https://{gone}/dir")), "{warning}");
    let wait = next_attempt(&warning).duration_since(SystemTime::now()).expect("later");
    assert!((Duration::from_secs(30)..Duration::from_secs(120)).contains(&wait), "{wait:?}");
    lb.apply(&file(&http(&pebble), NAMES));
    issued(&lb, "a.example", "");
}

#[test]
fn what_is_no_acme_server_is_told_in_plain_words() {
    let lb = start();
    for (response, words) in [
        ("200 OK\r\nContent-Length: 13\r\n\r\n<html></html>", "not what ACME requires"),
        ("200 OK\r\nContent-Length: 2\r\n\r\n{}", "missing field `newNonce`"),
        ("502 Bad Gateway\r\nContent-Length: 4\r\n\r\noops", "has status 502 Bad Gateway"),
        ("404 Not Found\r\nContent-Length: 0\r\n\r\n", "has status 404 Not Found"),
        ("SSH-2.0\r\n\r\n", "`acme.directory`"),
    ] {
        let fake = FakeAcme::start(Box::new(move |_, _| Some(response.to_owned())));
        lb.apply(&file(&fake.keys(), NAMES));
        let warning = warns(&lb, &fake.address.to_string());
        assert!(warning.contains(words), "{warning}");
        let without_ca = fake.keys().lines().next().expect("a line").to_owned() + "\n";
        lb.apply(&file(&without_ca, NAMES));
        let warning = warns(&lb, "UnknownIssuer");
        assert!(warning.contains("`acme.directory`"), "{warning}");
    }
    assert!(!lb.has_panicked());
}

#[test]
fn an_edit_waits_for_the_ca_of_the_acme_server() {
    let lb = start();
    let ca = lb.path().with_file_name("missing.pem");
    let fake = FakeAcme::start(Box::new(|_, _| None));
    let keys = format!("directory = \"https://{}/dir\"\nca = \"missing.pem\"\n", fake.address);
    lb.edit(&file(&keys, NAMES));
    let is_pending = |words: &str| {
        eventually(words, || {
            let newest = lb.newest_reload();
            let message = newest["problems"][0]["message"].as_str()?;
            (newest["outcome"] == "pending" && message.contains(words)).then(|| newest["problems"][0].clone())
        })
    };
    let problem = is_pending("missing.pem: there is no such file");
    let text = fs::read_to_string(lb.path()).expect("a file");
    let line = text.lines().position(|line| line == "ca = \"missing.pem\"").expect("a line") + 1;
    assert_eq!((problem["line"].as_u64(), problem["column"].as_u64()), (u64::try_from(line).ok(), Some(6)));
    let check = run(&["check", &lb.path().display().to_string()]);
    assert_eq!((check.code, check.out.contains("missing.pem: there is no such file")), (Some(1), true), "{check:?}");
    fs::write(&ca, "x").expect("written");
    is_pending("missing.pem: there is no certificate in the file");
    fs::copy(fake.ca(), &ca).expect("written");
    lb.reaches(2);
    let files = lb.api("/api/config")["files"].clone();
    assert!(files.as_array().expect("files").iter().any(|file| file["path"] == ca.display().to_string()), "{files}");
}

#[test]
fn a_limit_of_the_server_is_respected_whoever_asks_for_another_attempt() {
    let fake = FakeAcme::start(Box::new(|path, address| {
        until_order(path, address).or_else(|| {
            let head = "429 Too Many Requests\r\nRetry-After: 7200\r\n";
            json(head, r#"{"type":"urn:ietf:params:acme:error:rateLimited","detail":"too many certificates"}"#)
        })
    }));
    let lb = start();
    let keys = format!("email = \"ops@example.com\"\n{}", fake.keys());
    lb.apply(&file(&keys, NAMES));
    let warning = warns(&lb, "too many certificates (rateLimited)");
    let wait = next_attempt(&warning).duration_since(SystemTime::now()).expect("later");
    assert!((Duration::from_secs(7000)..Duration::from_secs(7500)).contains(&wait), "{wait:?}");
    let orders = fake.count("/order");
    assert_eq!(orders, 1);
    // Neither a signal nor an edit asks sooner. Another certificate shows that both were noticed.
    lb.signal("HUP");
    lb.apply(&file(&keys, &[&["a.example"], &["b.example"]]));
    warns(&lb, "certificate b.example has not been issued yet, so TLS does not know its names: too many certificates");
    assert_eq!(fake.count("/order"), 2);
    assert_eq!(next_attempt(&warns(&lb, "certificate a.example")), next_attempt(&warning));
}

#[test]
fn a_directory_that_cannot_be_used_is_reported_and_used_as_soon_as_it_can_be() {
    let fake = FakeAcme::start(Box::new(until_order));
    let lb = start();
    let state = lb.path().with_file_name("state");
    fs::write(&state, "a file").expect("written");
    lb.apply(&file(&format!("state_dir = \"state\"\n{}", fake.keys()), NAMES));
    warns(&lb, "state is not a directory");
    assert_eq!(fake.count("/dir"), 0, "nothing is ordered that could not be kept");
    fs::remove_file(&state).expect("removed");
    eventually("it is used", || {
        lb.signal("HUP");
        state.join("accounts").exists().then_some(())
    });
}
