use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConnection, ServerConfig, ServerConnection};

use super::*;
use crate::tls::failure::{TlsError, TlsFailure};

/// A key and the certificates that it signs.
struct Ca(Issuer<'static, KeyPair>, CertificateDer<'static>);

/// A chain, leaf first, and its key.
type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

impl Ca {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        params
            .distinguished_name
            .push(DnType::CommonName, format!("CA {}", const_hex::encode(&key.public_key_raw()[1..9])));
        let certificate = params.self_signed(&key).expect("a certificate").der().clone();
        Self(Issuer::new(params, key), certificate)
    }

    fn issue(&self, names: &[&str], change: impl Fn(&mut CertificateParams)) -> Identity {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate").der().clone();
        (vec![certificate], PrivateKeyDer::try_from(key.serialize_der()).expect("a key"))
    }

    fn roots(&self) -> Option<Arc<Roots>> {
        Some(Arc::new(Roots::new(vec![self.1.clone()])))
    }
}

fn usual(_: &mut CertificateParams) {}

fn self_signed(names: &[&str], is_ca: IsCa) -> Identity {
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("names");
    params.is_ca = is_ca;
    let key = KeyPair::generate().expect("a key");
    let certificate = params.self_signed(&key).expect("a certificate").der().clone();
    (vec![certificate], PrivateKeyDer::try_from(key.serialize_der()).expect("a key"))
}

fn tls(roots: Option<Arc<Roots>>, identity: Option<Identity>, name: Option<&str>, host: &str) -> UpstreamTls {
    let certified =
        |(chain, key): Identity| Arc::new(CertifiedKey::new(chain, any_supported_type(&key).expect("a key")));
    let identity = identity.map(certified);
    let server_name = name.map(|name| server_name(name).expect("a name"));
    let pool = PoolTls::new(PoolTlsParts { roots, identity, server_name, protocols: &[], digest: [0; 32] });
    UpstreamTls::new(&Arc::new(pool.expect("rules")), host, 2).expect("a name")
}

fn server((chain, key): Identity, client_ca: Option<&Ca>) -> Arc<ServerConfig> {
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().expect("TLS");
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let roots = Arc::clone(&ca.roots().expect("roots").store);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build().expect("a verifier");
            builder.with_client_cert_verifier(verifier)
        }
    };
    Arc::new(builder.with_single_cert(chain, key).expect("a certificate"))
}

/// Makes a handshake in memory, and returns whether it resumed a session.
fn connect(tls: &UpstreamTls, config: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> Result<bool, TlsError> {
    let mut client = ClientConnection::new(Arc::clone(config), tls.name().clone()).expect("a client");
    let mut server = ServerConnection::new(Arc::clone(server)).expect("a server");
    for _ in 0..6 {
        let mut sent = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut sent).expect("memory");
        }
        let mut sent = sent.as_slice();
        while !sent.is_empty() {
            server.read_tls(&mut sent).expect("memory");
            // The client learns of it by an alert.
            let _ = server.process_new_packets();
        }
        let mut received = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut received).expect("memory");
        }
        let mut received = received.as_slice();
        while !received.is_empty() {
            client.read_tls(&mut received).expect("memory");
            client.process_new_packets().map_err(|error| TlsError::new(&error, tls.name(), false))?;
        }
    }
    Ok(client.handshake_kind() == Some(rustls::HandshakeKind::Resumed))
}

#[test]
fn certificates_are_verified_and_errors_say_why_not() {
    let (ca, other) = (Ca::new(), Ca::new());
    let expired = |params: &mut CertificateParams| params.not_after = rcgen::date_time_ymd(2020, 1, 2);
    let future = |params: &mut CertificateParams| params.not_before = rcgen::date_time_ymd(2096, 1, 2);
    let clients = |params: &mut CertificateParams| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    };
    let many = ["a.test", "b.test", "c.test", "d.test", "e.test"];
    // The name in the file, the server's host, its certificate, and the failure with its text.
    type Case = (Option<&'static str>, &'static str, Identity, Option<(TlsFailure, &'static str)>);
    let cases: Vec<Case> = vec![
        (None, "api.test", ca.issue(&["api.test"], usual), None),
        (None, "api.test.", ca.issue(&["api.test"], usual), None),
        (None, "my_app", ca.issue(&["my_app"], usual), None),
        (None, "API.test", ca.issue(&["api.test"], usual), None),
        (None, "a.api.test", ca.issue(&["*.api.test"], usual), None),
        (None, "127.0.0.1", ca.issue(&["127.0.0.1"], usual), None),
        (None, "::1", ca.issue(&["::1"], usual), None),
        (Some("api.test"), "127.0.0.1", ca.issue(&["api.test"], usual), None),
        (
            None,
            "api.test",
            ca.issue(&["web.test"], usual),
            Some((TlsFailure::WrongName, "certificate not valid for api.test: it is for web.test")),
        ),
        (
            Some("api.test"),
            "web.test",
            ca.issue(&["web.test"], usual),
            Some((TlsFailure::WrongName, "certificate not valid for api.test: it is for web.test")),
        ),
        (
            None,
            "127.0.0.1",
            ca.issue(&many, usual),
            Some((
                TlsFailure::WrongName,
                "certificate not valid for 127.0.0.1: it is for a.test, b.test, c.test, 2 more",
            )),
        ),
        (
            None,
            "api.test",
            ca.issue(&[], usual),
            Some((TlsFailure::WrongName, "certificate not valid for api.test: it has no name")),
        ),
        (
            None,
            "api.test",
            ca.issue(&["api.test"], expired),
            Some((TlsFailure::Expired, "certificate expired at 2020-01-02T00:00:00Z")),
        ),
        (
            None,
            "api.test",
            ca.issue(&["api.test"], future),
            Some((TlsFailure::NotYetValid, "certificate not valid before 2096-01-02T00:00:00Z")),
        ),
        (
            None,
            "api.test",
            other.issue(&["api.test"], usual),
            Some((TlsFailure::UnknownIssuer, "certificate from an unknown issuer")),
        ),
        (
            None,
            "api.test",
            ca.issue(&["api.test"], |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
            Some((TlsFailure::CaCertificate, "certificate is that of a CA, not of a server")),
        ),
    ];
    for (name, host, identity, expected) in cases {
        let tls = tls(ca.roots(), None, name, host);
        let result = connect(&tls, tls.for_worker(0), &server(identity, None));
        let result = result.err().map(|error| (error.failure, error.to_string()));
        assert_eq!(result, expected.map(|(failure, text)| (failure, text.to_owned())), "{name:?} {host}");
    }
    let result = {
        let tls = tls(ca.roots(), None, None, "api.test");
        connect(&tls, tls.for_worker(0), &server(ca.issue(&["api.test"], clients), None))
    };
    assert_eq!(result.map_err(|error| error.failure), Err(TlsFailure::WrongPurpose));
}

#[test]
fn a_self_signed_certificate_may_be_its_own_ca() {
    for is_ca in [IsCa::NoCa, IsCa::ExplicitNoCa, IsCa::Ca(BasicConstraints::Unconstrained)] {
        let identity = self_signed(&["api.test"], is_ca);
        let roots = || Some(Arc::new(Roots::new(identity.0.clone())));
        for (host, expected) in [("api.test", Ok(false)), ("web.test", Err(TlsFailure::WrongName))] {
            let tls = tls(roots(), None, None, host);
            let server = server((identity.0.clone(), identity.1.clone_key()), None);
            let result = connect(&tls, tls.for_worker(0), &server).map_err(|error| error.failure);
            assert_eq!(result, expected, "{host} {is_ca:?}");
        }
        let expected = match is_ca {
            IsCa::Ca(_) => TlsFailure::CaCertificate,
            IsCa::NoCa | IsCa::ExplicitNoCa => TlsFailure::UnknownIssuer,
        };
        let another = self_signed(&["api.test"], is_ca);
        let tls = tls(roots(), None, None, "api.test");
        let result = connect(&tls, tls.for_worker(0), &server(another, None)).map_err(|error| error.failure);
        assert_eq!(result, Err(expected), "of the same name and with another key");
    }
    let (leaf, _) = self_signed(&["api.test"], IsCa::NoCa);
    let at = |year: i32| UnixTime::since_unix_epoch(Duration::from_secs((year - 1970) as u64 * 31_556_952));
    assert_eq!(verify_dates(&leaf[0], at(2020)), Ok(()));
    assert!(matches!(verify_dates(&leaf[0], at(1971)), Err(CertificateError::NotValidYetContext { .. })));
    assert!(matches!(verify_dates(&leaf[0], at(4100)), Err(CertificateError::ExpiredContext { .. })));
}

#[test]
fn nothing_is_verified_if_the_file_says_so() {
    let expired = Ca::new().issue(&["web.test"], |params| params.not_after = rcgen::date_time_ymd(2020, 1, 2));
    let tls = tls(None, None, None, "api.test");
    assert!(!tls.pool().is_verified());
    assert_eq!(connect(&tls, tls.for_worker(0), &server(expired, None)), Ok(false));
}

#[test]
fn a_server_may_want_a_client_certificate() {
    let (ca, client_ca) = (Ca::new(), Ca::new());
    let cases = [
        (Some(client_ca.issue(&["lb.test"], usual)), Ok(false)),
        (Some(ca.issue(&["lb.test"], usual)), Err(TlsFailure::RefusesCertificate)),
        (None, Err(TlsFailure::WantsCertificate)),
    ];
    for (identity, expected) in cases {
        let tls = tls(ca.roots(), identity, None, "api.test");
        let server = server(ca.issue(&["api.test"], usual), Some(&client_ca));
        let result = connect(&tls, tls.for_worker(0), &server).map_err(|error| error.failure);
        assert_eq!(result, expected);
    }
}

#[test]
fn a_worker_resumes_its_own_sessions_with_one_server_and_checks_never_do() {
    let ca = Ca::new();
    let (one, two) = (tls(ca.roots(), None, None, "api.test"), tls(ca.roots(), None, None, "api.test"));
    let server = server(ca.issue(&["api.test"], usual), None);
    let resumed = |tls: &UpstreamTls, config| connect(tls, config, &server).expect("a handshake");
    assert!(!resumed(&one, one.for_worker(0)));
    assert!(resumed(&one, one.for_worker(0)));
    assert!(!resumed(&one, one.for_worker(1)));
    assert!(!resumed(&two, two.for_worker(0)));
    assert!(!resumed(&one, one.for_check()));
    assert!(!resumed(&one, one.for_check()));
}

#[test]
fn a_host_that_no_certificate_can_name_is_an_error() {
    for host in ["", "a..b", "a b", "-.", "10.0.0.256"] {
        assert!(server_name(host).is_err(), "{host}");
    }
}

#[test]
fn what_is_not_tls_is_told_apart_only_at_the_start() {
    let error = Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType);
    assert_eq!(TlsFailure::of(&error, true), TlsFailure::NotTls);
    assert_eq!(TlsFailure::of(&error, false), TlsFailure::Violation);
}
