//! The rows of docs/http-cases.md, a module for each of its sections, and what every row also asserts.
//!
//! Tables are read like the document: `¶` is CRLF, every other character is the byte of its number,
//! `P+`, `G+` and `C+` begin a request as it says there, and what is sent is sent once for each value
//! that takes the place of `{}`.

mod framing;
mod head;
mod servers;
mod slow;
mod trust;

use crate::support::client::{Client, get};
use crate::support::lb::{Lb, NO_CHECKS};
use crate::support::servers::Server;

/// Requests with one answer.
struct Row {
    /// Its number in the document.
    number: u32,
    sent: &'static str,
    values: &'static [&'static str],
    answer: Response,
}

const fn row(number: u32, sent: &'static str, values: &'static [&'static str], answer: Response) -> Row {
    Row { number, sent, values, answer }
}

/// For a row that has one variant.
const ONE: &[&str] = &[""];

/// What must come of a request.
#[derive(Clone, Copy)]
enum Response {
    /// One of these, before any server has seen the whole request; then the connection closes.
    Closed(&'static [u16]),
    /// This, without a server; the connection may go on.
    Own(u16),
    /// 200 by the server, which saw this request line, this body, and of these fields these values alone.
    Seen(&'static str, &'static str, &'static [(&'static str, &'static [&'static str])]),
}

use Response::{Closed, Own, Seen};

/// "400c".
const BAD: Response = Closed(&[400]);

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

/// Sends each request of the rows on a connection of its own, and asserts its answer and what every row asserts.
fn run(rows: &[Row]) {
    let server = ok();
    let lb = Lb::in_front_of(&server, "[log]\naccess = false\n");
    for Row { number, sent, values, answer } in rows {
        for value in *values {
            let case = format!("row {number}: {}", sent.replace("{}", value));
            let before = server.requests().len();
            let mut client = Client::connect(lb.address());
            client.send(bytes(&sent.replace("{}", value)));
            let answered = client.try_response().unwrap_or_else(|error| panic!("{case}: {error}"));
            let seen = server.requests().split_off(before);
            match *answer {
                Closed(statuses) => {
                    assert!(statuses.contains(&answered.status) && seen.is_empty(), "{case}: {answered:?}, {seen:#?}");
                    assert!(client.is_closed(), "{case}: {answered:?}, and open");
                }
                Own(status) => assert!(answered.status == status && seen.is_empty(), "{case}: {answered:?}, {seen:#?}"),
                Seen(line, body, fields) => {
                    let [request] = &seen[..] else { panic!("{case}: {seen:#?}") };
                    let saw = (answered.status, &*request.line, &*request.body);
                    assert_eq!(saw, (200, line, body.as_bytes()), "{case}: {request:#?}");
                    for (name, values) in fields {
                        assert_eq!(request.values(name), *values, "{case}: {name} of {request:#?}");
                    }
                }
            }
            assert_well(&lb, &server, &case);
            assert_eq!(server.requests().len(), before + seen.len() + 1, "{case}: it was sent something later");
        }
    }
}

/// Before a server that may do anything, and another that answers the [next client](assert_well).
fn before(server: &Server, config: &str) -> (Lb, Server) {
    let well = ok();
    let table = well.table("well").replace("[[server]]", "[[pool.well.server]]");
    let routes = "[[route]]\npool = \"default\"\n[[route]]\npath = \"/next\"\npool = \"well\"\n";
    (Lb::start(&format!("{NO_CHECKS}{config}{}{routes}{table}", server.table("server1"))), well)
}

/// What every row asserts: the process lives, the next client gets 200, and what a server saw was canonical.
#[track_caller]
fn assert_well(lb: &Lb, server: &Server, case: &str) {
    assert_eq!(get(lb.address(), "/next").status, 200, "{case}: the next client");
    for request in server.requests() {
        assert!(request.is_canonical(), "{case}: {request:#?}");
    }
}
