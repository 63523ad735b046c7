//! Session tickets with keys that several processes share.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use rustls::server::ProducesTickets;

/// The lifetime of a ticket, as with rustls' own keys.
const LIFETIME: u32 = 12 * 60 * 60;
const NAME: usize = 16;
const NONCE: usize = 12;
const SECRET: usize = 32;

/// Encrypts tickets with the first key, and decrypts them with all.
pub(super) struct SharedTicketer {
    keys: Vec<TicketKey>,
}

struct TicketKey {
    /// In front of each ticket, so that its key is found.
    name: [u8; NAME],
    key: RandomizedNonceKey,
}

/// The length of the derived bytes.
struct Derived;

impl KeyType for Derived {
    fn len(&self) -> usize {
        NAME + SECRET
    }
}

impl SharedTicketer {
    /// Derives the keys from `secrets`, for clients that were admitted by `rule`.
    pub(super) fn new(secrets: &[Vec<u8>], rule: &[u8; 32]) -> Option<Self> {
        let keys = secrets.iter().map(|secret| TicketKey::derive(secret, rule));
        keys.collect::<Option<_>>().map(|keys| Self { keys })
    }
}

impl TicketKey {
    fn derive(secret: &[u8], rule: &[u8; 32]) -> Option<Self> {
        let (mut bytes, info) = ([0; NAME + SECRET], [b"lb session tickets 1".as_slice(), rule]);
        let expanded = Salt::new(HKDF_SHA256, &[]).extract(secret);
        expanded.expand(&info, Derived).ok()?.fill(&mut bytes).ok()?;
        let (name, secret) = bytes.split_first_chunk::<NAME>()?;
        let key = RandomizedNonceKey::new(&AES_256_GCM, secret).ok()?;
        Some(Self { name: *name, key })
    }
}

impl ProducesTickets for SharedTicketer {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        LIFETIME
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let TicketKey { name, key } = self.keys.first()?;
        let mut sealed = plain.to_vec();
        let nonce = key.seal_in_place_append_tag(Aad::from(name), &mut sealed).ok()?;
        Some([name.as_slice(), nonce.as_ref(), &sealed].concat())
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = cipher.split_first_chunk::<NAME>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE>()?;
        let TicketKey { name, key } = self.keys.iter().find(|key| key.name == *name)?;
        let mut sealed = sealed.to_vec();
        let length = key.open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(name), &mut sealed).ok()?.len();
        sealed.truncate(length);
        Some(sealed)
    }
}

impl fmt::Debug for SharedTicketer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedTicketer({} keys)", self.keys.len())
    }
}
