//! Tunnels: a connection after the server has switched protocols (RFC 9110, section 7.8).

use std::cell::Cell;
use std::io;
use std::time::Duration;

use crate::proxy::downstream::{RequestBody, ResponseWriter};
use crate::proxy::timeouts::{Phase, RequestTimer};
use crate::proxy::upstream::{RequestWriter, ResponseReader};

/// How long a tunnel may be silent once one side has ended: the other may have been told nothing.
const HALF_CLOSED: Duration = Duration::from_secs(60);

/// Relays bytes in both directions until both sides have ended. Each byte lets the tunnel be silent for `silence` again.
/// `relayed` counts those to the client.
///
/// A side that accepts no more may have closed after its last bytes, which may not have been read yet. So that ends only
/// one direction. A side that cannot be read any more ends the tunnel.
///
/// # Errors
/// If a side breaks.
pub async fn run(
    (from_client, to_client): (&mut RequestBody<'_>, &mut ResponseWriter<'_>),
    (to_server, from_server): (&mut RequestWriter<'_>, &mut ResponseReader<'_>),
    (timer, silence): (&RequestTimer, Duration),
    mut relayed: impl FnMut(usize),
) -> io::Result<()> {
    from_client.tunnel();
    from_server.tunnel();
    let broken = |_| io::Error::from(io::ErrorKind::ConnectionReset);
    let half_closed = Cell::new(false);
    let moves = || timer.wait(Phase::Tunnel, limit(silence, half_closed.get()));
    let ends = || {
        half_closed.set(true);
        moves();
    };
    let up = async {
        while from_client.advance().await.map_err(broken)? {
            moves();
            let sent = match to_server.offer_raw(from_client.piece()) {
                Ok(false) => {
                    from_client.release_piece();
                    to_server.flush().await
                }
                sent => sent.map(drop),
            };
            if let Err(error) = sent {
                ends();
                return Ok(Err(error));
            }
            moves();
        }
        ends();
        io::Result::Ok(to_server.shutdown())
    };
    let down = async {
        while from_server.advance().await.map_err(broken)? {
            moves();
            let bytes = from_server.piece().len();
            let sent = match to_client.offer_raw(from_server.piece()) {
                Ok(false) => {
                    from_server.release_piece();
                    to_client.flush().await
                }
                sent => sent.map(drop),
            };
            if let Err(error) = sent {
                ends();
                return Ok(Err(error));
            }
            moves();
            relayed(bytes);
        }
        ends();
        io::Result::Ok(to_client.shutdown())
    };
    let (up, down) = tokio::try_join!(up, down)?;
    up.and(down)
}

/// How long a tunnel may be silent. `silence` is `timeouts.tunnel`.
fn limit(silence: Duration, half_closed: bool) -> Duration {
    if half_closed { silence.min(HALF_CLOSED) } else { silence }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_half_closed_tunnel_may_be_silent_for_a_minute_at_most() {
        let seconds = Duration::from_secs;
        for (silence, half_closed, expected) in [(3600, false, 3600), (3600, true, 60), (30, false, 30), (30, true, 30)]
        {
            assert_eq!(limit(seconds(silence), half_closed), seconds(expected), "{silence} {half_closed}");
        }
    }
}
