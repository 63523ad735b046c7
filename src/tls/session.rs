//! A TLS connection over byte buffers: from received bytes to plaintext, and from plaintext to bytes to send.
//!
//! A session holds memory only for a record, or a handshake message, of which a part has been received.

mod records;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus, WriteTraffic};
use rustls::{ClientConfig, CommonState, Error, HandshakeKind, ProtocolVersion, ServerConfig, SupportedCipherSuite};

pub use self::records::Records;

/// The most plaintext that one record carries.
pub const MAX_PLAINTEXT: usize = 16 * 1024;
/// The most that a record has beside its plaintext: header, nonce, type and tag of any cipher suite that is offered.
const OVERHEAD: usize = 64;
/// The most bytes of an incomplete record or handshake message, as in rustls' buffered connections.
const MAX_INCOMPLETE: usize = 64 * 1024;

/// A TLS connection of either side.
pub struct Session {
    side: Side,
    /// The received bytes that cannot be processed before more arrive. No memory without any.
    incomplete: Vec<u8>,
    /// Whether the peer has ended its direction.
    peer_closed: bool,
    /// Whether we have ended ours.
    closed: bool,
    /// The error that ended the session.
    failure: Option<Error>,
}

enum Side {
    Server(UnbufferedServerConnection),
    Client(UnbufferedClientConnection),
}

/// Evaluates an expression for the connection of either side.
macro_rules! either {
    ($side:expr, $connection:ident => $expression:expr) => {
        match $side {
            Side::Server($connection) => $expression,
            Side::Client($connection) => $expression,
        }
    };
}

/// The work that is done as soon as the state of the connection allows it.
#[derive(Clone, Copy)]
enum Task<'p> {
    /// None: received bytes are processed, and answered as the protocol demands.
    Receive,
    Encrypt(&'p [&'p [u8]]),
    Close,
}

/// A state of a connection after it has been handled.
enum Step {
    /// More may follow.
    Continue,
    /// The task is done, or more has to be received before.
    Stop,
    /// The task is impossible until the handshake is complete, or after the end.
    Blocked,
    PeerClosed,
    Failed(Error),
}

impl Session {
    /// The server's side.
    ///
    /// # Errors
    /// If `config` is not usable.
    pub fn server(config: Arc<ServerConfig>) -> Result<Self, Error> {
        UnbufferedServerConnection::new(config).map(|connection| Self::new(Side::Server(connection)))
    }

    /// The client's side, which expects the certificate of `name`. The first bytes come from [`Session::start`].
    ///
    /// # Errors
    /// If `config` is not usable.
    pub fn client(config: Arc<ClientConfig>, name: ServerName<'static>) -> Result<Self, Error> {
        UnbufferedClientConnection::new(config, name).map(|connection| Self::new(Side::Client(connection)))
    }

    fn new(side: Side) -> Self {
        Self { side, incomplete: Vec::new(), peer_closed: false, closed: false, failure: None }
    }

    /// Appends the first bytes to send: the client's hello; nothing on the server's side.
    ///
    /// # Errors
    /// If no hello can be made.
    pub fn start(&mut self, output: &mut Records) -> Result<(), Error> {
        self.drive(Task::Receive, output).map(drop)
    }

    /// The received bytes that must be at the front of the next input.
    #[must_use]
    pub fn incomplete(&self) -> &[u8] {
        &self.incomplete
    }

    /// Processes `input`: [`Session::incomplete`], followed by what has been received since. Appends the plaintext, and
    /// the records that have to be sent.
    ///
    /// # Errors
    /// If the peer violates the protocol or sends a fatal alert. `output` has the alert to send. The session has ended.
    pub fn receive(&mut self, input: &mut [u8], plaintext: &mut Vec<u8>, output: &mut Records) -> Result<(), Error> {
        if let Some(error) = &self.failure {
            return Err(error.clone());
        }
        let (consumed, result) = self.process(input, Task::Receive, plaintext, output);
        let rest = input.get(consumed..).filter(|_| result.is_ok() && !self.peer_closed).unwrap_or_default();
        if rest.is_empty() {
            self.incomplete = Vec::new();
        } else {
            self.incomplete.clear();
            self.incomplete.reserve_exact(rest.len());
            self.incomplete.extend_from_slice(rest);
        }
        if self.incomplete.len() > MAX_INCOMPLETE {
            return self.fail(Error::General("a handshake message of more than 64 KiB".into()), output);
        }
        match result {
            Ok(_) => Ok(()),
            Err(error) => self.fail(error, output),
        }
    }

    /// Appends the records with the bytes of all `pieces` in order, as few as possible.
    ///
    /// # Errors
    /// If the handshake is not complete, or the session has ended.
    pub fn encrypt(&mut self, pieces: &[&[u8]], output: &mut Records) -> Result<(), Error> {
        if self.closed {
            return Err(Error::General("already closed".into()));
        }
        match self.drive(Task::Encrypt(pieces), output)? {
            Step::Blocked => Err(Error::HandshakeNotComplete),
            _ => Ok(()),
        }
    }

    /// Appends the alert that ends this direction (`close_notify`), once.
    pub fn close(&mut self, output: &mut Records) {
        if !std::mem::replace(&mut self.closed, true) {
            // Without it, the peer sees the connection end early: nothing else can be done.
            let _ = self.drive(Task::Close, output);
        }
    }

    /// The error that ended the session, if one did.
    #[must_use]
    pub fn failure(&self) -> Option<&Error> {
        self.failure.as_ref()
    }

    /// Whether the handshake is not complete.
    #[must_use]
    pub fn is_handshaking(&self) -> bool {
        self.state().is_handshaking()
    }

    /// Whether this is the server's side.
    #[must_use]
    pub fn is_server(&self) -> bool {
        matches!(self.side, Side::Server(_))
    }

    /// Whether the peer has ended its direction (`close_notify`); only then is what it has sent complete.
    #[must_use]
    pub fn peer_closed(&self) -> bool {
        self.peer_closed
    }

    /// The protocol that was agreed on by ALPN.
    #[must_use]
    pub fn alpn(&self) -> Option<&[u8]> {
        self.state().alpn_protocol()
    }

    /// The peer's certificates, its own first.
    #[must_use]
    pub fn peer_certificates(&self) -> Option<&[CertificateDer<'static>]> {
        self.state().peer_certificates()
    }

    /// The version of TLS.
    #[must_use]
    pub fn version(&self) -> Option<ProtocolVersion> {
        self.state().protocol_version()
    }

    /// The cipher suite.
    #[must_use]
    pub fn cipher(&self) -> Option<SupportedCipherSuite> {
        self.state().negotiated_cipher_suite()
    }

    /// Whether the handshake resumed an earlier session.
    #[must_use]
    pub fn is_resumed(&self) -> bool {
        self.state().handshake_kind() == Some(HandshakeKind::Resumed)
    }

    fn state(&self) -> &CommonState {
        either!(&self.side, connection => connection)
    }

    /// Does `task` without new input.
    fn drive(&mut self, task: Task<'_>, output: &mut Records) -> Result<Step, Error> {
        if let Some(error) = &self.failure {
            return Err(error.clone());
        }
        // The connection knows positions in it.
        let mut input = std::mem::take(&mut self.incomplete);
        let (consumed, result) = self.process(&mut input, task, &mut Vec::new(), output);
        if consumed > 0 {
            input.drain(..consumed.min(input.len()));
        }
        self.incomplete = input;
        match result {
            Ok(step) => Ok(step),
            Err(error) => self.fail(error, output).map(|()| Step::Stop),
        }
    }

    /// Handles the states of the connection until `task` is done, and returns how much of `input` was consumed.
    fn process(
        &mut self,
        input: &mut [u8],
        task: Task<'_>,
        plaintext: &mut Vec<u8>,
        output: &mut Records,
    ) -> (usize, Result<Step, Error>) {
        let mut consumed = 0;
        loop {
            let rest = input.get_mut(consumed..).unwrap_or_default();
            let (discard, step) = either!(&mut self.side, connection => handle(connection.process_tls_records(rest), task, plaintext, output));
            consumed += discard;
            match step {
                Step::Continue => {}
                Step::PeerClosed => self.peer_closed = true,
                Step::Failed(error) => return (consumed, Err(error)),
                Step::Stop | Step::Blocked => return (consumed, Ok(step)),
            }
        }
    }

    /// Ends the session with `error`, and appends the alert that tells the peer.
    #[cold]
    fn fail(&mut self, error: Error, output: &mut Records) -> Result<(), Error> {
        self.failure = Some(error.clone());
        self.incomplete = Vec::new();
        // Only while there are records to send: the connection would go on with bytes that are no longer there.
        while self.state().wants_write() {
            let status = either!(&mut self.side, connection => handle(connection.process_tls_records(&mut []), Task::Receive, &mut Vec::new(), output));
            if !matches!(status, (_, Step::Continue)) {
                break;
            }
        }
        Err(error)
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = if matches!(self.side, Side::Server(_)) { "server" } else { "client" };
        let state = self.state();
        write!(f, "Session({side}, {:?}, {} incomplete)", state.protocol_version(), self.incomplete.len())
    }
}

/// Handles a state of the connection, and returns how much of the input was consumed.
fn handle<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    task: Task<'_>,
    plaintext: &mut Vec<u8>,
    output: &mut Records,
) -> (usize, Step) {
    let mut discard = status.discard;
    let step = match status.state {
        Err(error) => Step::Failed(error),
        Ok(ConnectionState::ReadTraffic(mut traffic)) => {
            let mut step = Step::Continue;
            while let Some(record) = traffic.next_record() {
                match record {
                    Ok(record) => {
                        discard += record.discard;
                        plaintext.extend_from_slice(record.payload);
                    }
                    Err(error) => step = Step::Failed(error),
                }
            }
            step
        }
        Ok(ConnectionState::EncodeTlsData(mut data)) => {
            let mut encoded = data.encode(output.room(0));
            if let Err(EncodeError::InsufficientSize(needed)) = &encoded {
                encoded = data.encode(output.room(needed.required_size));
            }
            match encoded {
                Ok(length) => {
                    output.filled += length;
                    Step::Continue
                }
                Err(error) => Step::Failed(Error::General(error.to_string())),
            }
        }
        // All records are sent in the order of `output`.
        Ok(ConnectionState::TransmitTlsData(data)) => {
            data.done();
            Step::Continue
        }
        Ok(ConnectionState::PeerClosed) => Step::PeerClosed,
        Ok(ConnectionState::WriteTraffic(traffic)) => write(traffic, task, output),
        Ok(ConnectionState::BlockedHandshake | ConnectionState::Closed) => Step::Blocked,
        // Early data is not offered and so not accepted.
        Ok(other) => Step::Failed(Error::General(format!("unexpected state: {other:?}"))),
    };
    (discard, step)
}

/// Does `task` on a connection that can send.
fn write<Data>(mut traffic: WriteTraffic<'_, Data>, task: Task<'_>, output: &mut Records) -> Step {
    let result = match task {
        Task::Receive => Ok(()),
        Task::Encrypt(pieces) => encrypt(&mut traffic, pieces, output),
        Task::Close => match traffic.queue_close_notify(output.room(2 * OVERHEAD)) {
            Ok(length) => {
                output.filled += length;
                Ok(())
            }
            // It has been queued, behind other records.
            Err(EncryptError::InsufficientSize(_)) => return Step::Continue,
            Err(error) => Err(error),
        },
    };
    match result {
        Ok(()) => Step::Stop,
        Err(error) => Step::Failed(Error::General(error.to_string())),
    }
}

/// Appends the records with the bytes of all `pieces`.
fn encrypt<Data>(
    traffic: &mut WriteTraffic<'_, Data>,
    pieces: &[&[u8]],
    output: &mut Records,
) -> Result<(), EncryptError> {
    let mut joined = std::mem::take(&mut output.joined);
    let mut result = Ok(());
    for (index, piece) in pieces.iter().enumerate() {
        let mut piece = *piece;
        let is_last = pieces[index + 1..].iter().all(|piece| piece.is_empty());
        while !piece.is_empty() && result.is_ok() {
            if joined.is_empty() && (is_last || piece.len() >= MAX_PLAINTEXT) {
                let (record, rest) = piece.split_at(piece.len().min(MAX_PLAINTEXT));
                result = seal(traffic, record, output);
                piece = rest;
            } else {
                let (start, rest) = piece.split_at(piece.len().min(MAX_PLAINTEXT - joined.len()));
                joined.extend_from_slice(start);
                piece = rest;
                if joined.len() == MAX_PLAINTEXT || (is_last && piece.is_empty()) {
                    result = seal(traffic, &joined, output);
                    joined.clear();
                }
            }
        }
    }
    joined.clear();
    output.joined = joined;
    result
}

/// Appends a record, behind those that the connection has to send itself.
fn seal<Data>(traffic: &mut WriteTraffic<'_, Data>, record: &[u8], output: &mut Records) -> Result<(), EncryptError> {
    let mut result = traffic.encrypt(record, output.room(record.len() + OVERHEAD));
    if let Err(EncryptError::InsufficientSize(needed)) = &result {
        result = traffic.encrypt(record, output.room(needed.required_size));
    }
    output.filled += result?;
    Ok(())
}
