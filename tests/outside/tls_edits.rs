//! Edits of the rules by which a listener with TLS admits clients: connections from before end gracefully, and their tickets do
//! not resume.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::sync::Arc;

use rustls::{ClientConfig, ClientConnection, HandshakeKind, StreamOwned};

use crate::support::DEADLINE;
use crate::support::client::Client;
use crate::support::tls::Ca;
use crate::tls::{CLOSE, Stream, Tls, VERSIONS, get, stream};

const REQUEST: &str = "GET /x HTTP/1.1\r\nHost: a\r\n\r\n";
const MUTUAL: &str = "[listener.tls]\nclient_ca = \"ca.pem\"\n";

fn connect(tls: &Tls, config: &Arc<ClientConfig>) -> Stream {
    stream(Arc::clone(config), "a.example", tls.connect())
}

/// Reads a response with a length.
fn response(stream: &mut impl Read) -> String {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).expect("a head");
        bytes.push(byte[0]);
    }
    let head = String::from_utf8(bytes).expect("text").to_lowercase();
    let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()).expect("a length");
    stream.read_exact(&mut vec![0; length.parse().expect("a number")]).expect("a body");
    head
}

/// A connection that has had a response.
fn served(tls: &Tls, config: &Arc<ClientConfig>) -> Stream {
    let mut client = connect(tls, config);
    client.write_all(REQUEST.as_bytes()).expect("a connection");
    assert!(response(&mut client).starts_with("http/1.1 200"));
    client
}

#[track_caller]
fn ends_cleanly(client: &mut Stream) {
    assert_eq!(client.read(&mut [0]).expect("close_notify"), 0);
}

fn edit(tls: &Tls, from: &str, to: &str) {
    let generation = tls.lb.generation();
    let text = fs::read_to_string(tls.lb.path()).expect("a file");
    assert!(text.contains(from), "{from}");
    tls.lb.edit_file(&text.replace(from, to));
    tls.lb.reaches(generation + 1);
}

/// Replaces a file that the configuration refers to.
fn write(tls: &Tls, name: &str, content: &str) {
    let generation = tls.lb.generation();
    fs::write(tls.lb.path().with_file_name(name), content).expect("a file");
    tls.lb.reaches(generation + 1);
}

// Case: client-rule
#[test]
fn connections_from_before_another_client_ca_end_and_tickets_do_not_resume() {
    for version in VERSIONS {
        let tls = Tls::start(MUTUAL, "");
        let admitted = tls.config(version, true);
        served(&tls, &admitted);
        let mut idle = served(&tls, &admitted);
        assert_eq!(idle.conn.handshake_kind(), Some(HandshakeKind::Resumed));
        // One that has sent nothing yet, and one whose request is on its way.
        let mut silent = connect(&tls, &admitted);
        silent.conn.complete_io(&mut silent.sock).expect("a handshake");
        let mut sending = connect(&tls, &admitted);
        sending.write_all(&REQUEST.as_bytes()[..10]).expect("a connection");
        // It has arrived once another request, sent later, has had its response.
        served(&tls, &admitted);

        write(&tls, "ca.pem", &Ca::new("others").pem);
        ends_cleanly(&mut idle);
        ends_cleanly(&mut silent);
        sending.write_all(&REQUEST.as_bytes()[10..]).expect("a connection");
        let head = response(&mut sending);
        assert!(head.starts_with("http/1.1 200") && head.contains("connection: close"), "{head}");
        ends_cleanly(&mut sending);
        for _ in 0..2 {
            let error = get(&mut connect(&tls, &admitted), CLOSE).expect_err("no longer admitted");
            assert_ne!(error.kind(), ErrorKind::TimedOut, "{error}");
        }
        assert!(!tls.lb.has_panicked());
    }
}

// Case: client-rule
#[test]
fn http_2_connections_from_before_end_with_a_goaway() {
    let tls = Tls::start(MUTUAL, "");
    edit(&tls, "protocols = [\"http/1.1\"]", "protocols = [\"h2\"]");
    let mut config = ClientConfig::clone(&tls.config(VERSIONS[1], true));
    config.alpn_protocols = vec![b"h2".to_vec()];
    let mut client = connect(&tls, &Arc::new(config));
    client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").expect("a connection");
    let frame = |client: &mut Stream| {
        let mut head = [0; 9];
        client.read_exact(&mut head).ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        client.read_exact(&mut vec![0; usize::try_from(length).expect("a length")]).expect("a frame");
        Some(head[3])
    };
    // Its SETTINGS, and the acknowledgement of ours.
    assert_eq!((frame(&mut client), frame(&mut client)), (Some(4), Some(4)));
    write(&tls, "ca.pem", &Ca::new("others").pem);
    let rest: Vec<u8> = std::iter::from_fn(|| frame(&mut client)).collect();
    assert!(rest.contains(&7), "{rest:?}");
}

// Case: client-rule
#[test]
fn every_change_of_who_is_admitted_ends_connections_and_no_other_does() {
    let auth = format!("{MUTUAL}client_auth = \"optional\"\n");
    for (listener, from, to, ends) in [
        (&*auth, "\"optional\"", "\"required\"", true),
        (&auth, "[listener.tls]", "[listener.tls]\nmin_version = \"1.3\"", true),
        (&auth, "[listener.tls]", "[listener.tls]\nclient_crl = \"crl.pem\"", true),
        (&auth, "protocols = [\"http/1.1\"]", "protocols = [\"h2\", \"http/1.1\"]", true),
        (&auth, "weight = 1", "weight = 2", false),
        (&auth, "[listener.tls]", "[listener.tls]\nforward_client_certificate = true", false),
        (&auth, "[listener.tls]", "[listener.tls]\nticket_keys = [\"tickets\"]", false),
        ("[listener.tls]", "[listener.tls]", "", true),
    ] {
        let tls = Tls::start(listener, "");
        let file = |name| tls.lb.path().with_file_name(name);
        fs::write(file("tickets"), "k".repeat(48)).expect("a file");
        fs::write(file("crl.pem"), Ca::new("others").revoke(&[1])).expect("a file");
        let mut idle = served(&tls, &tls.config(VERSIONS[1], false));
        edit(&tls, from, to);
        if ends {
            ends_cleanly(&mut idle);
        } else {
            idle.write_all(CLOSE.as_bytes()).expect("a connection");
            assert!(response(&mut idle).starts_with("http/1.1 200"), "{to}");
        }
    }
}

// Case: client-rule
#[test]
fn connections_from_before_tls_end_too() {
    let tls = Tls::start("", "");
    let mut client = Client::connect(tls.lb.address());
    client.send(REQUEST);
    assert_eq!(client.response().status, 200);
    edit(&tls, "[[certificate]]", &format!("{MUTUAL}[[certificate]]"));
    assert!(client.is_closed(), "the connection ends");
    let mut secure = connect(&tls, &tls.config(VERSIONS[1], true));
    assert!(get(&mut secure, CLOSE).expect("a response").starts_with("HTTP/1.1 200"));
}

// Case: client-rule
#[test]
fn a_handshake_that_began_before_the_edit_admits_nobody() {
    let tls = Tls::start(MUTUAL, "");
    let name = "a.example".try_into().expect("a name");
    let mut connection = ClientConnection::new(tls.config(VERSIONS[1], true), name).expect("a connection");
    let mut socket = tls.connect();
    socket.set_read_timeout(Some(DEADLINE)).expect("a socket");
    connection.write_tls(&mut socket).expect("a hello");
    // The server's flight: the handshake has the old rule now.
    while !connection.wants_write() {
        connection.read_tls(&mut socket).expect("a flight");
        connection.process_new_packets().expect("a flight");
    }
    write(&tls, "ca.pem", &Ca::new("others").pem);
    let mut client = StreamOwned::new(connection, socket);
    let outcome = get(&mut client, CLOSE);
    assert!(!outcome.as_ref().is_ok_and(|response| response.contains("200")), "{outcome:?}");
}
