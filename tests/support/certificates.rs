//! Certificates for tests, and the ways in which people and programs write them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, SignatureAlgorithm};

/// A self-signed certificate and its key, in PEM form.
#[derive(Debug, Clone)]
pub(crate) struct TestPair {
    pub(crate) chain: String,
    pub(crate) key: String,
    /// The DER of the leaf.
    pub(crate) leaf: Vec<u8>,
}

/// A certificate for `names` that is valid for 90 days.
pub(crate) fn pair(names: &[&str]) -> TestPair {
    pair_of(&PKCS_ECDSA_P256_SHA256, names, -1, 90)
}

/// A certificate that is valid between these days from now on.
pub(crate) fn pair_of(algorithm: &'static SignatureAlgorithm, names: &[&str], from: i64, to: i64) -> TestPair {
    let key = KeyPair::generate_for(algorithm).expect("a key");
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("names");
    let day = |day: i64| {
        let distance = Duration::from_secs(day.unsigned_abs() * 24 * 60 * 60);
        if day < 0 { SystemTime::now() - distance } else { SystemTime::now() + distance }
    };
    (params.not_before, params.not_after) = (day(from).into(), day(to).into());
    let certificate = params.self_signed(&key).expect("a certificate");
    TestPair { chain: certificate.pem(), key: key.serialize_pem(), leaf: certificate.der().to_vec() }
}

impl TestPair {
    /// Writes both in place.
    pub(crate) fn write(&self, chain: &Path, key: &Path) {
        fs::write(key, &self.key).expect("a key");
        fs::write(chain, &self.chain).expect("a chain");
    }

    /// Writes them like an editor that replaces files: each by renaming.
    pub(crate) fn rename(&self, chain: &Path, key: &Path) {
        for (path, text) in [(key, &self.key), (chain, &self.chain)] {
            let new = path.with_extension("new");
            fs::write(&new, text).expect("a file");
            fs::rename(new, path).expect("renamed");
        }
    }

    /// Writes a directory like the kubelet does for cert-manager: a new directory, to which `..data` is swapped.
    pub(crate) fn swap_data(&self, directory: &Path, number: usize) {
        let name = format!("..{number}");
        let data = directory.join(&name);
        fs::create_dir_all(&data).expect("a directory");
        fs::write(data.join("tls.crt"), &self.chain).expect("a chain");
        fs::write(data.join("tls.key"), &self.key).expect("a key");
        let new = directory.join("..data_tmp");
        symlink(&name, &new).expect("a link");
        fs::rename(new, directory.join("..data")).expect("renamed");
        for file in ["tls.crt", "tls.key"] {
            if directory.join(file).symlink_metadata().is_err() {
                symlink(Path::new("..data").join(file), directory.join(file)).expect("a link");
            }
        }
    }

    /// Writes like certbot: files in an archive, to which four links in `live` lead, replaced one after the other.
    pub(crate) fn certbot(&self, root: &Path, number: usize) {
        let (archive, live) = (root.join("archive"), root.join("live"));
        fs::create_dir_all(&archive).expect("a directory");
        fs::create_dir_all(&live).expect("a directory");
        for (name, text) in
            [("privkey", &self.key), ("cert", &self.chain), ("chain", &self.chain), ("fullchain", &self.chain)]
        {
            fs::write(archive.join(format!("{name}{number}.pem")), text).expect("a file");
        }
        for name in ["privkey", "cert", "chain", "fullchain"] {
            let link = live.join(format!("{name}.pem"));
            // Certbot removes the link and creates it again.
            let _ = fs::remove_file(&link);
            symlink(format!("../archive/{name}{number}.pem"), link).expect("a link");
        }
    }
}
