//! Certificates for tests, and a TLS end in front of any server of a test: each connection is decrypted and forwarded.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, RevokedCertParams, SignatureAlgorithm,
};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::WebPkiClientVerifier;
use rustls::{HandshakeKind, RootCertStore, ServerConfig, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

/// A CA that issues certificates.
pub(crate) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
}

/// A chain and its key, in PEM.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    pub(crate) chain: String,
    pub(crate) key: String,
}

impl Ca {
    /// A CA with a name of its own.
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate for these names, of hosts or addresses.
    pub(crate) fn issue(&self, names: &[&str]) -> Pair {
        self.issue_with(names, |_| {})
    }

    pub(crate) fn issue_with(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Pair {
        self.issue_key(&KeyPair::generate().expect("a key"), names, change)
    }

    /// A certificate for a key of this kind.
    pub(crate) fn issue_for(&self, algorithm: &'static SignatureAlgorithm, names: &[&str]) -> Pair {
        self.issue_key(&KeyPair::generate_for(algorithm).expect("a key"), names, |_| {})
    }

    fn issue_key(&self, key: &KeyPair, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Pair {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let certificate = params.signed_by(key, &self.issuer).expect("a certificate");
        Pair { chain: certificate.pem(), key: key.serialize_pem() }
    }

    /// A list that revokes the certificates with these serial numbers, in PEM.
    pub(crate) fn revoke(&self, serials: &[u64]) -> String {
        let (yesterday, tomorrow) = (SystemTime::now() - DAY, SystemTime::now() + DAY);
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: (*serial).into(),
            revocation_time: yesterday.into(),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: yesterday.into(),
            next_update: tomorrow.into(),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).expect("a list").pem().expect("a list")
    }

    /// Writes its certificate.
    pub(crate) fn write(&self, path: &Path) {
        fs::write(path, &self.pem).expect("a file");
    }
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

impl Pair {
    /// Writes `NAME.pem` and `NAME.key`.
    pub(crate) fn write(&self, directory: &Path, name: &str) {
        fs::write(directory.join(format!("{name}.pem")), &self.chain).expect("a file");
        fs::write(directory.join(format!("{name}.key")), &self.key).expect("a file");
    }

    pub(crate) fn chain(&self) -> Vec<rustls::pki_types::CertificateDer<'static>> {
        PemObject::pem_slice_iter(self.chain.as_bytes()).map(|certificate| certificate.expect("PEM")).collect()
    }
}

pub(crate) const ONLY_TLS12: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];
pub(crate) const ONLY_TLS13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// The rules of a [`TlsFront`].
#[derive(Debug, Clone)]
pub(crate) struct FrontRules {
    pub(crate) pair: Pair,
    /// The CA of client certificates, which are required then.
    pub(crate) client_ca: Option<String>,
    pub(crate) versions: &'static [&'static SupportedProtocolVersion],
    pub(crate) alpn: Vec<Vec<u8>>,
    /// TLS 1.3 tickets sent on each connection.
    pub(crate) tickets: usize,
}

impl FrontRules {
    pub(crate) fn new(pair: Pair) -> Self {
        Self { pair, client_ca: None, versions: rustls::ALL_VERSIONS, alpn: Vec::new(), tickets: 2 }
    }

    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        let provider = Arc::new(default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_protocol_versions(self.versions).expect("versions");
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(pem) => {
                let mut roots = RootCertStore::empty();
                for certificate in PemObject::pem_slice_iter(pem.as_bytes()) {
                    roots.add(certificate.expect("PEM")).expect("a CA");
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().expect("a verifier"))
            }
        };
        let key = PrivateKeyDer::from_pem_slice(self.pair.key.as_bytes()).expect("a key");
        let mut config = builder.with_single_cert(self.pair.chain(), key).expect("a pair");
        config.alpn_protocols.clone_from(&self.alpn);
        config.send_tls13_tickets = self.tickets;
        Arc::new(config)
    }
}

/// The way in which a [`TlsFront`] ends its sending direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// With close_notify.
    Notified,
    /// Without, as if cut off.
    Cut,
}

/// A TLS end in front of a server. Its connections end when it is dropped.
#[derive(Debug)]
pub(crate) struct TlsFront {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    /// Ends it when dropped.
    _stop: oneshot::Sender<()>,
}

#[derive(Debug)]
struct Shared {
    config: Mutex<Arc<ServerConfig>>,
    full: AtomicUsize,
    resumed: AtomicUsize,
    failed: AtomicUsize,
    open: AtomicUsize,
    /// The server names of the handshakes so far.
    names: Mutex<Vec<Option<String>>>,
    /// The client certificates of the handshakes so far, as DER.
    clients: Mutex<Vec<Option<Vec<u8>>>>,
}

impl TlsFront {
    /// Forwards to `server`.
    pub(crate) fn new(rules: &FrontRules, server: SocketAddr) -> Self {
        Self::ending(rules, server, Ending::Notified)
    }

    pub(crate) fn ending(rules: &FrontRules, server: SocketAddr, ending: Ending) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            config: Mutex::new(rules.config()),
            full: AtomicUsize::new(0),
            resumed: AtomicUsize::new(0),
            failed: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            names: Mutex::default(),
            clients: Mutex::default(),
        });
        let accepting = Arc::clone(&shared);
        let accept = async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&accepting);
                tokio::spawn(async move {
                    shared.open.fetch_add(1, SeqCst);
                    shared.serve(stream, server, ending).await;
                    shared.open.fetch_sub(1, SeqCst);
                });
            }
        };
        let (stop, stopped) = oneshot::channel::<()>();
        std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = accept => {}
                    _ = stopped => {}
                }
            });
        });
        Self { address, shared, _stop: stop }
    }

    /// Changes the rules for new connections.
    pub(crate) fn set(&self, rules: &FrontRules) {
        *self.shared.config.lock().expect("rules") = rules.config();
    }

    /// Handshakes that succeeded, in full and by resumption.
    pub(crate) fn handshakes(&self) -> (usize, usize) {
        (self.shared.full.load(SeqCst), self.shared.resumed.load(SeqCst))
    }

    /// Handshakes that failed.
    pub(crate) fn failed(&self) -> usize {
        self.shared.failed.load(SeqCst)
    }

    /// Connections that are open now.
    pub(crate) fn open(&self) -> usize {
        self.shared.open.load(SeqCst)
    }

    /// The server names of the handshakes so far.
    pub(crate) fn names(&self) -> Vec<Option<String>> {
        self.shared.names.lock().expect("names").clone()
    }

    /// Whether the newest handshake was made with this client certificate.
    pub(crate) fn has_seen(&self, pair: &Pair) -> bool {
        let clients = self.shared.clients.lock().expect("certificates");
        clients.last().is_some_and(|client| client.as_deref() == pair.chain().first().map(|leaf| leaf.as_ref()))
    }

    /// Its table for the default pool.
    pub(crate) fn table(&self, name: &str) -> String {
        format!("[[server]]\nname = \"{name}\"\naddress = \"{}\"\n", self.address)
    }
}

impl Shared {
    async fn serve(&self, stream: TcpStream, server: SocketAddr, ending: Ending) {
        let _ = stream.set_nodelay(true);
        let config = Arc::clone(&self.config.lock().expect("rules"));
        let Ok(mut stream) = TlsAcceptor::from(config).accept(stream).await else {
            self.failed.fetch_add(1, SeqCst);
            return;
        };
        let session = stream.get_ref().1;
        let count = if session.handshake_kind() == Some(HandshakeKind::Resumed) { &self.resumed } else { &self.full };
        count.fetch_add(1, SeqCst);
        self.names.lock().expect("names").push(session.server_name().map(str::to_owned));
        let client = session.peer_certificates().and_then(|chain| chain.first()).map(|leaf| leaf.to_vec());
        self.clients.lock().expect("certificates").push(client);
        let Ok(mut server) = TcpStream::connect(server).await else { return };
        let _ = server.set_nodelay(true);
        match ending {
            Ending::Notified => drop(copy_bidirectional(&mut stream, &mut server).await),
            Ending::Cut => {
                let (mut from_client, mut to_client) = tokio::io::split(&mut stream);
                let (mut from_server, mut to_server) = server.split();
                tokio::select! {
                    _ = copy(&mut from_client, &mut to_server) => {}
                    _ = copy(&mut from_server, &mut to_client) => {}
                }
                let _ = to_client.flush().await;
                // Dropping the socket under TLS says nothing to the peer; what it still sends is read, so that no reset
                // overtakes the response.
                drop((from_client, to_client));
                let socket = stream.get_mut().0;
                let _ = socket.shutdown().await;
                let _ = socket.read_to_end(&mut Vec::new()).await;
            }
        }
    }
}
