//! `lb explain --tls`: the certificate that a client with some server name gets.

use std::io::{self, Write};

use serde_json::json;

use crate::cli::api::{Api, CertificateReply, CertificatesReply, QueryError};
use crate::cli::output::{OutputOptions, print_json};
use crate::cli::plan::RunningConfig;
use crate::config::{HttpProtocol, ListenerConfig, ListenerTlsConfig, TlsVersion, UnknownHost};
use crate::tls::certificate::Validity;

/// Writes to `out` which certificate the running balancer shows to a client that asks for `host`. Returns whether it
/// shows one on every listener with TLS.
///
/// # Errors
/// If the balancer does not respond or rejects a query. If `out` cannot be written to, that is the inner error.
pub(in crate::cli) fn explain_tls(
    host: &str,
    api: &Api,
    options: OutputOptions,
    out: &mut dyn Write,
) -> Result<io::Result<bool>, QueryError> {
    let name: String = form_urlencoded::byte_serialize(host.as_bytes()).collect();
    let CertificatesReply { certificates: found } = api.get(&format!("/api/certificates?host={name}"))?;
    let CertificatesReply { certificates: all } = api.get("/api/certificates")?;
    let RunningConfig { config, .. } = api.get("/api/config")?;
    let default: Vec<&CertificateReply> = all.iter().filter(|certificate| certificate.default).collect();
    let with_tls = |of: &'_ ListenerConfig| of.tls.clone().map(|tls| (of.clone(), tls));
    let listeners: Vec<_> = config.listeners.iter().filter_map(with_tls).collect();
    let shown = |tls: &ListenerTlsConfig| match (found.is_empty(), tls.unknown_host) {
        (false, _) => found.iter().collect(),
        (true, UnknownHost::Default) => default.clone(),
        (true, UnknownHost::Refuse) => Vec::new(),
    };
    let is_served = !listeners.is_empty() && listeners.iter().all(|(_, tls)| !shown(tls).is_empty());
    if options.json {
        let listener = |(of, tls): &(ListenerConfig, ListenerTlsConfig)| {
            let files: Vec<&str> = shown(tls).iter().map(|certificate| certificate.file.as_str()).collect();
            json!({
                "listener": of.name,
                "versions": versions(tls),
                "alpn": of.protocols,
                "certificates": files,
                "alert": if files.is_empty() { Some("unrecognized_name") } else { None },
            })
        };
        let value = json!({ "host": host, "listeners": listeners.iter().map(listener).collect::<Vec<_>>() });
        return Ok(print_json(&value, out).map(|()| is_served));
    }
    let mut text = format!("{host} over TLS (from the balancer at {})\n", api.at());
    if listeners.is_empty() {
        text += "no listener uses TLS\n";
    }
    for (of, tls) in &listeners {
        let alpn: Vec<&str> = of.protocols.iter().map(|protocol| alpn(*protocol)).collect();
        text += &format!("listener {}: TLS {}, {}\n", of.name, versions(tls).join(" and "), alpn.join(" or "));
        let shown = shown(tls);
        if shown.is_empty() {
            text += &format!("  no certificate is for {host}: the client gets the alert unrecognized_name\n");
        }
        for certificate in shown {
            text += &format!("  {}\n", facts(certificate, found.is_empty()));
        }
    }
    Ok(out.write_all(text.as_bytes()).map(|()| is_served))
}

fn facts(certificate: &CertificateReply, as_default: bool) -> String {
    let CertificateReply { file, names, not_after, validity, key_type, .. } = certificate;
    let expiry = not_after.get(..10).unwrap_or(not_after);
    let verb = if *validity == Validity::Expired { "expired" } else { "expires" };
    let why = if as_default { ", the default one" } else { "" };
    format!("certificate {file}{why}: {key_type}, for {}, {verb} {expiry}", names.join(", "))
}

fn versions(tls: &ListenerTlsConfig) -> &'static [&'static str] {
    match tls.min_version {
        TlsVersion::Tls12 => &["1.2", "1.3"],
        TlsVersion::Tls13 => &["1.3"],
    }
}

fn alpn(protocol: HttpProtocol) -> &'static str {
    match protocol {
        HttpProtocol::Http1 => "http/1.1",
        HttpProtocol::Http2 => "h2",
    }
}
