//! Tunnels: what becomes of a connection after the server has switched protocols (RFC 9110, section 7.8).

use std::cell::Cell;
use std::io;
use std::net::Shutdown;

use socket2::SockRef;
use tokio::net::TcpStream;

use crate::transport::{self, Buffers};

/// Passes bytes both ways until both sides have ended, or one is broken. `from_client` and
/// `from_server` are what was read already. How many went to the client.
///
/// # Errors
/// When a side breaks.
pub async fn run(
    client: &TcpStream,
    server: &TcpStream,
    from_client: &mut Vec<u8>,
    from_server: &mut Vec<u8>,
    buffers: &Buffers,
) -> io::Result<u64> {
    let count = Cell::new(0);
    let up = pass(client, server, from_client, buffers, |_| {});
    let down = pass(server, client, from_server, buffers, |bytes| count.set(count.get() + bytes));
    tokio::try_join!(up, down)?;
    Ok(count.get())
}

/// Passes bytes one way until the end, and passes that on too.
async fn pass(
    from: &TcpStream,
    to: &TcpStream,
    bytes: &mut Vec<u8>,
    buffers: &Buffers,
    passed: impl Fn(u64),
) -> io::Result<()> {
    loop {
        transport::write(to, [bytes], &mut 0).await?;
        passed(bytes.len() as u64);
        bytes.clear();
        buffers.give(std::mem::take(bytes));
        if transport::read(from, bytes, buffers).await? == 0 {
            return SockRef::from(to).shutdown(Shutdown::Write);
        }
    }
}
