//! Reads `[acme]` and the certificates that it obtains.

use super::edge::{self, optional};
use super::{Report, TableReader};
use crate::config::file::tree::{Located, Location};
use crate::config::problem::Reason;
use crate::config::{AcmeChallenge, AcmeConfig, CertificateSource, EnvTexts, FilePath, values};

/// A certificate from ACME, for the checks that involve several tables.
pub(in crate::config::file) struct DraftAcmeNames {
    /// The place of its table.
    pub(in crate::config::file) location: Location,
    pub(in crate::config::file) names: Vec<Located<String>>,
    pub(in crate::config::file) env: EnvTexts,
}

const CHALLENGES: [(&str, AcmeChallenge); 2] =
    [("tls-alpn-01", AcmeChallenge::TlsAlpn), ("http-01", AcmeChallenge::Http)];

/// The most names that an order may have with the usual authorities.
const MAX_NAMES: usize = 100;

/// Reads `[acme]`. Its paths are relative to the file that has it, or else to the main file.
pub(super) fn acme(table: &TableReader<'_>, report: &Report<'_>) -> AcmeConfig {
    let default = AcmeConfig::default();
    let state_dir = table.text("state_dir", "a directory", values::file);
    let (path, location) = match state_dir {
        Some(Located { value, location }) => (value, location),
        None => (default.state_dir.path, table.location()),
    };
    AcmeConfig {
        directory: table
            .text("directory", "a URL", values::acme_directory)
            .map_or(default.directory, |located| located.value),
        email: table.text("email", "a mail address", |text| optional(text, values::email)).and_then(|it| it.value),
        state_dir: FilePath { path, base: report.directory(location) },
        ca: edge::file(table, "ca", report).flatten(),
        challenge: table.choice("challenge", &CHALLENGES, default.challenge),
    }
}

/// Reads a certificate with `acme` or `names`. `None` if neither asks for ACME; `Some(None)` if it is invalid, which has been
/// reported.
pub(super) fn certificate(
    table: &TableReader<'_>,
    found: &mut Vec<DraftAcmeNames>,
) -> Option<Option<CertificateSource>> {
    let acme = table.boolean("acme", false);
    if !acme && !table.has("names") {
        return None;
    }
    let names = table.located_list("names", "a list of host names", values::acme_name);
    let files = ["file", "key", "directory"];
    if !acme {
        let reason =
            Reason::new("`names` are only for a certificate from ACME; the names of other ones are those in them");
        table.conflict(&["names"], reason.hint("add `acme = true`, or leave `names` out"));
        return if files.iter().any(|key| table.has(key)) { None } else { Some(None) };
    }
    let mut valid = true;
    if let Some(key) = files.into_iter().find(|key| table.has(key)) {
        let reason = Reason::new(format!("a certificate from ACME is kept in `acme.state_dir`, so it has no `{key}`"));
        table.conflict(&[key], reason.hint(format!("leave `{key}` out, or leave `acme` and `names` out")));
        valid = false;
    }
    table.require("names", "[\"example.com\"]");
    if !table.has("names") {
        return Some(None);
    }
    if table.is_empty_list("names") {
        let reason = Reason::new("`names` is empty, so there is nothing to order");
        table.conflict(&["names"], reason.hint("write `names = [\"example.com\"]`"));
    }
    if names.is_empty() {
        return Some(None);
    }
    if names.len() > MAX_NAMES {
        let reason = Reason::new(format!("a certificate can have {MAX_NAMES} names, and these are {}", names.len()));
        table.conflict(&["names"], reason.hint("write another [[certificate]] for some of them"));
        valid = false;
    }
    let source = CertificateSource::Acme { names: names.iter().map(|name| name.value.clone()).collect(), acme: true };
    found.push(DraftAcmeNames { location: table.location(), names, env: table.env_texts(|_| true) });
    Some(valid.then_some(source))
}
