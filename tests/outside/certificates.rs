//! Certificates are files of a generation: however they are written, they are in force together with their key or not at all.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_ED25519};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::reload::outcomes;
use crate::support::certificates::{TestPair, pair, pair_of};
use crate::support::eventually;
use crate::support::lb::{Lb, Ran, run, servers};

/// No poll, so that only file events lead to a read.
pub(crate) const FILE: &str = "[[listener]]\naddress = \"127.0.0.1:0\"\n[listener.tls]\n[admin]\naddress = \"127.0.0.1:0\"\n\
                    [health]\nkind = \"none\"\n[reload]\npoll = \"0s\"\nquiet = \"30ms\"\n";
pub(crate) const SITE: &str = "[[certificate]]\nfile = \"site.pem\"\nkey = \"site.key\"\n";

pub(crate) fn server() -> String {
    servers(&[("a", "127.0.0.1:9".parse().unwrap(), 1)])
}

pub(crate) fn start(certificates: &str, write: impl FnOnce(&Path)) -> Lb {
    let directory = TempDir::new().unwrap();
    write(directory.path());
    let path = directory.path().join("lb.toml");
    fs::write(&path, format!("{FILE}{certificates}{}", server())).unwrap();
    Lb::start_in(directory, path)
}

pub(crate) fn beside(lb: &Lb, name: &str) -> PathBuf {
    lb.path().parent().unwrap().join(name)
}

pub(crate) fn names(lb: &Lb) -> Value {
    let reply = lb.api("/api/certificates");
    reply["certificates"].as_array().unwrap().iter().map(|certificate| certificate["names"].clone()).collect()
}

#[track_caller]
pub(crate) fn becomes(lb: &Lb, expected: &Value) {
    eventually(&format!("{expected}: {:#}", lb.api("/api/reloads")), || (names(lb) == *expected).then_some(()));
}

/// A name that tells the `number`th certificate from the others.
pub(crate) fn numbered(number: usize) -> TestPair {
    pair(&[&format!("v{number}.example.com")])
}

/// Rotates a certificate several times, each time once the one before is in force.
fn rotate(certificates: &str, write: impl Fn(&TestPair, &Path, usize)) {
    let lb = start(certificates, |directory| write(&numbered(0), directory, 0));
    for number in 1..6 {
        write(&numbered(number), lb.path().parent().unwrap(), number);
        becomes(&lb, &json!([[format!("v{number}.example.com")]]));
    }
    let newest = lb.newest_reload();
    assert_eq!((&newest["outcome"], &newest["hash"]), (&json!("applied"), &lb.api("/api/config")["hash"]));
    let change = newest["changes"][0].as_str().unwrap();
    assert!(change.contains("new, for v5.example.com, expires 20"), "{change}");
    assert_eq!(lb.api("/api/config")["state"], "current");
    assert!(!lb.has_panicked());
}

#[test]
fn a_pair_that_an_editor_renames_into_place_is_applied() {
    rotate(SITE, |pair, at, _| pair.rename(&at.join("site.pem"), &at.join("site.key")));
}

#[test]
fn a_pair_that_is_copied_in_place_is_applied() {
    rotate(SITE, |pair, at, _| pair.write(&at.join("site.pem"), &at.join("site.key")));
}

// Case: certificate-files
#[test]
fn a_directory_whose_data_is_swapped_is_applied_at_once() {
    let directory = "[[certificate]]\ndirectory = \"certs/*\"\n";
    rotate(directory, |pair, at, number| {
        fs::create_dir_all(at.join("certs/site")).unwrap();
        pair.swap_data(&at.join("certs/site"), number);
    });
}

#[test]
fn links_that_certbot_replaces_one_after_the_other_are_applied() {
    rotate("[[certificate]]\ndirectory = \"live\"\n", |pair, at, number| pair.certbot(at, number));
    let files = "[[certificate]]\nfile = \"live/fullchain.pem\"\nkey = \"live/privkey.pem\"\n";
    rotate(files, |pair, at, number| pair.certbot(at, number));
}

// Case: certificate-files
#[test]
fn while_a_key_does_not_match_the_old_pair_stays_and_other_edits_apply() {
    let lb = start(SITE, |at| numbered(1).write(&at.join("site.pem"), &at.join("site.key")));
    let config = lb.api("/api/config");
    let files: Vec<_> = config["files"].as_array().unwrap().iter().map(|file| file["path"].clone()).collect();
    let path = |name: &str| json!(beside(&lb, name));
    assert_eq!(files, [path("lb.toml"), path("site.pem"), path("site.key")]);

    let next = numbered(2);
    fs::write(beside(&lb, "site.pem"), &next.chain).unwrap();
    let pending =
        eventually("it is pending", || Some(lb.newest_reload()).filter(|reload| reload["outcome"] == "pending"));
    let problem = &pending["problems"][0];
    assert_eq!(problem["message"], "site.pem and site.key: the key does not belong to the certificate");
    let text = fs::read_to_string(lb.path()).unwrap();
    let line = text.lines().position(|line| line == "file = \"site.pem\"").unwrap() + 1;
    assert_eq!((&problem["line"], &problem["column"]), (&json!(line), &json!(8)));
    assert_eq!((names(&lb), lb.generation()), (json!([["v1.example.com"]]), 1));
    assert_eq!(lb.api("/api/config")["state"], "pending");
    let status = run(&["status", "--admin", &lb.admin.to_string()]).out;
    assert!(status.contains("pending") && status.contains("v1.example.com"), "{status}");
    let wait = |timeout| -> Ran {
        run(&["wait", &lb.path().display().to_string(), "--timeout", timeout, "--admin", &lb.admin.to_string()])
    };
    let waited = wait("300ms");
    assert_eq!(waited.code, Some(2), "{waited:?}");
    assert!(waited.err.contains("pending") && waited.err.contains("site.key"), "{waited:?}");

    lb.edit_file(&text.replace("weight = 1", "weight = 2"));
    lb.reaches(2);
    assert_eq!((&lb.server("a")["weight"], names(&lb)), (&json!(2), json!([["v1.example.com"]])));
    eventually("it is still pending", || (lb.api("/api/config")["state"] == "pending").then_some(()));

    fs::write(beside(&lb, "site.key"), &next.key).unwrap();
    becomes(&lb, &json!([["v2.example.com"]]));
    assert_eq!(lb.api("/api/config")["state"], "current");
    assert_eq!(outcomes(&lb).first().map(String::as_str), Some("applied"));
    assert_eq!(wait("5s").code, Some(0));
}

// Case: certificate-files
#[test]
fn a_pair_that_is_gone_stays_in_force_until_it_is_back() {
    let lb = start(SITE, |at| numbered(1).write(&at.join("site.pem"), &at.join("site.key")));
    fs::remove_file(beside(&lb, "site.key")).unwrap();
    let pending =
        eventually("it is pending", || Some(lb.newest_reload()).filter(|reload| reload["outcome"] == "pending"));
    let message = pending["problems"][0]["message"].as_str().unwrap();
    assert_eq!(message, "site.pem and site.key: site.key: there is no such file");
    assert_eq!(names(&lb), json!([["v1.example.com"]]));
    numbered(2).rename(&beside(&lb, "site.pem"), &beside(&lb, "site.key"));
    becomes(&lb, &json!([["v2.example.com"]]));
}

// Case: certificate-files
#[test]
fn an_edit_that_adds_a_pair_waits_for_it_as_a_whole() {
    let lb = start(SITE, |at| numbered(1).write(&at.join("site.pem"), &at.join("site.key")));
    let text = fs::read_to_string(lb.path()).unwrap();
    let second = "[[certificate]]\nfile = \"second.pem\"\nkey = \"second.key\"\n[[server]]";
    lb.edit_file(&text.replacen("[[server]]", second, 1).replace("weight = 1", "weight = 3"));
    eventually("it is pending", || Some(lb.newest_reload()).filter(|reload| reload["outcome"] == "pending"));
    assert_eq!((lb.generation(), &lb.server("a")["weight"]), (1, &json!(1)));
    numbered(2).write(&beside(&lb, "second.pem"), &beside(&lb, "second.key"));
    becomes(&lb, &json!([["v1.example.com"], ["v2.example.com"]]));
    assert_eq!(lb.server("a")["weight"], 3);
}

#[test]
fn directories_may_come_and_go() {
    let lb = start("[[certificate]]\ndirectory = \"certs/*\"\n", |at| {
        fs::create_dir_all(at.join("certs/one")).unwrap();
        numbered(1).write(&at.join("certs/one/tls.crt"), &at.join("certs/one/tls.key"));
    });
    fs::create_dir(beside(&lb, "certs/two")).unwrap();
    numbered(2).write(&beside(&lb, "certs/two/fullchain.pem"), &beside(&lb, "certs/two/privkey.pem"));
    becomes(&lb, &json!([["v1.example.com"], ["v2.example.com"]]));
    let files = lb.api("/api/certificates")["certificates"].clone();
    assert_eq!(
        (&files[0]["file"], &files[1]["file"]),
        (&json!("certs/one/tls.crt"), &json!("certs/two/fullchain.pem"))
    );
    // Its files alone may be about to be written again.
    for file in ["tls.crt", "tls.key"] {
        fs::remove_file(beside(&lb, "certs/one").join(file)).unwrap();
    }
    eventually("it is pending", || Some(lb.newest_reload()).filter(|reload| reload["outcome"] == "pending"));
    assert_eq!(names(&lb), json!([["v2.example.com"], ["v1.example.com"]]));
    fs::remove_dir(beside(&lb, "certs/one")).unwrap();
    becomes(&lb, &json!([["v2.example.com"]]));
}

// Case: certificate-files
#[test]
fn an_expired_certificate_is_used_with_a_warning() {
    let lb = start(SITE, |at| {
        let expired = pair_of(&PKCS_ED25519, &["old.example.com"], -90, -1);
        expired.write(&at.join("site.pem"), &at.join("site.key"));
    });
    let is_warned = |line: &String| line.contains("WARN") && line.contains("certificate site.pem expired on 20");
    eventually("a warning in the log", || lb.stderr().iter().any(is_warned).then_some(()));
    let config = lb.api("/api/config");
    assert!(config["warnings"][0].as_str().unwrap().contains("expired"), "{config:#}");
    let certificate = lb.api("/api/certificates")["certificates"][0].clone();
    assert_eq!((&certificate["validity"], &certificate["key_type"]), (&json!("expired"), &json!("Ed25519")));
    assert!(lb.metric("lb_certificate_expiry_timestamp_seconds{certificate=\"site.pem\"}").unwrap() > 1e9);
    let status = run(&["status", "--admin", &lb.admin.to_string()]).out;
    assert!(status.contains("old.example.com") && status.contains("expired"), "{status}");
}

/// Runs `lb check` on a configuration with these files beside it.
fn check(certificates: &str, files: &[(&str, &str)]) -> Ran {
    let directory = TempDir::new().unwrap();
    files.iter().for_each(|(name, text)| fs::write(directory.path().join(name), text).unwrap());
    let path = directory.path().join("lb.toml");
    fs::write(&path, format!("{FILE}{certificates}{}", server())).unwrap();
    let mut ran = run(&["check", &path.display().to_string()]);
    ran.out = ran.out.replace(&directory.path().display().to_string(), "");
    // The start says the same.
    let started = if ran.code == Some(0) { None } else { run(&["--config", &path.display().to_string()]).code };
    assert!(started.is_none_or(|code| code == 1), "{started:?}");
    ran
}

// Case: certificate-files
#[test]
fn the_check_and_the_start_name_a_pair_that_cannot_be_used() {
    let (one, other) = (pair(&["a.example.com"]), pair(&["b.example.com"]));
    for (files, place, words) in [
        (vec![("site.pem", &*one.chain)], ":13:7", "site.pem and site.key: site.key: there is no such file"),
        (vec![("site.key", &*one.key)], ":12:8", "site.pem and site.key: site.pem: there is no such file"),
        (
            vec![("site.pem", &one.chain), ("site.key", &other.key)],
            ":12:8",
            "site.pem and site.key: the key does not belong to the certificate",
        ),
        (vec![("site.pem", &one.key), ("site.key", &one.chain)], ":12:8", "this is a private key"),
    ] {
        let ran = check(SITE, &files);
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(ran.out.contains(words) && ran.out.contains(place), "{}", ran.out);
    }
    let ran = check("[[certificate]]\ndirectory = \"certs/*\"\n", &[]);
    assert!(ran.code == Some(1) && ran.out.contains("no directory matches `certs/*`"), "{}", ran.out);
}

#[test]
fn the_check_notes_what_clients_will_not_accept() {
    let expired = pair_of(&PKCS_ECDSA_P256_SHA256, &["a.example.com"], -90, -1);
    let files = [("site.pem", &*expired.chain), ("site.key", &*expired.key)];
    let route = "[[route]]\nhost = \"b.example.com\"\npool = \"default\"\n";
    let ran = check(&format!("{SITE}{route}"), &files);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.out.contains("note: certificate site.pem expired on 20"), "{}", ran.out);
    assert!(ran.out.contains("note: no certificate is for b.example.com"), "{}", ran.out);
    let twice = format!("{SITE}[[certificate]]\nfile = \"two.pem\"\nkey = \"two.key\"\n");
    let two = pair(&["a.example.com"]);
    let ran = check(&twice, &[files[0], files[1], ("two.pem", &two.chain), ("two.key", &two.key)]);
    let words = "certificates two.pem and site.pem are both for a.example.com; two.pem is served";
    assert!(ran.out.contains(words), "{}", ran.out);
}

#[test]
fn the_check_rejects_defaults_and_listeners_that_cannot_work() {
    let one = pair(&["a.example.com"]);
    let files = [("site.pem", &*one.chain), ("site.key", &*one.key)];
    let default = SITE.replace("[[certificate]]", "[[certificate]]\ndefault = true");
    for (certificates, place, words) in [
        (String::new(), ":3:1", "this listener uses TLS, and there is no [[certificate]]"),
        (format!("{default}{default}"), ":16:11", "two certificates are marked as the default one"),
        (
            format!("{SITE}[[listener]]\naddress = \"127.0.0.1:1\"\ntls = {{ unknown_host = \"default\" }}\n"),
            ":16:24",
            "`unknown_host = \"default\"` needs a default certificate",
        ),
    ] {
        let ran = check(&certificates, &files);
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(ran.out.contains(words) && (ran.out.contains(place) || certificates.is_empty()), "{}", ran.out);
    }
}

#[test]
fn explain_names_the_certificate_of_a_server_name() {
    let lb = start(&format!("{SITE}[[certificate]]\nfile = \"wild.pem\"\nkey = \"wild.key\"\n"), |at| {
        pair(&["a.example.com"]).write(&at.join("site.pem"), &at.join("site.key"));
        pair(&["*.example.com"]).write(&at.join("wild.pem"), &at.join("wild.key"));
    });
    let explain = |host: &str| run(&["explain", "--tls", host, "--admin", &lb.admin.to_string()]);
    for (host, words) in [
        ("a.example.com", "certificate site.pem: ECDSA P-256, for a.example.com, expires 20"),
        ("B.example.com.", "certificate wild.pem: ECDSA P-256, for *.example.com, expires 20"),
    ] {
        let ran = explain(host);
        assert_eq!((ran.code, ran.out.contains(words)), (Some(0), true), "{ran:?}");
        assert!(ran.out.contains("TLS 1.2 and 1.3, h2 or http/1.1"), "{ran:?}");
    }
    let ran = explain("a.b.example.com");
    assert_eq!((ran.code, ran.out.contains("unrecognized_name")), (Some(1), true), "{ran:?}");
    let json = run(&["explain", "--tls", "c.example.com", "--json", "--admin", &lb.admin.to_string()]).json();
    assert_eq!(json["listeners"][0]["certificates"], json!(["wild.pem"]), "{json:#}");
}

#[test]
fn the_plan_shows_a_certificate_that_differs() {
    let lb = start(SITE, |at| numbered(1).write(&at.join("site.pem"), &at.join("site.key")));
    let plan = |path: &Path| run(&["plan", &path.display().to_string(), "--admin", &lb.admin.to_string()]);
    let ran = plan(&lb.path());
    assert!(ran.out.contains("no changes"), "{ran:?}");
    let other = TempDir::new().unwrap();
    let path = other.path().join("lb.toml");
    fs::copy(lb.path(), &path).unwrap();
    numbered(2).write(&other.path().join("site.pem"), &other.path().join("site.key"));
    let ran = plan(&path);
    assert!(ran.out.contains("certificate site.pem: new, for v2.example.com, expires 20"), "{ran:?}");
}

#[test]
fn a_start_that_only_lacks_its_pair_recovers_from_the_last_good_copy() {
    let directory = TempDir::new().unwrap();
    let at = directory.path().to_owned();
    let path = at.join("lb.toml");
    let state = format!("state_dir = \"{}\"\n[[certificate]]", at.join("state").display());
    let text = format!("{FILE}{SITE}{}", server()).replacen("[[certificate]]", &state, 1);
    numbered(1).write(&at.join("site.pem"), &at.join("site.key"));
    fs::write(&path, &text).unwrap();
    let saved =
        |lb: &Lb| lb.metric("lb_config_last_good_saved") == Some(1.0) && at.join("state/last_good.json").exists();
    let lb = Lb::start_in(TempDir::new().unwrap(), path.clone());
    eventually("the copy is saved", || saved(&lb).then_some(()));
    drop(lb);
    // The new file names a pair that is not there yet.
    fs::write(&path, text.replace("site.", "next.")).unwrap();
    let lb = Lb::start_in(TempDir::new().unwrap(), path);
    assert_eq!((names(&lb), &lb.api("/api/config")["state"]), (json!([["v1.example.com"]]), &json!("last_good")));
    numbered(2).write(&at.join("next.pem"), &at.join("next.key"));
    becomes(&lb, &json!([["v2.example.com"]]));
    assert_eq!(lb.api("/api/config")["state"], "current");
}
