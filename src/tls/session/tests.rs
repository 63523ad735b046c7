//! Sessions against rustls' buffered connections, with the bytes split in every way.

use std::io::{Read, Write};

use rustls::{ClientConnection, Connection, ServerConnection, SupportedProtocolVersion};

use super::*;
use crate::tls::localhost::configs;

const VERSIONS: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS12, &rustls::version::TLS13];

fn name() -> ServerName<'static> {
    ServerName::try_from("localhost").expect("a name")
}

/// A session and rustls' connection of the other side, joined by memory.
struct Pair {
    session: Session,
    peer: Connection,
    output: Records,
    received: Vec<u8>,
    /// The most bytes that the session gets at once.
    step: usize,
}

impl Pair {
    /// `is_server` is the side of the session.
    fn new(configs: &(Arc<ServerConfig>, Arc<ClientConfig>), is_server: bool, step: usize) -> Self {
        let (server, client) = (Arc::clone(&configs.0), Arc::clone(&configs.1));
        let (session, peer) = if is_server {
            let peer = ClientConnection::new(client, name()).expect("a connection");
            (Session::server(server), peer.into())
        } else {
            (Session::client(client, name()), ServerConnection::new(server).expect("a connection").into())
        };
        let mut session = session.expect("a session");
        let mut output = Records::default();
        session.start(&mut output).expect("a hello");
        Self { session, peer, output, received: Vec::new(), step }
    }

    /// Moves all bytes until both wait, and returns the plaintext that the peer has received.
    fn exchange(&mut self) -> Result<Vec<u8>, Error> {
        let mut to_peer = Vec::new();
        loop {
            let bytes = self.take_from_peer();
            if bytes.is_empty() && self.output.filled().is_empty() {
                return Ok(to_peer);
            }
            to_peer.append(&mut self.give_peer()?);
            self.feed(&bytes)?;
        }
    }

    /// The records that the peer has to send.
    fn take_from_peer(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.peer.wants_write() {
            self.peer.write_tls(&mut bytes).expect("memory");
        }
        bytes
    }

    /// Gives the session's records to the peer, and returns the plaintext.
    fn give_peer(&mut self) -> Result<Vec<u8>, Error> {
        let mut received = Vec::new();
        let mut records = self.output.filled().to_vec();
        self.output.clear();
        while !records.is_empty() {
            let length = self.peer.read_tls(&mut records.as_slice()).expect("memory");
            if length == 0 {
                break;
            }
            records.drain(..length);
            let state = self.peer.process_new_packets()?;
            let mut plaintext = vec![0; state.plaintext_bytes_to_read()];
            self.peer.reader().read_exact(&mut plaintext).expect("plaintext");
            received.append(&mut plaintext);
        }
        Ok(received)
    }

    /// Gives `bytes` to the session in steps.
    fn feed(&mut self, bytes: &[u8]) -> Result<(), Error> {
        for piece in bytes.chunks(self.step) {
            let mut input = self.session.incomplete().to_vec();
            input.extend_from_slice(piece);
            self.session.receive(&mut input, &mut self.received, &mut self.output)?;
        }
        Ok(())
    }

    fn send(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.peer.writer().write_all(bytes).expect("memory");
        self.exchange().expect("an exchange")
    }
}

/// Bytes of which each differs from its neighbours.
fn body(length: usize) -> Vec<u8> {
    (0..=250).cycle().take(length).collect()
}

#[test]
fn handshake_and_data_arrive_however_they_are_split() {
    for version in VERSIONS {
        let configs = configs(version);
        for is_server in [true, false] {
            for step in [1, 2, 3, 5, 7, 64, 1000, 16 * 1024, usize::MAX] {
                let case = format!("{version:?} {is_server} {step}");
                let mut pair = Pair::new(&configs, is_server, step);
                pair.exchange().expect("a handshake");
                assert!(!pair.session.is_handshaking() && !pair.peer.is_handshaking(), "{case}");
                assert_eq!(pair.session.alpn(), Some(&b"http/1.1"[..]));
                for length in [1, 100, MAX_PLAINTEXT, 40_000] {
                    assert_eq!(pair.send(&body(length)), b"");
                    assert!(std::mem::take(&mut pair.received) == body(length), "{case} {length}");
                    assert_eq!(pair.session.incomplete.capacity(), 0, "an idle session holds memory");
                    let sent = body(length);
                    let (head, rest) = sent.split_at(length / 3);
                    let pieces = [b"head".as_slice(), head, b"", rest, b"end", b""];
                    pair.session.encrypt(&pieces, &mut pair.output).expect("a session");
                    let expected = [b"head", &sent[..], b"end"].concat();
                    let records = expected.len().div_ceil(MAX_PLAINTEXT);
                    assert!(pair.output.filled().len() <= expected.len() + records * OVERHEAD, "{case} {length}");
                    assert!(pair.exchange().expect("data") == expected, "{case} {length}");
                }
                pair.peer.send_close_notify();
                pair.exchange().expect("an end");
                assert!(pair.session.peer_closed());
                pair.session.encrypt(&[b"more"], &mut pair.output).expect("the other direction is open");
                pair.session.close(&mut pair.output);
                pair.session.close(&mut pair.output);
                assert_eq!(pair.exchange().expect("data"), b"more");
                assert!(pair.session.encrypt(&[b"x"], &mut pair.output).is_err());
            }
        }
    }
}

#[test]
fn each_byte_of_a_handshake_can_be_the_last_of_a_read() {
    for version in VERSIONS {
        let configs = configs(version);
        for is_server in [true, false] {
            let mut first = 1;
            loop {
                let mut pair = Pair::new(&configs, is_server, usize::MAX);
                let mut seen = 0;
                // Cuts the whole stream from the peer in two, at `first`.
                while pair.session.is_handshaking() || pair.peer.is_handshaking() {
                    let bytes = pair.take_from_peer();
                    let cut = first.clamp(seen, seen + bytes.len()) - seen;
                    seen += bytes.len();
                    pair.feed(&bytes[..cut]).expect("a part");
                    pair.feed(&bytes[cut..]).expect("the rest");
                    pair.give_peer().expect("a handshake");
                }
                pair.send(b"data");
                assert_eq!(pair.received, b"data", "{version:?} {is_server} {first}");
                if first > seen {
                    break;
                }
                first += if cfg!(debug_assertions) { 3 } else { 1 };
            }
        }
    }
}

#[test]
fn a_violation_ends_the_session_with_an_alert() {
    for version in VERSIONS {
        let configs = configs(version);
        for is_server in [true, false] {
            let mut pair = Pair::new(&configs, is_server, usize::MAX);
            pair.exchange().expect("a handshake");
            pair.peer.writer().write_all(b"complete").expect("memory");
            pair.peer.writer().write_all(b"damaged").expect("memory");
            let mut bytes = pair.take_from_peer();
            *bytes.last_mut().expect("bytes") ^= 1;
            assert_eq!(pair.feed(&bytes), Err(Error::DecryptError));
            assert_eq!(pair.received, b"complete");
            assert!(!pair.output.filled().is_empty(), "an alert");
            assert_eq!(pair.feed(b"more"), Err(Error::DecryptError));
            assert!(pair.session.encrypt(&[b"x"], &mut Records::default()).is_err());
            let error = pair.give_peer().expect_err("an alert");
            assert_eq!(error, Error::AlertReceived(rustls::AlertDescription::BadRecordMac), "{version:?} {is_server}");
        }
    }
    let mut pair = Pair::new(&configs(VERSIONS[1]), true, usize::MAX);
    assert!(pair.feed(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").is_err());
    assert_eq!(pair.output.filled()[0], 21, "an alert");
}

#[test]
fn key_updates_in_both_directions_are_followed_and_bounded() {
    let configs = configs(VERSIONS[1]);
    for is_server in [true, false] {
        for step in [1, usize::MAX] {
            let mut pair = Pair::new(&configs, is_server, step);
            pair.exchange().expect("a handshake");
            for round in 0..40 {
                pair.peer.refresh_traffic_keys().expect("TLS 1.3");
                assert_eq!(pair.send(b"ping"), b"", "{round}");
                pair.session.encrypt(&[b"pong"], &mut pair.output).expect("a session");
                assert_eq!(pair.exchange().expect("data"), b"pong", "{round}");
            }
            assert_eq!(pair.received.len(), 160);
            // Without data between them, there is a limit.
            let flood = (0..100).find_map(|_| {
                pair.peer.refresh_traffic_keys().expect("TLS 1.3");
                let bytes = pair.take_from_peer();
                pair.feed(&bytes).err()
            });
            assert!(matches!(flood, Some(Error::PeerMisbehaved(_))), "{flood:?}");
        }
    }
}

#[test]
fn a_part_of_a_record_does_not_stop_sending() {
    for version in VERSIONS {
        let mut pair = Pair::new(&configs(version), true, usize::MAX);
        pair.exchange().expect("a handshake");
        pair.peer.writer().write_all(b"question").expect("memory");
        let bytes = pair.take_from_peer();
        for byte in &bytes[..bytes.len() - 1] {
            pair.feed(&[*byte]).expect("a part");
            pair.session.encrypt(&[b"x"], &mut pair.output).expect("a session");
        }
        pair.feed(&bytes[bytes.len() - 1..]).expect("the rest");
        assert_eq!(pair.received, b"question");
        assert_eq!(pair.exchange().expect("data").len(), bytes.len() - 1);
    }
}
