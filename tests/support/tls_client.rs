//! TLS clients, and `lb` with a listener for them.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion};
use tempfile::TempDir;

use super::DEADLINE;
use super::lb::{Lb, NO_CHECKS};
use super::tls::{Ca, Pair};

/// The name in the certificate of a [`TlsLb`].
pub(crate) const NAME: &str = "site.example.com";

/// A client's end of a TLS connection.
pub(crate) type TlsStream = StreamOwned<ClientConnection, TcpStream>;

/// An `lb` with a TLS listener whose certificate is `site.pem`, and its CA, also in `ca.pem`.
pub(crate) struct TlsLb {
    pub(crate) lb: Lb,
    pub(crate) ca: Arc<Ca>,
    /// The directory of its files.
    pub(crate) at: PathBuf,
}

impl TlsLb {
    /// `tls` has the keys of the listener, and `config` all the rest. Paths are relative to the directory of the file.
    pub(crate) fn start(tls: &str, config: &str) -> Self {
        Self::start_with(Arc::new(Ca::new("site")), tls, config, &[])
    }

    /// Like [`TlsLb::start`], with a CA that exists and more files.
    pub(crate) fn start_with(ca: Arc<Ca>, tls: &str, config: &str, files: &[(&str, &[u8])]) -> Self {
        let directory = TempDir::new().expect("a directory");
        let at = directory.path().to_owned();
        ca.write(&at.join("ca.pem"));
        ca.issue(&[NAME]).write(&at, "site");
        for (name, content) in files {
            fs::write(at.join(name), content).expect("a file");
        }
        fs::write(at.join("lb.toml"), Self::file(tls, config)).expect("a file");
        Self { lb: Lb::start_in(directory, at.join("lb.toml")), ca, at }
    }

    /// The file that [`TlsLb::start`] writes.
    pub(crate) fn file(tls: &str, config: &str) -> String {
        format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\n[listener.tls]\n{tls}\n\
             [[certificate]]\nfile = \"site.pem\"\nkey = \"site.key\"\ndefault = true\n\
             [admin]\naddress = \"127.0.0.1:0\"\n{NO_CHECKS}{config}"
        )
    }

    /// A client's configuration that trusts the CA.
    pub(crate) fn trusting(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        identity: Option<&Pair>,
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.ca.pem.as_bytes()).expect("PEM")).expect("a root");
        let builder =
            ClientConfig::builder_with_provider(Arc::new(default_provider())).with_protocol_versions(versions);
        let builder = builder.expect("versions").with_root_certificates(roots);
        match identity {
            None => builder.with_no_client_auth(),
            Some(pair) => {
                let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("a key");
                builder.with_client_auth_cert(pair.chain(), key).expect("a pair")
            }
        }
    }

    /// A client that trusts the CA.
    pub(crate) fn client(&self) -> TlsStream {
        connect(self.lb.address(), self.trusting(rustls::ALL_VERSIONS, None)).expect("a connection")
    }

    /// A client that offers HTTP/2.
    pub(crate) fn http2_client(&self) -> TlsStream {
        let mut config = self.trusting(rustls::ALL_VERSIONS, None);
        config.alpn_protocols = vec![b"h2".to_vec()];
        connect(self.lb.address(), config).expect("a connection")
    }
}

/// Connects to [`NAME`] at an address, and makes the handshake.
pub(crate) fn connect(address: SocketAddr, config: impl Into<Arc<ClientConfig>>) -> io::Result<TlsStream> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(DEADLINE))?;
    socket.set_write_timeout(Some(DEADLINE))?;
    socket.set_nodelay(true)?;
    let name = ServerName::try_from(NAME).expect("a name");
    let mut connection = ClientConnection::new(config.into(), name).map_err(io::Error::other)?;
    while connection.is_handshaking() {
        connection.complete_io(&mut socket)?;
    }
    Ok(StreamOwned::new(connection, socket))
}

/// Sends a request that closes the connection, and reads to its proper end.
pub(crate) fn get(stream: &mut TlsStream, path: &str) -> io::Result<String> {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")?;
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    Ok(response)
}

/// Reads until the end of a response with this body.
pub(crate) fn read_until(stream: &mut TlsStream, end: &str) -> String {
    let mut response = Vec::new();
    while !response.ends_with(end.as_bytes()) {
        let mut bytes = [0; 4096];
        let count = stream.read(&mut bytes).expect("a response");
        assert!(count > 0, "the end of the connection after {}", String::from_utf8_lossy(&response));
        response.extend_from_slice(&bytes[..count]);
    }
    String::from_utf8_lossy(&response).into_owned()
}
