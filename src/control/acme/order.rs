//! One order: from its names to the certificate in its files.

use std::sync::Arc;
use std::time::Duration;

use instant_acme::{
    Account, AuthorizationStatus, CertificateIdentifier, ChallengeType, Identifier, NewOrder, Order, OrderStatus,
    RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::failure::Failure;
use super::manager::Shared;
use super::pair::IssuedPair;
use super::store::{ChallengeFile, Store};
use crate::config::AcmeChallenge;

/// How long other replicas may take to see a challenge. They look for it more often.
const SPREAD: Duration = Duration::from_secs(1);

/// How often the server is asked whether it has verified the names or issued the certificate, and for how long.
const POLL: RetryPolicy =
    RetryPolicy::new().initial_delay(Duration::from_millis(300)).backoff(1.5).timeout(Duration::from_secs(300));

/// The challenges of an order. They are withdrawn when it ends, however it does.
struct Published {
    shared: Arc<Shared>,
    files: Vec<ChallengeFile>,
}

impl Drop for Published {
    fn drop(&mut self) {
        // Short, because it only removes names.
        self.files.iter().for_each(|file| self.shared.store.withdraw(file));
        self.shared.forget(&self.files);
    }
}

/// Orders a certificate for `names` and saves it. `replaces` is the one that it renews, if the server wants to know.
pub(super) async fn order(
    shared: &Arc<Shared>,
    account: &Account,
    names: &[String],
    replaces: Option<CertificateIdentifier<'static>>,
) -> Result<IssuedPair, Failure> {
    let identifiers: Vec<Identifier> = names.iter().map(|name| Identifier::Dns(name.clone())).collect();
    let new = NewOrder::new(&identifiers);
    let mut order = match replaces {
        None => account.new_order(&new).await,
        Some(replaces) => match account.new_order(&NewOrder::new(&identifiers).replaces(replaces)).await {
            // Another order has replaced it already, or the server does not know it.
            Err(instant_acme::Error::Api(problem)) if !Failure::from(problem.clone()).rate_limited => {
                account.new_order(&new).await
            }
            result => result,
        },
    }
    .map_err(Failure::from)?;

    let mut published = Published { shared: Arc::clone(shared), files: Vec::new() };
    if order.state().status == OrderStatus::Pending {
        prove(&mut order, &mut published).await?;
    }
    let key = KeyPair::generate().map_err(|error| Failure::new(format!("cannot make a key: {error}")))?;
    if order.state().status != OrderStatus::Valid {
        order.finalize_csr(&request(names, &key)?).await.map_err(Failure::from)?;
    }
    let chain = order.poll_certificate(&POLL).await.map_err(Failure::from)?;
    drop(published);
    save(shared, names, chain, &key).await
}

/// Proves control of the names, and waits until the server has verified them.
async fn prove(order: &mut Order, published: &mut Published) -> Result<(), Failure> {
    let kind = published.shared.wanted.config.challenge;
    let wanted = match kind {
        AcmeChallenge::Http => ChallengeType::Http01,
        AcmeChallenge::TlsAlpn => ChallengeType::TlsAlpn01,
    };
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.map_err(Failure::from)?;
        if authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        let name = authorization.identifier().to_string();
        let Some(challenge) = authorization.challenge(wanted.clone()) else {
            let kind = kind.as_str();
            return Err(Failure::new(format!("the ACME server does not offer the challenge `{kind}` for {name}")));
        };
        let file = match kind {
            AcmeChallenge::Http => checked_token(&challenge.token)?,
            AcmeChallenge::TlsAlpn => name.to_ascii_lowercase(),
        };
        let key_authorization = challenge.key_authorization().as_str().to_owned();
        publish(published, ChallengeFile { kind, name: file, key_authorization }).await?;
    }
    published.shared.look_for_challenges().await;
    sleep(SPREAD).await;
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.map_err(Failure::from)?;
        if authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        if let Some(mut challenge) = authorization.challenge(wanted.clone()) {
            challenge.set_ready().await.map_err(Failure::from)?;
        }
    }
    match order.poll_ready(&POLL).await {
        Ok(OrderStatus::Ready) => Ok(()),
        result => Err(match unproven(order).await {
            Some(failure) => failure,
            None => result.err().map_or_else(|| Failure::new("the ACME server has rejected the order"), Failure::from),
        }),
    }
}

/// The name of a file and a part of a path (RFC 8555, section 8.3), not anything that a server may send.
fn checked_token(token: &str) -> Result<String, Failure> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if token.is_empty() || token.len() > 200 || !token.bytes().all(plain) {
        return Err(Failure::new("the ACME server has sent an invalid token"));
    }
    Ok(token.to_owned())
}

async fn publish(published: &mut Published, file: ChallengeFile) -> Result<(), Failure> {
    let (store, copy) = (published.shared.store.clone(), file.clone());
    published.files.push(file);
    blocking(move || store.publish(&copy).map_err(|error| Failure::new(error.to_string()))).await
}

/// Why the server could not verify the names; `None` if it does not say.
async fn unproven(order: &mut Order) -> Option<Failure> {
    let mut reasons = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        let Ok(state) = authorization.refresh().await else { continue };
        let name = state.identifier().to_string();
        for error in state.challenges.iter().filter_map(|challenge| challenge.error.clone()) {
            reasons.push(Failure::from(error).while_doing(&format!("{name} could not be verified")));
        }
    }
    let rate_limited = reasons.iter().any(|reason| reason.rate_limited);
    let text = reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    let mut failure = Failure::new(text);
    failure.rate_limited = rate_limited;
    (!reasons.is_empty()).then_some(failure)
}

fn request(names: &[String], key: &KeyPair) -> Result<Vec<u8>, Failure> {
    let failed = |error: rcgen::Error| Failure::new(format!("cannot make the certificate request: {error}"));
    let mut params = CertificateParams::new(names).map_err(failed)?;
    params.distinguished_name = DistinguishedName::new();
    Ok(params.serialize_request(key).map_err(failed)?.der().to_vec())
}

/// Checks what the server has issued before it replaces anything.
async fn save(shared: &Arc<Shared>, names: &[String], chain: String, key: &KeyPair) -> Result<IssuedPair, Failure> {
    let (key, names) = (key.serialize_pem(), names.to_vec());
    let (store, directory): (Store, String) = (shared.store.clone(), shared.wanted.config.directory.clone());
    blocking(move || {
        let unusable =
            |why: &str| Failure::new(format!("the certificate that the ACME server has issued is unusable: {why}"));
        let pair = IssuedPair::parse(&chain, &key).map_err(|why| unusable(&why))?;
        if !pair.is_for(&names) {
            let found: Vec<&str> = pair.names.iter().map(String::as_str).collect();
            return Err(unusable(&format!("it is for {}", found.join(", "))));
        }
        if pair.not_after <= std::time::SystemTime::now() {
            return Err(unusable("it has already expired; check this machine's clock"));
        }
        let saved = store.save_pair(&names[0], &chain, &key, &directory);
        saved.map_err(|error| Failure::new(format!("the certificate cannot be saved: {error}")))?;
        Ok(pair)
    })
    .await
}

/// Runs what blocks on a thread of its own.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    // A panic is counted and logged where it happens.
    spawn_blocking(work).await.unwrap_or_else(|_| Err(Failure::new("a bug in lb; see the log")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_no_path() {
        assert_eq!(checked_token("aB-_9").as_deref(), Ok("aB-_9"));
        for token in ["", "../x", "a/b", ".", "a b", &"x".repeat(201)] {
            checked_token(token).expect_err(token);
        }
    }
}
