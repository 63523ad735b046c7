//! Connections over real sockets, against tokio-rustls.

use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use super::*;
use crate::tls::localhost::configs;
use crate::transport::Transport;
use crate::transport::handshake;

/// A transport and the other side of its connection. `is_server` is the side of the transport.
async fn connected(
    version: &'static rustls::SupportedProtocolVersion,
    is_server: bool,
) -> (Transport, TlsStream<TcpStream>) {
    let (server, client) = configs(version);
    let name = ServerName::try_from("localhost").expect("a name");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let connecting = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("a connection");
    let (accepted, _) = listener.accept().await.expect("a connection");
    let (transport, peer) = if is_server {
        let peer = TlsConnector::from(client);
        let (transport, peer) = tokio::join!(handshake::accept(Socket::Tcp(accepted), b"", server), async {
            let mut peer = peer.connect(name, connecting).await.expect("a handshake");
            peer.write_all(b"first").await.expect("a connection");
            TlsStream::Client(peer)
        });
        (transport, peer)
    } else {
        let peer = TlsAcceptor::from(server);
        let (transport, peer) = tokio::join!(handshake::connect(Socket::Tcp(connecting), client, name), async {
            peer.accept(accepted).await.expect("a handshake")
        });
        (transport, TlsStream::Server(peer))
    };
    (Transport::Tls(Box::new(transport.expect("a handshake"))), peer)
}

/// The four combinations of version and side.
fn cases() -> impl Iterator<Item = (&'static rustls::SupportedProtocolVersion, bool)> {
    let versions = [&rustls::version::TLS12, &rustls::version::TLS13];
    versions.into_iter().flat_map(|version| [(version, true), (version, false)])
}

async fn read_all(transport: &Transport, length: usize) -> Vec<u8> {
    let buffers = Buffers::default();
    let mut received = Vec::new();
    while received.len() < length {
        let mut buffer = Vec::new();
        let read = transport.read(&mut buffer, &buffers).await.expect("data");
        assert!(read > 0 && read == buffer.len(), "{read} {}", buffer.len());
        received.append(&mut buffer);
    }
    received
}

fn body(length: usize) -> Vec<u8> {
    (0..=250).cycle().take(length).collect()
}

#[tokio::test]
async fn bodies_arrive_in_both_directions() {
    for (version, is_server) in cases() {
        // The handshake of a client may not be done before the transport sends or waits.
        let (transport, peer) = if is_server {
            let (transport, peer) = connected(version, true).await;
            assert_eq!(read_all(&transport, 5).await, b"first");
            (transport, peer)
        } else {
            let (server, client) = configs(version);
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let stream = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("a connection");
            let (accepted, _) = listener.accept().await.expect("a connection");
            let name = ServerName::try_from("localhost").expect("a name");
            let ours = async {
                let tls = handshake::connect(Socket::Tcp(stream), client, name).await.expect("a handshake");
                let transport = Transport::Tls(Box::new(tls));
                assert!(transport.write_now([b"first"], &mut 0).expect("a connection").is_empty());
                transport
            };
            let theirs = async {
                let mut peer = TlsAcceptor::from(server).accept(accepted).await.expect("a handshake");
                let mut first = [0; 5];
                peer.read_exact(&mut first).await.expect("data");
                TlsStream::Server(peer)
            };
            tokio::join!(ours, theirs)
        };
        let sent = body(3_000_000);
        let (mut from, mut to) = tokio::io::split(peer);
        let ours = async {
            for piece in sent.chunks(50_000) {
                let mut rest = transport.write_now([b"head", piece], &mut 0).expect("a connection");
                while !rest.is_empty() {
                    transport.write_more(&mut rest, &mut 0).await.expect("a connection");
                }
            }
            transport.shutdown_write().expect("a connection");
        };
        let theirs = async {
            let mut received = Vec::new();
            from.read_to_end(&mut received).await.expect("a clean end");
            let expected: Vec<u8> = sent.chunks(50_000).flat_map(|piece| [b"head", piece].concat()).collect();
            assert!(received == expected, "{version:?} {is_server}");
        };
        let upload = async {
            to.write_all(&sent).await.expect("a connection");
            to.shutdown().await.expect("a connection");
        };
        let download = async {
            assert!(read_all(&transport, sent.len()).await == sent, "{version:?} {is_server}");
            let end = transport.read(&mut Vec::new(), &Buffers::default()).await;
            assert_eq!(end.expect("a clean end"), 0);
        };
        tokio::join!(ours, theirs, upload, download);
    }
}

#[tokio::test]
async fn an_end_without_close_notify_is_no_clean_end() {
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let (transport, peer) = connected(version, true).await;
        read_all(&transport, 5).await;
        let TlsStream::Client(peer) = peer else { panic!("a client") };
        let mut stream = peer.into_inner().0;
        stream.shutdown().await.expect("a connection");
        let buffers = Buffers::default();
        let error = transport.read(&mut Vec::new(), &buffers).await.expect_err("an early end");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert!(!transport.is_quiet());
    }
}

#[tokio::test]
async fn an_end_before_any_response_is_a_clean_end() {
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let (transport, mut peer) = connected(version, true).await;
        read_all(&transport, 5).await;
        transport.announce_end().expect("a connection");
        drop(transport);
        assert_eq!(peer.read(&mut [0; 16]).await.expect("close_notify"), 0);
    }
}

#[tokio::test]
async fn tickets_do_not_disturb_an_idle_connection() {
    let (server, client) = configs(&rustls::version::TLS13);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let stream = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("a connection");
    let (accepted, _) = listener.accept().await.expect("a connection");
    let name = ServerName::try_from("localhost").expect("a name");
    let ours = async {
        let tls = handshake::connect(Socket::Tcp(stream), client, name).await.expect("a handshake");
        let transport = Transport::Tls(Box::new(tls));
        // Sends the last records of the handshake.
        transport.write_now([b"x"], &mut 0).expect("a connection");
        transport
    };
    let (transport, peer) = tokio::join!(ours, TlsAcceptor::from(server).accept(accepted));
    let mut peer = peer.expect("a handshake");
    assert!(transport.is_quiet_now(), "the tickets of the handshake");
    peer.get_mut().1.refresh_traffic_keys().expect("TLS 1.3");
    peer.flush().await.expect("a connection");
    assert!(transport.is_quiet_now() && transport.is_quiet(), "a key update");
    let mut waits = Box::pin(poll_fn(|context| transport.poll_stirs(context)));
    assert!(poll_fn(|context| Poll::Ready(waits.as_mut().poll(context).is_pending())).await);
    peer.write_all(b"data").await.expect("a connection");
    waits.await;
    assert!(!transport.is_quiet() && !transport.is_quiet_now());
    assert_eq!(read_all(&transport, 4).await, b"data");
    assert!(transport.is_quiet_now());
    peer.shutdown().await.expect("a connection");
    poll_fn(|context| transport.poll_stirs(context)).await;
    assert!(!transport.is_quiet());
}
