//! The keys of the edge: listeners, certificates, and TLS to servers.

use super::{KeySpec, TextFormat, ValueType, key, optional, required};

pub const LISTENER: &[KeySpec] = &[
    required(
        "address",
        ValueType::Text(TextFormat::Address),
        "`IP:port`, IPv6 in brackets, or `unix:PATH`. At least one listener is required",
    ),
    optional("name", ValueType::Text(TextFormat::Label), "its name in logs and metrics"),
    optional(
        "protocols",
        ValueType::TextList(TextFormat::Protocol),
        "what clients may speak: `[\"h2\", \"http/1.1\"]`, the default with TLS, or one of them. Without TLS, the default is \
         `[\"http/1.1\"]`, and `h2` is for clients that know that it is spoken here",
    ),
    key(
        "proxy_protocol",
        ValueType::Boolean,
        "require a PROXY header, version 1 or 2, from `proxy.trusted_proxies`; other clients must not send one",
    ),
    key(
        "redirect",
        ValueType::Text(TextFormat::HttpsRedirect),
        "`https` or `https:8443`: every request is redirected (308) to the same URL with https and that port; empty: none is",
    ),
    key("mode", ValueType::Text(TextFormat::Mode), "the permissions of a Unix socket, in octal"),
    optional("tls", ValueType::Table(LISTENER_TLS), "clients use TLS. The table may be empty"),
];

/// `[listener.tls]`
pub const LISTENER_TLS: &[KeySpec] = &[
    key("min_version", ValueType::Choice(&["1.2", "1.3"]), "the oldest TLS version that clients may use"),
    key(
        "client_ca",
        ValueType::Text(TextFormat::OptionalFile),
        "a PEM file: clients are asked for a certificate of one of these authorities; empty: they are not asked",
    ),
    key("client_crl", ValueType::Text(TextFormat::OptionalFile), "a PEM file with revoked client certificates"),
    key(
        "client_auth",
        ValueType::Choice(&["required", "optional"]),
        "with `client_ca`: whether clients without a certificate are turned away",
    ),
    key(
        "forward_client_certificate",
        ValueType::Boolean,
        "send servers the client's certificate in `Client-Cert` and `Client-Cert-Chain` (RFC 9440). What clients send in \
         these headers is always removed",
    ),
    key(
        "unknown_host",
        ValueType::Choice(&["refuse", "default"]),
        "for a server name that no certificate has: the alert `unrecognized_name`, or the default certificate. A client \
         without a server name gets the default certificate, if there is one",
    ),
    key(
        "ticket_keys",
        ValueType::TextList(TextFormat::Files),
        "files of 32 or more random bytes that replicas share, so that each resumes the sessions of the others: the first \
         encrypts tickets, all decrypt them. None: random keys, replaced regularly",
    ),
];

pub const CERTIFICATE: &[KeySpec] = &[
    optional("file", ValueType::Text(TextFormat::Files), "a PEM file: the certificate, then those of its authorities"),
    optional("key", ValueType::Text(TextFormat::Files), "a PEM file with its private key"),
    optional(
        "directory",
        ValueType::Text(TextFormat::Files),
        "a directory or a glob of directories, instead of `file` and `key`: each has `tls.crt` and `tls.key`, or \
         `fullchain.pem` and `privkey.pem`",
    ),
    optional(
        "names",
        ValueType::TextList(TextFormat::Host),
        "with `acme`: the host names of the certificate. Their directory in `acme.state_dir` has the first one's name",
    ),
    optional(
        "acme",
        ValueType::Boolean,
        "`true`: the certificate for `names` is ordered from the server of `[acme]` and renewed in time, which accepts that \
         server's terms of service",
    ),
    key(
        "default",
        ValueType::Boolean,
        "whether clients that send no server name get it and, with `unknown_host = \"default\"`, those that send an unknown \
         one",
    ),
];

/// `[acme]`
pub const ACME: &[KeySpec] = &[
    key(
        "directory",
        ValueType::Text(TextFormat::HttpsUrl),
        "the URL of the ACME server's directory. Begin with Let's Encrypt's staging server, \
         `https://acme-staging-v02.api.letsencrypt.org/directory`, whose limits are wide",
    ),
    key("email", ValueType::Text(TextFormat::Email), "where the ACME server may write to; empty: nowhere"),
    key(
        "state_dir",
        ValueType::Text(TextFormat::Files),
        "the directory of the account, the certificates and their keys, which only this user can read. Replicas may share it: \
         one of them orders",
    ),
    key(
        "ca",
        ValueType::Text(TextFormat::OptionalFile),
        "a PEM file with the authorities that the ACME server is verified with; empty: the system's",
    ),
    key(
        "challenge",
        ValueType::Choice(&["tls-alpn-01", "http-01"]),
        "how the ACME server verifies a name: by a TLS handshake on port 443, or by a request on port 80, to which every \
         listener responds before any redirect or route",
    ),
];

/// `[upstream.tls]`
pub const UPSTREAM_TLS: &[KeySpec] = &[
    key(
        "ca",
        ValueType::Text(TextFormat::OptionalFile),
        "a PEM file with the authorities that servers are verified with; empty: the system's",
    ),
    key(
        "server_name",
        ValueType::Text(TextFormat::OptionalHost),
        "the name that a server's certificate must have; empty: the host of its address",
    ),
    key(
        "certificate",
        ValueType::Text(TextFormat::OptionalFile),
        "a PEM file with a certificate for servers that ask for one",
    ),
    key("key", ValueType::Text(TextFormat::OptionalFile), "a PEM file with its private key"),
    key(
        "verify",
        ValueType::Boolean,
        "`false`: servers are not verified, so anyone on the way can read and change everything. For tests",
    ),
];
