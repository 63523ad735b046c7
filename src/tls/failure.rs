//! The ways in which TLS to a server fails, in words, and what to do about each.

use std::fmt;
use std::time::{Duration, UNIX_EPOCH};

use rustls::pki_types::{ServerName, UnixTime};
use rustls::{AlertDescription, CertificateError, Error};

/// Why there is no TLS with a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsFailure {
    /// The server's certificate has expired.
    Expired,
    /// The server's certificate is not valid yet.
    NotYetValid,
    /// No trusted CA has issued the server's certificate.
    UnknownIssuer,
    /// The server's certificate is for other names.
    WrongName,
    /// The server's certificate may not be used for servers.
    WrongPurpose,
    /// The server's certificate is that of a CA.
    CaCertificate,
    /// The server's certificate is invalid in another way.
    BadCertificate,
    /// The server's first bytes are not TLS.
    NotTls,
    /// The server closed the connection during the handshake.
    Closed,
    /// The server speaks no version that is supported here.
    Version,
    /// Nothing else in common, such as a cipher suite.
    NothingInCommon,
    /// The server speaks none of the protocols that were offered.
    Protocol,
    /// The server wants a client certificate, and there is none.
    WantsCertificate,
    /// The server does not accept the client certificate.
    RefusesCertificate,
    /// The server has no certificate for the name.
    UnknownName,
    /// The server ended the connection with another alert.
    Alert(AlertDescription),
    /// The server violates the protocol.
    Violation,
}

impl TlsFailure {
    /// The failure behind an error. `is_first` is whether nothing that was TLS had been received.
    #[must_use]
    pub fn of(error: &Error, is_first: bool) -> Self {
        match error {
            Error::InvalidCertificate(error) => Self::of_certificate(error),
            Error::NoCertificatesPresented => Self::BadCertificate,
            Error::InvalidMessage(_) if is_first => Self::NotTls,
            Error::PeerIncompatible(rustls::PeerIncompatible::ServerDoesNotSupportTls12Or13) => Self::Version,
            Error::PeerIncompatible(_) => Self::NothingInCommon,
            Error::NoApplicationProtocol => Self::Protocol,
            Error::AlertReceived(alert) => Self::of_alert(*alert),
            _ => Self::Violation,
        }
    }

    fn of_certificate(error: &CertificateError) -> Self {
        match error {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::NotYetValid,
            // A CA of the same name with another key, as after a renewal, is unknown too.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::UnknownIssuer,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => Self::WrongName,
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => Self::WrongPurpose,
            // The verifier's own error has no other name here.
            CertificateError::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => Self::CaCertificate,
            _ => Self::BadCertificate,
        }
    }

    fn of_alert(alert: AlertDescription) -> Self {
        use AlertDescription as Alert;
        match alert {
            Alert::CertificateRequired => Self::WantsCertificate,
            Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied => Self::RefusesCertificate,
            Alert::ProtocolVersion => Self::Version,
            Alert::NoApplicationProtocol => Self::Protocol,
            Alert::UnrecognisedName => Self::UnknownName,
            other => Self::Alert(other),
        }
    }

    /// One word, for the access log.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::UnknownIssuer => "unknown_issuer",
            Self::WrongName => "wrong_name",
            Self::WrongPurpose => "wrong_purpose",
            Self::CaCertificate => "ca_certificate",
            Self::BadCertificate => "bad_certificate",
            Self::NotTls => "not_tls",
            Self::Closed => "closed",
            Self::Version => "version",
            Self::NothingInCommon => "nothing_in_common",
            Self::Protocol => "protocol",
            Self::WantsCertificate => "wants_certificate",
            Self::RefusesCertificate => "refuses_certificate",
            Self::UnknownName => "unknown_name",
            Self::Alert(_) => "alert",
            Self::Violation => "violation",
        }
    }

    /// A way to mend it.
    #[must_use]
    pub fn hint(self) -> &'static str {
        match self {
            Self::Expired => "renew the server's certificate",
            Self::NotYetValid => "compare the clocks of both machines",
            Self::UnknownIssuer => {
                "set `upstream.tls.ca` to the CA that issued the certificate, and let the server send its intermediate \
                 certificates"
            }
            Self::WrongName => "set `upstream.tls.server_name` to a name in the certificate",
            Self::CaCertificate => "set `upstream.tls.ca` to this very certificate, or issue one for the server",
            Self::WrongPurpose | Self::BadCertificate => "issue another certificate for the server",
            Self::NotTls => "set `upstream.tls = false`, or the port at which the server speaks TLS",
            Self::Closed => "see the server's log; perhaps it does not speak TLS at this port",
            Self::Version => "the server must speak TLS 1.2 or 1.3",
            Self::NothingInCommon | Self::Alert(_) | Self::Violation => "see the server's log",
            Self::Protocol => "set `upstream.protocol` to one that the server speaks, or to `auto`",
            Self::WantsCertificate => "set `upstream.tls.certificate` and `upstream.tls.key`",
            Self::RefusesCertificate => {
                "let the server trust the CA of `upstream.tls.certificate`, or renew the certificate"
            }
            Self::UnknownName => "set `upstream.tls.server_name` to a name that the server knows",
        }
    }
}

impl fmt::Display for TlsFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Expired => "certificate expired",
            Self::NotYetValid => "certificate not valid yet",
            Self::UnknownIssuer => "certificate from an unknown issuer",
            Self::WrongName => "certificate not valid for this name",
            Self::WrongPurpose => "certificate not valid for servers",
            Self::CaCertificate => "certificate is that of a CA, not of a server",
            Self::BadCertificate => "invalid certificate",
            Self::NotTls => "the server does not speak TLS",
            Self::Closed => "connection closed in the TLS handshake",
            Self::Version => "no TLS version in common",
            Self::NothingInCommon => "no TLS parameters in common",
            Self::Protocol => "no protocol in common by ALPN",
            Self::WantsCertificate => "the server wants a client certificate",
            Self::RefusesCertificate => "the server does not accept the client certificate",
            Self::UnknownName => "the server has no certificate for this name",
            Self::Alert(alert) => return write!(f, "TLS alert {alert:?} from the server"),
            Self::Violation => "the server violates the TLS protocol",
        })
    }
}

/// A failure with the facts about it: displays as a log or the API shows it to operators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsError {
    pub failure: TlsFailure,
    detail: String,
}

impl TlsError {
    /// The error of a handshake with a server whose certificate was to be valid for `name`. `is_first` is whether nothing
    /// that was TLS had been received.
    #[must_use]
    pub fn new(error: &Error, name: &ServerName<'_>, is_first: bool) -> Self {
        let failure = TlsFailure::of(error, is_first);
        let detail = match error {
            Error::InvalidCertificate(error) => detail(error, name).unwrap_or_else(|| failure.to_string()),
            Error::PeerMisbehaved(_) | Error::PeerIncompatible(_) => format!("{failure}; {error}"),
            _ => failure.to_string(),
        };
        Self { failure, detail }
    }

    /// The server has not chosen HTTP/2, the only protocol that was offered, but this one by ALPN.
    #[must_use]
    pub fn not_chosen(chosen: Option<&[u8]>) -> Self {
        let chosen = chosen.map_or_else(|| "no protocol".into(), |name| format!("`{}`", name.escape_ascii()));
        let detail = format!("only `h2` was offered by ALPN, and the server has chosen {chosen}");
        Self { failure: TlsFailure::Protocol, detail }
    }

    /// The connection closed during the handshake.
    #[must_use]
    pub fn closed() -> Self {
        Self { failure: TlsFailure::Closed, detail: TlsFailure::Closed.to_string() }
    }
}

/// The facts about an invalid certificate, if there are more than its failure tells.
fn detail(error: &CertificateError, name: &ServerName<'_>) -> Option<String> {
    match error {
        CertificateError::ExpiredContext { not_after, .. } => {
            Some(format!("certificate expired at {}", rfc3339(*not_after)))
        }
        CertificateError::NotValidYetContext { not_before, .. } => {
            Some(format!("certificate not valid before {}", rfc3339(*not_before)))
        }
        CertificateError::NotValidForName => Some(format!("certificate not valid for {}", name.to_str())),
        CertificateError::NotValidForNameContext { presented, .. } => {
            let names = match presented.as_slice() {
                [] => "has no name".to_owned(),
                names => format!("is for {}", shown(names)),
            };
            Some(format!("certificate not valid for {}: it {names}", name.to_str()))
        }
        CertificateError::InvalidPurposeContext { .. }
        | CertificateError::BadEncoding
        | CertificateError::BadSignature
        | CertificateError::UnhandledCriticalExtension => {
            Some(format!("{}; {error}", TlsFailure::of_certificate(error)))
        }
        _ => None,
    }
}

/// The first names of a certificate, without the kind that the verifier adds. They come from the server, so they are escaped.
fn shown(names: &[String]) -> String {
    /// So many are shown.
    const MOST: usize = 3;
    let plain = |name: &String| {
        let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
        inner.unwrap_or(name).trim_matches('"').escape_debug().take(100).collect::<String>()
    };
    let mut shown: Vec<_> = names.iter().take(MOST).map(plain).collect();
    if names.len() > MOST {
        shown.push(format!("{} more", names.len() - MOST));
    }
    shown.join(", ")
}

fn rfc3339(time: UnixTime) -> String {
    UNIX_EPOCH
        .checked_add(Duration::from_secs(time.as_secs()))
        .map_or_else(|| "a time out of range".to_owned(), |time| humantime::format_rfc3339_seconds(time).to_string())
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}
