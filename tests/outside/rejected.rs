//! Bad edits: nothing of them takes effect, the place of each problem is reported, and the correction applies at once.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use fastrand::Rng;
use serde_json::{Value, json};

use crate::support::client::{Client, get};
use crate::support::eventually;
use crate::support::lb::{Lb, PORTS, servers};
use crate::support::servers::Server;

/// No health checks, and no poll.
const EVENTS: &str = "[health]\nkind = \"none\"\n[reload]\npoll = \"0s\"\n";

/// The problems of the reload after `before`, which must be a rejection.
#[track_caller]
fn rejection(lb: &Lb, before: &Value) -> Vec<Value> {
    let reload = lb.next_reload(before);
    assert_eq!((&reload["outcome"], &reload["generation"]), (&json!("rejected"), &before["generation"]), "{reload:#}");
    assert_eq!(reload["changes"], json!([]));
    reload["problems"].as_array().expect("problems").clone()
}

/// Bad files made from a good one, each with the place of its problem and some words of the message.
fn bad_files(good: &str) -> Vec<(Vec<u8>, usize, usize, String)> {
    let lines = good.lines().count();
    let case =
        |bad: String, line: usize, column: usize, words: &str| (bad.into_bytes(), line, column, words.to_owned());
    let more = |text: &str| format!("{good}{text}");
    let twin = &good[good.find("[[server]]").expect("a server")..];
    let cut = &good[..good.len() - "7\"\nweight = 1\n".len()];
    let cut_at = cut.lines().last().map_or(0, str::len) + 1;
    let mut not_text = good.as_bytes().to_vec();
    not_text.extend(b"# \xff\n");
    vec![
        case(String::new(), 0, 0, "there is no [[listener]]"),
        case(cut.to_owned(), lines - 1, cut_at, "never closed"),
        case(good[..good.len() - twin.len()].to_owned(), 0, 0, "pool `default` has no server"),
        case(more("wieght = 2\n"), lines + 1, 1, "unknown key `wieght`"),
        case(more("enabled = 1\n"), lines + 1, 11, "true or false"),
        case(more("weight = 2\n"), lines + 1, 1, "already defined"),
        case(more(twin), lines + 2, 8, "`a`"),
        case(more("[[route]]\npool = \"nowhere\"\n"), lines + 2, 8, "`nowhere`"),
        case(more("\0"), lines + 1, 1, "NUL byte"),
        case(more("enabled = false\n"), lines - 3, 1, "no enabled server"),
        (not_text, lines + 1, 3, "UTF-8".to_owned()),
    ]
}

// Case: bad-file
#[test]
fn a_bad_edit_changes_nothing_and_its_problems_are_reported() {
    let server = Server::named("a");
    let good = |weight| format!("{PORTS}{EVENTS}{}", servers(&[("a", server.address, weight)]));
    let lb = Lb::start_file(&good(1));
    let mut client = Client::connect(lb.address());
    let mut weight = 1;
    for (number, (bad, line, column, words)) in bad_files(&good(1)).into_iter().enumerate() {
        let before = lb.newest_reload();
        lb.edit_bytes(&bad);
        let problems = rejection(&lb, &before);
        let is_reported = problems.iter().any(|problem| {
            (&problem["line"], &problem["column"]) == (&json!(line), &json!(column))
                && problem["message"].as_str().is_some_and(|message| message.contains(&words))
        });
        assert!(is_reported, "{words} at {line}:{column} is not among {problems:#?}");
        assert!(problems.iter().all(|problem| problem["file"] == lb.path().display().to_string()), "{problems:#?}");
        assert_eq!((client.get("/").text(), get(lb.address(), "/").text()), ("a".into(), "a".into()));
        let config = lb.api("/api/config");
        assert_eq!((&config["state"], &config["generation"]), (&json!("last_good"), &before["generation"]));
        assert_eq!(lb.metric("lb_config_last_reload_successful"), Some(0.0));

        // Corrected, in turn by the earlier file and by a new one.
        let rejected = lb.newest_reload();
        weight += u32::try_from(number % 2).unwrap();
        lb.edit_file(&good(weight));
        let corrected = lb.next_reload(&rejected);
        assert_eq!(corrected["outcome"], if number % 2 == 0 { "unchanged" } else { "applied" }, "{corrected:#}");
        assert_eq!(lb.api("/api/config")["state"], "current");
        assert_eq!(lb.server("a")["weight"], weight);
        assert_eq!(lb.metric("lb_config_last_reload_successful"), Some(1.0));
    }
    assert!(weight > 4);
}

#[test]
fn the_record_and_the_log_have_every_problem() {
    let server = Server::named("a");
    let good = format!("{EVENTS}{}", servers(&[("a", server.address, 1)]));
    let lb = Lb::start(&good);
    let before = lb.newest_reload();
    lb.edit(&format!("{good}wieght = 1\n[limits]\nheaders = \"many\"\n[[route]]\npool = \"b\"\n"));
    let problems = rejection(&lb, &before);
    assert_eq!(problems.len(), 3, "{problems:#?}");
    assert!(problems.iter().any(|problem| problem["hint"] == "did you mean `weight`?"), "{problems:#?}");
    for problem in &problems {
        let place = format!("{}:{}:{}: ", problem["file"].as_str().unwrap(), problem["line"], problem["column"]);
        let message = problem["message"].as_str().unwrap();
        let is_logged = |line: &String| line.contains("ERROR") && line.contains(&place) && line.contains(message);
        eventually("the problem is logged", || lb.stderr().iter().any(is_logged).then_some(()));
    }
    assert_eq!(lb.metric("lb_reloads_total{result=\"rejected\"}"), Some(1.0));
}

#[test]
fn an_edit_that_removes_too_many_servers_is_rejected() {
    let server = Server::named("a");
    let names = ["s1", "s2", "s3", "s4"];
    let config = |limit: &str, left: usize| {
        let left: Vec<_> = names[..left].iter().map(|name| (*name, server.address, 1)).collect();
        let rules = format!("{EVENTS}max_removed = \"{limit}\"\nallow_empty = true\n");
        format!("{rules}{}", servers(&left))
    };
    let lb = Lb::start(&config("50%", 4));
    for (limit, left) in [("50%", 1), ("50%", 0), ("100%", 1)] {
        let before = lb.newest_reload();
        lb.edit(&config(limit, left));
        let problems = rejection(&lb, &before);
        assert!(problems[0]["message"].as_str().unwrap().contains("of the 4 enabled servers"), "{problems:#?}");
        let text = std::fs::read_to_string(lb.path()).unwrap();
        let line = text.lines().position(|line| line.starts_with("max_removed")).unwrap() + 1;
        assert_eq!((&problems[0]["line"], &problems[0]["column"]), (&line.into(), &15.into()), "{problems:#?}");
        assert_eq!(lb.api("/api/servers?active=true")["servers"].as_array().unwrap().len(), 4);
    }
    lb.apply(&config("50%", 2));
    lb.apply(&config("100%", 2));
    lb.apply(&config("100%", 0));
    assert_eq!(get(lb.address(), "/").status, 503);
}

/// The text with something removed, doubled or overwritten, except in its first `keep` bytes.
fn mutate(text: &str, keep: usize, dice: &mut Rng) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    let at = keep + dice.usize(..bytes.len() - keep);
    let end = (at + dice.usize(1..=20)).min(bytes.len());
    let table = text.find("[[server]]").expect("a server")..text.rfind("[[server]]").expect("a server");
    match dice.usize(..6) {
        0 => drop(bytes.drain(at..end)),
        1 => bytes.truncate(at),
        2 => bytes[at] = dice.u8(..),
        3 => {
            let part = bytes[at..end].to_vec();
            bytes.splice(end..end, part);
        }
        // These two give another good file: servers are removed, weights change.
        4 => drop(bytes.drain(table.start..table.start + table.len() / 3 * dice.usize(1..=3))),
        _ => {
            let weight = format!("weight = {}", dice.u8(1..=9));
            return text.replacen("weight = 5", &weight, dice.usize(1..=4)).into_bytes();
        }
    }
    bytes
}

/// Sets the flag when dropped, so that the threads that look at it end even if the test fails.
struct DoneGuard<'a>(&'a AtomicBool);

impl Drop for DoneGuard<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

#[test]
fn five_hundred_mutated_files_fail_no_request_and_each_is_recorded() {
    let up = ["a", "b", "c", "d"].map(Server::named);
    let tables: Vec<_> =
        ["a", "b", "c", "d"].iter().zip(&up).map(|(name, server)| (*name, server.address, 5)).collect();
    let text = format!("{PORTS}{}", servers(&tables));
    let lb = Lb::start_file(&text);
    let address = lb.address();
    let (done, responses, failures) = (&AtomicBool::new(false), &AtomicUsize::new(0), &Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(move || {
                let mut client = Client::connect(address);
                while !done.load(SeqCst) {
                    match client.try_get("/") {
                        Ok(response) if response.status == 200 => drop(responses.fetch_add(1, SeqCst)),
                        other => {
                            failures.lock().unwrap().push(format!("{other:?}"));
                            client = Client::connect(address);
                        }
                    }
                    // Leaves the processor to `lb`.
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
            });
        }
        let _guard = DoneGuard(done);
        let mut current = text.clone().into_bytes();
        let mut dice = Rng::with_seed(100);
        for _ in 0..500 {
            let before = lb.newest_reload();
            let bytes = mutate(&text, PORTS.len(), &mut dice);
            lb.edit_bytes(&bytes);
            // An unchanged file is no reload.
            if bytes != current {
                let record = lb.next_reload(&before);
                if record["outcome"] == "rejected" {
                    assert_eq!(record["generation"], before["generation"], "{record:#}");
                    assert_ne!(record["problems"], serde_json::json!([]), "{record:#}");
                }
            }
            current = bytes;
        }
    });
    let failures = failures.lock().unwrap();
    assert!(failures.is_empty(), "{} failures: {:#?}", failures.len(), &failures[..failures.len().min(5)]);
    let count = |outcome: &str| lb.metric(&format!("lb_reloads_total{{result=\"{outcome}\"}}"));
    assert!(responses.load(SeqCst) > 100, "{responses:?} responses are no load");
    assert!(
        count("applied") > Some(20.0) && count("rejected") > Some(20.0),
        "{:?}",
        (count("applied"), count("rejected"))
    );
    lb.edit_file(&text.replace("weight = 5", "weight = 7"));
    eventually("the last content is applied", || (lb.server("a")["weight"] == 7).then_some(()));
}

// Case: huge-file
#[test]
fn a_file_that_is_too_large_or_not_regular_is_rejected() {
    let server = Server::named("a");
    let good = format!("{PORTS}{EVENTS}{}", servers(&[("a", server.address, 1)]));
    let lb = Lb::start_file(&good);
    let place = |name: &str| lb.path().with_file_name(name);
    assert!(std::process::Command::new("mkfifo").arg(place("fifo")).status().unwrap().success());
    std::os::unix::fs::symlink("/dev/zero", place("device")).unwrap();
    std::fs::File::create(place("large")).unwrap().set_len(100 << 20).unwrap();
    for (new, words) in [("fifo", "FIFO"), ("device", "a device"), ("large", "larger than 16 MiB")] {
        let before = lb.newest_reload();
        std::fs::rename(place(new), lb.path()).unwrap();
        let problems = rejection(&lb, &before);
        assert!(problems[0]["message"].as_str().unwrap().contains(words), "{problems:#?}");
        assert_eq!(get(lb.address(), "/").text(), "a");
        let rejected = lb.newest_reload();
        lb.edit_file(&good);
        assert_eq!(lb.next_reload(&rejected)["outcome"], "unchanged");
    }
}

#[test]
fn a_rejected_edit_is_logged_at_any_level_but_off() {
    let server = Server::named("a");
    for (level, seen) in
        [("error", true), ("lb::health=debug", true), ("info,lb=off", true), ("off,notify=warn", true), ("off", false)]
    {
        let good = format!("{PORTS}{EVENTS}[log]\nlevel = \"info\"\n{}", servers(&[("a", server.address, 1)]));
        let lb = Lb::start_file(&good);
        let quiet = good.replace("level = \"info\"", &format!("level = \"{level}\""));
        lb.edit_file(&quiet);
        lb.reaches(2);
        let (before, lines) = (lb.newest_reload(), lb.stderr().len());
        lb.edit_file(&format!("{quiet}wieght = 1\n"));
        let problems = rejection(&lb, &before);
        assert_eq!(problems.len(), 1);
        if seen {
            eventually(&format!("the rejection is logged at {level}"), || {
                lb.stderr()[lines..].iter().any(|line| line.contains("wieght")).then_some(())
            });
        } else {
            // It would have been logged before the record.
            assert_eq!(lb.stderr()[lines..], [""; 0]);
        }
    }
}
