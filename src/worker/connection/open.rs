//! The start of a client connection: its PROXY header and its TLS handshake.

use std::pin::pin;

use rustls::ServerConfig;

use super::*;
use crate::config::HttpProtocol;
use crate::live::acme::TLS_CHALLENGE;
use crate::live::listener::{HandshakeResult, ListenerRules};
use crate::tls::alpn;
use crate::tls::hello::{ClientHello, FirstBytes};
use crate::tls::server::{DECODE_ERROR, ListenerTls, UNRECOGNIZED_NAME};
use crate::transport::handshake::{self, FailedHandshake, HandshakeError};
use crate::transport::{Socket, TlsTransport};
use crate::worker::handshakes;

/// The response to a client that does not use TLS, although it has to.
const SPEAKS_HTTPS: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 62\r\n\
    Connection: close\r\n\r\nThis port speaks HTTPS: use https:// instead of http:// here.\n";

/// A handshake that did not become a connection.
enum NotOpened {
    /// The client may be told in this way, and is then given time to read it.
    Tell(HandshakeResult, Socket, &'static [u8]),
    Close(HandshakeResult),
}

impl Connection {
    /// Receives the PROXY header and makes the TLS handshake, as far as `rules` say, and finds out which protocol the client
    /// speaks. `None` if the connection has ended.
    pub(super) async fn open(
        &mut self,
        mut http: ServerConnection,
        rules: &ListenerRules,
    ) -> Option<(ServerConnection, Spoken)> {
        if rules.proxy_protocol && !self.proxy_header(&mut http).await {
            return None;
        }
        match &rules.tls {
            None if rules.needs_tls => None,
            None => Some((http, spoken_in_the_clear(rules))),
            Some(tls) => {
                let (transport, spoken) = self.secure(http, tls, rules).await?;
                Some((ServerConnection::new(transport), spoken))
            }
        }
    }

    /// Performs the handshake within its timeout, and counts its result.
    async fn secure(
        &mut self,
        http: ServerConnection,
        tls: &Arc<ListenerTls>,
        rules: &ListenerRules,
    ) -> Option<(Transport, Spoken)> {
        self.slot.wait(ConnectionPhase::Handshake, self.context.snapshot().config.timeouts.tls_handshake);
        let result = {
            let mut handshake = pin!(self.handshake(http, tls));
            poll_fn(|context| match self.slot.poll(context) {
                Poll::Ready(_) => Poll::Ready(Err(NotOpened::Close(HandshakeResult::Timeout))),
                Poll::Pending => handshake.as_mut().poll(context),
            })
            .await
        };
        let counters = Arc::clone(&self.client.listener.counters);
        let counters = counters.of(self.context.worker);
        match result {
            Ok(transport) => {
                let resumed = transport.session().is_resumed();
                counters.handshake(if resumed { HandshakeResult::Resumed } else { HandshakeResult::Ok });
                self.slot.wait(ConnectionPhase::New, self.context.snapshot().config.timeouts.request_header);
                let forwards = rules.forwards_certificate;
                let session = transport.session();
                self.client.secure(session.peer_certificates().filter(|_| forwards).unwrap_or_default());
                let spoken = match session.alpn() {
                    Some(name) if name == alpn(HttpProtocol::Http2) => Spoken::Http2,
                    Some(_) => Spoken::Http1,
                    // A client that does not negotiate speaks HTTP/1.1, unless there is only HTTP/2.
                    None if rules.http1 => Spoken::Http1,
                    None => Spoken::Http2,
                };
                drop(session);
                self.uses_tls = true;
                let transport = Transport::Tls(Box::new(transport));
                if self.is_outdated() {
                    // It was admitted by rules that do not hold any more.
                    let _ = transport.shutdown_write();
                    return None;
                }
                Some((transport, spoken))
            }
            Err(NotOpened::Close(result)) => {
                counters.handshake(result);
                None
            }
            Err(NotOpened::Tell(result, socket, bytes)) => {
                counters.handshake(result);
                self.tell(socket, bytes).await;
                None
            }
        }
    }

    async fn handshake(&self, http: ServerConnection, rules: &Arc<ListenerTls>) -> Result<TlsTransport, NotOpened> {
        let (socket, received, hello) = self.first_bytes(http).await?;
        let log = |reason: &dyn std::fmt::Display| {
            let (listener, client) = (&self.client.listener.name, self.client.peer.address());
            tracing::debug!(%listener, %client, "a TLS handshake failed; {reason}");
        };
        let hello = match hello {
            FirstBytes::Hello(hello) => hello,
            FirstBytes::PlainText => {
                log(&"the client does not use TLS");
                return Err(NotOpened::Tell(HandshakeResult::NotTls, socket, SPEAKS_HTTPS));
            }
            FirstBytes::Incomplete | FirstBytes::TooLarge | FirstBytes::Invalid => {
                log(&"the client's first bytes are no valid hello");
                return Err(NotOpened::Tell(HandshakeResult::Invalid, socket, &DECODE_ERROR));
            }
        };
        // The client may have connected long before its hello.
        let current = self.client.listener.rules.load_full();
        let rules = current.tls.as_ref().filter(|_| !self.is_outdated()).unwrap_or(rules);
        if let Some(config) = self.challenge(&hello) {
            return Err(prove(socket, &received, config).await);
        }
        let Some(config) = rules.accept(&hello).cloned() else {
            match &hello.server_name {
                Some(name) => log(&format_args!("no certificate is for {name:?}")),
                None => log(&"the client named no server, and no certificate is the default"),
            }
            return Err(NotOpened::Tell(HandshakeResult::UnknownHost, socket, &UNRECOGNIZED_NAME));
        };
        // From here on, a handshake costs memory, and time that others lack.
        let limit = self.context.snapshot().config.limits.handshakes;
        let in_progress = match &self.place {
            None => None,
            Some(place) => match place.begin_handshake(limit) {
                Some(begun) => Some(begun),
                None => {
                    log(&"`limits.handshakes` is reached");
                    return Err(NotOpened::Close(HandshakeResult::Shed));
                }
            },
        };
        let turn = handshakes::turn().await;
        let begun = handshake::begin(socket, &received, config);
        drop(received);
        tokio::task::yield_now().await;
        drop(turn);
        let finished = match begun {
            Ok(begun) => begun.finish().await,
            Err(error) => Err(error),
        };
        drop(in_progress);
        finished.map_err(|FailedHandshake { error, socket }| {
            log(&error);
            match (&error, socket) {
                // It may have sent a request already; closing the connection now would reset it before it has read the alert.
                (HandshakeError::Tls(_), Some(socket)) => NotOpened::Tell(failure(&error), socket, b""),
                _ => NotOpened::Close(failure(&error)),
            }
        })
    }

    /// The handshake for a pending challenge of the ACME server, if the client asks for it.
    fn challenge(&self, hello: &ClientHello) -> Option<Arc<ServerConfig>> {
        let snapshot = self.context.snapshot();
        let acme = snapshot.acme.as_ref()?;
        let name = hello.server_name.as_deref().filter(|_| hello.protocols().any(|name| name == TLS_CHALLENGE))?;
        acme.tls_response(name)
    }

    /// Reads the client's hello.
    async fn first_bytes(&self, http: ServerConnection) -> Result<(Socket, Vec<u8>, FirstBytes), NotOpened> {
        let (transport, mut received) = http.into_parts();
        let mut hello = FirstBytes::read(&received);
        while hello == FirstBytes::Incomplete {
            if !matches!(transport.read(&mut received, &self.context.resources.buffers).await, Ok(1..)) {
                return Err(NotOpened::Close(HandshakeResult::Closed));
            }
            hello = FirstBytes::read(&received);
            // A client that is silent now costs no more than what it has sent.
            self.context.resources.buffers.shrink(&mut received);
        }
        match transport {
            Transport::Plain(socket) => Ok((socket, received, hello)),
            Transport::Tls(_) => Err(NotOpened::Close(HandshakeResult::Failed)),
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

    /// Makes the next response the last if an edit has changed the rules that a client with TLS was admitted by, and the
    /// worker has not been told yet.
    pub(in crate::worker) fn check_rules(&self) {
        if self.uses_tls && self.is_outdated() {
            self.slot.closing.set(true);
        }
    }

    /// Whether an edit has changed the rules that the client was admitted by.
    fn is_outdated(&self) -> bool {
        self.client.listener.rules.load().admission != self.slot.admission.get()
    }
}

/// Performs the handshake of a challenge; nothing follows it (RFC 8737, section 3).
async fn prove(socket: Socket, received: &[u8], config: Arc<ServerConfig>) -> NotOpened {
    match handshake::accept(socket, received, config).await {
        Ok(transport) => {
            // The server has seen the certificate, whether or not it waits for the end.
            let _ = Transport::Tls(Box::new(transport)).shutdown_write();
            NotOpened::Close(HandshakeResult::Ok)
        }
        Err(error) => NotOpened::Close(failure(&error)),
    }
}

/// The protocol of a client without TLS.
fn spoken_in_the_clear(rules: &ListenerRules) -> Spoken {
    match (rules.http1, rules.http2) {
        (_, false) => Spoken::Http1,
        (false, true) => Spoken::Http2,
        (true, true) => Spoken::Either,
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
