//! The task that keeps the certificates: one replica leads and orders; the others follow, and answer its challenges.

use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use instant_acme::{Account, CertificateIdentifier, NewAccount};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::WantedCertificates;
use super::attempts::AttemptHistory;
use super::challenge::{are_same, responses};
use super::client::{AcmeClient, NotBefore};
use super::failure::Failure;
use super::order::{blocking, order};
use super::pair::IssuedPair;
use super::schedule;
use super::store::{ChallengeFile, Store, StoredAccount};
use crate::config::AcmeConfig;
use crate::live::acme::{AcmeCertificate, AcmeState, Challenges};

/// How often a follower looks for challenges.
const LOOK: Duration = Duration::from_millis(500);
/// In looks for challenges: how often it tries to lead.
const TRY_TO_LEAD: u32 = 4;
/// The time between two attempts to use the directory.
const RETRY: Duration = Duration::from_secs(60);
/// The limit of orders at the same time.
const MAX_CONCURRENT: usize = 4;
/// The longest that an order may take, all of its steps together.
const ORDER_TIMEOUT: Duration = Duration::from_secs(15 * 60);
/// How often the server is asked when to renew, whatever it says (RFC 9773, section 4.3.2).
const ASK_AGAIN: (Duration, Duration) = (Duration::from_secs(3600), Duration::from_secs(24 * 3600));

/// The facts that all orders of a session share.
pub(super) struct Shared {
    pub(super) wanted: Arc<WantedCertificates>,
    pub(super) store: Store,
    state: Arc<AcmeState>,
    history: Arc<AttemptHistory>,
    /// Wakes what waits after a failure.
    again: Arc<Notify>,
    permits: Semaphore,
    /// Held while an account is made, so that there is one.
    account: tokio::sync::Mutex<()>,
}

/// Keeps the certificates of the newest configuration. A changed one begins a new session, in which everything that is due is
/// tried at once; `again` wakes what waits after a failure.
pub(super) async fn run(
    mut wanted: watch::Receiver<Option<Arc<WantedCertificates>>>,
    again: Arc<Notify>,
    state: Arc<AcmeState>,
) {
    let history = Arc::<AttemptHistory>::default();
    loop {
        let newest = wanted.borrow_and_update().clone();
        let session = async {
            match newest {
                Some(wanted) => Shared::new(wanted, &state, &history, &again).session().await,
                // Without a certificate to keep, nothing wakes the thread.
                None => pending().await,
            }
        };
        tokio::select! {
            () = session => {}
            changed = wanted.changed() => if changed.is_err() { return },
        }
        state.set_challenges(Challenges::default());
    }
}

impl Shared {
    fn new(
        wanted: Arc<WantedCertificates>,
        state: &Arc<AcmeState>,
        history: &Arc<AttemptHistory>,
        again: &Arc<Notify>,
    ) -> Arc<Self> {
        Arc::new(Self {
            store: Store::new(&wanted.config),
            wanted,
            state: Arc::clone(state),
            history: Arc::clone(history),
            again: Arc::clone(again),
            permits: Semaphore::new(MAX_CONCURRENT),
            account: tokio::sync::Mutex::new(()),
        })
    }

    /// Follows until no other replica leads, then leads. Never ends by itself.
    async fn session(self: Arc<Self>) {
        let mut looks = 0;
        loop {
            if looks % TRY_TO_LEAD == 0 {
                let store = self.store.clone();
                match blocking(move || store.lead().map_err(|error| Failure::new(error.to_string()))).await {
                    Ok(Some(_leadership)) => return self.lead().await,
                    Ok(None) => self.look_at_certificates().await,
                    Err(failure) => {
                        self.report_all(&failure.while_doing("`acme.state_dir` cannot be used"));
                        tokio::select! {
                            () = sleep(RETRY) => {}
                            () = self.again.notified() => {}
                        }
                        continue;
                    }
                }
            }
            looks += 1;
            self.look_for_challenges().await;
            sleep(LOOK).await;
        }
    }

    /// Keeps every certificate.
    async fn lead(self: &Arc<Self>) {
        let store = self.store.clone();
        let _ = blocking(move || store.withdraw_all().map_err(|error| Failure::new(error.to_string()))).await;
        let mut tasks = JoinSet::new();
        for names in &self.wanted.certificates {
            tasks.spawn(Arc::clone(self).keep(names.clone()));
        }
        while tasks.join_next().await.is_some() {}
        pending().await
    }

    /// Orders one certificate whenever that is due.
    async fn keep(self: Arc<Self>, names: Vec<String>) {
        let mut entry = AcmeCertificate::new(names.clone());
        entry.error = self.known_error(&names);
        let mut retry_at = self.history.earliest(&self.key(&names));
        let mut is_new = true;
        loop {
            let pair = self.read(&names).await;
            let (due, ask_again) = match pair.as_ref().map(|pair| self.usable(pair, &names)) {
                Ok(Some(pair)) => self.renewal(pair).await,
                Ok(None) | Err(_) => (SystemTime::now(), None),
            };
            entry.not_after = pair.as_ref().ok().and_then(|pair| pair.as_ref()).map(|(pair, _)| pair.not_after);
            if entry.not_after.is_none() && is_new {
                tracing::info!(
                    names = names.join(" "),
                    "certificate not issued yet; TLS does not know its names until then"
                );
            }
            is_new = false;
            if let Err(failure) = &pair {
                self.report(&mut entry, failure, due.max(retry_at));
            }
            let next = due.max(retry_at);
            entry.next_order = Some(next);
            self.state.set_certificate(entry.clone());
            tokio::select! {
                () = sleep_until(ask_again.map_or(next, |again| next.min(again))) => {}
                () = self.again.notified() => {
                    retry_at = self.history.earliest(&self.key(&names));
                    continue;
                }
            }
            if SystemTime::now() < next {
                continue;
            }
            let replaced = pair.ok().flatten().map(|(pair, _)| pair);
            retry_at = self.attempt(&mut entry, replaced).await;
        }
    }

    /// Places an order and reports its outcome. Returns the time before which there is no other.
    async fn attempt(self: &Arc<Self>, entry: &mut AcmeCertificate, replaced: Option<IssuedPair>) -> SystemTime {
        let _permit = self.permits.acquire().await;
        let key = self.key(&entry.names);
        self.history.began(&key);
        let not_before = NotBefore::default();
        let placing = self.place(&entry.names, replaced, &not_before);
        let result = timeout(ORDER_TIMEOUT, placing).await.unwrap_or_else(|_| {
            Err(Failure::new(format!(
                "the order was not finished within {}",
                humantime::format_duration(ORDER_TIMEOUT)
            )))
        });
        let now = SystemTime::now();
        self.state.count_order(result.is_ok());
        match result {
            Ok(pair) => {
                let end = humantime::format_rfc3339_seconds(pair.not_after);
                tracing::info!(names = entry.names.join(" "), not_after = %end, "certificate issued");
                entry.error = None;
                self.history.succeeded(&key);
                schedule::earliest(now, pair.not_after)
            }
            Err(failure) => {
                let asked = not_before.lock().map(|time| time.duration_since(now).unwrap_or_default());
                let failures = self.history.failures(&key);
                let wait = schedule::wait(failures, failure.rate_limited, asked, fastrand::f64());
                if failure.rate_limited || asked.is_some() {
                    self.history.forbid(&key, now + wait);
                }
                self.report(entry, &failure, now + wait);
                now + wait
            }
        }
    }

    async fn place(
        self: &Arc<Self>,
        names: &[String],
        replaced: Option<IssuedPair>,
        not_before: &NotBefore,
    ) -> Result<IssuedPair, Failure> {
        let account = self.account(not_before, true).await?.ok_or_else(|| Failure::new("there is no account"))?;
        let replaces = replaced.filter(|pair| names.iter().any(|name| pair.names.contains(name)));
        let replaces = match replaces.as_ref().and_then(|pair| CertificateIdentifier::try_from(&pair.leaf).ok()) {
            // Only a server with renewal information knows the field.
            Some(id) if account.renewal_info(&id).await.is_ok() => Some(id.into_owned()),
            _ => None,
        };
        let result = order(self, &account, names, replaces).await;
        if result.as_ref().is_err_and(|failure| failure.is("accountDoesNotExist")) {
            let (store, directory) = (self.store.clone(), self.wanted.config.directory.clone());
            let aside = move || store.retire_account(&directory).map_err(|error| Failure::new(error.to_string()));
            blocking(aside).await?;
            tracing::warn!("the ACME server does not know the account any more; a new one will be made");
        }
        result
    }

    /// The account, which is made if there is none and `make` is set.
    async fn account(&self, not_before: &NotBefore, make: bool) -> Result<Option<Account>, Failure> {
        let _one = self.account.lock().await;
        let (wanted, store, not_before) = (Arc::clone(&self.wanted), self.store.clone(), Arc::clone(not_before));
        let (client, stored) = blocking(move || {
            let client = AcmeClient::new(wanted.ca.as_deref(), not_before)?;
            let stored = store.account(&wanted.config.directory);
            Ok((client, stored.map_err(|error| Failure::new(format!("the account cannot be read: {error}")))?))
        })
        .await?;
        let AcmeConfig { directory, email, .. } = &self.wanted.config;
        let builder = Account::builder_with_http(Box::new(client));
        let failed = |error: instant_acme::Error, what: &str| {
            Failure::from(error).while_doing(&format!("{what} at `acme.directory` {directory}"))
        };
        let contact = email.as_ref().map(|email| format!("mailto:{email}"));
        let contact: Vec<&str> = contact.as_deref().into_iter().collect();
        let (account, credentials) = match stored {
            Some(stored) => {
                let known = stored.email == *email;
                let copy = serde_json::to_value(&stored.credentials).and_then(serde_json::from_value);
                let copy = copy.map_err(|error| Failure::new(error.to_string()))?;
                let account = builder.from_credentials(stored.credentials).await;
                let account = account.map_err(|error| failed(error, "cannot use the account"))?;
                if known || !make {
                    return Ok(Some(account));
                }
                let updated = account.update_contacts(&contact).await;
                updated.map_err(|error| failed(error, "cannot change the mail address"))?;
                (account, copy)
            }
            None if !make => return Ok(None),
            None => {
                let new = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
                let created = builder.create(&new, directory.clone(), None).await;
                created.map_err(|error| failed(error, "cannot make an account"))?
            }
        };
        let (store, directory, email) = (self.store.clone(), directory.clone(), email.clone());
        blocking(move || {
            let saved = store.save_account(&directory, &StoredAccount { email, credentials });
            saved.map_err(|error| Failure::new(format!("the account cannot be saved: {error}")))
        })
        .await?;
        Ok(Some(account))
    }

    /// When to renew it, and when to ask the server about that again.
    async fn renewal(&self, pair: &IssuedPair) -> (SystemTime, Option<SystemTime>) {
        let random = schedule::random_of(&pair.serial);
        let by_age = schedule::renewal(pair.not_before, pair.not_after, random);
        let now = SystemTime::now();
        if by_age <= now {
            return (by_age, None);
        }
        let Ok(id) = CertificateIdentifier::try_from(&pair.leaf) else { return (by_age, None) };
        let Ok(Some(account)) = self.account(&NotBefore::default(), false).await else {
            return (by_age, Some(now + ASK_AGAIN.0));
        };
        match account.renewal_info(&id).await {
            Ok((info, wait)) => {
                let window = (info.suggested_window.start.into(), info.suggested_window.end.into());
                let due = schedule::suggested(window, (pair.not_before, pair.not_after), random);
                if due <= now {
                    let reason = info.explanation_url.unwrap_or_default();
                    tracing::info!(names = ?pair.names, reason, "the ACME server asks for an early renewal");
                }
                (due, Some(now + wait.clamp(ASK_AGAIN.0, ASK_AGAIN.1)))
            }
            Err(instant_acme::Error::Unsupported(_)) => (by_age, None),
            Err(error) => {
                let error = Failure::from(error);
                tracing::debug!(%error, "the ACME server does not say when to renew");
                (by_age, Some(now + ASK_AGAIN.0))
            }
        }
    }

    /// The certificate on disk, if it need not be replaced at once.
    fn usable<'a>(&self, pair: &'a Option<(IssuedPair, bool)>, names: &[String]) -> Option<&'a IssuedPair> {
        let (pair, is_of_this_server) = pair.as_ref()?;
        (*is_of_this_server && pair.is_for(names) && pair.not_after > SystemTime::now()).then_some(pair)
    }

    async fn read(&self, names: &[String]) -> Result<Option<(IssuedPair, bool)>, Failure> {
        let (store, name) = (self.store.clone(), names.first().cloned().unwrap_or_default());
        let directory = self.wanted.config.directory.clone();
        blocking(move || {
            store
                .pair(&name, &directory)
                .map_err(|error| Failure::new(format!("the certificate cannot be read: {error}")))
        })
        .await
    }

    /// Publishes the responses to the challenges that are pending now.
    pub(super) async fn look_for_challenges(&self) {
        let (store, before) = (self.store.clone(), self.state.challenges());
        let found = blocking(move || {
            let files = store.challenges().map_err(|error| Failure::new(error.to_string()))?;
            let found = responses(files, &before);
            Ok((!are_same(&found, &before)).then_some(found))
        })
        .await;
        match found {
            Ok(Some(found)) => self.state.set_challenges(found),
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, "the challenges cannot be read"),
        }
    }

    /// Withdraws the responses to challenges that are over.
    pub(super) fn forget(&self, files: &[ChallengeFile]) {
        let before = self.state.challenges();
        let mut left = Challenges { http: before.http.clone(), tls: before.tls.clone() };
        for ChallengeFile { name, .. } in files {
            left.http.remove(name);
            left.tls.remove(name);
        }
        self.state.set_challenges(left);
    }

    /// As a follower: the leader orders, and reports failures in its own log.
    async fn look_at_certificates(&self) {
        for names in &self.wanted.certificates {
            let found = self.read(names).await;
            let mut entry = AcmeCertificate::new(names.clone());
            entry.not_after = found.as_ref().ok().and_then(|pair| pair.as_ref()).map(|(pair, _)| pair.not_after);
            entry.error = found.err().map(|failure| failure.to_string());
            self.state.set_certificate(entry);
        }
    }

    fn report_all(&self, failure: &Failure) {
        for names in &self.wanted.certificates {
            let known = self.state.certificates().iter().find(|entry| entry.names == *names).cloned();
            let mut entry = known.unwrap_or_else(|| AcmeCertificate::new(names.clone()));
            self.report(&mut entry, failure, SystemTime::now() + RETRY);
            self.state.set_certificate(entry);
        }
    }

    /// Logs a failure that differs from the last one, and keeps it for the API.
    fn report(&self, entry: &mut AcmeCertificate, failure: &Failure, next: SystemTime) {
        let text = failure.to_string();
        if entry.error.as_ref() != Some(&text) {
            let next_order = humantime::format_rfc3339_seconds(next);
            tracing::warn!(names = entry.names.join(" "), %next_order, "cannot obtain a certificate; {text}");
        }
        entry.error = Some(text);
        entry.next_order = Some(next);
    }

    fn known_error(&self, names: &[String]) -> Option<String> {
        self.state.certificates().iter().find(|entry| entry.names == names)?.error.clone()
    }

    fn key(&self, names: &[String]) -> (String, String) {
        (self.wanted.config.directory.clone(), names.first().cloned().unwrap_or_default())
    }
}

/// Waits for a time of day, which may be set meanwhile.
async fn sleep_until(time: SystemTime) {
    while let Ok(left) = time.duration_since(SystemTime::now()).map(|left| left.min(Duration::from_secs(3600))) {
        if left.is_zero() {
            return;
        }
        sleep(left).await;
    }
}
