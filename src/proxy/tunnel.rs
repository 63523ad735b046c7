//! Tunnels: what becomes of a connection after the server has switched protocols (RFC 9110, section 7.8).

use std::future::poll_fn;
use std::pin::pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncWriteExt, copy_bidirectional};
use tokio::net::TcpStream;

use super::exchange::Exchange;
use super::upstream::Connection;
use super::watch::{Phase, Slot};

/// The server's half of a tunnel, until the client's half is there.
#[derive(Debug)]
pub struct Tunnel {
    /// The connection on which the server answered 101.
    pub connection: Connection,
    /// Ends with the tunnel.
    pub exchange: Box<Exchange>,
}

impl Tunnel {
    /// Passes bytes both ways until both sides have ended, or the connection is to be cut.
    /// `early` is what the client sent after its request.
    pub async fn run(mut self, mut client: TcpStream, early: &[u8], slot: &Slot) {
        slot.wait_unlimited(Phase::Tunnel);
        let pass = async {
            let Some((mut server, answered)) = self.connection.into_socket().await else {
                self.exchange.fail("tunnel_broken");
                return;
            };
            let begin = async {
                client.write_all(&answered).await?;
                server.write_all(early).await?;
                copy_bidirectional(&mut client, &mut server).await
            };
            match begin.await {
                Ok((_, to_client)) => self.exchange.count_bytes(to_client + answered.len() as u64),
                Err(_) => self.exchange.fail("tunnel_broken"),
            }
        };
        let cut = {
            let mut pass = pin!(pass);
            let poll = |context: &mut Context<'_>| match slot.poll(context).cut {
                true => Poll::Ready(true),
                false => pass.as_mut().poll(context).map(|()| false),
            };
            poll_fn(poll).await
        };
        if cut {
            self.exchange.broke_off();
        }
    }
}
