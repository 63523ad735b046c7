//! The failed attempts of a request, kept until it is clear whether they speak against the servers or the request.

use std::mem;
use std::sync::Arc;

use crate::live::evidence::{self, ClientKey, Evidence, Failed};
use crate::proxy::context::{Failing, ServerReport};
use crate::proxy::error::{Blame, ProxyError};
use crate::proxy::exchange::Routed;
use crate::proxy::retry::Progress;

/// The failures that are not judged yet. Allocates nothing while there are none.
#[derive(Debug, Default)]
pub struct UnjudgedFailures(Vec<Failed<ProxyError>>);

impl UnjudgedFailures {
    /// Adds the failure of an attempt at a member of the pool.
    pub(super) fn add(&mut self, member: usize, error: ProxyError) {
        self.0.push(Failed { member, error });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Routed<'_> {
    /// Notes that an attempt at a member failed. If the request was not sent, that speaks against the server at once.
    pub(super) fn note_failure(&mut self, member: usize, error: ProxyError) {
        match (error.blame(), error.progress()) {
            (Blame::Client | Blame::Neither, _) => {}
            (Blame::Server, Some(Progress::NotConnected | Progress::NotSent | Progress::Refused)) => {
                self.charge(Failed { member, error }, Evidence::Unsent);
            }
            (Blame::Server, Some(Progress::Reset | Progress::Sent) | None) => self.failures.add(member, error),
        }
    }

    /// Judges the failures so far: the request was served by a member, or by none.
    #[cold]
    pub(super) fn settle(&mut self, served_by: Option<usize>) {
        let failures = mem::take(&mut self.failures);
        for (failed, evidence) in evidence::judge(&failures.0, served_by) {
            self.charge(failed, evidence);
        }
    }

    /// Charges a server with a failure. If that suffices to eject it, it is reported to the control plane.
    fn charge(&self, failed: Failed<ProxyError>, evidence: Evidence) {
        let Failed { member, error } = failed;
        let context = self.record.context;
        let selected = self.plan.cookie.token.and_then(|token| self.pool.named(token));
        let evidence = match evidence {
            Evidence::Alone if selected.is_some_and(|selected| selected as usize == member) => {
                Evidence::Chosen(ClientKey::new(self.record.client_address))
            }
            evidence => evidence,
        };
        if let Some(failures) = self.pool.record_failure(context.worker, member, evidence) {
            let server = Arc::clone(&self.pool.members[member].server);
            context.report(ServerReport::Failing(Failing { server, failures, error }));
        }
    }
}
