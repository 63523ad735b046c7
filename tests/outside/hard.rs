//! The cases of docs/http-cases.md, in a module for each of its first five sections. Its seventh section is
//! tested in `tunnels.rs` and `half_closed.rs`, and here in `slow`.
//!
//! Tables use the page's notation: `¶` is CRLF, and `P+`, `G+` and `C+` start a request. Every other character is the
//! byte with its number. A row is sent once for each value of `{}`. Tests without a table name their cases in a comment.

mod framing;
mod head;
mod responses;
pub(crate) mod servers;
mod slow;
mod trust;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::support::client::{Client, get};
use crate::support::lb::{Lb, NO_CHECKS};
use crate::support::servers::Server;

/// Requests that have the same outcome.
struct Row {
    case: &'static str,
    sent: &'static str,
    values: &'static [&'static str],
    outcome: Outcome,
}

const fn row(case: &'static str, sent: &'static str, values: &'static [&'static str], outcome: Outcome) -> Row {
    Row { case, sent, values, outcome }
}

/// The values of a row that has no `{}`.
const ONE: &[&str] = &[""];

/// The outcome that a row expects.
#[derive(Clone, Copy)]
enum Outcome {
    /// One of these statuses, before any server has seen a complete request; then the connection closes.
    Closed(&'static [u16]),
    /// This status, from `lb` itself; the connection may stay open.
    Own(u16),
    /// A 200 from the server, which saw this request line, this body, and exactly these values of these headers.
    Seen(&'static str, &'static str, &'static [(&'static str, &'static [&'static str])]),
}

use Outcome::{Closed, Own, Seen};

/// "400c".
const BAD: Outcome = Closed(&[400]);

/// The bytes that a table's text stands for.
fn bytes(text: &str) -> Vec<u8> {
    let text = text
        .replace("C+", "P+Transfer-Encoding: chunked¶¶")
        .replace("P+", "POST / HTTP/1.1¶Host: a¶")
        .replace("G+", "GET / HTTP/1.1¶Host: a¶");
    let latin1 = |c: char| u8::try_from(u32::from(c)).expect("a character that is one byte");
    text.split('¶').map(|line| line.chars().map(latin1).collect::<Vec<u8>>()).collect::<Vec<_>>().join(&b"\r\n"[..])
}

fn ok() -> Server {
    Server::responding("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
}

/// Sends each request on a new connection, and asserts its outcome and [what holds in every case](assert_well).
fn run(rows: &[Row]) {
    let server = ok();
    let lb = Lb::in_front_of(&server, "[log]\naccess = false\n");
    for Row { case, sent, values, outcome } in rows {
        for value in *values {
            let case = format!("{case}: {}", sent.replace("{}", value));
            let before = server.requests().len();
            let mut client = Client::connect(lb.address());
            client.send(bytes(&sent.replace("{}", value)));
            let response = client.try_response().unwrap_or_else(|error| panic!("{case}: {error}"));
            let seen = server.requests().split_off(before);
            match *outcome {
                Closed(statuses) => {
                    assert!(statuses.contains(&response.status) && seen.is_empty(), "{case}: {response:?}, {seen:#?}");
                    assert!(client.is_closed(), "{case}: {response:?}, and open");
                }
                Own(status) => assert!(response.status == status && seen.is_empty(), "{case}: {response:?}, {seen:#?}"),
                Seen(line, body, headers) => {
                    let [request] = &seen[..] else { panic!("{case}: {seen:#?}") };
                    let saw = (response.status, &*request.line, &*request.body);
                    assert_eq!(saw, (200, line, body.as_bytes()), "{case}: {request:#?}");
                    for (name, values) in headers {
                        assert_eq!(request.values(name), *values, "{case}: {name} of {request:#?}");
                    }
                }
            }
            assert_well(&lb, &server, &case);
            assert_eq!(
                server.requests().len(),
                before + seen.len() + 1,
                "{case}: the server got another request later"
            );
        }
    }
}

/// The names of cases in all Rust files below `directory`: those in `// Case: ` comments and, in tests, those of rows.
fn named_cases(directory: &Path, are_tests: bool) -> BTreeSet<String> {
    let mut cases = BTreeSet::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            cases.extend(named_cases(&path, are_tests));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            for line in fs::read_to_string(&path).unwrap().lines().map(str::trim_start) {
                let comment = line.strip_prefix("// Case: ").or_else(|| line.strip_prefix("// Cases: "));
                cases.extend(comment.into_iter().flat_map(|names| names.split(", ")).map(str::to_owned));
                let row = line.strip_prefix("row(\"").filter(|_| are_tests);
                cases.extend(row.and_then(|row| row.split('"').next()).map(str::to_owned));
            }
        }
    }
    cases
}

#[test]
fn every_case_of_the_page_has_a_test_and_every_named_case_is_on_the_page() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/http-cases.md")).unwrap();
    let cases = page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next().map(str::to_owned));
    let cases: BTreeSet<_> = cases.collect();
    assert!(cases.len() > 50, "only {} cases", cases.len());
    assert_eq!(named_cases(&root.join("tests"), true), cases);
    let unknown: Vec<_> =
        named_cases(&root.join("src"), false).into_iter().filter(|case| !cases.contains(case)).collect();
    assert!(unknown.is_empty(), "in src: {unknown:?}");
}

/// `lb` in front of a server that may do anything, and of one that responds to the [next client](assert_well).
fn in_front_of(server: &Server, config: &str) -> (Lb, Server) {
    let healthy = ok();
    let table = healthy.table("healthy").replace("[[server]]", "[[pool.healthy.server]]");
    let routes = "[[route]]\npool = \"default\"\n[[route]]\npath = \"/next\"\npool = \"healthy\"\n";
    (Lb::start(&format!("{NO_CHECKS}{config}{}{routes}{table}", server.table("server1"))), healthy)
}

/// Asserts what holds in every case: the process lives, the next client gets a 200, and all that a server saw is
/// canonical.
#[track_caller]
fn assert_well(lb: &Lb, server: &Server, case: &str) {
    assert_eq!(get(lb.address(), "/next").status, 200, "{case}: the next client");
    for request in server.requests() {
        assert!(request.is_canonical(), "{case}: {request:#?}");
    }
}
