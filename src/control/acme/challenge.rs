//! The responses to the challenges of all replicas, from the files that the leader writes.

use std::collections::HashMap;
use std::sync::Arc;

use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use sha2::{Digest as _, Sha256};

use super::store::ChallengeFile;
use crate::config::AcmeChallenge;
use crate::live::acme::{Challenges, TLS_CHALLENGE, TlsChallenge};
use crate::tls::provider;

/// The responses to these challenges. Those that are the same as in `before` are kept.
pub(super) fn responses(files: Vec<ChallengeFile>, before: &Challenges) -> Challenges {
    let mut responses = Challenges::default();
    for ChallengeFile { kind, name, key_authorization } in files {
        match kind {
            AcmeChallenge::Http => {
                responses.http.insert(name, key_authorization.into());
            }
            AcmeChallenge::TlsAlpn => {
                match before.tls.get(&name).filter(|it| *it.key_authorization == *key_authorization) {
                    Some(known) => {
                        responses.tls.insert(name, known.clone());
                    }
                    None => match handshake(&name, &key_authorization) {
                        Ok(config) => {
                            let config = Arc::new(config);
                            responses
                                .tls
                                .insert(name, TlsChallenge { key_authorization: key_authorization.into(), config });
                        }
                        Err(error) => tracing::warn!(name, error, "cannot make the certificate of a challenge"),
                    },
                }
            }
        }
    }
    responses
}

/// Whether both have the same responses.
pub(super) fn are_same(a: &Challenges, b: &Challenges) -> bool {
    let proofs = |challenges: &Challenges| -> HashMap<String, Arc<str>> {
        let tls = challenges.tls.iter().map(|(name, it)| (name.clone(), Arc::clone(&it.key_authorization)));
        tls.collect()
    };
    a.http == b.http && proofs(a) == proofs(b)
}

/// The handshake that proves control of `name` (RFC 8737, section 3).
fn handshake(name: &str, key_authorization: &str) -> Result<ServerConfig, String> {
    let failed = |error: &dyn std::fmt::Display| error.to_string();
    let key = KeyPair::generate().map_err(|error| failed(&error))?;
    let mut params = CertificateParams::new([name.to_owned()]).map_err(|error| failed(&error))?;
    params.distinguished_name = DistinguishedName::new();
    let digest = Sha256::digest(key_authorization);
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(&digest)];
    let certificate = params.self_signed(&key).map_err(|error| failed(&error))?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let key = aws_lc_rs::sign::any_supported_type(&key).map_err(|error| failed(&error))?;
    // Not compared with its key: that would reject the critical extension, which only ACME servers know.
    let certified = CertifiedKey::new(vec![certificate.der().clone()], key);
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(&error))?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.alpn_protocols = vec![TLS_CHALLENGE.to_vec()];
    // Nothing follows the handshake, and nobody resumes it.
    config.send_tls13_tickets = 0;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(kind: AcmeChallenge, name: &str, proof: &str) -> ChallengeFile {
        ChallengeFile { kind, name: name.to_owned(), key_authorization: proof.to_owned() }
    }

    #[test]
    fn a_response_stays_the_same_object_while_its_challenge_is_pending() {
        let files = |proof| {
            vec![file(AcmeChallenge::TlsAlpn, "a.example", proof), file(AcmeChallenge::Http, "token", "token.thumb")]
        };
        let first = responses(files("1"), &Challenges::default());
        let second = responses(files("1"), &first);
        assert!(Arc::ptr_eq(&first.tls["a.example"].config, &second.tls["a.example"].config));
        assert!(are_same(&first, &second));
        let third = responses(files("2"), &second);
        assert!(!Arc::ptr_eq(&first.tls["a.example"].config, &third.tls["a.example"].config));
        assert!(!are_same(&second, &third));
        assert_eq!(&*third.http["token"], "token.thumb");
        assert!(!are_same(&third, &responses(Vec::new(), &third)));
    }

    #[test]
    fn the_certificate_of_a_challenge_has_the_digest_in_a_critical_extension() {
        let config = handshake("a.example", "token.thumb").expect("a handshake");
        assert_eq!(config.alpn_protocols, [b"acme-tls/1"]);
        let digest = Sha256::digest("token.thumb");
        let extension = CustomExtension::new_acme_identifier(&digest);
        assert!(extension.criticality());
        assert!(extension.content().ends_with(&digest));
    }
}
