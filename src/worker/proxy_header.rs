//! The PROXY header at the start of a client connection: required from trusted proxies, refused from anybody else.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::Poll;
use std::time::Instant;

use super::connection::Connection;
use crate::http1::server::ServerConnection;
use crate::proxy::headers::forwarded::is_trusted;
use crate::proxy::timeouts::ConnectionPhase;
use crate::proxy_protocol::{self, HeaderFault, MAX_LENGTH, ReceivedHeader, Start};
use crate::transport::Transport;

/// The start of a connection, once it is known whether it is a header.
enum Arrived {
    /// A header of this many bytes.
    Header(usize, ReceivedHeader),
    Fault(HeaderFault),
    /// No header: other bytes, or none before the client has ended its side.
    Other,
    /// The connection has failed or must end.
    Nothing,
}

impl Connection {
    /// Notes the address that the client has connected to, if servers are told it.
    pub(super) fn note_destination(&mut self, http: &ServerConnection) {
        if self.context.snapshot().sends_proxy_headers
            && let Some(destination) = http.local_address()
        {
            self.client.set_destination(destination);
        }
    }

    /// Receives the header, and takes it from the input. Returns whether the connection goes on.
    pub(super) async fn proxy_header(&mut self, http: &mut ServerConnection) -> bool {
        let (transport, input) = http.start();
        let is_required = {
            let (snapshot, peer) = (self.context.snapshot(), self.client.peer.address());
            let is_required = is_trusted(peer, &snapshot.config.proxy.trusted_proxies);
            if is_required {
                self.slot.wait(ConnectionPhase::New, snapshot.config.timeouts.tls_handshake);
            }
            is_required
        };
        let arrived = self.arrive(transport, input).await;
        let problem = match arrived {
            Arrived::Header(length, header) if is_required => {
                input.drain(..length);
                self.take(header);
                self.context.resources.buffers.release(input);
                return true;
            }
            Arrived::Other if !is_required => return true,
            Arrived::Fault(fault) if is_required => fault.to_string(),
            Arrived::Header(..) | Arrived::Fault(_) => {
                "it sent a PROXY header, and is not in `proxy.trusted_proxies`".to_owned()
            }
            // A check whether anybody listens says nothing.
            Arrived::Other | Arrived::Nothing if input.is_empty() => return false,
            Arrived::Other => "it sent no PROXY header".to_owned(),
            Arrived::Nothing => "its PROXY header is not complete".to_owned(),
        };
        self.refuse(&problem);
        false
    }

    /// Reads until it is known whether there is a header.
    async fn arrive(&self, transport: &Transport, input: &mut Vec<u8>) -> Arrived {
        let mut reading = pin!(async {
            loop {
                match proxy_protocol::read(input) {
                    Ok(Start::Header(length, header)) => return Ok(Arrived::Header(length, header)),
                    Ok(Start::Other) => return Ok(Arrived::Other),
                    Err(fault) => return Ok(Arrived::Fault(fault)),
                    // Never with so many bytes.
                    Ok(Start::Partial) if input.len() > MAX_LENGTH => return Ok(Arrived::Fault(HeaderFault::TooLong)),
                    Ok(Start::Partial) => {}
                }
                if transport.read(input, &self.context.resources.buffers).await? == 0 {
                    return Ok::<_, io::Error>(Arrived::Other);
                }
            }
        });
        let arrived = poll_fn(|context| match self.slot.poll(context) {
            Poll::Ready(_) => Poll::Ready(Ok(Arrived::Nothing)),
            Poll::Pending => reading.as_mut().poll(context),
        });
        arrived.await.unwrap_or(Arrived::Nothing)
    }

    /// Takes the client's address from a header.
    fn take(&mut self, ReceivedHeader { forwarded, authority }: ReceivedHeader) {
        let timeout = self.context.snapshot().config.timeouts.request_header;
        self.slot.wait(ConnectionPhase::New, timeout);
        let proxy = self.client.peer.address();
        if let Some(forwarding) = forwarded {
            self.client.forwarded(forwarding);
        }
        let client = self.client.peer.address();
        if let Some(authority) = authority {
            tracing::debug!(listener = %self.client.listener.name, %proxy, %client, ?authority, "PROXY header");
        } else {
            tracing::trace!(listener = %self.client.listener.name, %proxy, %client, "PROXY header");
        }
    }

    fn refuse(&self, problem: &str) {
        if self.context.refused_headers.borrow_mut().allows(Instant::now()) {
            let (listener, peer) = (&self.client.listener.name, self.client.peer.address());
            tracing::warn!(%listener, %peer, "connection closed; {problem}");
        }
    }
}
