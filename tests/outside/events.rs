//! `/api/events` of a running balancer: edits, and servers whose health checks fail.

use crate::support::client::{Client, Piece};
use crate::support::lb::Lb;
use crate::support::servers::Server;

/// Reads the stream until it holds all of `words`.
fn until(client: &mut Client, words: &[&str]) -> String {
    let mut text = String::new();
    while !words.iter().all(|word| text.contains(word)) {
        match client.chunk() {
            Ok(Piece::Data(data)) => text += &String::from_utf8(data).unwrap(),
            other => panic!("{other:?} after {text}"),
        }
    }
    text
}

#[test]
fn edits_and_health_changes_are_sent_as_they_happen() {
    let server = Server::named("a");
    let quick = "[health]\ninterval = \"50ms\"\nfall = 1\n";
    let lb = Lb::start(&format!("{quick}{}", server.table("a")));
    lb.server_is("a", "up");
    let mut client = Client::connect(lb.admin);
    client.send("GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let (status, headers) = client.try_head().unwrap();
    assert_eq!(status, 200, "{headers:?}");

    lb.edit(&format!("{quick}{}weight = 7\n", server.table("a")));
    until(&mut client, &["event: reload\n", "\"generation\":2", "weight 1 -> 7", "\n\n"]);
    server.set_healthy(false);
    until(&mut client, &["event: health\n", "\"to\":\"down\"", "503", "\n\n"]);
    // The event comes after the state has changed.
    assert_eq!(lb.server("a")["status"], "down");
    lb.edit("wieght = 7");
    let reload = until(&mut client, &["event: reload\n", "\"outcome\":\"rejected\"", "\n\n"]);
    assert!(reload.contains("--> "), "{reload}");
}

#[test]
fn a_stream_ends_with_the_process() {
    let server = Server::named("a");
    let mut lb = Lb::before(&server, "");
    let mut client = Client::connect(lb.admin);
    client.send("GET /api/events?figures=true HTTP/1.1\r\nHost: localhost\r\n\r\n");
    client.try_head().unwrap();
    until(&mut client, &["event: figures\n"]);
    lb.signal("TERM");
    while let Ok(Piece::Data(_)) = client.chunk() {}
    assert!(lb.ends().success());
}
