//! rustls' buffered connection as an oracle for our TLS sessions: the same client does the same to both, and the outcomes are
//! equal. Only ours gets its bytes in pieces.

use std::io::{Read, Write};
use std::sync::{Arc, OnceLock};

use lb::tls::provider;
use lb::tls::session::{Records, Session};
use rcgen::{CertificateParams, KeyPair};
use rustls::client::Resumption;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, ProtocolVersion, RootCertStore, ServerConfig, ServerConnection};

/// The server's side of a connection.
enum Server {
    Ours { session: Box<Session>, output: Records, failure: Option<rustls::Error> },
    Oracle { connection: Box<ServerConnection>, closed: bool, failure: Option<rustls::Error> },
}

/// The outcome of a script.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    to_server: Vec<u8>,
    to_client: Vec<u8>,
    server_failed: Option<String>,
    client_failed: Option<String>,
    /// Whether the server knows that the client has ended its direction.
    server_told: bool,
    client_told: bool,
    version: Option<ProtocolVersion>,
    is_handshaking: bool,
}

/// Asserts that our session and the oracle's do the same in a connection with this script.
pub fn sessions_agree(script: &[u8]) {
    let ours = run(script, |config| Server::Ours {
        session: Box::new(Session::server(config).expect("a session")),
        output: Records::default(),
        failure: None,
    });
    let theirs = run(script, |config| Server::Oracle {
        connection: Box::new(ServerConnection::new(config).expect("a connection")),
        closed: false,
        failure: None,
    });
    assert_eq!(ours, theirs, "{script:?}");
}

/// Both configurations of each version of TLS.
fn configs(version: u8) -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    static CONFIGS: OnceLock<[(Arc<ServerConfig>, Arc<ClientConfig>); 2]> = OnceLock::new();
    let configs = CONFIGS.get_or_init(|| {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(["localhost".to_owned()]).expect("a name");
        let certificate = params.self_signed(&key).expect("a certificate").der().clone();
        [&rustls::version::TLS12, &rustls::version::TLS13].map(|version| {
            let mut roots = RootCertStore::empty();
            roots.add(certificate.clone()).expect("a root");
            let server = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[version]);
            let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
            let server = server.expect("a version").with_no_client_auth();
            let server = server.with_single_cert(vec![certificate.clone()], key).expect("a pair");
            let client = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[version]);
            let mut client = client.expect("a version").with_root_certificates(roots).with_no_client_auth();
            client.resumption = Resumption::disabled();
            (Arc::new(server), Arc::new(client))
        })
    });
    configs[usize::from(version % 2)].clone()
}

/// Runs a script: the version of TLS, then the steps, one byte each.
fn run(script: &[u8], server: impl FnOnce(Arc<ServerConfig>) -> Server) -> Outcome {
    let Some((version, steps)) = script.split_first() else { return Outcome::default() };
    let (server_config, client_config) = configs(*version);
    let name = ServerName::try_from("localhost").expect("a name");
    let mut client = ClientConnection::new(client_config, name).expect("a connection");
    let mut server = server(server_config);
    let mut outcome = Outcome::default();
    let (mut piece, mut is_closed) = (1, false);
    // Its extensions are in random order, so it is not damaged.
    let mut is_hello = true;
    for step in steps.iter().take(64).copied().chain([0; 4]) {
        let argument = usize::from(step >> 3);
        let (mut damage, mut inserted, mut kept) = (None, Vec::new(), usize::MAX);
        // rustls' connections must not be used after an error.
        let operation = if outcome.client_failed.is_some() { 0 } else { step % 8 };
        match operation {
            1 => drop(client.writer().write(&body(argument * argument * 50))),
            2 => server.send(&body(argument * argument * 50)),
            // After close_notify, another alert would fail a debug assertion of rustls.
            3 | 5 | 6 if is_closed => {}
            // Before the end of the handshake, and in TLS 1.2, that is an error of ours.
            3 => drop(client.refresh_traffic_keys()),
            4 if argument < 8 => client.send_close_notify(),
            4 if argument < 12 => {
                server.close();
                is_closed = true;
            }
            4 if !is_closed => kept = argument,
            5 => damage = Some(argument),
            6 => {
                let kind = [20, 21, 22, 23][argument % 4];
                inserted = vec![kind, 3, 3, 0, (argument / 4) as u8];
                inserted.resize(5 + argument / 4, 1);
            }
            7 => piece = 1 + argument * argument,
            _ => {}
        }
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).expect("memory");
        }
        if let Some(byte) = damage.filter(|_| !is_hello).and_then(|at| bytes.get_mut(at)) {
            *byte ^= 1;
        }
        is_hello &= bytes.is_empty();
        inserted.append(&mut bytes);
        inserted.truncate(kept);
        server.receive(&inserted, piece, &mut outcome.to_server);
        let records = server.take();
        let mut rest = records.as_slice();
        while !rest.is_empty() && outcome.client_failed.is_none() {
            if client.read_tls(&mut rest).expect("memory") == 0 {
                break;
            }
            match client.process_new_packets() {
                Ok(state) => outcome.client_told = state.peer_has_closed(),
                Err(error) => outcome.client_failed = Some(error.to_string()),
            }
            // It ends with "would block", or with the connection.
            let _ = client.reader().read_to_end(&mut outcome.to_client);
        }
    }
    (outcome.server_failed, outcome.server_told, outcome.version, outcome.is_handshaking) = server.facts();
    outcome
}

/// Bytes of which each differs from its neighbours.
fn body(length: usize) -> Vec<u8> {
    (0..=250).cycle().take(length).collect()
}

impl Server {
    /// Receives bytes: our session in pieces.
    fn receive(&mut self, bytes: &[u8], piece: usize, plaintext: &mut Vec<u8>) {
        match self {
            Self::Ours { session, output, failure } => {
                for bytes in bytes.chunks(piece) {
                    let mut input = [session.incomplete(), bytes].concat();
                    if let Err(error) = session.receive(&mut input, plaintext, output) {
                        failure.get_or_insert(error);
                    }
                }
            }
            Self::Oracle { connection, closed, failure } => {
                let mut rest = bytes;
                while !rest.is_empty() && failure.is_none() && !*closed {
                    assert!(connection.read_tls(&mut rest).expect("memory") > 0, "an unread rest");
                    match connection.process_new_packets() {
                        Ok(state) => *closed = state.peer_has_closed(),
                        Err(error) => *failure = Some(error),
                    }
                    let _ = connection.reader().read_to_end(plaintext);
                }
            }
        }
    }

    /// Sends bytes once the handshake is complete.
    fn send(&mut self, bytes: &[u8]) {
        match self {
            Self::Ours { session, output, failure } if !session.is_handshaking() && failure.is_none() => {
                // Not possible after we have closed it.
                let _ = session.encrypt(&[&bytes[..bytes.len() / 3], &bytes[bytes.len() / 3..]], output);
            }
            Self::Oracle { connection, failure, .. } if !connection.is_handshaking() && failure.is_none() => {
                let _ = connection.writer().write(bytes);
            }
            _ => {}
        }
    }

    /// Ends the sending direction once the handshake is complete.
    fn close(&mut self) {
        match self {
            Self::Ours { session, output, .. } if !session.is_handshaking() => session.close(output),
            Self::Oracle { connection, failure: None, .. } if !connection.is_handshaking() => {
                connection.send_close_notify();
            }
            _ => {}
        }
    }

    /// The records to send.
    fn take(&mut self) -> Vec<u8> {
        let mut records = Vec::new();
        match self {
            Self::Ours { output, .. } => {
                records.extend_from_slice(output.filled());
                output.clear();
            }
            Self::Oracle { connection, .. } => {
                while connection.wants_write() {
                    connection.write_tls(&mut records).expect("memory");
                }
            }
        }
        records
    }

    /// Why it failed, whether the client has ended its direction, the version, and whether the handshake goes on.
    fn facts(&self) -> (Option<String>, bool, Option<ProtocolVersion>, bool) {
        match self {
            Self::Ours { session, failure, .. } => {
                let failure = failure.as_ref().map(ToString::to_string);
                (failure, session.peer_closed(), session.version(), session.is_handshaking())
            }
            Self::Oracle { connection, closed, failure } => {
                let failure = failure.as_ref().map(ToString::to_string);
                (failure, *closed, connection.protocol_version(), connection.is_handshaking())
            }
        }
    }
}
