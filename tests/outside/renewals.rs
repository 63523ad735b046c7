//! New contents of certificates are put in force, whatever has become of the file that names them.

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::certificates::{FILE, SITE, becomes, beside, names, numbered, server, start};
use crate::reload::outcomes;
use crate::support::eventually;
use crate::support::lb::{Lb, run};

fn newest_is(lb: &Lb, outcome: &str) -> Value {
    eventually(&format!("it is {outcome}"), || Some(lb.newest_reload()).filter(|reload| reload["outcome"] == outcome))
}

/// Replaces the pair while the file is as it is, and expects the new one in a generation of the old configuration.
#[track_caller]
fn renew(lb: &Lb, number: usize, outcome: &str) {
    let (before, hash) = (lb.generation(), lb.api("/api/config")["hash"].clone());
    let last = lb.newest_reload();
    numbered(number).rename(&beside(lb, "site.pem"), &beside(lb, "site.key"));
    eventually(&format!("certificate {number}"), || {
        (names(lb)[0] == json!([format!("v{number}.example.com")])).then_some(())
    });
    assert_eq!((lb.generation(), &lb.api("/api/config")["hash"]), (before + 1, &hash));
    // The record has the certificate, and ends with the state of the file.
    let newest = newest_is(lb, outcome);
    assert_eq!((&newest["hash"], &newest["problems"]), (&last["hash"], &last["problems"]));
    let applied = lb.api("/api/reloads?limit=2")["reloads"][1].clone();
    assert_eq!((&applied["outcome"], &applied["hash"]), (&json!("applied"), &hash));
    let change = applied["changes"][0].as_str().unwrap();
    assert!(change.contains(&format!("certificate site.pem: new, for v{number}.example.com")), "{change}");
    assert_eq!(applied["changes"].as_array().unwrap().len(), 1);
    assert_eq!(lb.metric("lb_config_last_reload_successful"), Some(0.0));
}

fn started() -> (Lb, String) {
    let lb = start(SITE, |at| numbered(1).write(&at.join("site.pem"), &at.join("site.key")));
    let text = fs::read_to_string(lb.path()).unwrap();
    (lb, text)
}

// Case: certificate-files
#[test]
fn certificates_are_renewed_while_the_file_is_rejected() {
    let (lb, text) = started();
    for (number, bad) in
        [(2, format!("{text}wieght = 1\n")), (3, text.replace("weight = 1", "weight = 0")), (4, "[[".to_owned())]
    {
        let last = lb.newest_reload();
        lb.edit_file(&bad);
        assert_eq!(lb.next_reload(&last)["outcome"], "rejected");
        renew(&lb, number, "rejected");
    }
    let last = lb.newest_reload();
    fs::remove_file(lb.path()).unwrap();
    assert_eq!(lb.next_reload(&last)["outcome"], "rejected");
    renew(&lb, 5, "rejected");
    lb.edit_file(&text.replace("weight = 1", "weight = 2"));
    eventually("the edit is applied", || (lb.server("a")["weight"] == 2).then_some(()));
    assert_eq!(names(&lb), json!([["v5.example.com"]]));
    assert_eq!(outcomes(&lb)[0], "applied");
    assert!(!lb.has_panicked());
}

// Case: certificate-files
#[test]
fn certificates_are_renewed_while_an_edit_is_pending() {
    let (lb, text) = started();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listener = format!("[[listener]]\naddress = \"{}\"\n", taken.local_addr().unwrap());
    let unknown = "[[server]]\nname = \"b\"\naddress = \"nowhere.invalid:80\"\n";
    let missing = "[[certificate]]\nfile = \"second.pem\"\nkey = \"second.key\"\n";
    for (number, edit) in [(2, &*listener), (3, unknown), (4, missing)] {
        let last = lb.newest_reload();
        lb.edit_file(&format!("{text}{edit}"));
        assert_eq!(lb.next_reload(&last)["outcome"], "pending");
        renew(&lb, number, "pending");
        assert_eq!(lb.api("/api/config")["state"], "pending");
    }
    // An edit that no longer names the pair concerns it only once it is applied.
    numbered(9).write(&beside(&lb, "other.pem"), &beside(&lb, "other.key"));
    let last = lb.newest_reload();
    lb.edit_file(&format!("{}{listener}", text.replace("site.", "other.")));
    assert_eq!(lb.next_reload(&last)["outcome"], "pending");
    renew(&lb, 5, "pending");
    drop(taken);
    becomes(&lb, &json!([["v9.example.com"]]));
    assert_eq!(lb.api("/api/config")["state"], "current");
}

// Case: certificate-files
#[test]
fn a_pair_that_does_not_match_is_reported_while_the_file_is_rejected() {
    let (lb, text) = started();
    lb.edit_file(&format!("{text}wieght = 1\n"));
    newest_is(&lb, "rejected");
    let next = numbered(2);
    fs::write(beside(&lb, "site.pem"), &next.chain).unwrap();
    let pending = eventually("the pair is reported", || {
        let reloads = lb.api("/api/reloads")["reloads"].clone();
        Some(reloads[1].clone()).filter(|reload| reload["outcome"] == "pending" && reloads[0]["outcome"] == "rejected")
    });
    assert!(pending["problems"][0]["message"].as_str().unwrap().contains("does not belong"), "{pending:#}");
    assert_eq!((names(&lb), lb.generation()), (json!([["v1.example.com"]]), 1));
    fs::write(beside(&lb, "site.key"), &next.key).unwrap();
    becomes(&lb, &json!([["v2.example.com"]]));
    newest_is(&lb, "rejected");
}

// Case: certificate-files
#[test]
fn certificates_are_renewed_after_a_start_from_the_last_good_copy() {
    let directory = TempDir::new().unwrap();
    let at = directory.path().to_owned();
    let path = at.join("lb.toml");
    let state = format!("state_dir = \"{}\"\n[[certificate]]", at.join("state").display());
    let text = format!("{FILE}{SITE}{}", server()).replacen("[[certificate]]", &state, 1);
    numbered(1).write(&at.join("site.pem"), &at.join("site.key"));
    fs::write(&path, &text).unwrap();
    let first = Lb::start_in(TempDir::new().unwrap(), path.clone());
    eventually("the copy is saved", || {
        let is_saved = first.metric("lb_config_last_good_saved") == Some(1.0);
        (is_saved && at.join("state/last_good.json").exists()).then_some(())
    });
    drop(first);
    fs::write(&path, format!("{text}wieght = 1\n")).unwrap();
    let lb = Lb::start_in(directory, path);
    assert_eq!(lb.api("/api/config")["state"], "last_good");
    renew(&lb, 2, "rejected");
    assert_eq!(lb.api("/api/config")["state"], "last_good");
}

fn wait(path: &Path, lb: &Lb, timeout: &str) -> (Option<i32>, String) {
    let admin = lb.admin.to_string();
    let ran = run(&["wait", &path.display().to_string(), "--timeout", timeout, "--targets", &admin]);
    (ran.code, format!("{}{}", ran.out, ran.err))
}

#[test]
fn a_wait_ends_once_the_contents_of_the_certificates_are_in_force() {
    let (lb, text) = started();
    for number in 2..6 {
        numbered(number).write(&beside(&lb, "site.pem"), &beside(&lb, "site.key"));
        let (code, said) = wait(&lb.path(), &lb, "30s");
        assert_eq!((code, names(&lb)), (Some(0), json!([[format!("v{number}.example.com")]])), "{said}");
    }
    // A copy of the file whose certificate is another one.
    let other = TempDir::new().unwrap();
    let path = other.path().join("lb.toml");
    fs::write(&path, &text).unwrap();
    numbered(6).write(&other.path().join("site.pem"), &other.path().join("site.key"));
    let (code, said) = wait(&path, &lb, "300ms");
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("generation 5, with other contents of site.pem, site.key"), "{said}");
    // Files that are not there are those of the balancer's machine.
    for file in ["site.pem", "site.key"] {
        fs::remove_file(other.path().join(file)).unwrap();
    }
    assert_eq!(wait(&path, &lb, "30s").0, Some(0));
}

#[test]
fn a_wait_ends_once_a_directory_that_is_gone_is_no_longer_used() {
    let lb = start("[[certificate]]\ndirectory = \"certs/*\"\n", |at| {
        for number in 1..4 {
            let directory = at.join(format!("certs/{number}"));
            fs::create_dir_all(&directory).unwrap();
            numbered(number).write(&directory.join("tls.crt"), &directory.join("tls.key"));
        }
    });
    for left in (1..3).rev() {
        fs::remove_dir_all(beside(&lb, "certs").join((left + 1).to_string())).unwrap();
        let (code, said) = wait(&lb.path(), &lb, "30s");
        assert_eq!((code, names(&lb).as_array().unwrap().len()), (Some(0), left), "{said}");
    }
}
