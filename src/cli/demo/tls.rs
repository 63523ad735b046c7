//! Certificates for `lb demo --tls`: an authority that exists for one moment, and the certificate that it signs.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};

/// The directory of the files, beside the configuration.
pub(super) const DIRECTORY: &str = "demo-tls";
/// The listener and the certificate that are added to the configuration.
pub(super) const CONFIG: &str = r#"
# HTTPS. The certificate was made for this demo, and is valid for localhost, 127.0.0.1 and ::1.

[[listener]]
address = "127.0.0.1:8443"
tls = {}                        # HTTP/2 and HTTP/1.1, TLS 1.2 and 1.3

[[certificate]]
file = "demo-tls/localhost.pem"
key = "demo-tls/localhost.key"
default = true                  # for clients that connect to an IP address
"#;
/// The names in the certificate.
const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
const LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);
/// A certificate that is valid for less than this is replaced.
const LEFT: Duration = Duration::from_secs(24 * 3600);

/// The files of the demo's certificate.
#[derive(Debug)]
pub(super) struct DemoCertificate {
    pub(super) authority: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

impl DemoCertificate {
    /// The files in `directory`.
    pub(super) fn within(directory: &Path) -> Self {
        let [authority, certificate, key] =
            ["ca.pem", "localhost.pem", "localhost.key"].map(|name| directory.join(name));
        Self { authority, certificate, key }
    }

    /// Creates the files, unless they exist and the certificate is still valid.
    ///
    /// The authority's key is never written, so nobody can sign another certificate that its users trust.
    ///
    /// # Errors
    /// The system's error.
    pub(super) fn create(&self, now: SystemTime) -> io::Result<()> {
        if self.authority.exists() && self.key.exists() && self.is_valid_at(now + LEFT) {
            return Ok(());
        }
        let made = make(now).map_err(io::Error::other)?;
        if let Some(directory) = self.key.parent() {
            fs::create_dir_all(directory)?;
        }
        write(&self.authority, &made.authority, 0o644)?;
        write(&self.key, &made.key, 0o600)?;
        write(&self.certificate, &made.certificate, 0o644)
    }

    fn is_valid_at(&self, time: SystemTime) -> bool {
        let until = || -> Option<i64> {
            let pem = fs::read(&self.certificate).ok()?;
            let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).ok()?;
            Some(pem.parse_x509().ok()?.validity().not_after.timestamp())
        };
        let time = time.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        until().and_then(|until| u64::try_from(until).ok()).is_some_and(|until| until > time)
    }
}

/// An authority's certificate, a certificate that it has signed, and the key of that, as PEM.
struct Made {
    authority: String,
    certificate: String,
    key: String,
}

fn make(now: SystemTime) -> Result<Made, rcgen::Error> {
    let epoch = date_time_ymd(1970, 1, 1);
    let now = epoch + now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let valid = |mut params: CertificateParams, name: &str| {
        // An hour earlier, for clients whose clock is late.
        (params.not_before, params.not_after) = (now - Duration::from_secs(3600), now + LIFETIME);
        params.distinguished_name.push(DnType::CommonName, name);
        params
    };
    let mut authority = valid(CertificateParams::default(), "lb demo");
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let mut leaf = valid(CertificateParams::new(NAMES.map(str::to_owned))?, "localhost");
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.use_authority_key_identifier_extension = true;
    let (authority_key, key) = (KeyPair::generate()?, KeyPair::generate()?);
    let authority_pem = authority.self_signed(&authority_key)?.pem();
    let certificate = leaf.signed_by(&key, &Issuer::new(authority, authority_key))?.pem();
    Ok(Made { authority: authority_pem, certificate, key: key.serialize_pem() })
}

fn write(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    // A file that exists would keep its permissions.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_files_are_kept_until_the_certificate_is_about_to_expire() {
        let directory = tempfile::tempdir().expect("a directory");
        let files = DemoCertificate::within(&directory.path().join(DIRECTORY));
        let read = || [&files.authority, &files.certificate, &files.key].map(|path| fs::read(path).expect("a file"));
        let now = SystemTime::now();
        files.create(now).expect("files");
        let first = read();
        assert_eq!(fs::metadata(&files.key).expect("a file").permissions().mode() & 0o777, 0o600);
        files.create(now + LIFETIME / 2).expect("files");
        assert_eq!(read(), first);
        files.create(now + LIFETIME - LEFT / 2).expect("files");
        assert!(first.iter().zip(read()).all(|(before, after)| *before != after));
        fs::remove_file(&files.authority).expect("a file");
        files.create(now).expect("files");
        assert!(files.authority.exists());
    }
}
