//! The TLS handshake of a client: reads its hello, finds the listener's rules, and chooses the protocol.

use std::pin::pin;

use super::*;
use crate::config::HttpProtocol;
use crate::live::listener::HandshakeResult;
use crate::tls::hello::FirstBytes;
use crate::tls::server::{DECODE_ERROR, UNRECOGNIZED_NAME, alpn};
use crate::transport::handshake::{self, HandshakeError};
use crate::transport::{Socket, TlsTransport};
use crate::worker::handshakes;

/// The response to a client that does not use TLS, although it has to.
const SPEAKS_HTTPS: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 62\r\n\
    Connection: close\r\n\r\nThis port speaks HTTPS: use https:// instead of http:// here.\n";

/// A handshake that did not become a connection.
enum Failed {
    /// The client may be told in this way, and is then given time to read it.
    Tell(HandshakeResult, Socket, &'static [u8]),
    Close(HandshakeResult),
}

impl Connection {
    /// Serves a client of a listener with TLS to the end of the connection.
    #[allow(clippy::manual_async_fn, reason = "as for Connection::serve")]
    pub fn serve_tls(mut self, socket: Socket) -> impl Future<Output = ()> {
        async move {
            let Some(transport) = Box::pin(self.admit(socket)).await else { return };
            let listener = Arc::clone(&self.client.listener);
            let forwards = {
                let snapshot = self.context.snapshot();
                let tls = snapshot.listener(&listener).and_then(|config| config.tls.as_ref());
                tls.is_some_and(|tls| tls.forward_client_certificate)
            };
            self.client = {
                let session = transport.session();
                let certificates = session.peer_certificates().filter(|_| forwards).unwrap_or_default();
                Client::secure(listener, self.client.peer, certificates)
            };
            let protocol = protocol(&transport);
            let transport = Transport::Tls(Box::new(transport));
            match protocol {
                HttpProtocol::Http1 | HttpProtocol::Http2 => self.serve(transport).await,
            }
        }
    }

    /// Performs the handshake within its timeout, and counts its result.
    async fn admit(&self, socket: Socket) -> Option<TlsTransport> {
        self.slot.wait(ConnectionPhase::New, self.context.snapshot().config.timeouts.tls_handshake);
        let result = {
            let mut handshake = pin!(self.handshake(socket));
            poll_fn(|context| match self.slot.poll(context) {
                Poll::Ready(_) => Poll::Ready(Err(Failed::Close(HandshakeResult::Timeout))),
                Poll::Pending => handshake.as_mut().poll(context),
            })
            .await
        };
        let counters = self.client.listener.counters.of(self.context.worker);
        match result {
            Ok(transport) => {
                let resumed = transport.session().is_resumed();
                counters.handshake(if resumed { HandshakeResult::Resumed } else { HandshakeResult::Ok });
                self.slot.wait(ConnectionPhase::New, self.context.snapshot().config.timeouts.request_header);
                Some(transport)
            }
            Err(Failed::Close(result)) => {
                counters.handshake(result);
                None
            }
            Err(Failed::Tell(result, socket, bytes)) => {
                counters.handshake(result);
                self.tell(socket, bytes).await;
                None
            }
        }
    }

    async fn handshake(&self, socket: Socket) -> Result<TlsTransport, Failed> {
        let (socket, received, hello) = self.first_bytes(socket).await?;
        let log = |reason: &dyn std::fmt::Display| {
            let (listener, client) = (&self.client.listener.name, self.client.peer);
            tracing::debug!(%listener, %client, "a TLS handshake failed; {reason}");
        };
        let hello = match hello {
            FirstBytes::Hello(hello) => hello,
            FirstBytes::PlainText => {
                log(&"the client does not use TLS");
                return Err(Failed::Tell(HandshakeResult::NotTls, socket, SPEAKS_HTTPS));
            }
            FirstBytes::Incomplete | FirstBytes::TooLarge | FirstBytes::Invalid => {
                log(&"the client's first bytes are no valid hello");
                return Err(Failed::Tell(HandshakeResult::Invalid, socket, &DECODE_ERROR));
            }
        };
        let (rules, generation, limit) = {
            let snapshot = self.context.snapshot();
            let rules = snapshot.tls.as_ref().and_then(|tls| tls.listener(&self.client.listener)).cloned();
            let workers = self.place.as_ref().map_or(1, WorkerPlace::workers);
            (rules, snapshot.generation, handshakes::per_worker(snapshot.config.limits.handshakes, workers))
        };
        let Some(rules) = rules else { return Err(Failed::Close(HandshakeResult::Failed)) };
        let Some(config) = rules.accept(&hello).cloned() else {
            match &hello.server_name {
                Some(name) => log(&format_args!("no certificate is for {name:?}")),
                None => log(&"the client named no server, and no certificate is the default"),
            }
            return Err(Failed::Tell(HandshakeResult::UnknownHost, socket, &UNRECOGNIZED_NAME));
        };
        let turn = handshakes::turn(limit).await;
        let begun = handshake::begin(socket, &received, config);
        drop(received);
        tokio::task::yield_now().await;
        drop(turn);
        let finished = match begun {
            Ok(begun) => begun.finish().await,
            Err(error) => Err(error),
        };
        let transport = finished.map_err(|error| {
            log(&error);
            Failed::Close(failure(&error))
        })?;
        self.tls.replace(Some((rules, generation)));
        Ok(transport)
    }

    /// Reads the client's hello.
    async fn first_bytes(&self, socket: Socket) -> Result<(Socket, Vec<u8>, FirstBytes), Failed> {
        let (transport, mut received) = (Transport::Plain(socket), Vec::new());
        let mut hello = FirstBytes::Incomplete;
        while hello == FirstBytes::Incomplete {
            if !matches!(transport.read(&mut received, &self.context.resources.buffers).await, Ok(1..)) {
                return Err(Failed::Close(HandshakeResult::Closed));
            }
            hello = FirstBytes::read(&received);
            // A client that is silent now costs no more than what it has sent.
            self.context.resources.buffers.shrink(&mut received);
        }
        match transport {
            Transport::Plain(socket) => Ok((socket, received, hello)),
            Transport::Tls(_) => Err(Failed::Close(HandshakeResult::Failed)),
        }
    }

    /// Sends `bytes` without TLS, and closes the connection once the client has had time to read them.
    async fn tell(&self, socket: Socket, bytes: &[u8]) {
        let transport = Transport::Plain(socket);
        if transport.write_now([bytes], &mut 0).is_err() {
            return;
        }
        let mut http = ServerConnection::new(transport);
        let mut lingering = pin!(self.linger(&mut http));
        poll_fn(|context| match self.slot.poll(context) {
            Poll::Ready(_) => Poll::Ready(()),
            Poll::Pending => lingering.as_mut().poll(context),
        })
        .await;
    }

    /// Makes the next response the last if an edit has changed the rules that the client was admitted by.
    pub(super) fn check_rules(&self) {
        let mut tls = self.tls.borrow_mut();
        let Some((rules, generation)) = &mut *tls else { return };
        let snapshot = self.context.snapshot();
        if snapshot.generation == *generation {
            return;
        }
        let current = snapshot.tls.as_ref().and_then(|tls| tls.listener(&self.client.listener));
        if current.is_some_and(|current| current.admits_like(rules)) {
            *generation = snapshot.generation;
        } else {
            self.slot.closing.set(true);
        }
    }
}

fn failure(error: &HandshakeError) -> HandshakeResult {
    match error {
        HandshakeError::Io(_) => HandshakeResult::Closed,
        HandshakeError::Tls(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => {
            HandshakeResult::ClientCertificate
        }
        HandshakeError::Tls(_) => HandshakeResult::Failed,
    }
}

/// The protocol that was agreed on: HTTP/1.1 with a client that does not negotiate.
fn protocol(transport: &TlsTransport) -> HttpProtocol {
    match transport.session().alpn() {
        Some(name) if name == alpn(HttpProtocol::Http2) => HttpProtocol::Http2,
        _ => HttpProtocol::Http1,
    }
}
