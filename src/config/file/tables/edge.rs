//! Reads listeners, certificates, and TLS to servers.

use super::acme::{self, DraftAcmeNames};
use super::{Report, TableReader};
use crate::config::file::keys;
use crate::config::file::tree::{Located, Location};
use crate::config::problem::Reason;
use crate::config::{
    CertificateConfig, CertificateSource, ClientAuth, EnvTexts, FilePath, HttpProtocol, HttpsRedirect,
    ListenerTlsConfig, SocketAddress, SocketMode, TlsVersion, UnknownHost, UpstreamTlsConfig, values,
};

pub(in crate::config::file) struct DraftListener {
    pub(in crate::config::file) name: Option<Located<String>>,
    pub(in crate::config::file) address: Option<Located<SocketAddress>>,
    pub(in crate::config::file) protocols: Vec<HttpProtocol>,
    pub(in crate::config::file) proxy_protocol: bool,
    /// The place of `proxy_protocol`.
    pub(in crate::config::file) proxy_protocol_at: Option<Location>,
    pub(in crate::config::file) redirect: Option<HttpsRedirect>,
    pub(in crate::config::file) mode: SocketMode,
    pub(in crate::config::file) tls: Option<ListenerTlsConfig>,
    pub(in crate::config::file) env: EnvTexts,
}

const VERSIONS: [(&str, TlsVersion); 2] = [("1.2", TlsVersion::Tls12), ("1.3", TlsVersion::Tls13)];

const CLIENT_AUTH: [(&str, ClientAuth); 2] = [("required", ClientAuth::Required), ("optional", ClientAuth::Optional)];

const UNKNOWN_HOST: [(&str, UnknownHost); 2] = [("refuse", UnknownHost::Refuse), ("default", UnknownHost::Default)];

/// The type of a key that names a file, in messages.
const FILE: &str = "a file";

pub(super) fn listener(table: &TableReader<'_>, report: &Report<'_>) -> DraftListener {
    let base = table.key_location("address").map(|location| report.directory(location)).unwrap_or_default();
    let address = table.text("address", "an address such as \"0.0.0.0:8080\"", |text| {
        values::listen_address_in(text, &base).map(|address| (address, text.to_owned()))
    });
    table.require("address", "\"0.0.0.0:8080\"");
    let name = table.text("name", "a name", values::label);
    let name = name.or_else(|| {
        let Located { value: (_, text), location } = address.clone().filter(|_| !table.has("name"))?;
        Some(Located { value: text, location })
    });
    let address = address.map(|Located { value: (value, _), location }| Located { value, location });
    let mut env = table.env_texts(|_| true);
    if let Some(typed) = table.typed("address").filter(|_| !table.has("name")) {
        env.insert("name".to_owned(), typed, true);
    }
    let tls = table.has("tls").then(|| listener_tls(&table.table("tls", keys::LISTENER_TLS), report));
    let redirect = table.text("redirect", "\"https\" or \"https:PORT\"", |text| optional(text, values::https_redirect));
    let redirect = redirect.and_then(|located| located.value);
    if tls.is_some() && redirect.is_some() {
        let reason = Reason::new("this listener uses TLS already, so `redirect` would lead back to it");
        table.conflict(&["redirect"], reason.hint("set `redirect` on the listener without TLS"));
    }
    DraftListener {
        name,
        address,
        protocols: protocols(table, tls.is_some()),
        proxy_protocol: table.boolean("proxy_protocol", false),
        proxy_protocol_at: table.key_location("proxy_protocol"),
        redirect,
        mode: table
            .text("mode", "permissions such as \"0660\"", values::socket_mode)
            .map_or_else(SocketMode::default, |located| located.value),
        tls,
        env,
    }
}

fn protocols(table: &TableReader<'_>, tls: bool) -> Vec<HttpProtocol> {
    if !table.has("protocols") {
        return if tls { vec![HttpProtocol::Http2, HttpProtocol::Http1] } else { vec![HttpProtocol::Http1] };
    }
    let mut protocols = table.list("protocols", "a list of \"h2\" and \"http/1.1\"", values::protocol);
    if protocols.is_empty() {
        let reason = Reason::new("`protocols` is empty, so clients could speak nothing");
        table.conflict(&["protocols"], reason.hint("write `[\"h2\", \"http/1.1\"]`, or leave it out"));
    }
    if protocols.first().is_some_and(|first| protocols.iter().skip(1).any(|other| other == first)) {
        protocols.truncate(1);
    }
    protocols.truncate(2);
    protocols
}

fn listener_tls(table: &TableReader<'_>, report: &Report<'_>) -> ListenerTlsConfig {
    let tls = ListenerTlsConfig {
        min_version: table.choice("min_version", &VERSIONS, TlsVersion::Tls12),
        client_ca: file(table, "client_ca", report).flatten(),
        client_crl: file(table, "client_crl", report).flatten(),
        client_auth: table.choice("client_auth", &CLIENT_AUTH, ClientAuth::Required),
        forward_client_certificate: table.boolean("forward_client_certificate", false),
        unknown_host: table.choice("unknown_host", &UNKNOWN_HOST, UnknownHost::Refuse),
        ticket_keys: paths(table, "ticket_keys", report),
    };
    if !table.has("client_ca") {
        for key in ["client_crl", "client_auth", "forward_client_certificate"] {
            let reason = Reason::new(format!("`{key}` has no effect without `client_ca`"));
            table.conflict(&[key], reason.hint("add `client_ca = \"ca.pem\"`, or leave it out"));
        }
    }
    tls
}

/// Returns `None` for a table without a valid source, which has been reported.
pub(super) fn certificate(
    table: &TableReader<'_>,
    acme_names: &mut Vec<DraftAcmeNames>,
    report: &Report<'_>,
) -> Option<CertificateConfig> {
    let (file, key, directory) =
        (path(table, "file", report), path(table, "key", report), path(table, "directory", report));
    let default = table.boolean("default", false);
    let env = table.env_texts(|_| true);
    if let Some(source) = acme::certificate(table, acme_names) {
        return Some(CertificateConfig { source: source?, default, env });
    }
    let source = match (table.has("file"), table.has("key"), table.has("directory")) {
        (false, false, true) => CertificateSource::Directory { directory: directory? },
        (_, _, true) => {
            let reason = Reason::new("a certificate is either a `file` with its `key`, or a `directory`");
            table.conflict(&["directory"], reason.hint("write another [[certificate]] for the directory"));
            return None;
        }
        (true, true, false) => CertificateSource::Pair { file: file?, key: key? },
        (true, false, false) => {
            table.require("key", "\"site.key\"");
            return None;
        }
        (false, true, false) => {
            table.require("file", "\"site.pem\"");
            return None;
        }
        (false, false, false) => {
            let reason = Reason::new("this [[certificate]] names no file");
            report.at(
                table.location(),
                reason.hint(
                    "add `file = \"site.pem\"` and `key = \"site.key\"`, or `directory = \"certs/*\"`, or `acme = true` and \
                     `names = [\"example.com\"]`",
                ),
            );
            return None;
        }
    };
    Some(CertificateConfig { source, default, env })
}

/// `tls` of `[upstream]`: `true`, `false` or a table, whose keys are inherited one by one.
pub(super) fn upstream_tls(
    table: &TableReader<'_>,
    base: Option<&UpstreamTlsConfig>,
    report: &Report<'_>,
) -> Option<UpstreamTlsConfig> {
    if table.is_false("tls") {
        return None;
    }
    if !table.has("tls") {
        return base.cloned();
    }
    let base = base.cloned().unwrap_or_default();
    if table.is_true("tls") {
        return Some(base);
    }
    let table = table.table("tls", keys::UPSTREAM_TLS);
    let name = table.text("server_name", "a host name", |text| optional(text, values::host_name));
    let tls = UpstreamTlsConfig {
        ca: file(&table, "ca", report).unwrap_or(base.ca),
        server_name: name.map_or(base.server_name, |located| located.value),
        certificate: file(&table, "certificate", report).unwrap_or(base.certificate),
        key: file(&table, "key", report).unwrap_or(base.key),
        verify: table.boolean("verify", base.verify),
    };
    if tls.certificate.is_some() != tls.key.is_some() {
        let reason = Reason::new("`certificate` and `key` belong together, and only one of them is set");
        table.conflict(&["certificate", "key"], reason.hint("set both, or neither"));
    }
    Some(tls)
}

/// A file that may be left out; `Some(None)` if the key says that there is none.
pub(super) fn file(table: &TableReader<'_>, key: &str, report: &Report<'_>) -> Option<Option<FilePath>> {
    let located = table.text(key, FILE, |text| optional(text, values::file))?;
    Some(located.value.map(|path| FilePath { path, base: report.directory(located.location) }))
}

fn path(table: &TableReader<'_>, key: &str, report: &Report<'_>) -> Option<FilePath> {
    let Located { value: path, location } = table.text(key, FILE, values::file)?;
    Some(FilePath { path, base: report.directory(location) })
}

fn paths(table: &TableReader<'_>, key: &str, report: &Report<'_>) -> Vec<FilePath> {
    let base = table.key_location(key).map(|location| report.directory(location)).unwrap_or_default();
    let paths = table.list(key, "a list of files", values::file);
    paths.into_iter().map(|path| FilePath { path, base: base.clone() }).collect()
}

/// Parses a text; an empty one means that there is none.
pub(super) fn optional<T>(text: &str, parse: impl Fn(&str) -> Result<T, Reason>) -> Result<Option<T>, Reason> {
    if text.is_empty() { Ok(None) } else { parse(text).map(Some) }
}
