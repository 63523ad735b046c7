//! TLS handshakes of either side. They have no timeouts of their own.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};

use crate::tls::session::Session;
use crate::transport::{Socket, TlsTransport};

/// Why a handshake failed.
#[derive(Debug)]
pub enum HandshakeError {
    /// The connection failed, or the peer closed it: [`io::ErrorKind::UnexpectedEof`].
    Io(io::Error),
    /// The peers did not agree. The peer has been told, if the socket accepted the alert.
    Tls(rustls::Error),
}

/// Performs the server's side of a handshake, of which `received` has been received.
///
/// # Errors
/// If the handshake fails.
pub async fn accept(
    socket: Socket,
    received: &[u8],
    config: Arc<ServerConfig>,
) -> Result<TlsTransport, HandshakeError> {
    begin(socket, received, config).map_err(|failed| failed.error)?.finish().await.map_err(|failed| failed.error)
}

/// A server's handshake that failed.
#[derive(Debug)]
pub struct FailedHandshake {
    pub error: HandshakeError,
    /// The connection, on which the client may not have read the alert yet; `None` if there was no session.
    pub socket: Option<Socket>,
}

/// The server's side of a handshake that waits for the client.
#[derive(Debug)]
pub struct Handshake(TlsTransport);

/// Starts the server's side of a handshake with the client's hello: the part that costs most time.
///
/// # Errors
/// If the hello is not acceptable.
pub fn begin(socket: Socket, received: &[u8], config: Arc<ServerConfig>) -> Result<Handshake, FailedHandshake> {
    let session = Session::server(config);
    let session = session.map_err(|error| FailedHandshake { error: HandshakeError::Tls(error), socket: None })?;
    let transport = TlsTransport::new(socket, session);
    match transport.start(received) {
        Ok(()) => Ok(Handshake(transport)),
        Err(error) => Err(FailedHandshake { error: error.into(), socket: Some(transport.into_socket()) }),
    }
}

impl Handshake {
    /// Performs the rest.
    ///
    /// # Errors
    /// If the handshake fails.
    pub async fn finish(self) -> Result<TlsTransport, FailedHandshake> {
        match self.0.handshake().await {
            Ok(()) => Ok(self.0),
            Err(error) => Err(FailedHandshake { error: error.into(), socket: Some(self.0.into_socket()) }),
        }
    }
}

/// Performs the client's side of a handshake with the server `name`.
///
/// # Errors
/// If the handshake fails, for example because the server's certificate is not valid for `name`.
pub async fn connect(
    socket: Socket,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
) -> Result<TlsTransport, HandshakeError> {
    let session = Session::client(config, name).map_err(HandshakeError::Tls)?;
    let transport = TlsTransport::new(socket, session);
    transport.start(b"")?;
    transport.handshake().await?;
    Ok(transport)
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        match error.downcast() {
            Ok(error) => Self::Tls(error),
            Err(error) => Self::Io(error),
        }
    }
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                f.write_str("the connection was closed during the TLS handshake")
            }
            Self::Io(error) => error.fmt(f),
            Self::Tls(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for HandshakeError {}
