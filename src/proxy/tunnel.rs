//! Tunnels: a connection after the server has switched protocols (RFC 9110, section 7.8).

use std::io;

use crate::proxy::downstream::{RequestBody, ResponseWriter};
use crate::proxy::upstream::{RequestWriter, ResponseReader};

/// Relays bytes in both directions until both sides have ended. `relayed` counts those to the client.
///
/// # Errors
/// If a side breaks.
pub async fn run(
    (from_client, to_client): (&mut RequestBody<'_>, &mut ResponseWriter<'_>),
    (to_server, from_server): (&mut RequestWriter<'_>, &mut ResponseReader<'_>),
    mut relayed: impl FnMut(usize),
) -> io::Result<()> {
    from_client.tunnel();
    from_server.tunnel();
    let broken = |_| io::ErrorKind::ConnectionReset;
    let up = async {
        while from_client.advance().await.map_err(broken)? {
            to_server.send_raw(from_client.piece()).await?;
        }
        to_server.shutdown()
    };
    let down = async {
        while from_server.advance().await.map_err(broken)? {
            to_client.send_raw(from_server.piece()).await?;
            relayed(from_server.piece().len());
        }
        to_client.shutdown()
    };
    tokio::try_join!(up, down).map(|_| ())
}
