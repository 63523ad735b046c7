//! Connecting to the first of several addresses that accepts, as for a host name with several addresses.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::Socket;
use crate::config::SocketAddress;

/// The time that an address has before the next one is tried beside it (RFC 8305, section 5).
const NEXT_AFTER: Duration = Duration::from_millis(250);

/// An attempt to connect, and the address that it is made at.
type Connecting = Pin<Box<dyn Future<Output = (SocketAddr, io::Result<TcpStream>)> + Send>>;

/// The addresses of a server, in the order in which they are tried.
#[derive(Debug)]
pub enum Targets {
    One(SocketAddress),
    /// Those of a host name.
    Several(Vec<SocketAddr>),
}

impl Targets {
    /// All addresses.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = SocketAddress> {
        let addresses = match self {
            Self::One(address) => vec![address.clone()],
            Self::Several(addresses) => addresses.iter().copied().map(SocketAddress::Ip).collect(),
        };
        addresses.into_iter()
    }
}

/// Connects to the first of a server's addresses that accepts, without a timeout, and returns it if it is one of IP. The
/// next address is tried once the one before has failed, or has not accepted within 250 ms.
///
/// # Errors
/// The system's error, once all addresses have failed.
pub async fn connect_any(targets: &Targets) -> io::Result<(Socket, Option<SocketAddr>)> {
    match targets {
        Targets::One(address) => Ok((connect(address).await?, address.ip())),
        Targets::Several(addresses) => {
            let (stream, address) = match addresses[..] {
                [address] => (TcpStream::connect(address).await?, address),
                _ => race(addresses).await?,
            };
            Ok((Socket::Tcp(stream), Some(address)))
        }
    }
}

/// Connects to an address, without a timeout.
///
/// # Errors
/// The system's error.
pub async fn connect(address: &SocketAddress) -> io::Result<Socket> {
    match address {
        SocketAddress::Ip(address) => TcpStream::connect(*address).await.map(Socket::Tcp),
        SocketAddress::Unix(path) => UnixStream::connect(path.as_path()).await.map(Socket::Unix),
    }
}

async fn race(addresses: &[SocketAddr]) -> io::Result<(TcpStream, SocketAddr)> {
    let mut untried = addresses.iter().copied();
    let mut connecting: Vec<Connecting> = Vec::new();
    let mut error = None;
    loop {
        match untried.next() {
            Some(address) => {
                connecting.push(Box::pin(async move { (address, TcpStream::connect(address).await) }));
            }
            None if connecting.is_empty() => break,
            None => {}
        }
        let ended = first_of(&mut connecting);
        let ended = if untried.len() > 0 { timeout(NEXT_AFTER, ended).await.ok() } else { Some(ended.await) };
        match ended {
            Some((address, Ok(stream))) => return Ok((stream, address)),
            Some((_, Err(failed))) => error = Some(telling(error, failed)),
            None => {}
        }
    }
    Err(error.unwrap_or_else(|| io::Error::other("no address")))
}

/// Waits until one of the attempts ends, and removes it.
async fn first_of(connecting: &mut Vec<Connecting>) -> (SocketAddr, io::Result<TcpStream>) {
    poll_fn(|context| {
        let ended = connecting.iter_mut().enumerate().find_map(|(index, attempt)| {
            if let Poll::Ready(ended) = attempt.as_mut().poll(context) { Some((index, ended)) } else { None }
        });
        let Some((index, ended)) = ended else { return Poll::Pending };
        // The attempt has ended, so only its memory is freed.
        drop(connecting.swap_remove(index));
        Poll::Ready(ended)
    })
    .await
}

/// The error that says more about the server: not that this machine has no IPv6, for example.
fn telling(before: Option<io::Error>, error: io::Error) -> io::Error {
    use io::ErrorKind::{AddrNotAvailable, NetworkUnreachable};
    before.filter(|before| !matches!(before.kind(), AddrNotAvailable | NetworkUnreachable)).unwrap_or(error)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn the_first_address_that_accepts_is_used() {
        let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port"));
        let open = listeners.each_ref().map(|listener| listener.local_addr().expect("an address"));
        let bound = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        bound.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a port");
        let refusing = bound.local_addr().expect("an address").as_socket().expect("of IP");
        // Nothing listens at this address, and it may not even be reachable.
        let gone: SocketAddr = "[::1]:1".parse().expect("an address");
        let cases: [(&[SocketAddr], Option<SocketAddr>); 7] = [
            (&[open[0]], Some(open[0])),
            (&open, Some(open[0])),
            (&[refusing, open[1]], Some(open[1])),
            (&[gone, refusing, open[0], open[1]], Some(open[0])),
            (&[refusing], None),
            (&[gone, refusing], None),
            (&[], None),
        ];
        for (addresses, expected) in cases {
            let connected = connect_any(&Targets::Several(addresses.to_vec())).await;
            if let Err(error) = &connected
                && addresses.contains(&refusing)
            {
                assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{addresses:?}");
            }
            assert_eq!(connected.ok().and_then(|(_, peer)| peer), expected, "{addresses:?}");
        }
    }

    #[tokio::test]
    async fn an_address_that_hangs_does_not_hold_up_the_next() {
        let bound = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        bound.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a port");
        bound.listen(0).expect("a listener");
        let hanging = bound.local_addr().expect("an address").as_socket().expect("of IP");
        // With these in a queue for one, the system ignores further ones.
        let _queue: Vec<_> = (0..4)
            .map(|_| {
                let client =
                    socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
                client.set_nonblocking(true).expect("a socket");
                // Not blocking, it returns an error at once.
                let _ = client.connect(&hanging.into());
                client
            })
            .collect();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let open = listener.local_addr().expect("an address");
        let connected = connect_any(&Targets::Several(vec![hanging, open])).await.expect("a connection");
        assert_eq!(connected.1, Some(open));
    }
}
